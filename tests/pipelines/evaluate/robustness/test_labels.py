"""A robustness run without labels is refused before any work, as far as can be known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from item.errors import UsageError
from pipelines.evaluate.robustness.configuration import resolve
from pipelines.evaluate.robustness.job import plan_robustness
from tests.support.dumps import make, parquet_of, tar_of

BYTES = [b"x"] * 4


def table(**columns: Any) -> bytes:
    return parquet_of({"uri": list("abcd"), "bytes": BYTES, **columns})


INPUTS: dict[str, dict[str, bytes]] = {
    "has no label real .0. and none generated .1.": {"a.jpg": b"x", "b.jpg": b"y"},
    "/dump has no label real .0. and none generated": {"a.parquet": table()},
    "has no label generated .1.": {
        "a.parquet": table(label=[0, 0, None, 0]),
        "b.parquet": table(),
    },
    "has no label real .0.": {"a.parquet": table(label=["generated", "1", "true", None])},
}


@pytest.mark.parametrize("sentence", INPUTS)
def test_input_without_both_labels_is_refused_before_any_work(
    settings: dict[str, Any], tmp_path: Path, sentence: str
) -> None:
    dump = str(make(tmp_path / "other" / "dump", INPUTS[sentence]))
    with pytest.raises(UsageError, match=sentence) as refusal:
        plan_robustness(resolve(None, settings | {"input": dump}, {}))
    assert "--labels" in str(refusal.value)
    assert not (tmp_path / "out" / "robustness.yaml").exists()


LABELLED: dict[str, dict[str, bytes]] = {
    "one table": {"a.parquet": table(label=[0, None, 1, 1])},
    "words in a list": {"a.csv": b"uri,label\na.jpg,real\nb.jpg,generated\n"},
    "a label a table": {
        "a.parquet": table(label=[1] * 4),
        "b.parquet": table(label=[0] * 4),
    },
    "archives, which are not read before": {"a.tar": tar_of([("a.jpg", b"x")])},
}


@pytest.mark.parametrize("name", LABELLED)
def test_input_that_has_or_may_have_both_goes_on(
    settings: dict[str, Any], tmp_path: Path, name: str
) -> None:
    dump = str(make(tmp_path / "other" / "dump", LABELLED[name]))
    plan = plan_robustness(resolve(None, settings | {"input": dump}, {}))
    assert plan.labels is None


def with_labels(settings: dict[str, Any], folder: Path, **columns: Any) -> dict[str, Any]:
    pd.DataFrame(columns).to_parquet(folder / "labels.parquet")
    dump = make(folder / "dump", {"a.jpg": b"x", "b.jpg": b"y"})
    return settings | {"labels": str(folder / "labels.parquet"), "input": str(dump)}


def test_labels_beside_a_folder_of_files_are_enough(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    uris = [f"{tmp_path}/dump/a.jpg", "dump/b.jpg"]
    given = with_labels(settings, tmp_path, uri=uris, label=[0, 1])
    labels = plan_robustness(resolve(None, given, {})).labels
    assert labels is not None and len(labels.rows) == 2
    given = with_labels(settings, tmp_path, image_id=["1", "2"], label=[0, 1])
    assert plan_robustness(resolve(None, given, {})).labels is not None


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"uri": ["a.jpg"], "label": [1]}, "The labels table .* has no label real"),
        ({"uri": ["x", "y"], "label": [0, 1]}, "names none of the 2 images, the first of which"),
        ({"name": ["x"], "label": [0]}, "has neither 'uri' nor 'image_id'"),
    ],
)
def test_labels_that_cannot_be_meant_are_refused_before_any_work(
    settings: dict[str, Any], tmp_path: Path, columns: dict[str, Any], sentence: str
) -> None:
    given = with_labels(settings, tmp_path, **columns)
    with pytest.raises(UsageError, match=sentence):
        plan_robustness(resolve(None, given, {}))


def test_a_sample_is_drawn_by_the_labels_of_the_input(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    given = with_labels(settings, tmp_path, uri=["a.jpg", "b.jpg"], label=[0, 1])
    with pytest.raises(UsageError, match="leave out images or labels"):
        resolve(None, given | {"images": 4}, {})
