"""Dumps as img2dataset, webdataset and datasets themselves write them, row by row."""

from __future__ import annotations

import csv
import functools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from item.errors import UsageError
from tests.support import write_dump
from tests.support.dumps import planned, rows_of
from tests.support.odd_files import encode, flat
from tests.support.packages import installed

WEBDATASET = ("webdataset==0.2.111", "braceexpand==0.1.7")
TOOLS = {
    "webdataset": WEBDATASET,
    "datasets": ("datasets==5.2.0", "multiprocess==0.70.19", "dill==0.4.1", "xxhash==3.6.0"),
    "img2dataset": (
        *WEBDATASET,
        *("img2dataset==1.47.0", "fire==0.7.1", "termcolor==3.3.0", "exifread-nocycle==3.0.1"),
        *("albumentations==1.4.24", "albucore==0.0.23", "opencv-python-headless==4.14.0.94"),
        *("stringzilla==5.3.2", "simsimd==6.5.16", "wandb==0.31.0", "xxhash==3.6.0"),
    ),
}
"""What each tool needs beside the environment."""
PICTURES = {f"{n:05}.jpg": encode(flat((n * 30, 90, 60)), "JPEG") for n in range(7)}
ABOUT: dict[str, dict[str, Any]] = {
    name: {"caption": f"a picture, number {n}", "label": n % 2, "generator": f"model {n}"}
    for n, name in enumerate(PICTURES)
}

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Pictures in a folder, on a web server, and in a CSV of URLs with one that is gone."""
    folder = tmp_path_factory.mktemp("source")
    for name, content in PICTURES.items():
        (folder / name).write_bytes(content)
    (folder / "about.json").write_text(json.dumps(ABOUT))
    handler = functools.partial(Quiet, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with open(folder / "list.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["url", "caption"])
        for name in [*PICTURES, "gone.jpg"]:
            url = f"http://127.0.0.1:{server.server_port}/{name}"
            writer.writerow([url, ABOUT.get(name, {}).get("caption")])
    yield folder
    server.shutdown()
    server.server_close()


class Quiet(SimpleHTTPRequestHandler):
    """A server that says nothing."""

    def log_message(self, *_: Any) -> None:
        pass


def written(tool: str, kind: str, source: Path, target: Path) -> Path:
    """A dump that the tool wrote; skips where it cannot be had."""
    packages = installed(*TOOLS[tool])
    ended = subprocess.run(
        [sys.executable, write_dump.__file__, tool, kind, str(source), str(target)],
        env={
            **os.environ,
            "PYTHONPATH": str(packages),
            "NO_PROXY": "127.0.0.1",
            "HF_HUB_OFFLINE": "1",
        },
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return target


def by_picture(rows: list[dict[str, Any]]) -> dict[bytes, dict[str, Any]]:
    assert len({row["uri"] for row in rows}) == len(rows)
    return {row["bytes"]: row for row in rows if row["bytes"] is not None}


@pytest.fixture(scope="module")
def downloaded(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dumps of img2dataset in all of its formats."""
    target = tmp_path_factory.mktemp("img2dataset")
    return written("img2dataset", "webdataset,files,parquet", source, target)


@pytest.mark.parametrize("kind", ["webdataset", "files", "parquet"])
def test_img2dataset(kind: str, downloaded: Path) -> None:
    found = planned(downloaded / kind)
    rows = by_picture(rows_of(found))
    assert set(rows) == set(PICTURES.values())
    if kind != "files":  # whose captions are files that nobody reads
        for name, content in PICTURES.items():
            assert rows[content]["captions"] == [ABOUT[name]["caption"]]
    if kind == "files":
        assert found.ignored[".txt"] == found.ignored[".json"] - 3 == len(PICTURES)


@pytest.mark.parametrize("kind", ["plain", "gz"])
def test_webdataset(kind: str, source: Path, tmp_path: Path) -> None:
    rows = by_picture(rows_of(planned(written("webdataset", kind, source, tmp_path / "dump"))))
    assert set(rows) == set(PICTURES.values())
    for name, content in PICTURES.items():
        row, about = rows[content], ABOUT[name]
        assert (row["captions"], row["label"]) == ([about["caption"]], about["label"])
        assert row["generator"] == about["generator"]


@pytest.mark.parametrize("kind", ["paths", "bytes"])
def test_parquet_of_datasets(kind: str, source: Path, tmp_path: Path) -> None:
    dump = written("datasets", kind, source, tmp_path / "dump")
    roots = [str(source)] if kind == "paths" else []
    rows = by_picture(rows_of(planned(dump, uri_roots=roots)))
    assert set(rows) == set(PICTURES.values())
    for name, content in PICTURES.items():
        row, about = rows[content], ABOUT[name]
        assert (row["captions"], row["label"]) == ([about["caption"]], about["label"])


def test_arrow_files_of_datasets_are_refused_with_what_to_do(source: Path, tmp_path: Path) -> None:
    dump = written("datasets", "arrow", source, tmp_path / "dump")
    with pytest.raises(UsageError, match=r"save_to_disk .* write it as Parquet with .*to_parquet"):
        planned(dump)
