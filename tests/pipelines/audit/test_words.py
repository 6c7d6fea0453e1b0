"""Sentences that a stranger to the code understands, and that claim no more than is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from item.heads.head import ErrorRates
from pipelines.audit import rows as audit_rows
from pipelines.audit import words as audit_words
from pipelines.audit.numbers import Audit, AuditOptions, Known, audit_of, known
from pipelines.storage.configuration import Storage
from tests.support.audit_root import ERROR_RATES, HEAD, Row, broken, many, picture, write_night

NIGHT = "2026-01-09"


def told(root: Path, rows: list[Row], **given: Any) -> tuple[Audit, Known]:
    write_night(root, NIGHT, rows, manifest={})
    read = audit_rows.read(str(root), (NIGHT,), Storage())
    options = AuditOptions.model_validate(given)
    about = known(read, options)
    return audit_of(read, about, options), about


def test_summary_says_counts_shares_and_estimate(tmp_path: Path) -> None:
    rows = [picture(f"{n}", 0.95 if n < 25 else 0.1) for n in range(100)]
    came, flagged, estimate = audit_words.summary(
        *told(tmp_path, [*rows, broken("b")], error_rates=ERROR_RATES)
    )
    assert came.startswith("101 rows came in from 1 source. 1 row could not be looked at and is ")
    assert "Of the 100 pictures with a score, the tool calls 25 likely generated." in flagged
    assert "25.0% (95% interval 17.5% to 34.3%)" in flagged
    assert "If 40.7% of these pictures are generated" in estimate
    assert "presumes" in estimate


def test_summary_without_error_rates_says_that_it_is_not_known(tmp_path: Path) -> None:
    audit, about = told(tmp_path, [picture("a", 0.95), picture("b", 0.1)])
    assert "is not known" in audit_words.summary(audit, about)[2]
    assert any("nobody has counted" in said for said in audit_words.unknown(about, 0))


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [([], "Nothing came in."), ([broken("b")], "nothing can be said of them")],
)
def test_summary_of_a_night_without_scores(tmp_path: Path, rows: list[Row], sentence: str) -> None:
    [said] = audit_words.summary(*told(tmp_path, rows))
    assert sentence in said


def test_pictures_that_were_not_kept_are_counted() -> None:
    about = Known((HEAD,), (), None, None)
    assert "The look of 1 picture below" in audit_words.unknown(about, 1)[-1]
    assert "The look of" not in audit_words.unknown(about, 0)[-1]


def test_several_heads_are_said_to_share_no_error_rate() -> None:
    said = audit_words.unknown(Known(("a", "b"), (), None, None), 0)
    assert any("2 different heads" in one for one in said)


def test_worst_source_of_photographs_is_named() -> None:
    worst = {"worst_source": "old scans", "worst_share": 0.031}
    rates = ErrorRates.model_validate(ERROR_RATES | worst)
    assert "Of one source (old scans) it flagged 3.1%" in audit_words.errors(rates)
    assert "Of one source" not in audit_words.errors(ErrorRates.model_validate(ERROR_RATES))


def test_first_night_says_why_nothing_is_compared(tmp_path: Path) -> None:
    audit, _ = told(tmp_path, many(NIGHT, 5))
    assert "no night before 9 January 2026" in audit_words.drift_note(audit, NIGHT)


def test_no_sentence_gives_the_weakest_object_as_a_reason(tmp_path: Path) -> None:
    audit, about = told(tmp_path, many(NIGHT, 60), error_rates=ERROR_RATES)
    said = [
        *audit_words.summary(audit, about),
        *audit_words.unknown(about, 3),
        *audit_words.method(about),
        *(meaning for _, meaning in audit_words.GLOSSARY),
    ]
    assert "It is not the reason for the score." in " ".join(said)
    assert "because" not in " ".join(said)


def test_dates_are_read_as_people_say_them() -> None:
    assert audit_words.nights(["2026-01-09"]) == "9 January 2026"
    assert audit_words.nights(["2026-01-09", "2026-02-10"]) == (
        "9 January 2026 to 10 February 2026 (2 nights)"
    )


@pytest.mark.parametrize(
    ("source", "name"),
    [(None, "(no source)"), ("", "(no source)"), ("\n", "(no source)"), ("a b", "a b")],
)
def test_rows_without_a_source_have_a_name(source: str | None, name: str) -> None:
    assert audit_words.source_name(source) == name
