"""What was not read stands in the report, night by night."""

from __future__ import annotations

from pipelines.audit.left_out import left_out

NIGHT = {
    "left_out": {"hidden": 2, "linked folders that lead out of the input": 1_000},
    "notes": ["3 rows say another date than their night; they stay in it."],
    "no_nights": ["dt=2026-11-22"],
}


def test_one_night_has_its_counts_and_notes() -> None:
    assert left_out({"2026-11-21": NIGHT}) == [
        "Not read: 2 hidden, 1,000 linked folders that lead out of the input.",
        "3 rows say another date than their night; they stay in it.",
        "Not read, because 1 names are no nights: dt=2026-11-22.",
    ]


def test_several_nights_are_told_apart_and_the_dump_once() -> None:
    told = left_out({"2026-11-21": NIGHT, "2026-11-22": {"no_nights": list("dt=xyz")}})
    assert [one for one in told if one.startswith("2026-11-21: ")] == [
        f"2026-11-21: {sentence}" for sentence in left_out({"2026-11-21": NIGHT})[:2]
    ]
    assert told[-1].startswith("Not read, because 7 names are no nights: ")
    assert told[-1].endswith(" and others.")


def test_manifest_of_an_older_program_says_nothing() -> None:
    assert left_out({"2026-11-21": {}, "2026-11-22": {"left_out": None}}) == []
