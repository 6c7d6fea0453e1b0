"""What a file says about where it came from, written and read again."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from item.mini import checkpoint
from item.profiles import load_profile
from item.tables import decoded
from item.version import __version__, source_commit
from pipelines.tables.provenance import provenance, versions, with_part_facts


@pytest.fixture
def profile(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FOLDER", tmp_path)
    for name in ("captioner", "dual_encoder", "layers"):
        (tmp_path / f"{name}.safetensors").write_bytes(name.encode())
    return load_profile("mini", {"decoding.max_side": 300})


def test_a_parquet_file_keeps_its_provenance(profile, tmp_path):
    facts = {"rows": 3, "statuses": {"ok": 2, "rejected": 1}, "note": "é"}
    metadata = with_part_facts(provenance(profile, "run-1", "jpeg-75"), facts)
    schema = pa.schema([("uri", pa.string())]).with_metadata(metadata)
    pq.write_table(schema.empty_table(), tmp_path / "part.parquet")
    found = decoded(pq.read_schema(tmp_path / "part.parquet").metadata)
    assert found["run_id"] == "run-1"
    assert found["feature_set_id"] == profile.feature_set_id()
    assert found["models"] == profile.revisions()
    assert found["decoding"]["max_side"] == 300
    assert found["perturbation"] == "jpeg-75"
    assert found["code_version"] == __version__
    assert {key: found[key] for key in facts} == facts


def test_foreign_metadata_is_left_out():
    assert decoded({b"pandas": b"not json", b"item.rows": b"3"}) == {"rows": 3}
    assert decoded(None) == {}


def test_provenance_is_the_same_every_time(profile):
    assert provenance(profile, "run-1") == provenance(profile, "run-1")


def test_part_facts_leave_the_metadata_given_alone(profile):
    metadata = provenance(profile, "run-1")
    with_part_facts(metadata, {"rows": 3})
    assert "item.rows" not in metadata


def test_versions_name_what_may_change_a_result():
    found = versions()
    assert {"item", "python", "ray", "torch", "pillow", "spacy"} <= set(found)
    assert all(found.values())
    assert found["item"] == __version__
    assert found.get("commit") == source_commit()
