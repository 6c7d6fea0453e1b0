"""Archives as the current release of webdataset writes them, read row by row."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.dumps import make, planned, rows_of

webdataset = pytest.importorskip("webdataset")


def picture(number: int, format: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9), (number, 0, 0)).save(buffer, format)
    return buffer.getvalue()


def sample(number: int) -> dict[str, Any]:
    """Every writer's way to say a label, a caption and a generator."""
    key = f"{'train/' * (number % 2)}{number:06}"
    jpeg = {"__key__": key, "jpg": picture(number, "jpeg")}
    match number % 4:
        case 0:
            return {**jpeg, "cls": 1, "txt": "a cat"}
        case 1:
            about = {"label": "1", "generator": "SDXL", "caption": "a dog", "url": "http://a/b"}
            return {**jpeg, "json": about}
        case 2:
            return {"__key__": key, "png": picture(number, "png"), "JSON": b'{"LABEL": 0}'}
        case _:
            return {"__key__": key, "left.jpg": b"l", "right.jpg": b"r", "json": {"label": True}}


EXPECTED = [
    (1, "a cat", None, 1),
    (1, "a dog", "SDXL", 1),
    (0, None, None, 1),
    (1, None, None, 2),
]


def expected(numbers: range) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    for number in numbers:
        label, caption, generator, pictures = EXPECTED[number % 4]
        pixels = [sample(number).get(kind) for kind in ("jpg", "png", "left.jpg", "right.jpg")]
        captions = None if caption is None else [caption]
        found += [(body, label, captions, generator) for body in pixels if body is not None]
        assert pictures == sum(body is not None for body in pixels)
    return found


def told(rows: list[dict[str, Any]]) -> list[tuple[object, ...]]:
    return [(row["bytes"], row["label"], row["captions"], row["generator"]) for row in rows]


@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_shards_are_read_row_by_row(ending: str, store, tmp_path: Path) -> None:
    pattern = str(tmp_path / f"shard-%03d{ending}")
    with webdataset.ShardWriter(pattern, maxcount=5, verbose=0) as writer:
        for number in range(12):
            writer.write(sample(number))
    shards = sorted(tmp_path.glob("shard-*"))
    assert len(shards) == 3
    rows = rows_of(planned(store({shard.name: shard.read_bytes() for shard in shards})))
    assert told(rows) == expected(range(12))
    assert {row["source"] for row in rows} == {"shard-000", "shard-001", "shard-002"}
    keys = [row["uri"].rpartition("!")[2].partition(".")[0] for row in rows]
    assert keys == [
        sample(number)["__key__"] for number in range(12) for _ in range(EXPECTED[number % 4][3])
    ]


def test_samples_written_in_parts_and_in_any_order_are_the_same_rows(tmp_path: Path) -> None:
    parts = [
        {"__key__": one["__key__"], kind: value}
        for one in map(sample, range(8))
        for kind, value in one.items()
        if kind != "__key__"
    ]
    random.Random(0).shuffle(parts)
    target = tmp_path / "apart.tar"
    with webdataset.TarWriter(str(target)) as writer:
        for part in parts:
            writer.write(part)
    rows = rows_of(planned(target))
    assert sorted(told(rows), key=repr) == sorted(expected(range(8)), key=repr)


def test_tarwriter_compresses_whatever_the_name_says(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "x.tar.gz"), compress=True) as writer:
        writer.write(sample(0))
    body = (tmp_path / "x.tar.gz").read_bytes()
    assert body[:2] == b"\x1f\x8b"
    rows = rows_of(planned(make(tmp_path / "dump", {"named.tar": body})))
    assert told(rows) == expected(range(1))
