"""A small head, and the options of a job that measures it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from item.heads.head import Head
from tests.pipelines.evaluate.robustness.examples import STRENGTHS, small_head
from tests.support.dumps import make


@pytest.fixture(scope="module")
def head() -> Head:
    return small_head()


@pytest.fixture
def settings(head: Head, tmp_path: Path) -> dict[str, Any]:
    """Options of a job whose input is a folder of one file."""
    head.save(tmp_path / "ours")
    dump = make(tmp_path / "dump", {"a.jpg": b"x"})
    perturbations = [name for name in STRENGTHS if name != "none"]
    options = {"input": str(dump), "output": str(tmp_path / "out"), "resamples": 100}
    return options | {"heads": [str(tmp_path / "ours")], "perturbations": perturbations}
