"""Edited copies: readable, the same every time, and of no other kind for one label."""

from __future__ import annotations

import io
from pathlib import Path

import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.edited_pictures import edited, main
from tests.support.photographs import photographs


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve pictures, labels in turn; every two follow one prompt."""
    pictures = photographs(12)
    columns = {
        "uri": list(pictures),
        "bytes": list(pictures.values()),
        "label": [n % 2 for n in range(12)],
        "generator": ["model" if n % 2 else None for n in range(12)],
        "source": ["web"] * 12,
        "prompt": [f"prompt {n // 2}" for n in range(12)],
    }
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "data" / "a.parquet")
    return tmp_path / "data"


def test_an_edited_file_is_a_picture_and_the_same_each_time() -> None:
    for data in photographs(12).values():
        changed = edited(data)
        assert changed == edited(data) != data
        assert min(PIL.Image.open(io.BytesIO(changed)).convert("RGB").size) >= 20


def test_edited_rows_keep_their_labels_and_share_the_scene_of_the_original(data: Path) -> None:
    output = data.parent / "edited"
    main([data], output)
    rows = pq.read_table(output).to_pylist()
    before = {f"edited-{row['uri']}": row for row in pq.read_table(data).to_pylist()}
    assert len(rows) == 12
    for row in rows:
        original = before[row["uri"]]
        assert (row["label"], row["generator"]) == (original["label"], original["generator"])
        assert row["bytes"] == edited(original["bytes"])
    groups = pq.read_table(data.parent / "groups.parquet").to_pydict()
    scenes = dict(zip(groups["uri"], groups["scene"], strict=True))
    assert len(scenes) == 24 and len(set(scenes.values())) == 6
    for uri, scene in scenes.items():
        folder, _, name = uri.rpartition("/")
        if folder == str(data):
            assert scenes[f"{output}/edited-{name}"] == scene


def test_a_share_is_the_same_pictures_each_time(data: Path) -> None:
    for name in ("first", "second"):
        main([data], data.parent / name, share=0.5)
    first, second = (pq.read_table(data.parent / name) for name in ("first", "second"))
    assert 0 < len(first) < 12
    assert first == second
