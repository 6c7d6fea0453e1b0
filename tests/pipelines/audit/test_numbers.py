"""The numbers of an audit, against cases small enough to count by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from item.heads.head import ErrorRates
from item.statistics.prevalence import corrected_prevalence, in_words, share
from item.tables import ErrorCode
from pipelines.audit import rows as audit_rows
from pipelines.audit.numbers import (
    QUANTITIES,
    Audit,
    AuditOptions,
    Known,
    audit_of,
    known,
    with_pictures,
)
from pipelines.audit.rows import AuditRows
from pipelines.storage.configuration import Storage
from tests.support.audit_root import (
    ERROR_RATES,
    HEAD,
    Row,
    broken,
    many,
    picture,
    strange,
    write_night,
)

NIGHT, BEFORE = "2026-01-09", "2026-01-08"
THRESHOLDS = {"likely_real": 0.2, "likely_generated": 0.9}
SAID = {"head": {"head_id": HEAD, "error_rates": ERROR_RATES, "thresholds": THRESHOLDS}}


def options(**given: Any) -> AuditOptions:
    return AuditOptions.model_validate(given)


def read(root: Path, *dates: str, nights_before: int = 14) -> AuditRows:
    return audit_rows.read(str(root), dates or (NIGHT,), Storage(), nights_before)


def audit(root: Path, *dates: str, **given: Any) -> Audit:
    rows, chosen = read(root, *dates), options(**given)
    return audit_of(rows, known(rows, chosen), chosen)


def of_night(root: Path, rows: list[Row], manifest: Row | None = None, **given: Any) -> Audit:
    return audit(write_night(root, NIGHT, rows, parts=2, manifest=manifest), **given)


def line(table: pd.DataFrame, scope: str, name: str | None = None) -> dict[str, Any]:
    mine = table["name"].isna() if name is None else table["name"] == name
    [row] = table[(table["scope"] == scope) & mine].to_dict("records")
    return row


MIXED = [
    picture("a", 0.95),
    picture("b", 0.5),
    picture("c", 0.1),
    picture("d", 0.99, source="art.example"),
    strange("e", 0.99, source="art.example"),
    picture("f", 0.3, source=None),
    broken("g"),
    broken("h", ErrorCode.URI_UNREADABLE),
    broken("i", source="art.example"),
]


# Verdicts


def test_verdicts_are_counted_by_source_and_in_all(tmp_path: Path) -> None:
    table = of_night(tmp_path, MIXED).verdicts
    counts = ["rows", "likely_generated", "uncertain", "likely_real"]
    counts += ["not_scored", "rejected", "failed"]
    expected = {
        ("all", None): [9, 2, 3, 1, 3, 2, 1],
        ("source", "photos.example"): [5, 1, 1, 1, 2, 1, 1],
        ("source", "art.example"): [3, 1, 1, 0, 1, 1, 0],
        ("source", None): [1, 0, 1, 0, 0, 0, 0],
    }
    found = {key: [line(table, *key)[name] for name in counts] for key in expected}
    assert found == expected
    assert len(table) == len(expected)


def test_flagged_share_is_of_the_scored_pictures_with_wilsons_interval(tmp_path: Path) -> None:
    table = of_night(tmp_path, MIXED).verdicts
    row, expected = line(table, "all"), share(2, 6)
    assert [row["flagged_share"], row["low"], row["high"]] == pytest.approx(
        [2 / 6, expected.low, expected.high]
    )


def test_several_nights_are_counted_one_by_one_too(tmp_path: Path) -> None:
    write_night(tmp_path, BEFORE, [picture("a", 0.95), broken("b")])
    write_night(tmp_path, NIGHT, [picture("a", 0.1)])
    table = audit(tmp_path, BEFORE, NIGHT).verdicts
    assert [line(table, "night", night)["likely_generated"] for night in (BEFORE, NIGHT)] == [1, 0]
    assert line(table, "all")["rows"] == 3
    assert not (audit(tmp_path, NIGHT).verdicts["scope"] == "night").any()


# Prevalence


def test_prevalence_is_corrected_by_the_error_rates_of_the_manifest(tmp_path: Path) -> None:
    rows = [picture(f"{n}", 0.95 if n < 25 else 0.1) for n in range(100)]
    row = line(of_night(tmp_path, rows, manifest=SAID).prevalence, "all")
    expected = corrected_prevalence(25, 100, ErrorRates.model_validate(ERROR_RATES))
    assert row["prevalence"] == pytest.approx((0.25 - 0.01) / (0.6 - 0.01))
    assert [row["prevalence_low"], row["prevalence_high"]] == [expected.low, expected.high]
    true, false = row["prevalence"] * 0.6, (1 - row["prevalence"]) * 0.01
    assert row["ppv"] == pytest.approx(true / (true + false))
    assert row["ppv_low"] < row["ppv"] < row["ppv_high"]
    assert row["words"] == in_words(25, 100, ErrorRates.model_validate(ERROR_RATES))


def test_without_error_rates_nothing_is_made_up(tmp_path: Path) -> None:
    row = line(of_night(tmp_path, MIXED, manifest={"head": {"head_id": HEAD}}).prevalence, "all")
    assert np.isnan(row["prevalence"])
    assert np.isnan(row["ppv"])
    assert "is not known" in row["words"]


def test_options_come_before_the_manifest(tmp_path: Path) -> None:
    write_night(tmp_path, NIGHT, MIXED, manifest=SAID)
    given = ERROR_RATES | {"real_flagged": 30}
    found = known(read(tmp_path), options(error_rates=given))
    assert found.error_rates is not None
    assert found.error_rates.real_flagged == 30
    assert found.thresholds is not None
    assert found.middle == pytest.approx(0.55)


def test_error_rates_of_another_head_are_not_used(tmp_path: Path) -> None:
    write_night(tmp_path, NIGHT, MIXED, manifest=SAID, head_id="f" * 16)
    assert known(read(tmp_path), options()) == Known(("f" * 16,), ("mini-abcdef",), None, None)


def test_nights_of_two_heads_have_no_error_rates_in_common(tmp_path: Path) -> None:
    write_night(tmp_path, BEFORE, MIXED, manifest=SAID)
    write_night(tmp_path, NIGHT, MIXED, manifest=SAID, head_id="f" * 16)
    found = known(read(tmp_path, BEFORE, NIGHT), options())
    assert found.head_ids == (HEAD, "f" * 16)
    assert found.error_rates is None
    assert found.middle == 0.5


# Histogram


def test_families_of_flagged_pictures_are_counted_most_first(tmp_path: Path) -> None:
    named = [picture(f"{n}", 0.95, family="SDXL") for n in range(3)]
    named += [picture("u", 0.99, family="unknown"), picture("m", 0.95, family="DALL-E")]
    others = [picture("r", 0.5), picture("n", 0.95), broken("b")]
    table = of_night(tmp_path, [*named, *others]).families
    assert table.to_dict("list") == {"family": ["SDXL", "DALL-E", "unknown"], "rows": [3, 1, 1]}


def test_scores_from_before_heads_knew_families_are_read(tmp_path: Path) -> None:
    root = write_night(tmp_path, NIGHT, [picture("a", 0.95)])
    for path in root.glob("scores/**/*.parquet"):
        pq.write_table(pq.read_table(path, partitioning=None).drop_columns(["family"]), path)
    found = audit(root)
    assert len(found.families) == 0 and line(found.verdicts, "all")["likely_generated"] == 1


def test_histogram_counts_every_scored_picture_by_verdict(tmp_path: Path) -> None:
    rows = [picture("a", 0.0), picture("b", 0.1), picture("c", 0.95), picture("d", 1.0)]
    table = of_night(tmp_path, [*rows, strange("e", 0.97), broken("f")], bins=10).histogram
    assert table["low"].tolist() == pytest.approx(np.arange(0, 1, 0.1).tolist())
    assert table["rows"].sum() == 5
    assert table["likely_generated"].tolist() == [0] * 9 + [2]
    assert table["uncertain"].tolist() == [0] * 9 + [1]
    assert table["likely_real"].sum() == 2


# Which pictures are shown


def test_gallery_is_the_highest_scores_each_picture_once(tmp_path: Path) -> None:
    rows = [picture(f"{n}", n / 10) for n in range(10)]
    rows.append(picture("again", 0.9, image_id=rows[9]["image_id"]))
    found = of_night(tmp_path, [*rows, broken("b")], gallery=3).suspicious
    assert found["score"].tolist() == pytest.approx([0.9, 0.8, 0.7])


def test_one_source_does_not_fill_the_gallery(tmp_path: Path) -> None:
    loud = [picture(f"loud{n}", 0.9 + n / 100, source="loud") for n in range(6)]
    quiet = [picture(f"quiet{n}", 0.1 + n / 100, source=None) for n in range(6)]
    found = of_night(tmp_path, loud + quiet, gallery=4, source_share=0.5).suspicious
    assert found["uri"].tolist() == ["loud5", "loud4", "quiet5", "quiet4"]


def test_one_source_fills_what_the_others_leave(tmp_path: Path) -> None:
    loud = [picture(f"loud{n}", 0.9 + n / 100, source="loud") for n in range(6)]
    found = of_night(tmp_path, [*loud, picture("quiet", 0.1)], gallery=5).suspicious
    assert found["uri"].tolist() == ["loud5", "loud4", "loud3", "loud2", "quiet"]


def test_review_takes_the_least_sure_and_those_held_back_in_turn(tmp_path: Path) -> None:
    rows = [picture(f"{n}", n / 100) for n in (10, 30, 50, 54, 60, 95)]
    rows += [strange("odd1", 0.99), strange("odd2", 0.6)]
    table = of_night(tmp_path, rows, manifest=SAID).tables()["review"]
    # The middle of the thresholds 0.2 and 0.9 is 0.55.
    assert table["uri"].tolist() == ["54", "odd2", "50", "odd1", "60", "30"]
    assert table["decision"].tolist() == [""] * 6
    assert list(table) == [
        *("date", "uri", "source", "score", "verdict", "caption", "weakest_phrase", "decision")
    ]


def test_review_is_no_longer_than_asked(tmp_path: Path) -> None:
    assert len(of_night(tmp_path, many(NIGHT, 60), review=7).queue) == 7


def test_pictures_shown_are_the_gallery_and_the_first_of_the_queue() -> None:
    chosen = with_pictures(pd.Index([4, 2]), pd.Index([7, 2, 9, 8]), options(review_pictures=3))
    assert chosen.tolist() == [4, 2, 7, 9]


# Drift


def two_nights(root: Path, before: list[Row], now: list[Row], **given: Any) -> pd.DataFrame:
    write_night(root, BEFORE, before)
    return of_night(root, now, **given).drift.set_index("quantity")


def test_nights_alike_raise_no_alarm(tmp_path: Path) -> None:
    table = two_nights(tmp_path, many(BEFORE, 300, seed=1), many(NIGHT, 300, seed=2))
    assert list(table.index) == list(QUANTITIES)
    assert not table["alarm"].any()
    assert (table["rows_before"] == 300).all()


CHANGES: dict[str, dict[str, Any]] = {
    "score": {"score": 0.8},
    "global_similarity": {"global_similarity": 0.9},
    "local_similarity_mean": {"local_similarity_mean": 0.9},
    "caption_length": {"caption": "a" * 200},
    "pixels": {"width": 4000, "height": 3000},
    "byte_count": {"byte_count": 10_000_000},
    "format": {"format": "WEBP"},
    "source": {"source": "another.example"},
}


@pytest.mark.parametrize("quantity", CHANGES)
def test_each_change_raises_its_own_alarm_alone(tmp_path: Path, quantity: str) -> None:
    now = [row | CHANGES[quantity] for row in many(NIGHT, 300, seed=2)]
    table = two_nights(tmp_path, many(BEFORE, 300, seed=1), now)
    assert table.index[table["alarm"].astype(bool)].tolist() == [quantity]


def test_many_more_broken_files_raise_an_alarm(tmp_path: Path) -> None:
    now = many(NIGHT, 200, seed=2) + [broken(f"b{n}", source="art.example") for n in range(100)]
    table = two_nights(tmp_path, many(BEFORE, 300, seed=1), now)
    assert table["alarm"]["status"]
    assert not table["alarm"][["score", "pixels", "format"]].any()


def test_threshold_of_an_alarm_can_be_set(tmp_path: Path) -> None:
    now = [row | {"format": "WEBP"} for row in many(NIGHT, 300, seed=2)]
    table = two_nights(tmp_path, many(BEFORE, 300, seed=1), now, drift={"psi": 1000})
    assert not table["alarm"].any()


def test_nights_of_another_head_are_not_compared_with(tmp_path: Path) -> None:
    write_night(tmp_path, "2026-01-07", many(BEFORE, 60), head_id="f" * 16)
    write_night(tmp_path, BEFORE, many(BEFORE, 60, seed=1))
    found = of_night(tmp_path, many(NIGHT, 60, seed=2))
    assert found.nights_before == (BEFORE,)
    assert (found.drift["rows_before"] == 60).all()


def test_first_night_has_nothing_to_compare_with(tmp_path: Path) -> None:
    found = of_night(tmp_path, many(NIGHT, 60))
    assert found.drift.empty
    assert found.nights_before == ()
    assert "sentence" in found.drift


def test_few_rows_are_said_not_to_be_compared(tmp_path: Path) -> None:
    table = two_nights(tmp_path, many(BEFORE, 60), [picture("a")])
    assert table["too_few"].all()
    assert not table["alarm"].any()


# Rejects and run


def test_rejects_are_counted_by_reason_and_source(tmp_path: Path) -> None:
    rows = [*MIXED, *(broken(f"t{n}") for n in range(4))]
    table = of_night(tmp_path, rows).rejects
    first = table.iloc[0]
    assert first[["status", "error_code", "source", "rows"]].tolist() == [
        *("rejected", "truncated", "photos.example", 5)
    ]
    assert first["share"] == pytest.approx(5 / 9)
    assert first["reason"] == ErrorCode.TRUNCATED.sentence
    assert first["examples"] == ["g", "t0", "t1"]
    assert table["rows"].tolist() == [5, 1, 1]


def test_cost_is_hours_times_machines_times_prices(tmp_path: Path) -> None:
    manifest = {"seconds": 1800, "cpus": 4.0, "gpus": 2.0, "images_per_second": 3.5}
    manifest |= {"reuse": {"rate": 0.2}, "models": {"clip": "x", "captioner": "y"}}
    prices = {"price_per_hour": {"cpu": 0.05, "gpu": 3}, "currency": "EUR"}
    [row] = of_night(tmp_path, MIXED, manifest=manifest, **prices).run.to_dict("records")
    assert row["cost"] == pytest.approx(0.5 * (4 * 0.05 + 2 * 3))
    assert (row["currency"], row["images_per_second"], row["reuse_rate"]) == ("EUR", 3.5, 0.2)
    assert row["models"] == "clip: x; captioner: y"
    assert (row["head_id"], row["rows"]) == (HEAD, 9)


@pytest.mark.parametrize(
    ("manifest", "price"),
    [
        ({"seconds": 1800, "cpus": 4.0}, {}),
        ({"seconds": 1800, "cpus": 4.0}, {"gpu": 1}),
        ({"cpus": 4.0}, {"cpu": 1}),
        (None, {"cpu": 1}),
    ],
    ids=["no price", "GPUs not known", "time not known", "no manifest"],
)
def test_cost_is_unknown_where_a_part_of_it_is(
    tmp_path: Path, manifest: Row | None, price: dict[str, float]
) -> None:
    run = of_night(tmp_path, MIXED, manifest=manifest, price_per_hour=price).run
    assert run["cost"].isna().all()


# Nights without pictures


@pytest.mark.parametrize("rows", [[], [broken("a"), broken("b")]], ids=["empty", "all rejected"])
def test_night_without_scores_has_numbers_too(tmp_path: Path, rows: list[Row]) -> None:
    write_night(tmp_path, BEFORE, many(BEFORE, 60))
    found = of_night(tmp_path, rows, manifest=SAID)
    row = line(found.verdicts, "all")
    assert row["rows"] == row["not_scored"] == len(rows)
    assert np.isnan(row["flagged_share"])
    assert np.isnan(found.prevalence["prevalence"]).all()
    assert found.histogram["rows"].sum() == 0
    assert found.suspicious.empty
    assert found.queue.empty
    assert not found.drift["alarm"].any()
    assert len(found.run) == 1
