"""The bundle: what is saved is what scores, and what is damaged is refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from item.errors import UsageError
from item.heads.attribution import fit_attribution
from item.heads.columns import FeatureArrays
from item.heads.fitting import fit
from item.heads.head import Description, Head, Scores, TrainingSource
from item.heads.settings import Balance, HeadSettings, Kind, balanced_weights
from item.statistics.calibration import (
    Abstention,
    OperatingPoints,
    Verdict,
    fit_familiarity,
    fit_platt,
    fit_thresholds,
)
from tests.item.heads.examples import DIFFERENCES, DIMENSIONS, FEATURE_SET, features_table, labelled

POINTS = OperatingPoints(real_called_generated=0.1, generated_called_real=0.1)


def trained(kind: Kind = Kind.LOGISTIC, **changes: Any) -> Head:
    plain = {"groups": DIFFERENCES, "whitened": False, "logistic_c": 0.01}
    how = HeadSettings(**{"kind": kind, "hidden": (8,), "epochs": 2, **plain, **changes})
    arrays, labels = labelled(400, seed=1)
    weights = balanced_weights(labels, np.zeros(len(labels)), Balance.LABEL)
    fitted = fit(arrays, labels, weights, how)
    held_out, truth = labelled(400, seed=2)
    calibration = fit_platt(fitted.logits(held_out)[1], truth)
    scores = calibration.scores(fitted.logits(held_out)[1])
    description = Description(
        feature_set_id=FEATURE_SET,
        dimensions=DIMENSIONS,
        settings=how,
        calibration=calibration,
        operating_points=POINTS,
        thresholds=fit_thresholds(scores, truth, POINTS),
        training_sources=(TrainingSource(label=1, generator="model-0", source=None, rows=200),),
        metrics={"calibration": {"auroc": 0.9}},
        code_version="0",
    )
    return Head.of(description, fitted, fit_familiarity(arrays.image, held_out.image))


@pytest.fixture(scope="module")
def head() -> Head:
    return trained()


@pytest.fixture
def folder(head: Head, tmp_path: Path) -> Path:
    head.save(tmp_path / "head")
    return tmp_path / "head"


def numbers(scores: Scores) -> np.ndarray:
    return np.column_stack([scores.global_logit, scores.logit, scores.score])


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("groups", [("global_residual", "local_misalignment"), ("image",)])
@pytest.mark.parametrize("whitened", [False, True])
def test_saved_head_scores_as_before(
    kind: Kind, groups: tuple[str, ...], whitened: bool, tmp_path: Path
) -> None:
    head = trained(kind, groups=groups, centred=True, whitened=whitened)
    head.save(tmp_path)
    again, table = Head.load(tmp_path), features_table(50, seed=9)
    assert np.allclose(
        numbers(head.score(table)), numbers(again.score(table)), rtol=0, atol=1e-6, equal_nan=True
    )
    assert again.description == head.description
    assert list(again.score(table).verdict) == list(head.score(table).verdict)


@pytest.mark.parametrize("kind", Kind)
def test_bundle_holds_json_tensors_and_text_alone(kind: Kind) -> None:
    files = trained(kind).files()
    assert {Path(name).suffix for name in files} <= {".json", ".safetensors", ".txt"}
    assert list(files)[-1] == "head.json"
    json.loads(files.pop("head.json"))
    assert not any(content.startswith((b"\x80", b"PK")) for content in files.values())


def test_id_follows_from_what_decides_scores(head: Head) -> None:
    assert trained().head_id == head.head_id
    assert len(head.head_id) == 16
    others = [trained(logistic_c=1.0), trained(groups=("image",)), trained(Kind.LIGHTGBM)]
    assert len({head.head_id, *(other.head_id for other in others)}) == 4
    told = head.description.model_copy(update={"notes": ("Trained on a Monday.",)})
    assert Head.of(told, head.fitted, head.familiarity).head_id == head.head_id


def test_generated_pictures_score_higher(head: Head) -> None:
    table = features_table(400, seed=5)
    labels, scores = table["label"].to_numpy(), head.score(table).score
    assert scores[labels == 1].mean() > scores[labels == 0].mean() + 0.2


def test_rows_without_features_are_not_scored(head: Head) -> None:
    broken = features_table(4, seed=5, status=["ok", "rejected", "failed", "ok"])
    column = broken.schema.get_field_index("global_similarity")
    broken = broken.set_column(
        column, broken.schema.field(column), pa.array([0.1, None, None, np.nan], pa.float32())
    )
    scores = head.score(broken)
    assert list(scores.verdict[1:]) == [Verdict.NOT_SCORED] * 3
    assert np.isnan(numbers(scores)[1:]).all()
    assert np.isfinite(numbers(scores)[0]).all()
    assert list(scores.abstention[1:]) == [None] * 3


def test_table_without_any_feature_is_scored_as_nothing(head: Head) -> None:
    scores = head.score(features_table(2, status=["failed"] * 2))
    assert list(scores.verdict) == [Verdict.NOT_SCORED] * 2
    assert len(head.score(features_table(2).slice(0, 0)).score) == 0


@pytest.mark.parametrize("caption", [None, "", " \n"])
def test_picture_without_caption_is_uncertain(head: Head, caption: str | None) -> None:
    scores = head.score(features_table(2, caption=[caption, "a cat"]))
    assert scores.abstention == [Abstention.NO_CAPTION, None]
    assert scores.verdict[0] == Verdict.UNCERTAIN
    assert np.isfinite(scores.score).all()


def test_picture_unlike_the_training_ones_is_uncertain(head: Head) -> None:
    image = np.full((2, DIMENSIONS), [[0.3], [9.0]], np.float32)
    scores = head.score(features_table(2, image_embedding=image))
    assert scores.abstention == [None, Abstention.OUT_OF_DISTRIBUTION]
    assert scores.verdict[1] == Verdict.UNCERTAIN


@pytest.mark.parametrize("kind", Kind)
@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(40)), cut=st.integers(0, 40))
def test_order_and_batches_change_nothing(kind: Kind, order: list[int], cut: int) -> None:
    head, table = HEADS[kind], features_table(40, seed=6)
    whole = head.score(table)
    parts = [head.score(table.take(rows)) for rows in np.split(np.array(order), [cut])]
    found = np.concatenate([numbers(part) for part in parts])
    assert np.allclose(found, numbers(whole)[order], rtol=0, atol=1e-6)
    verdicts = [one for part in parts for one in part.verdict]
    assert verdicts == [whole.verdict[row] for row in order]


HEADS = {kind: trained(kind) for kind in Kind}


def test_other_feature_set_is_refused(head: Head) -> None:
    head.check_feature_set(FEATURE_SET)
    with pytest.raises(UsageError, match=f"'{FEATURE_SET}' and cannot score those of 'base-1'"):
        head.check_feature_set("base-1")


def change(folder: Path, **values: Any) -> None:
    path = folder / "head.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


DAMAGES = {
    "it has no head.json": lambda folder: (folder / "head.json").unlink(),
    "lacks files": lambda folder: (folder / "head.safetensors").unlink(),
    "is not that of a head": lambda folder: (folder / "head.json").write_text("[]"),
    "head.json at .* is not that": lambda folder: (folder / "head.json").write_bytes(b"\xff{"),
    "format version 9": lambda folder: change(folder, format_version=9),
    "table schema version 0": lambda folder: change(folder, schema_version=0),
    "'calibration.slope' is wrong": lambda folder: change(folder, calibration={"slope": "x"}),
    "'files": lambda folder: change(folder, files={"../other.txt": "0"}),
    "is damaged": lambda folder: (folder / "head.safetensors").write_bytes(b"0" * 99),
    "damaged": lambda folder: change(
        folder, thresholds={"likely_real": 0.1, "likely_generated": 0.2}
    ),
}


@pytest.mark.parametrize("sentence", DAMAGES)
def test_damaged_head_is_refused_in_one_sentence(folder: Path, sentence: str) -> None:
    DAMAGES[sentence](folder)
    with pytest.raises(UsageError, match=sentence) as refusal:
        Head.load(folder)
    assert str(refusal.value).count(". ") == 0


def test_head_with_other_tensors_than_described_is_refused(folder: Path) -> None:
    about = json.loads((folder / "head.json").read_text())
    other = Description.model_validate({**about, "dimensions": DIMENSIONS + 1, "files": {}})
    change(folder, **other.identified(about["files"]).model_dump(mode="json"))
    with pytest.raises(UsageError, match="does not hold what its"):
        Head.load(folder)


def test_missing_folder_is_no_head(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no head at"):
        Head.load(tmp_path / "nowhere")


# Families


def attributed(head: Head, rejected: float = 0.1) -> Head:
    """The head, with the two generators of the examples as families."""
    sides = []
    for seed in (1, 2):
        table = features_table(400, seed=seed)
        generated = table.filter(pa.compute.equal(table["label"], 1))
        columns = head.fitted.columns(FeatureArrays.of(generated, DIMENSIONS, 0))
        sides.append((columns, np.array(generated["generator"].to_pylist(), object)))
    attribution = fit_attribution(*sides[0], sides[1], rejected)
    assert attribution is not None
    return Head.of(head.description, head.fitted, head.familiarity, attribution)


def test_families_stand_with_pictures_that_are_called_generated_alone(head: Head) -> None:
    scores = attributed(head).score(features_table(200, seed=5))
    called = [verdict == Verdict.LIKELY_GENERATED for verdict in scores.verdict]
    assert 0 < sum(called) < 200
    assert [family is not None for family in scores.family] == called
    assert np.isfinite(scores.family_probability).tolist() == called
    assert set(scores.family) <= {"model-0", "model-1", "unknown", None}


def test_head_that_knows_no_families_names_none(head: Head) -> None:
    scores = head.score(features_table(50, seed=5))
    assert scores.family == [None] * 50 and np.isnan(scores.family_probability).all()


def test_saved_head_knows_the_same_families(head: Head, tmp_path: Path) -> None:
    first = attributed(head)
    first.save(tmp_path)
    again, table = Head.load(tmp_path), features_table(200, seed=5)
    assert again.description == first.description
    assert again.score(table).family == first.score(table).family


def test_families_are_part_of_what_the_id_follows_from(head: Head) -> None:
    ids = [head.head_id, attributed(head).head_id, attributed(head, rejected=0.5).head_id]
    assert len(set(ids)) == 3


def test_head_that_lacks_the_weights_of_its_families_is_refused(head: Head, tmp_path: Path) -> None:
    known = attributed(head).description.attribution
    bare = Head.of(head.description, head.fitted, head.familiarity)
    files = bare.files()
    described = bare.description.model_copy(update={"attribution": known})
    described = described.identified(bare.description.files)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "head.json").write_text(described.model_dump_json())
    with pytest.raises(UsageError, match="does not hold what its"):
        Head.load(tmp_path)
