"""Phrases to boxes by public open-vocabulary detectors, through transformers."""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from item.errors import UsageError
from item.images.boxes import Picture, fitted_box
from item.models.batching import Batches, automatic_size, device, dtype
from item.models.detector_families import Family, GroundingDino, Owl
from item.models.files.contents import check_contents
from item.models.precision import Precision
from item.models.transformers_notices import cannot_be_loaded, quiet
from item.models.upload import upload

FAMILIES = {
    "owlv2": "Owlv2ForObjectDetection",
    "owlvit": "OwlViTForObjectDetection",
    "grounding-dino": "GroundingDinoForObjectDetection",
}
"""Model types, as config.json names them, and their classes in transformers."""
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt")
USUAL_PICTURE = (800, 1333, 3)
USUAL_PHRASES = tuple(f"{ordinal} person in a shirt" for ordinal in ("first", "second", "third"))


@dataclass(frozen=True, eq=False)
class Detection:
    """Where a phrase is in its picture, and how sure the detector is."""

    box: NDArray[np.float32]
    """(4,) x0, y0, x1, y1 in pixels of the given picture, inside it and never empty."""
    score: float
    """0 to 1."""


class Detector:
    """An open-vocabulary detector: OWLv2, OWL-ViT or GroundingDINO.

    Several threads may call at once, and take turns. All phrases of a picture go through the model
    together. The phrases of OWLv2 and OWL-ViT
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
        self._family: Family
        if family == "grounding-dino":
            self._family = GroundingDino(self.model, tokenizer, self._images)
        else:
            self._family = Owl(self.model, tokenizer, square=family == "owlv2")
        if batch_size is None:
            digest = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
            batch_size = automatic_size(self._rehearse, f"{digest} {precision}", share)
        self._batches = Batches(self._run, batch_size)
        self._lock = threading.Lock()

    @property
    def halvings(self) -> int:
        """How often a batch did not fit and was halved."""
        return self._batches.halvings

    def best(
        self, pictures: Sequence[Picture], phrases: Sequence[Sequence[str]]
    ) -> list[list[Detection]]:
        """Where each phrase is most likely to be in its picture, however low its score.

        Parameters
        ----------
        pictures : sequence of uint8 RGB arrays of shape (height, width, 3), of any sizes
        phrases : sequence of as many sequences of phrases, each cut where the model's
            context ends

        Returns
        -------
        list of one list for each picture, with the best box of each phrase; of equal ones it is
        the model's first. A phrase in which the tokenizer finds nothing has a score of 0.
        """
        if len(pictures) != len(phrases):
            raise ValueError(f"{len(pictures)} pictures but phrases for {len(phrases)}")
        distinct = [list(dict.fromkeys(of_picture)) for of_picture in phrases]
        detections: list[dict[str, Detection]] = [{} for _ in pictures]

        def batched(row: int) -> tuple[tuple[int, int], int]:
            height, width = pictures[row].shape[:2]
            return self._family.resized(height, width), len(distinct[row])

        rows = sorted((row for row, of_picture in enumerate(distinct) if of_picture), key=batched)
        for _, of_size in itertools.groupby(rows, key=lambda row: batched(row)[0]):
            group = list(of_size)
            with self._lock:
                boxes = self._batches([(pictures[row], distinct[row]) for row in group])
            for row, of_row in zip(group, boxes, strict=True):
                detections[row] = dict(zip(distinct[row], of_row, strict=True))
        return [[detections[row][phrase] for phrase in named] for row, named in enumerate(phrases)]

    def _run(self, batch: Sequence[tuple[Picture, Sequence[str]]]) -> list[list[Detection]]:
        """Boxes of pictures that have one size when resized, each with a phrase at least."""
        pictures = [self._family.widened(picture) for picture, _ in batch]
        uploaded = upload(pictures, self._device)
        texts, columns = self._family.texts([of_picture for _, of_picture in batch])
        with torch.inference_mode():
            pixels = self._images(
                # Channels first: were they last, the library would take a picture three pixels
                # high for one of three channels.
                images=[
                    pixels[: picture.shape[0], : picture.shape[1]].permute(2, 0, 1)
                    for pixels, picture in zip(uploaded, pictures, strict=True)
                ],
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
            self._boxes(row[: len(of_picture)], picture, self._family.canvas(*wide.shape[:2]))
            for row, (picture, of_picture), wide in zip(rows, batch, pictures, strict=True)
        ]

    def _boxes(
        self, rows: NDArray[np.float32], picture: Picture, canvas: tuple[int, int]
    ) -> list[Detection]:
        """Fractions of the canvas and a score (n_phrases, 5) -> boxes in the picture."""
        height, width = picture.shape[:2]
        scale = np.array([canvas[1], canvas[0]] * 2, np.float32)
        return [
            Detection(
                fitted_box(row[:4] * scale, width, height, self.padding, self.min_side),
                float(row[4]),
            )
            for row in rows
        ]

    def _rehearse(self, count: int) -> None:
        self._run([(np.zeros(USUAL_PICTURE, np.uint8), USUAL_PHRASES)] * count)


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
    scores = torch.stack([maximum.values for maximum in best], dim=1).sigmoid()
    return scores, torch.stack([maximum.indices for maximum in best], dim=1)


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
        with quiet():
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
        raise cannot_be_loaded("detector", folder, error) from error
    wrong = [*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])]
    if wrong:
        raise UsageError(
            f"The weights in '{folder}' are not those of its config.json: {len(wrong)} tensors "
            f"are missing or of another shape, such as {min(wrong)}."
        )
    return model.eval().requires_grad_(False), tokenizer, images
