"""Cheap members through the true loading code, generated dumps, and what is said of runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.cheap_members import ColourCaptioner, PooledEncoder
from benchmarks.scale import SMALL, by_node, cheap_profile, generated, summary, write_dump
from item.images.decode import Decoding, decode
from item.profiles import load_profile
from item.tables import IMAGES, as_features
from pipelines.featurize.shares import check_shares
from pipelines.featurize.steps import stages
from pipelines.input.rows import InputRow
from pipelines.runtime.stages import run_stage, workers


def test_cheap_members_give_features_of_the_usual_kind(tmp_path: Path):
    profile = load_profile(str(cheap_profile(tmp_path / "cheap.yaml")))
    profile.check_models()
    rows = [InputRow(f"{n}.jpg", "", "", bytes=generated(n, SMALL)).as_dict() for n in range(4)]
    table = pa.Table.from_pylist(rows, schema=IMAGES)
    for stage in stages(profile):
        stage.set_up()
        table = run_stage(stage, table)
    found = as_features(table, profile.dimensions).to_pylist()
    assert [row["status"] for row in found] == ["ok"] * 4
    assert all(row["objects"] and "box" in row["caption"] for row in found)


def test_waiting_captioners_take_a_gpu_each(tmp_path: Path):
    profile = load_profile(str(cheap_profile(tmp_path / "waiting.yaml", gpus=1.0)))
    cluster = {"CPU": 8.0, "GPU": 4.0}
    check_shares(profile, cluster)
    assert workers(profile.resources.caption, cluster) == 4


def test_generated_pictures_differ_and_can_be_read_again(tmp_path: Path):
    folder = write_dump(tmp_path / "dump", 25, SMALL)
    table = pq.read_table(folder)
    assert len(set(table["bytes"].to_pylist())) == len(set(table["uri"].to_pylist())) == 25
    assert generated(3, SMALL) == table["bytes"][3].as_py()
    assert decode(generated(3, SMALL), Decoding()).pixels.shape == (*SMALL[::-1], 3)


def test_embeddings_are_unit_rows_and_depend_on_their_input():
    encoder = PooledEncoder()
    pictures = [decode(generated(n, SMALL), Decoding()).pixels for n in range(3)]
    images, texts = encoder.embed_images(pictures), encoder.embed_texts(["a dog", "a cat"])
    for rows in (images, texts):
        assert rows.shape[1] == encoder.dimensions
        assert np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-5)
        assert not np.allclose(rows[0], rows[1])
    assert encoder.embed_texts([]).shape == (0, encoder.dimensions)


def test_pictures_are_counted_by_node(tmp_path: Path):
    for name, number in {"a-1": 3, "a-2": 4, "b-1": 5}.items():
        (tmp_path / name).write_text(str(number))
    assert by_node(tmp_path) == [7, 5]
    assert ColourCaptioner().caption([np.zeros((9, 9, 3), np.uint8)]) == [
        "a red box on a wooden table"
    ]


def test_summary_compares_with_the_mean_and_with_the_smallest():
    runs = [
        {"rows": 100, "images_per_second": 90.0, "peak_memory_bytes": 30},
        {"rows": 10, "images_per_second": 110.0, "peak_memory_bytes": 20},
    ]
    assert summary(runs) == {"deviation": 0.1, "memory_growth": 1.5}
