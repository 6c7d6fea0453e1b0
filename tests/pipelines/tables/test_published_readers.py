"""What is published opens with the libraries that analysts have, with the same rows and values."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from item.featurizing import Featurizer
from item.images.decode import image_id
from item.mini import HEAD
from item.profiles import load_profile
from item.tables import EVIDENCE, SCORES, Status
from pipelines.audit.thumbnails import Thumbnails
from pipelines.nightly.rejects import write_rejects
from pipelines.score.heads import load_head
from pipelines.score.job import scores
from pipelines.storage.configuration import Storage
from pipelines.storage.urls import join
from pipelines.tables.features import FeatureTable
from pipelines.tables.parts import PART, PartWriter
from pipelines.tables.provenance import provenance
from pipelines.tables.published import STAGING, PublishedTable
from tests.support import read_with
from tests.support.odd_files import ODD_FILES
from tests.support.packages import installed
from tests.support.photographs import photographs

STORAGE = Storage(retries=0)
NIGHT = "2026-01-30"
READERS = {
    "pyarrow 17": ("pyarrow", ["pyarrow==17.0.0"]),
    "pyarrow 21": ("pyarrow", ["pyarrow==21.0.0"]),
    "pyarrow 25": ("pyarrow", ["pyarrow==25.0.0"]),
    "pandas 2.2 with pyarrow 17": ("pandas", ["pandas==2.2.3", "pyarrow==17.0.0", "pytz==2024.2"]),
    "the newest pyarrow": ("pyarrow", ["pyarrow"]),
    "pandas of the environment": ("pandas", []),
    "the newest DuckDB": ("duckdb", ["duckdb", "pytz==2024.2"]),
    "DuckDB 1.3": ("duckdb", ["duckdb==1.3.2", "pytz==2024.2"]),
    "the newest polars": ("polars", ["polars", "polars-runtime-32"]),
    "polars 1.30": ("polars", ["polars==1.30.0"]),
}
"""Library and what is installed for it, beside the environment."""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An audit of one night: pictures of the mini profile, broken files, all four tables."""
    root = tmp_path_factory.mktemp("audit")
    profile = load_profile("mini")
    good = list(photographs(2).values())
    files = [good[0], b"<html>404</html>", good[1], b"", ODD_FILES["jpeg cut in half"][0]]
    features = Featurizer(profile).featurize(files, [f"{row}.jpg" for row in range(len(files))])
    publish(root, profile, features)
    head = load_head(str(HEAD), STORAGE)
    said = scores(features, head, "a run")
    PublishedTable(join(str(root), "scores"), STORAGE).replace(NIGHT, [said], SCORES, {})
    write_rejects(str(root), NIGHT, STORAGE)
    pictures = pa.table({"uri": ["0.jpg", "2.jpg"], "bytes": good})
    evidence = Thumbnails(profile.decoding)(pictures)
    PublishedTable(join(str(root), "evidence"), STORAGE).replace(NIGHT, [evidence], EVIDENCE, {})
    assert [one["image_id"] for one in evidence.to_pylist()] == [image_id(data) for data in good]
    return root


def publish(root: Path, profile: Any, features: pa.Table) -> None:
    """Rows into a features table, as a run does it."""
    table = FeatureTable(join(str(root), "features"), STORAGE)
    staging = join(table.root, STAGING, "work")
    writer = PartWriter(staging, STORAGE, profile.dimensions, provenance(profile, "a run"))
    facts: dict[str, Any] = {"stage_seconds": {}, "reused": 0}
    writer.store(PART, NIGHT, features, [0] * len(features), facts)
    table.publish(["work"], "a run")


def published(root: Path) -> list[str]:
    files = sorted(map(str, root.glob("*/date=*/*.parquet")))
    assert len(files) == 4
    return files


@pytest.mark.parametrize("reader", READERS)
def test_every_table_has_the_same_rows_and_values(root: Path, reader: str) -> None:
    library, requirements = READERS[reader]
    environment = dict(os.environ)
    if requirements:
        environment["PYTHONPATH"] = str(installed(*requirements))
    files = published(root)
    ended = subprocess.run(
        [sys.executable, read_with.__file__, library, *files],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout.splitlines()[-1])
    for path in files:
        expected = [read_with.plain(row) for row in pq.ParquetFile(path).read().to_pylist()]
        assert told[path] == expected, path


def test_the_night_holds_what_is_hard_to_read(root: Path) -> None:
    table = pq.ParquetFile(published(root)[1]).read()
    assert table["status"].to_pylist() == [Status.OK, "rejected", Status.OK, "rejected", "rejected"]
    for column in ("image_embedding", "local_misalignment", "objects", "width", "notes"):
        assert table[column].null_count == 3, column
    assert any(table["objects"].to_pylist()[0])


def test_no_table_has_a_type_that_older_readers_stumble_over(root: Path) -> None:
    for path in published(root):
        for kind in types(pa.struct(list(pq.read_schema(path)))):
            assert not pa.types.is_fixed_size_list(kind)
            assert not pa.types.is_large_list(kind)
            assert not pa.types.is_dictionary(kind)
            assert "view" not in str(kind)


def types(kind: pa.DataType) -> list[pa.DataType]:
    """A type and those inside it."""
    inside = [kind.field(place).type for place in range(kind.num_fields)]
    return [kind, *(one for each in inside for one in types(each))]
