"""What a path is among our tables, however much of one was given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from item.errors import UsageError
from pipelines.storage.configuration import Storage
from pipelines.tables.identity import OwnTable, feature_set_in, own_table, table_kind
from tests.support.audit_root import broken, picture, write_night

LOCAL = Storage(retries=0)
NIGHT = "2026-01-30"


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("audit")
    return write_night(root, NIGHT, [picture("a"), picture("b"), broken("c")], parts=1)


@pytest.mark.parametrize("kind", ["features", "scores", "rejects", "evidence"])
def test_a_table_its_night_and_its_file_are_known(audit: Path, kind: str) -> None:
    root = str(audit / kind)
    assert own_table(root, LOCAL) == own_table(f"{root}/", LOCAL) == OwnTable(kind, root)
    assert own_table(f"{root}/date={NIGHT}", LOCAL) == OwnTable(kind, root, NIGHT)
    [file] = (audit / kind).rglob("*.parquet")
    assert own_table(str(file), LOCAL) == OwnTable(kind, root, NIGHT)
    saved = audit.parent / f"{kind}.parquet"
    pd.read_parquet(file).to_parquet(saved)
    assert own_table(str(saved), LOCAL) == OwnTable(kind, str(saved), has_nights=False)


def test_the_root_of_an_audit_is_its_features(audit: Path) -> None:
    assert own_table(str(audit), LOCAL) == OwnTable("features", str(audit / "features"))


def test_tables_on_s3_are_known(audit: Path, s3: Any, bucket: str) -> None:
    files = {
        f"audit/{path.relative_to(audit)}": path.read_bytes() for path in audit.rglob("*.parquet")
    }
    s3.fill(bucket, files)
    root = f"s3://{bucket}/audit"
    features = OwnTable("features", f"{root}/features")
    assert own_table(root, LOCAL) == own_table(f"{root}/features/", LOCAL) == features
    night = OwnTable("features", f"{root}/features", NIGHT)
    assert own_table(f"{root}/features/date={NIGHT}", LOCAL) == night
    assert own_table(f"{root}/features/date={NIGHT}/part-0000.parquet", LOCAL) == night


def test_what_is_not_ours_is_nothing(tmp_path: Path) -> None:
    table = pa.table({"uri": ["a"], "bytes": [b"x"], "label": [1]})
    (tmp_path / f"date={NIGHT}").mkdir()
    pq.write_table(table, tmp_path / f"date={NIGHT}" / "a.parquet")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "b.parquet").write_bytes(b"PAR1")
    (tmp_path / "broken" / "c.jpg").write_bytes(b"x")
    for name in ("", f"date={NIGHT}", f"date={NIGHT}/a.parquet", "broken", "broken/c.jpg"):
        assert own_table(str(tmp_path / name), LOCAL) is None
    assert own_table(str(tmp_path / "nowhere"), LOCAL) is None
    assert table_kind(table.schema.with_metadata({"item.table": "features"})) is None
    assert table_kind(table.schema.with_metadata({"item.table": '"features"'})) == "features"


def test_feature_set_is_that_of_the_column_before_that_of_the_metadata(tmp_path: Path) -> None:
    def found(values: list[str | None] | None, metadata: dict[str, str]) -> str | None:
        columns = {"uri": ["a", "b", "c"]} | ({} if values is None else {"feature_set_id": values})
        table = pa.table(columns).replace_schema_metadata(metadata)
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=1)
        return feature_set_in(pq.ParquetFile(tmp_path / "a.parquet"))

    said = {"item.feature_set_id": '"said"'}
    assert found(None, said) == "said"
    assert found(None, {}) is None
    assert found([None, "own", "own"], said) == "own"
    assert found([None] * 3, said) == "said"
    with pytest.raises(UsageError, match=r"different feature sets .* 'one' and 'two'"):
        found(["one", "two", "one"], said)
