"""Pictures kept for a report: the right ones, small, and none that cannot be read."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from item.images.decode import Decoding, image_id
from item.tables import EVIDENCE
from pipelines.audit.thumbnails import NAME, keep
from pipelines.tables.row_keys import RowKeys, identities
from tests.support.dumps import STORAGE, make, planned, rows_of
from tests.support.photographs import photographs

PICTURES = photographs(3)
NIGHT = "2026-01-31"

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("ray_cluster")]


def test_reader_reads_the_wanted_pictures_alone(tmp_path: Path) -> None:
    plan = planned(make(tmp_path, PICTURES))
    second = sorted(PICTURES)[1]
    wanted = RowKeys(identities([NIGHT], [f"{tmp_path}/{second}"], [0]))
    rows = rows_of(plan, wanted=wanted)
    assert [row["uri"] for row in rows] == [f"{tmp_path}/{second}"]
    assert rows[0]["bytes"] == PICTURES[second]


def test_thumbnails_of_shown_rows_are_kept_and_broken_ones_left_out(tmp_path: Path) -> None:
    names = sorted(PICTURES)
    files = PICTURES | {"broken.jpg": b"no picture", "empty.jpg": b""}
    plan = planned(make(tmp_path / "dump", files))
    root = tmp_path / "evidence"
    wanted = pd.DataFrame(
        {
            "uri": [f"{tmp_path}/dump/{name}" for name in [*files, "gone.jpg"]],
            "image_id": [image_id(data) for data in [*files.values(), b""]],
        }
    )
    (tmp_path / "dump" / names[1]).write_bytes(PICTURES[names[0]])  # another picture since
    kept = keep(str(root), NIGHT, wanted, plan, STORAGE, Decoding())
    rows = pq.ParquetFile(root / f"date={NIGHT}" / NAME).read()
    assert kept == len(rows) == 2 and rows.schema.equals(EVIDENCE)
    for row in rows.to_pylist():
        assert row["image_id"] == image_id(PICTURES[Path(row["uri"]).name])
        picture = Image.open(io.BytesIO(row["thumbnail"]))
        assert picture.format == "JPEG" and max(picture.size) <= 320
    assert rows["uri"].to_pylist() == [f"{tmp_path}/dump/{names[n]}" for n in (0, 2)]


def test_night_that_shows_nothing_has_evidence_without_rows(tmp_path: Path) -> None:
    plan = planned(make(tmp_path / "dump", PICTURES))
    nothing = pd.DataFrame({"uri": [], "image_id": []})
    keep(str(tmp_path), NIGHT, nothing, plan, STORAGE, Decoding())
    rows = pq.ParquetFile(tmp_path / f"date={NIGHT}" / NAME).read()
    assert len(rows) == 0 and rows.schema.equals(EVIDENCE)
