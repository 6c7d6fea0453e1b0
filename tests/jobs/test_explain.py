"""The explain job as users meet it: one image, one answer, one picture."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from typer.testing import CliRunner, Result

from item.images.decode import image_id
from jobs.explain import EXIT_NOT_SCORED, app
from tests.conftest import REPOSITORY
from tests.support.photographs import photographs

CAT = photographs(2)["cat-01.jpg"]

pytestmark = pytest.mark.timeout(300)


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(one) for one in arguments])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files, one of them broken, with a name that rich would take for markup."""
    (tmp_path / "[red]cat[-].jpg").write_bytes(CAT)
    (tmp_path / "page.jpg").write_bytes(b"<html>404</html>")
    return tmp_path


def saved(output: Path, data: bytes, suffix: str) -> Path:
    return output / f"{image_id(data)[:16]}.{suffix}"


def test_command_explains_a_photograph_with_the_shipped_head(folder: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, str(REPOSITORY / "jobs/explain.py"), "[red]cat[-].jpg"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    output = folder / "explanation"
    text = saved(output, CAT, "json").read_text()
    found: dict[str, Any] = json.loads(text)
    lines = result.stdout.splitlines()
    assert lines[0] == found["sentence"]
    assert f"picture    {folder}/[red]cat[-].jpg" in lines
    assert lines[-1] == f"Saved: explanation/{image_id(CAT)[:16]}.png"
    assert 0 < found["score"] < 1
    assert found["uri"] == f"{folder}/[red]cat[-].jpg"
    with PIL.Image.open(saved(output, CAT, "png")) as picture:
        assert picture.width >= 640


def test_image_that_cannot_be_used_is_said_so_and_exits_with_3(folder: Path) -> None:
    result = invoke(folder / "page.jpg", "--output", folder / "out")
    assert result.exit_code == EXIT_NOT_SCORED == 3
    first = result.stdout.splitlines()[0]
    assert first == "Not scored: the bytes are not an image of any known format."
    assert [path.suffix for path in (folder / "out").iterdir()] == [".json"]


def test_broken_image_on_s3_is_explained_on_s3(s3: Any, bucket: str) -> None:
    s3.fill(bucket, {"dump/page.jpg": b"<html>404</html>"})
    root = f"s3://{bucket}"
    result = invoke(f"{root}/dump/page.jpg", "--output", f"{root}/out")
    assert result.exit_code == EXIT_NOT_SCORED
    key = f"out/{image_id(b'<html>404</html>')[:16]}.json"
    written = json.loads(s3.client.get_object(Bucket=bucket, Key=key)["Body"].read())
    assert written["verdict"] == "not_scored"
    assert f"Saved: {root}/{key}" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["none.jpg"], "There is no file or folder at"),
        (["http://host/cat.jpg"], "neither a local path nor an s3:// URL"),
        (["page.jpg", "--head", "no-head"], "There is no head at"),
        (["page.jpg", "--profile", "huge"], "There is no profile 'huge'"),
        (["page.jpg", "--set", "profile.captioner.beams=9"], "The head was trained on features"),
        (["page.jpg", "--set", "rows"], "Write --set key=value"),
        (["page.jpg", "--output", "page.jpg"], "is a file"),
    ],
)
def test_mistakes_are_refused_in_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    monkeypatch.chdir(folder)
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert not (folder / "explanation").exists()


def test_help_fits_a_screen_and_gives_an_example() -> None:
    result = invoke("--help")
    assert "Example: python jobs/explain.py" in result.stdout
    assert len(result.stdout.splitlines()) <= 24
