"""A picture as the report shows it: its caption, objects and boxes in words and numbers."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from item.statistics.calibration import Verdict
from pipelines.audit.format import finite, one_line
from pipelines.audit.words import VERDICTS, source_name

JPEG = b"\xff\xd8\xff"


@dataclass(frozen=True)
class Overlay:
    """Where an object was found, in pixels of the full-size picture and as shares in percent."""

    number: int
    x: float
    y: float
    width: float
    height: float
    left: float
    top: float
    weakest: bool


@dataclass(frozen=True)
class Thing:
    """An object of a caption, in words."""

    text: str
    weakest: bool


@dataclass(frozen=True)
class Card:
    """A picture as the page shows it."""

    date: str
    uri: str
    source: str
    source_number: int
    verdict: str
    verdict_words: str
    score: str
    caption: str
    explanation: str
    says: str
    weakest: str
    objects: tuple[Thing, ...]
    boxes: tuple[Overlay, ...]
    picture: str
    """JPEG as base64; empty where the evidence table has none."""
    alt: str
    width: int
    height: int


def card(
    row: Mapping[str, Any], thumbnails: Mapping[tuple[str, str], bytes], sources: Sequence[str]
) -> Card:
    """A picture in words, of a row that :meth:`AuditRows.texts` gave."""
    width, height = (max(int(finite(row[side]) or 1), 1) for side in ("width", "height"))
    objects = list(row["objects"] or ())
    weakest = next((one for one in objects if _is_weakest(one, row)), None)
    source, caption = source_name(row["source"]), one_line(row["caption"])
    thumbnail = thumbnails.get((row["date"], row["uri"]), b"")
    picture = base64.b64encode(thumbnail).decode() if thumbnail.startswith(JPEG) else ""
    found = [
        _overlay(number, one, one is weakest, width, height) for number, one in _numbered(objects)
    ]
    return Card(
        date=row["date"],
        uri=one_line(row["uri"]),
        source=source,
        source_number=sources.index(source) if source in sources else -1,
        verdict=row["verdict"],
        verdict_words=_verdict(row["verdict"]),
        score=f"{row['score']:.2f}",
        caption=caption,
        explanation=one_line(row["explanation"]),
        says=one_line(row["digital_source_type"]),
        weakest=_fit(row["weakest_phrase"], row["weakest_similarity"]),
        objects=tuple(_thing(one, one is weakest) for one in objects),
        boxes=tuple(box for box in found if box is not None),
        picture=picture,
        alt=f"The tool sees: {caption}" if caption else "A picture without a caption",
        width=width,
        height=height,
    )


def _numbered(objects: Sequence[Mapping[str, Any]]) -> list[tuple[int, Mapping[str, Any]]]:
    return list(enumerate(objects, 1))


def _is_weakest(one: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    return bool(one["phrase"] == row["weakest_phrase"] and one["box"] == row["weakest_box"])


def _overlay(
    number: int, one: Mapping[str, Any], weakest: bool, width: int, height: int
) -> Overlay | None:
    """Within the picture; None for an object that was not found in it."""
    if not one["grounded"] or not one["box"]:
        return None
    sides = [finite(one["box"][side]) for side in ("x0", "y0", "x1", "y1")]
    if None in sides:
        return None
    x0, x1 = (min(max(float(sides[place] or 0), 0.0), width) for place in (0, 2))
    y0, y1 = (min(max(float(sides[place] or 0), 0.0), height) for place in (1, 3))
    if x0 >= x1 or y0 >= y1:
        return None
    return Overlay(
        number=number,
        x=round(x0, 2),
        y=round(y0, 2),
        width=round(x1 - x0, 2),
        height=round(y1 - y0, 2),
        left=round(100 * x0 / width, 2),
        top=round(100 * y0 / height, 2),
        weakest=weakest,
    )


def _thing(one: Mapping[str, Any], weakest: bool) -> Thing:
    fit = _fit(one["phrase"], one["similarity"])
    return Thing(fit if one["grounded"] else f"{fit}, not found in the picture", weakest)


def _fit(phrase: str | None, similarity: float | None) -> str:
    if phrase is None:
        return ""
    known = finite(similarity)
    return one_line(phrase) + ("" if known is None else f" (similarity {known:.2f})")


def _verdict(verdict: str) -> str:
    words = VERDICTS[Verdict(verdict)]
    return words[0].upper() + words[1:]
