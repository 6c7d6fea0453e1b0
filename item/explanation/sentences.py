"""Why a picture has its verdict: a sentence for every row, and one row at length.

What moves the score is what the whole picture and its parts contribute, as the head weighs
them. The object that fits its words least is shown beside it as something to look at;
it is never the reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from item.errors import UsageError
from item.explanation.printable import printable
from item.heads.columns import columns_of
from item.heads.head import Head
from item.images.boxes import Box
from item.statistics.calibration import Abstention, Calibration, Verdict
from item.tables import BOX, FEATURES, ErrorCode

LONGEST_PHRASE = 36
"""Characters of a phrase that a sentence shows."""


class Weakest(NamedTuple):
    """The object of each of n rows that fits its words least; null where a row names none."""

    phrase: pa.Array
    """string"""
    box: pa.Array
    """:data:`item.tables.BOX`"""
    similarity: pa.Array
    """float32"""
    grounded: pa.Array
    """bool; false where no object of the row was found in the picture."""


def weakest_objects(objects: pa.Array | pa.ChunkedArray) -> Weakest:
    """Of each row the object of least similarity, among those that were found in the picture.

    Where none was found it is the least of all; of several equal ones it is the first. A
    similarity that is null or NaN counts as greater than any other.

    Parameters
    ----------
    objects : (n,) lists of :data:`item.tables.OBJECT`, null for rows without features

    Returns
    -------
    Weakest, of length n.
    """
    lists = _whole(objects)
    counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    flat = pc.list_flatten(lists)
    chosen = np.full(len(lists), -1)
    chosen[counts > 0] = _least(flat, counts[counts > 0])
    weakest = flat.take(pa.array(chosen, mask=chosen < 0))
    similarity = pc.struct_field(weakest, "similarity").cast(pa.float32())
    return Weakest(
        pc.struct_field(weakest, "phrase").cast(pa.string()),
        pc.struct_field(weakest, "box").cast(BOX),
        pc.if_else(pc.is_nan(similarity), pa.scalar(None, pa.float32()), similarity),
        pc.struct_field(weakest, "grounded").cast(pa.bool_()),
    )


def _least(objects: pa.StructArray, counts: NDArray[np.integer]) -> NDArray[np.int64]:
    """Place of each row's weakest object; ``counts`` (rows,) are above 0 and sum to all."""
    if not len(counts):
        return np.zeros(0, np.int64)
    starts = np.cumsum(counts) - counts
    row = np.repeat(np.arange(len(counts)), counts)
    similarity = pc.struct_field(objects, "similarity").to_numpy(zero_copy_only=False)
    similarity = np.where(np.isnan(similarity), np.inf, similarity)
    grounded = pc.fill_null(pc.struct_field(objects, "grounded"), False)
    eligible = grounded.to_numpy(zero_copy_only=False)
    eligible = eligible | ~np.logical_or.reduceat(eligible, starts)[row]
    least = np.minimum.reduceat(np.where(eligible, similarity, np.inf), starts)
    hits = np.flatnonzero(eligible & (similarity == least[row]))
    return hits[np.diff(row[hits], prepend=-1) > 0]


def explanations(
    *,
    verdict: Sequence[str] | pa.Array,
    abstention: Sequence[str | None] | pa.Array,
    score: ArrayLike,
    global_logit: ArrayLike,
    logit: ArrayLike,
    weakest: Weakest,
    error_code: pa.Array | pa.ChunkedArray,
) -> pa.Array:
    """A short plain sentence for each of n rows: verdict, score, what speaks for it.

    That the whole picture or its parts speak for a verdict is read off the signs of
    ``global_logit`` and of ``logit - global_logit``, the terms that a head's calibration
    scales and adds its intercept to. They hold for a head whose calibration keeps the order
    of logits; with another one both logits have to be multiplied by its slope before.

    Parameters
    ----------
    verdict : of :class:`item.statistics.calibration.Verdict`
    abstention : of :class:`item.statistics.calibration.Abstention`, or None
    score, global_logit, logit : as in :class:`item.heads.head.Scores`; a global logit of NaN
        is that of a head that sees only the parts
    weakest : of :func:`weakest_objects`
    error_code : of :class:`item.tables.ErrorCode`, null where there are features

    Returns
    -------
    string Array of shape (n,), each of at most 200 characters, none of them null.
    """
    case = _places(pa.array(verdict, pa.string()), list(Verdict))
    held_back = _places(pa.array(abstention, pa.string()), list(Abstention))
    whole = np.asarray(global_logit, np.float64)
    parts = np.asarray(logit, np.float64) - np.where(np.isnan(whole), 0.0, whole)
    reasons = case * 9 + _leaning(whole) * 3 + _leaning(parts)
    reasons = np.where(held_back >= 0, len(_LEANINGS) + held_back, reasons)
    scored = pc.binary_join_element_wise(
        _OPENINGS.take(pa.array(case)),
        _hundredths(score, _SCORES, first=0),
        _REASONS.take(pa.array(reasons)),
        _about(weakest, pa.array(held_back < 0)),
        ".",
        "",
    )
    return pc.if_else(pa.array(case == _NOT_SCORED), _refusals(error_code), scored)


def _about(weakest: Weakest, wanted: pa.Array) -> pa.Array:
    """What is said of the weakest object, empty where there is nothing to say."""
    long = pc.greater(pc.utf8_length(weakest.phrase), LONGEST_PHRASE)
    cut = pc.utf8_slice_codeunits(weakest.phrase, 0, LONGEST_PHRASE - 1)
    phrase = pc.if_else(long, pc.binary_join_element_wise(cut, "…", ""), weakest.phrase)
    about = pc.binary_join_element_wise(
        "; of the objects found, '",
        phrase,
        "' fits its words least (",
        _hundredths(weakest.similarity, _SIMILARITIES, first=-100),
        ")",
        "",
    )
    said = pc.if_else(
        weakest.grounded, about, "; none of the caption's objects was found in the picture"
    )
    return pc.fill_null(pc.if_else(wanted, said, ""), "")


def _refusals(error_code: pa.Array | pa.ChunkedArray) -> pa.Array:
    codes = _whole(error_code).cast(pa.string())
    unknown = len(ErrorCode) + pc.is_null(codes).to_numpy(zero_copy_only=False).astype(int)
    place = _places(codes, list(ErrorCode))
    return _REFUSALS.take(pa.array(np.where(place < 0, unknown, place)))


def _leaning(contribution: NDArray[np.float64]) -> NDArray[np.int64]:
    """0 for what is 0 or NaN, 1 for what speaks for being generated, 2 for being real."""
    return np.where(contribution > 0, 1, np.where(contribution < 0, 2, 0))


def _places(values: pa.Array, among: Sequence[str]) -> NDArray[np.int64]:
    """Where each value stands in a list, -1 if nowhere."""
    places = pc.index_in(values, pa.array([str(value) for value in among], pa.string()))
    return pc.fill_null(places, -1).to_numpy(zero_copy_only=False).astype(np.int64)


def _hundredths(values: ArrayLike | pa.Array, texts: pa.Array, first: int) -> pa.Array:
    """Numbers as ``texts``, of which the first stands for ``first`` hundredths; NaN is null."""
    numbers = np.asarray(values, np.float64)
    known = ~np.isnan(numbers)
    place = np.rint(np.where(known, numbers, 0) * 100) - first
    place = np.clip(place, 0, len(texts) - 1).astype(np.int64)
    return texts.take(pa.array(place, mask=~known))


def _whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _reason(verdict: Verdict, whole: int, parts: int) -> str:
    """What speaks for a verdict, by the :func:`_leaning` of the whole picture and its parts."""
    sure = {Verdict.LIKELY_GENERATED: 1, Verdict.LIKELY_REAL: 2}.get(verdict)

    def towards(leaning: int) -> str:
        if sure is None:
            return "to generated" if leaning == 1 else "to real"
        return "for it" if leaning == sure else "against it"

    singular, plural = ("points", "point") if sure is None else ("speaks", "speak")
    weakly = ", but not clearly enough" if sure is None else ""
    if whole and parts and whole != parts:
        return f": the whole picture {singular} {towards(whole)}, its parts {towards(parts)}"
    if whole and parts:
        return f": the whole picture and its parts both {plural} {towards(whole)}{weakly}"
    if whole:
        return f": the whole picture {singular} {towards(whole)}{weakly}"
    if parts:
        return f": its parts {plural} {towards(parts)}{weakly}"
    return ""


def _inside(sentence: str) -> str:
    """A sentence as it stands after a colon, without its full stop."""
    return sentence[0].lower() + sentence[1:].removesuffix(".")


_NOT_SCORED = list(Verdict).index(Verdict.NOT_SCORED)
_OPENINGS = pa.array([f"{verdict.capitalize().replace('_', ' ')}, score " for verdict in Verdict])
_LEANINGS = [
    _reason(verdict, whole, parts)
    for verdict in Verdict
    for whole in range(3)
    for parts in range(3)
]
_REASONS = pa.array(
    [*_LEANINGS, *(f": {_inside(abstention.sentence)}" for abstention in Abstention)]
)
_REFUSALS = pa.array(
    [
        *(f"Not scored: {_inside(code.sentence)}." for code in ErrorCode),
        "Not scored: the picture could not be processed.",
        "Not scored: its features hold numbers that are missing or not finite.",
    ]
)
_SCORES = pa.array(
    ["below 0.01", *(f"0.{hundredth:02}" for hundredth in range(1, 100)), "above 0.99"]
)
_SIMILARITIES = pa.array([f"{hundredth / 100:.2f}" for hundredth in range(-100, 101)])


# One row at length


@dataclass(frozen=True)
class NamedObject:
    """An object that a caption names."""

    phrase: str
    box: Box | None
    """In pixels of the upright full-size picture."""
    similarity: float | None
    """Cosine of the box's content and the phrase in CLIP space."""
    grounded: bool
    """Whether it was found; the box of another one is only where it would fit best."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> NamedObject:
        """From an object of a features row."""
        box = values.get("box") or {}
        sides = [_number(box.get(side.name)) for side in BOX]
        known = [side for side in sides if side is not None]
        return cls(
            phrase=values.get("phrase") or "",
            box=(known[0], known[1], known[2], known[3]) if len(known) == 4 else None,
            similarity=_number(values.get("similarity")),
            grounded=bool(values.get("grounded")),
        )


@dataclass(frozen=True)
class Contributions:
    """What the log-odds of a score, ``log(score / (1 - score))``, are the sum of.

    Those of the whole picture are ``slope * global_logit``, those of its parts
    ``slope * (logit - global_logit)``, with the slope and intercept of the calibration.
    """

    whole_picture: float | None
    """None for a head that sees only the parts."""
    parts: float
    intercept: float

    @classmethod
    def of(cls, global_logit: float, logit: float, calibration: Calibration) -> Contributions:
        """From the logits of a row that has a score; a global logit of NaN is none."""
        slope, intercept = calibration.slope, calibration.intercept
        if math.isnan(global_logit):
            return cls(None, float(slope * logit), intercept)
        parts = float(slope * (logit - global_logit))
        return cls(float(slope * global_logit), parts, intercept)

    @property
    def log_odds(self) -> float:
        """Their sum, the logit of the score."""
        return (self.whole_picture or 0.0) + self.parts + self.intercept


@dataclass(frozen=True)
class Explanation:
    """What a head says of one picture, and what is known beside it."""

    uri: str
    image_id: str | None
    """SHA-256 of the file."""
    sentence: str
    verdict: Verdict
    abstention: Abstention | None
    score: float | None
    """Probability of being generated, were half of all pictures generated."""
    contributions: Contributions | None
    """None for a picture that is not scored."""
    caption: str | None
    objects: tuple[NamedObject, ...]
    """The least similar first."""
    weakest: NamedObject | None
    """Of :func:`weakest_objects`: something to look at, not the reason of the verdict."""
    digital_source_type: str | None
    """What the file's own metadata say; never part of the score."""
    head_id: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def as_text(self) -> str:
        """Plain lines for a person; what texts hold can neither add lines nor move a cursor."""
        lines = [self.sentence, "", f"picture    {self.uri}"]
        if self.caption is not None:
            lines.append(f"caption    {self.caption}")
        if self.score is not None:
            lines.append(
                f"score      {self.score:.3f}, the probability of being generated "
                "if half of all pictures were"
            )
        if self.contributions:
            whole = self.contributions.whole_picture
            of_whole = "" if whole is None else f"whole picture {whole:+.2f}, "
            lines.append(
                f"log-odds   {self.contributions.log_odds:+.2f} = {of_whole}"
                f"its parts {self.contributions.parts:+.2f}, "
                f"calibration {self.contributions.intercept:+.2f}"
            )
        if self.objects:
            lines.append("objects    how well each fits its words (cosine), least first:")
        for named in self.objects:
            similarity = "   ?" if named.similarity is None else f"{named.similarity:.2f}"
            mark = " (the least of those found)" if named == self.weakest else ""
            lines.append(f"  {similarity:>7}  {named.phrase}: {_where(named)}{mark}")
        if self.digital_source_type is not None:
            lines.append(f"file says  {self.digital_source_type} (no part of the score)")
        lines.append(f"head       {self.head_id}")
        return "\n".join(map(printable, lines))


def explain(row: Mapping[str, Any], head: Head) -> Explanation:
    """Say of one picture what a head makes of it.

    Parameters
    ----------
    row : of a features table, as ``pyarrow.Table.to_pylist`` or
        ``pandas.DataFrame.to_dict("records")`` gives it. That its features are of the set that
        the head was trained on is for the caller to know
        (:meth:`item.heads.head.Head.check_feature_set`).
    head : that scores it

    Raises
    ------
    UsageError
        If the row lacks columns, or its embeddings are not as long as the head's.
    """
    table = _table(row)
    known = {name: table[name][0].as_py() for name in (*_TEXTS, "objects")}
    scores = head.score(table)
    score, verdict, abstention = scores.score[0], scores.verdict[0], scores.abstention[0]
    calibration = head.description.calibration
    sentence = explanations(
        verdict=scores.verdict,
        abstention=scores.abstention,
        score=scores.score,
        global_logit=calibration.slope * scores.global_logit,
        logit=calibration.slope * scores.logit,
        weakest=weakest_objects(table["objects"]),
        error_code=table["error_code"],
    )
    contributions = None
    if not math.isnan(score):
        contributions = Contributions.of(scores.global_logit[0], scores.logit[0], calibration)
    objects = [NamedObject.of(named) for named in known["objects"] or ()]
    # The order of weakest_objects, which this sort keeps among equals.
    by_similarity = sorted(objects, key=lambda named: _last_if_none(named.similarity))
    grounded = [named for named in by_similarity if named.grounded]
    return Explanation(
        uri=known["uri"] or "",
        image_id=known["image_id"],
        sentence=sentence[0].as_py(),
        verdict=verdict,
        abstention=abstention,
        score=_number(score),
        contributions=contributions,
        caption=known["caption"],
        objects=tuple(by_similarity),
        weakest=next(iter(grounded or by_similarity), None),
        digital_source_type=known["digital_source_type"],
        head_id=head.head_id,
    )


_TEXTS = ("uri", "image_id", "caption", "digital_source_type")


def _table(row: Mapping[str, Any]) -> pa.Table:
    """The one row with the columns that are looked at."""
    needed = {"status", "error_code", "objects", *_TEXTS, *columns_of(row)}
    missing = sorted(needed - {"digital_source_type"} - row.keys())
    if missing:
        raise UsageError(f"The row lacks columns of a features table: {', '.join(missing)}.")
    fields = [field for field in FEATURES if field.name in needed]
    try:
        # As pandas has it, null is NaN in columns of text too.
        columns = [
            pa.array([row.get(field.name)], field.type, from_pandas=True) for field in fields
        ]
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        raise UsageError(
            "The row is not one of a features table: a value is of another type than its column's."
        ) from None
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def _number(value: Any) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


def _last_if_none(similarity: float | None) -> float:
    return math.inf if similarity is None else similarity


def _where(named: NamedObject) -> str:
    if not named.grounded:
        return "not found in the picture"
    if named.box is None:
        return "somewhere in the picture"
    x0, y0, x1, y1 = named.box
    return f"x {x0:.0f} to {x1:.0f}, y {y0:.0f} to {y1:.0f}"
