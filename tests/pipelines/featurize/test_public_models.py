"""Tiny checkpoints of public models through the same stages as the packaged ones."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from item.errors import UsageError
from item.featurizing import Featurizer
from item.heads.head import Head
from item.mini import HEAD
from item.models.files.source import local_folder
from item.profiles import Profile, load_profile
from item.tables import FEATURES, IMAGES, as_features
from pipelines.featurize.configuration import resolve
from pipelines.featurize.plan import plan_featurizing
from pipelines.featurize.shares import pools
from pipelines.featurize.steps import stages
from pipelines.input.rows import InputRow
from pipelines.runtime.stages import groups, run_stage
from tests.support.dumps import make
from tests.support.model_files import own_hub
from tests.support.photographs import photographs
from tests.support.tiny_checkpoints.clips import tiny_clip, tiny_siglip
from tests.support.tiny_checkpoints.detectors import tiny_grounding_dino, tiny_owlv2
from tests.support.tiny_checkpoints.profile import tiny

pytestmark = pytest.mark.timeout(120)
FILES = photographs(2)
CAPTION = "a man in a yellow jacket with a dog"


def featurized(profile: Profile, captions: list[str] | None = None) -> list[dict[str, Any]]:
    """Rows of two photographs."""
    rows = [
        InputRow(name, "", "", bytes=data, captions=captions).as_dict()
        for name, data in FILES.items()
    ]
    table = pa.Table.from_pylist(rows, schema=IMAGES)
    for stage in stages(profile):
        stage.set_up()
        table = run_stage(stage, table)
    found = as_features(table, profile.dimensions)
    assert found.schema == FEATURES
    return found.to_pylist()


def test_another_profile_gives_the_same_columns_and_another_feature_set(tmp_path):
    profile = tiny(tmp_path, {})
    profile.check_models()
    rows = featurized(profile)
    assert [row["status"] for row in rows] == ["ok", "ok"]
    assert all(row["caption"] for row in rows)
    assert all(-1.01 <= row["global_similarity"] <= 1.01 for row in rows)
    assert profile.feature_set_id() != load_profile("mini").feature_set_id()
    assert set(rows[0]) == set(FEATURES.names)
    with pytest.raises(UsageError, match="cannot score those of"):
        Head.load(HEAD).check_feature_set(profile.feature_set_id())


@pytest.mark.parametrize(
    ("detector", "clip"), [(tiny_owlv2, tiny_siglip), (tiny_grounding_dino, tiny_clip)]
)
@pytest.mark.parametrize(("threshold", "grounded"), [(0.0, True), (1.0, False)])
def test_objects_of_given_captions_are_found_or_fall_back(
    tmp_path, detector, clip, threshold, grounded
):
    overrides = {"captioner": {"model": "given"}, "grounder.threshold": threshold}
    profile = tiny(tmp_path, {}, detector=detector, clip=clip)
    profile = profile.model_copy(
        update={
            "captioner": load_profile("mini", {"captioner": overrides["captioner"]}).captioner,
            "grounder": profile.grounder.model_copy(update={"threshold": threshold}),
        }
    )
    for row in featurized(profile, [CAPTION]):
        assert row["caption"] == CAPTION
        assert [one["phrase"] for one in row["objects"]] == ["man", "yellow jacket", "dog"]
        assert {one["grounded"] for one in row["objects"]} == {grounded}
        assert row["object_count"] == 3 * grounded
        for one in row["objects"]:
            box = one["box"]
            assert 0 <= box["x0"] < box["x1"] <= row["width"]
            assert 0 <= box["y0"] < box["y1"] <= row["height"]
            assert np.isfinite(one["similarity"])


def test_given_captions_go_through_the_packaged_models_too():
    profile = load_profile("mini", {"captioner": {"model": "given"}})
    row = featurized(profile, ["", " a  dog "])[0]
    assert row["caption"] == "a dog"
    assert [one["phrase"] for one in row["objects"]] == ["dog"]


@pytest.mark.parametrize("captions", [None, [], ["", "  "]])
def test_a_row_without_a_caption_is_rejected_with_that_reason(captions):
    profile = load_profile("mini", {"captioner": {"model": "given"}})
    for row in featurized(profile, captions):
        assert (row["status"], row["error_code"]) == ("rejected", "no_caption")
        assert row["width"] > 0
        assert row["caption"] is None


def test_embeddings_alone_are_those_of_the_whole_method():
    alone = featurized(load_profile("mini", {"captioner": {"model": "none"}}))
    whole = featurized(load_profile("mini"))
    for one, other in zip(alone, whole, strict=True):
        assert one["status"] == "ok"
        assert one["image_embedding"] == other["image_embedding"]
        assert one["caption"] is None and one["objects"] is None
        assert one["global_misalignment"] is None


def test_mini_models_share_a_worker_and_public_ones_do_not():
    names = [[stage.name for stage in group] for group in groups(stages(load_profile("mini")))]
    assert ["caption", "phrases", "findobjects", "embed"] in names
    assert list(pools(load_profile("mini"))) == ["decode", "caption", "misalign"]
    every = ["decode", "caption", "phrases", "objects", "embed", "misalign"]
    assert list(pools(load_profile("base"))) == every


def test_a_branch_that_moves_does_not_change_a_run(tmp_path, monkeypatch):
    folder = tiny_clip(tmp_path / "clip")
    contents = {path.name: path.read_bytes() for path in folder.iterdir()}
    overrides = {"captioner": {"model": "none"}, "clip.files": {"source": "org/clip"}}
    with own_hub(monkeypatch, tmp_path) as hub:
        first = hub.add("org/clip", contents)
        pinned = load_profile("base", overrides).pinned()
        assert pinned.clip.files.revision == first
        hub.add("org/clip", contents | {"README.md": b"moved"})
        assert pinned.feature_set_id() == pinned.pinned().feature_set_id()
        assert pinned.revisions() == {"clip": f"org/clip@{first}"}


def test_models_in_s3_are_found_at_the_address_of_the_jobs_storage(
    s3, bucket, tmp_path, monkeypatch
):
    folder = tiny_clip(tmp_path / "clip")
    s3.fill(bucket, {f"clip/{path.name}": path.read_bytes() for path in folder.iterdir()})
    make(tmp_path / "dump", photographs(1))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    options = {"input": str(tmp_path / "dump"), "output": str(tmp_path / "out"), "profile": "base"}
    alone = {"profile.captioner.model": "none", "profile.clip.dimensions": 24}

    def planned(source, **settings):
        settings = alone | {"profile.clip.files.source": source} | settings
        return plan_featurizing(resolve(None, options, settings))

    with pytest.raises(UsageError, match="gave no answer"):
        planned(f"s3://{bucket}/clip")
    job = planned(f"s3://{bucket}/clip", **{"storage.endpoint_url": s3.endpoint})
    fetched = local_folder(job.configuration.profile.clip.files)
    assert {one.name for one in fetched.iterdir()} <= set(os.listdir(folder))
    assert planned(str(folder)).feature_set_id == job.feature_set_id


def test_pinning_leaves_the_feature_set_and_makes_paths_absolute(tmp_path, monkeypatch):
    profile = tiny(tmp_path, {})
    monkeypatch.chdir(tmp_path)
    near = profile.model_copy(
        update={
            "clip": profile.clip.model_copy(
                update={"files": profile.clip.files.model_copy(update={"source": "./clip"})}
            )
        }
    )
    pinned = near.pinned()
    assert pinned.clip.files.source == str(tmp_path / "clip")
    assert pinned.feature_set_id() == profile.feature_set_id()
    assert load_profile("mini").pinned() == load_profile("mini")


def test_gpu_workers_take_two_batches_at_once(tmp_path):
    """On a GPU on paper: the rows are those of one process, and nothing mixes them up."""
    shares = {"gpus": 0.9, "most_workers": 64, "batch_size": 4}
    overrides = {f"resources.embed.{key}": value for key, value in shares.items()}
    profile = tiny(tmp_path, {"captioner": {"model": "none"}, **overrides})
    [embed] = [stage for stage in stages(profile) if stage.name == "embedimages"]
    assert embed.several_threads
    (tmp_path / "profile.yaml").write_text(yaml.safe_dump(profile.model_dump(mode="json")))
    files = photographs(40)
    make(tmp_path / "dump", files)
    arguments = [str(tmp_path / name) for name in ("profile.yaml", "dump", "out")]
    command = [sys.executable, "-m", "tests.support.gpu_on_paper", *arguments]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=110)
    assert done.returncode == 0, done.stderr[-2000:]
    # Not as many as `most_workers`: one GPU holds one.
    assert "'embedimages': 1" in done.stdout
    found = pq.read_table(tmp_path / "out", columns=["uri", "image_embedding"]).to_pylist()
    alone = Featurizer(profile).featurize(list(files.values()))["image_embedding"].to_pylist()
    expected = dict(zip(files, alone, strict=True))
    assert len(found) == len(files)
    for row in found:
        vector = expected[row["uri"].rpartition("/")[2]]
        np.testing.assert_allclose(row["image_embedding"], vector, atol=2e-3)
