"""The evaluation folder: what is read as it is, and what is refused in one sentence."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from item.errors import UsageError
from item.explanation.printable import printable_line
from pipelines.results.tables import read_evaluation
from tests.support.evaluation_folder import (
    METHODS,
    OURS,
    PROBE,
    Tables,
    description,
    tables,
    write_folder,
)

Change = Callable[[Tables], Any]


@settings(deadline=None)
@given(st.text())
def test_printable_text_is_one_line_without_control_characters(text: str) -> None:
    kinds = {unicodedata.category(letter) for letter in printable_line(text) if letter != " "}
    assert not kinds & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert printable_line(printable_line(text)) == printable_line(text)


def test_names_that_can_be_shown_stay_as_they_are() -> None:
    assert printable_line("Stable Diffusion 1.5 – é 画 <b>|") == "Stable Diffusion 1.5 – é 画 <b>|"


def test_folder_is_read_with_methods_in_the_order_of_the_description(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, description(), tables())
    evaluation = read_evaluation(str(folder))
    assert [m.name for m in evaluation.methods("ours", "baseline")] == list(METHODS)[:4]
    assert len(evaluation.metrics) == len(tables()["metrics"])
    assert evaluation.robustness is not None


def test_more_robustness_is_added_and_the_folders_own_is_not_read_twice(tmp_path: Path) -> None:
    whole = tables()
    rows = whole["robustness"]
    folder = write_folder(
        tmp_path / "one", description(), whole | {"robustness": rows[rows["method"] == OURS]}
    )
    other = tmp_path / "two" / "robustness.parquet"
    other.parent.mkdir()
    rows[rows["method"] == PROBE].to_parquet(other)
    places = [str(folder), str(other.parent), str(other)]
    evaluation = read_evaluation(str(folder), places)
    assert evaluation.robustness is not None
    assert len(evaluation.robustness) == len(rows)


def test_same_robustness_from_two_folders_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "one", description(), tables())
    copy = write_folder(tmp_path / "two", description(), tables())
    with pytest.raises(UsageError, match="twice: none, staged MLP"):
        read_evaluation(str(folder), [str(copy)])


def test_missing_folder_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere does not exist: run jobs/evaluate\.py"):
        read_evaluation(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    "name",
    ["evaluation.json"]
    + [
        f"{t}.parquet" for t in ("metrics", "differences", "roc", "reliability", "operating_points")
    ],
)
def test_missing_file_is_a_sentence(tmp_path: Path, name: str) -> None:
    folder = write_folder(tmp_path, description(), tables())
    (folder / name).unlink()
    with pytest.raises(UsageError, match=f"{name} is missing"):
        read_evaluation(str(folder))


def test_missing_robustness_that_was_named_is_a_sentence(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, description(), tables())
    with pytest.raises(UsageError, match=r"gone is missing"):
        read_evaluation(str(folder), [str(tmp_path / "gone")])


def changed(**columns: object) -> Change:
    return lambda all_tables: all_tables.update(metrics=all_tables["metrics"].assign(**columns))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.update(roc=t["roc"].drop(columns=["tpr", "fpr"])), "lacks .*: fpr, tpr"),
        (changed(value="high"), "'value' of .*metrics.parquet holds something other than numbers"),
        (changed(value=np.inf), "'value' .* infinite"),
        (changed(generator=3), "'generator' .* other than text"),
        (changed(generator=None), "'generator' .* other than text"),
        (
            changed(method=["magic", *list(tables()["metrics"]["method"])[1:]]),
            "The method 'magic' of the table metrics is not described",
        ),
        (changed(protocol="magic"), "The protocol 'magic' of the table metrics"),
        (lambda t: t.update(metrics=pd.concat([t["metrics"]] * 2)), "gives this row twice: train"),
    ],
)
def test_table_that_does_not_fit_is_a_sentence(
    tmp_path: Path, change: Change, sentence: str
) -> None:
    contents = tables()
    change(contents)
    folder = write_folder(tmp_path, description(), contents)
    with pytest.raises(UsageError, match=sentence) as refusal:
        read_evaluation(str(folder))
    assert "\n" not in str(refusal.value)


def test_file_that_is_not_parquet_is_a_sentence(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, description(), tables())
    (folder / "roc.parquet").write_bytes(b"fpr,tpr\n0,0\n")
    with pytest.raises(UsageError, match=r"roc\.parquet is not a readable Parquet file"):
        read_evaluation(str(folder))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is not JSON"),
        ("[]", "must be a mapping"),
        (json.dumps({**description(), "seeds": "five"}), "'seeds' of the file .* is wrong"),
        (json.dumps(description(shipped="magic")), "shipped method 'magic' is not described"),
        (json.dumps(description(methods=description()["methods"] * 2)), "a method twice"),
    ],
)
def test_description_that_does_not_fit_is_a_sentence(
    tmp_path: Path, text: str, sentence: str
) -> None:
    folder = write_folder(tmp_path, description(), tables())
    (folder / "evaluation.json").write_text(text)
    with pytest.raises(UsageError, match=sentence):
        read_evaluation(str(folder))
