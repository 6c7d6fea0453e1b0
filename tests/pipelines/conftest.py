"""Fixtures of places that hold a dump."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.dumps import make


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[dict[str, bytes]], str]:
    """Put files on a local disk or into a bucket and return where they are."""

    def put(files: dict[str, bytes]) -> str:
        if request.param == "local":
            return str(make(tmp_path / "dump", files))
        name = request.getfixturevalue("bucket")
        request.getfixturevalue("s3").fill(name, {f"dump/{key}": b for key, b in files.items()})
        return f"s3://{name}/dump"

    return put
