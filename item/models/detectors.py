"""Phrases to boxes by public open-vocabulary detectors, through transformers."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from item.errors import UsageError
from item.grounding import CropGridGrounder, Grounding, Parts, Picture
from item.models.batching import Batches, automatic_size, device, dtype
from item.models.contents import check_contents
from item.models.precision import Precision

FAMILIES = {
    "owlv2": "Owlv2ForObjectDetection",
    "owlvit": "OwlViTForObjectDetection",
    "grounding-dino": "GroundingDinoForObjectDetection",
}
"""Model types, as config.json names them, and their classes in transformers."""
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt")
OWL_PROMPT = "a photo of a {phrase}"
MAX_ASPECT = 16
"""GroundingDINO chooses its 900 queries from the cells of its feature maps. A thinner picture
has fewer, and is widened first."""
USUAL_PICTURE = (800, 1333, 3)
USUAL_PHRASES = tuple(f"{ordinal} person in a shirt" for ordinal in ("first", "second", "third"))

Texts = tuple[dict[str, Tensor], Tensor]
"""A model's text inputs, and which columns of its logits belong to each phrase: bool of shape
(n_pictures, most phrases, columns)."""


@dataclass(frozen=True, eq=False)
class Box:
    """Where a phrase is in its picture, and how sure the detector is."""

    box: NDArray[np.float32]
    """(4,) x0, y0, x1, y1 in pixels of the given picture, inside it and never empty."""
    score: float
    """0 to 1."""


class Detector:
    """An open-vocabulary detector: OWLv2, OWL-ViT or GroundingDINO.

    All phrases of a picture go through the model together. The phrases of OWLv2 and OWL-ViT
    do not influence each other; those of GroundingDINO do, as they are one text to it.

    Parameters
    ----------
    folder : a repository as the hub has it: configuration, tokenizer, processor, weights
    threshold : score from which a phrase counts as found
    precision : number type of weights and activations
    batch_size : pictures that pass through the model at once; None finds a number that fits
    share : of the GPU that belongs to this process
    padding : fraction of its sides by which a box is widened on each side
    min_side : pixels; a box side is at least this long, or as long as the picture allows
    allow_pickle : whether weights that are pickled will do

    Raises
    ------
    UsageError
        The folder or a file in it is missing, damaged or of another kind.
    """

    def __init__(
        self,
        folder: Path,
        *,
        threshold: float,
        precision: Precision = "float32",
        batch_size: int | None = None,
        share: float = 1.0,
        padding: float = 0.0,
        min_side: int = 1,
        allow_pickle: bool = False,
    ) -> None:
        if padding < 0 or min_side < 1:
            raise ValueError(f"padding {padding} below 0 or min_side {min_side} below 1")
        self.folder = folder
        self.threshold = threshold
        self.precision = precision
        self.padding = padding
        self.min_side = min_side
        self._device = device()
        family = detector_family(folder)
        self.model, tokenizer, self._images = _loaded(folder, family, precision, allow_pickle)
        self.model.to(self._device)
        self._family: _Family
        if family == "grounding-dino":
            self._family = _GroundingDino(self.model, tokenizer, self._images)
        else:
            self._family = _Owl(self.model, tokenizer, square=family == "owlv2")
        if batch_size is None:
            digest = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
            batch_size = automatic_size(self._rehearse, f"{digest} {precision}", share)
        self._batches = Batches(self._run, batch_size)

    @property
    def halvings(self) -> int:
        """How often a batch did not fit and was halved."""
        return self._batches.halvings

    def detect(
        self, pictures: Sequence[Picture], phrases: Sequence[Sequence[str]]
    ) -> list[list[Box | None]]:
        """Find phrases in pictures.

        Parameters
        ----------
        pictures : sequence of uint8 RGB arrays of shape (height, width, 3), of any sizes
        phrases : sequence of as many sequences of phrases, each cut where the model's
            context ends

        Returns
        -------
        list of one list for each picture, with each phrase's best box, or None where no box
        reaches the threshold. Of equal boxes it is the model's first.
        """
        return [
            [one if one.score >= self.threshold else None for one in some]
            for some in self.best(pictures, phrases)
        ]

    def best(
        self, pictures: Sequence[Picture], phrases: Sequence[Sequence[str]]
    ) -> list[list[Box]]:
        """Each phrase's best box, however low its score; otherwise like ``detect``.

        A phrase in which the tokenizer finds nothing has a score of 0.
        """
        if len(pictures) != len(phrases):
            raise ValueError(f"{len(pictures)} pictures but phrases for {len(phrases)}")
        distinct = [list(dict.fromkeys(some)) for some in phrases]
        found: list[dict[str, Box]] = [{} for _ in pictures]

        def batched(row: int) -> tuple[tuple[int, int], int]:
            height, width = pictures[row].shape[:2]
            return self._family.resized(height, width), len(distinct[row])

        rows = sorted((row for row, some in enumerate(distinct) if some), key=batched)
        for _, some in itertools.groupby(rows, key=lambda row: batched(row)[0]):
            group = list(some)
            boxes = self._batches([(pictures[row], distinct[row]) for row in group])
            for row, of_row in zip(group, boxes, strict=True):
                found[row] = dict(zip(distinct[row], of_row, strict=True))
        return [[found[row][phrase] for phrase in named] for row, named in enumerate(phrases)]

    def _run(self, batch: Sequence[tuple[Picture, Sequence[str]]]) -> list[list[Box]]:
        """Boxes of pictures that have one size when resized, each with a phrase at least."""
        pictures = [self._family.widened(picture) for picture, _ in batch]
        texts, columns = self._family.texts([some for _, some in batch])
        with torch.inference_mode():
            pixels = self._images(
                # Channels first: were they last, the library would take a picture three pixels
                # high for one of three channels.
                images=[torch.tensor(picture).permute(2, 0, 1) for picture in pictures],
                input_data_format="channels_first",
                device=self._device,
                return_tensors="pt",
            )
            pixels["pixel_values"] = pixels["pixel_values"].to(self.model.dtype)
            output = self.model(
                **pixels, **{name: text.to(self._device) for name, text in texts.items()}
            )
            scores, places = _best_boxes(output.logits.float(), columns.to(self._device))
            centres, sizes = output.pred_boxes.float().split(2, dim=-1)
            corners = torch.cat([centres - sizes / 2, centres + sizes / 2], dim=-1)
            best = corners.gather(1, places[..., None].expand(-1, -1, 4))
            rows = torch.cat([best, scores[..., None]], dim=-1).cpu().numpy()
        if not np.isfinite(rows).all():
            raise UsageError(
                f"The detector in '{self.folder}' overflows in {self.precision}: "
                "set its precision to bfloat16 or float32."
            )
        return [
            self._boxes(row[: len(some)], picture, self._family.canvas(*wide.shape[:2]))
            for row, (picture, some), wide in zip(rows, batch, pictures, strict=True)
        ]

    def _boxes(
        self, rows: NDArray[np.float32], picture: Picture, canvas: tuple[int, int]
    ) -> list[Box]:
        """Fractions of the canvas and a score (n_phrases, 5) -> boxes in the picture."""
        height, width = picture.shape[:2]
        scale = np.array([canvas[1], canvas[0]] * 2, np.float32)
        return [
            Box(
                fitted_box(row[:4] * scale, width, height, self.padding, self.min_side),
                float(row[4]),
            )
            for row in rows
        ]

    def _rehearse(self, count: int) -> None:
        self._run([(np.zeros(USUAL_PICTURE, np.uint8), USUAL_PHRASES)] * count)


class DetectorGrounder:
    """Ground phrases by a detector, and by a grid of crops where it finds nothing.

    A phrase that the detector finds has the detector's box and score, and no embedding: its
    crop is not one of the grid's. Any other phrase is not grounded: it has the grid's best crop,
    with its embeddings, and the detector's best score, which is below the threshold.

    Parameters
    ----------
    detector : Detector
    grid : CropGridGrounder
    """

    def __init__(self, detector: Detector, grid: CropGridGrounder) -> None:
        self.detector = detector
        self.grid = grid

    def __call__(
        self, pictures: Sequence[Picture], phrases: Sequence[Sequence[str]]
    ) -> list[list[Grounding]]:
        """One grounding for each phrase of each picture, in order."""
        return self.ground(pictures, phrases)[1]

    def ground(
        self, pictures: Sequence[Picture], phrases: Sequence[Sequence[str]]
    ) -> tuple[list[Parts], list[list[Grounding]]]:
        """Ground each picture's phrases.

        Parameters
        ----------
        pictures : sequence of uint8 arrays of shape (height, width, 3)
        phrases : sequence of as many sequences of phrases

        Returns
        -------
        Each picture's grid of crops, and a list for each picture with a Grounding for each of
        its phrases in order.
        """
        best = self.detector.best(pictures, phrases)
        parts = self.parts(pictures)
        threshold = self.detector.threshold
        missed = [
            [phrase for phrase, one in zip(named, some, strict=True) if one.score < threshold]
            for named, some in zip(phrases, best, strict=True)
        ]
        found = []
        for some, crops in zip(best, self.grid.choose(parts, missed), strict=True):
            left = iter(crops)
            found.append(
                [
                    Grounding(one.box, one.score, grounded=True)
                    if one.score >= threshold
                    else replace(next(left), score=one.score, grounded=False)
                    for one in some
                ]
            )
        return parts, found

    def parts(self, pictures: Sequence[Picture]) -> list[Parts]:
        """Each picture's grid of crops."""
        return self.grid.parts(pictures)

    @property
    def halvings(self) -> int:
        """How often a batch of the detector's did not fit and was halved."""
        return self.detector.halvings


def fitted_box(
    box: NDArray[np.float32], width: int, height: int, padding: float = 0.0, min_side: int = 1
) -> NDArray[np.float32]:
    """A box clipped to its picture, widened, and then grown where it is still too small.

    Parameters
    ----------
    box : x0, y0, x1, y1 in pixels, perhaps outside the picture
    width, height : of the picture in pixels
    padding : fraction of the clipped box's sides that is added on each side
    min_side : pixels; a shorter side becomes this long, from one whole pixel to another, or a
        pixel longer if it takes that to hold the box

    Returns
    -------
    float32 ndarray of shape (4,), inside the picture and around the clipped box.
    """
    x0, y0, x1, y1 = map(float, box)
    x0, x1 = _fitted_span(x0, x1, width, padding, min_side)
    y0, y1 = _fitted_span(y0, y1, height, padding, min_side)
    return np.array([x0, y0, x1, y1], np.float32)


def _fitted_span(
    start: float, end: float, length: int, padding: float, min_side: int
) -> tuple[float, float]:
    start, end = (min(max(place, 0.0), float(length)) for place in (start, end))
    wider = padding * (end - start)
    start = float(np.float32(max(start - wider, 0.0)))
    end = float(np.float32(min(end + wider, float(length))))
    side = min(min_side, length)
    if end - start >= side:
        return start, end
    start, end = math.floor(start), math.ceil(end)
    missing = max(side - (end - start), 0)
    grown = end - start + missing
    start = max(min(start - missing // 2, length - grown), 0)
    return start, start + grown


def _best_boxes(logits: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Scores and places of each phrase's first best box, both (n_pictures, n_phrases).

    Parameters
    ----------
    logits : (n_pictures, n_boxes, n_columns)
    columns : bool of shape (n_pictures, n_phrases, n_columns), a phrase's columns
    """
    best = [
        logits.masked_fill(~of_phrase[:, None], -torch.inf).amax(dim=2).max(dim=1)
        for of_phrase in columns.unbind(1)
    ]
    scores = torch.stack([one.values for one in best], dim=1).sigmoid()
    return scores, torch.stack([one.indices for one in best], dim=1)


class _Family(Protocol):
    """What differs between the models."""

    def texts(self, phrases: Sequence[Sequence[str]]) -> Texts:
        """Model inputs for the phrases of some pictures, at least one each."""
        ...

    def widened(self, picture: Picture) -> Picture:
        """The picture as the image processor gets it: this one, perhaps with a margin."""
        ...

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that the boxes of a widened picture are fractions of."""
        ...

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """The size of a picture in the model: only pictures of one size share a batch."""
        ...


class _Owl:
    """OWLv2, which pads pictures to squares at the bottom or right, and OWL-ViT, which does not."""

    def __init__(self, model: Any, tokenizer: Any, square: bool) -> None:
        self.tokenizer = tokenizer
        self.context: int = model.config.text_config.max_position_embeddings
        self.square = square

    def texts(self, phrases: Sequence[Sequence[str]]) -> Texts:
        most = max(map(len, phrases))
        # No attention mask: each token sees those before it only, and the last word's is read.
        ids = torch.zeros((len(phrases), most, self.context), dtype=torch.long)
        for row, some in enumerate(phrases):
            ids[row, : len(some)] = self.tokenizer(
                [OWL_PROMPT.replace("{phrase}", _encodable(phrase)) for phrase in some],
                padding="max_length",
                max_length=self.context,
                truncation=True,
                return_tensors="pt",
            )["input_ids"]
        columns = torch.eye(most, dtype=torch.bool).expand(len(phrases), -1, -1)
        return {"input_ids": ids.flatten(0, 1)}, columns

    def widened(self, picture: Picture) -> Picture:
        return picture

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        return (max(height, width),) * 2 if self.square else (height, width)

    def resized(self, height: int, width: int) -> tuple[int, int]:  # noqa: ARG002
        return 0, 0  # one size for all pictures


class _GroundingDino:
    """GroundingDINO: a picture's phrases are one text, and the logits' columns its tokens.

    Its backbone and its group normalisation see the margin that pictures of different sizes need
    in order to share a batch, so that it would change their boxes: here they never share one.
    """

    def __init__(self, model: Any, tokenizer: Any, images: Any) -> None:
        self.tokenizer = tokenizer
        self.size = images.size
        self.grey = np.array([round(255 * mean) for mean in images.image_mean], np.uint8)
        self.columns: int = model.config.max_text_len
        self.context = min(self.columns, model.config.text_config.max_position_embeddings)
        self.stop: int = tokenizer.convert_tokens_to_ids(".")
        special = {*model.model.special_tokens.tolist(), *tokenizer.all_special_ids}
        self.dropped = special - {tokenizer.unk_token_id}

    def texts(self, phrases: Sequence[Sequence[str]]) -> Texts:
        rows = [self._text(some) for some in phrases]
        longest = max(len(ids) for ids, _ in rows)
        ids = torch.full((len(rows), longest), self.tokenizer.pad_token_id)
        seen = torch.zeros_like(ids)
        columns = torch.zeros((len(rows), max(map(len, phrases)), self.columns), dtype=torch.bool)
        for row, (tokens, spans) in enumerate(rows):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            seen[row, : len(tokens)] = 1
            for place, (start, end) in enumerate(spans):
                columns[row, place, start:end] = True
        return {"input_ids": ids, "attention_mask": seen}, columns

    def _text(self, phrases: Sequence[str]) -> tuple[list[int], list[tuple[int, int]]]:
        """Tokens of "phrase. phrase." and each phrase's span in them; empty if it does not fit.

        Tokens that would end a phrase, such as full stops, are left out of it.
        """
        encoded = self.tokenizer(
            [_encodable(phrase).strip().lower() for phrase in phrases],
            add_special_tokens=False,
            truncation=True,
            max_length=self.context,
        )["input_ids"]
        named = [[token for token in tokens if token not in self.dropped] for tokens in encoded]
        room = self.context - 2
        if sum(len(tokens) + 1 for tokens in named) > room:
            named = [tokens[: max(room // len(named) - 1, 1)] for tokens in named]
        ids, spans = [self.tokenizer.cls_token_id], []
        for tokens in named:
            if not tokens or len(ids) + len(tokens) + 2 > self.context:
                spans.append((0, 0))
                continue
            spans.append((len(ids), len(ids) + len(tokens)))
            ids += [*tokens, self.stop]
        return [*ids, self.tokenizer.sep_token_id], spans

    def widened(self, picture: Picture) -> Picture:
        height, width = self._at_least(*picture.shape[:2])
        if (height, width) == picture.shape[:2]:
            return picture
        wide = np.tile(self.grey, (height, width, 1))
        wide[: picture.shape[0], : picture.shape[1]] = picture
        return wide

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        return height, width

    def resized(self, height: int, width: int) -> tuple[int, int]:
        from transformers.image_transforms import get_size_with_aspect_ratio

        height, width = self._at_least(height, width)
        if self.size.shortest_edge and self.size.longest_edge:
            edges = (self.size.shortest_edge, self.size.longest_edge)
            height, width = get_size_with_aspect_ratio((height, width), *edges)
        return height, width

    def _at_least(self, height: int, width: int) -> tuple[int, int]:
        least = math.ceil(max(height, width) / MAX_ASPECT)
        return max(height, least), max(width, least)


def _encodable(phrase: str) -> str:
    """Without halves of surrogate pairs, which tokenizers refuse."""
    return phrase.encode(errors="ignore").decode()


def detector_family(folder: Path) -> str:
    """Which of FAMILIES lies in ``folder``; UsageError if none does. Loads nothing."""
    kind = _configuration(folder).get("model_type")
    if kind not in FAMILIES:
        raise UsageError(
            f"The model in '{folder}' is of type {kind!r}, not one of the detectors that are "
            f"supported: {', '.join(FAMILIES)}."
        )
    return str(kind)


def _configuration(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / "config.json").read_bytes()))
    except OSError:
        raise UsageError(f"There is no detector in '{folder}': it has no config.json.") from None
    except (ValueError, TypeError):
        raise UsageError(f"The config.json in '{folder}' is damaged.") from None


def _loaded(folder: Path, family: str, precision: Precision, allow_pickle: bool) -> Any:
    """Model, tokenizer and image processor on the CPU; UsageError if a file is not as it must."""
    import transformers

    sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
    check_contents(f"'{folder}'", sizes, None, allow_pickle)
    if not any(name in sizes for name in VOCABULARIES):
        # Without one, transformers makes a tokenizer that knows no word and says nothing.
        raise UsageError(f"There is no tokenizer in '{folder}': no {' or '.join(VOCABULARIES)}.")
    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        with _quiet():
            model, report = getattr(transformers, FAMILIES[family]).from_pretrained(
                folder,
                dtype=dtype(precision),
                use_safetensors=any(name.endswith(".safetensors") for name in sizes),
                weights_only=True,
                ignore_mismatched_sizes=True,  # so that they are reported, as missing ones are
                output_loading_info=True,
                **local,
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **local)
            images = transformers.AutoImageProcessor.from_pretrained(folder, **local)
    except Exception as error:  # damaged files make parsers and constructors raise anything
        reason = str(error).strip().partition("\n")[0].partition(". ")[0].rstrip(".:")
        raise UsageError(
            f"The detector in '{folder}' cannot be loaded, perhaps because a file is damaged "
            f"({type(error).__name__}: {reason})."
        ) from error
    wrong = [*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])]
    if wrong:
        raise UsageError(
            f"The weights in '{folder}' are not those of its config.json: {len(wrong)} tensors "
            f"are missing or of another shape, such as {min(wrong)}."
        )
    return model.eval().requires_grad_(False), tokenizer, images


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar and no table of what does not fit, which the exception says anyway."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
