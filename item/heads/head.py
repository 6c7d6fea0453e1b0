"""A head as it is shipped: a folder that scores any table of its feature set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lightgbm.basic import LightGBMError
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from item.errors import UsageError
from item.heads.attribution import Attribution, KnownFamilies
from item.heads.columns import FeatureArrays, widths
from item.heads.fitted import Fitted
from item.heads.settings import HeadSettings
from item.mini import HEAD
from item.statistics.calibration import (
    Abstention,
    Calibration,
    Familiarity,
    OperatingPoints,
    Thresholds,
    Verdict,
    verdicts,
)
from item.statistics.source_thresholds import SourcePromise
from item.tables import SCHEMA_VERSION, Status, feature_set_of, typed

DESCRIPTION = "head.json"
TENSORS = "head.safetensors"
ATTRIBUTION = "attribution.weights"
FORMAT_VERSION: Final = 1

FileName = Annotated[str, Field(pattern=r"^[a-z_]+\.(safetensors|txt)$")]


class TrainingSource(BaseModel):
    """Rows of one kind that a head was trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: Literal[0, 1]
    generator: str | None
    source: str | None
    rows: int = Field(ge=1)


class ErrorRates(BaseModel):
    """How often a head called pictures likely_generated that it had never seen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    measured_on: str
    """Which pictures, in words for a reader of a report."""
    real_rows: int = Field(ge=1)
    """Real pictures among them."""
    real_flagged: int = Field(ge=0)
    """Real pictures that were called ``likely_generated``."""
    generated_rows: int = Field(ge=1)
    """Generated pictures among them."""
    generated_flagged: int = Field(ge=0)
    """Generated pictures that were called ``likely_generated``."""
    worst_source: str | None = None
    """The source of real pictures of which the greatest share was called so, ..."""
    worst_share: float | None = Field(default=None, ge=0, le=1)
    """... and that share."""


class Description(BaseModel):
    """What ``head.json`` says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = FORMAT_VERSION
    head_id: str = ""
    feature_set_id: str
    schema_version: int = SCHEMA_VERSION
    dimensions: int = Field(ge=1)
    """Length of the embeddings in the feature set."""
    layers: int = Field(default=0, ge=0)
    """Length of its layers."""
    settings: HeadSettings
    calibration: Calibration
    operating_points: OperatingPoints
    thresholds: Thresholds
    training_sources: tuple[TrainingSource, ...] = ()
    metrics: dict[str, Any] = {}
    """By split: rows that the head was calibrated on, and those that ended its training."""
    error_rates: ErrorRates | None = None
    promises: tuple[SourcePromise, SourcePromise] | None = None
    """Of photographs and of generated pictures from unseen sources; without them the thresholds
    hold on pictures like those of the calibration alone."""
    attribution: KnownFamilies | None = None
    """Families of generators that it tells apart."""
    notes: tuple[str, ...] = ()
    code_version: str = ""
    files: dict[FileName, str] = {}
    """SHA-256 of the other files, by name."""

    def identified(self, files: Mapping[str, str]) -> Description:
        """With the digests of its files and the id that follows from all that decides scores."""
        fields = self.model_dump(mode="json")
        decisive = {
            **{name: fields[name] for name in ("feature_set_id", "calibration", "thresholds")},
            "settings": {name: fields["settings"][name] for name in ("kind", "groups", "centred")},
            "files": dict(files),
            **({"attribution": fields["attribution"]} if self.attribution else {}),
        }
        digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
        return self.model_copy(update={"files": dict(files), "head_id": digest[:16]})


@dataclass(frozen=True, eq=False)
class Scores:
    """What a head says of n rows of a features table, in their order."""

    global_logit: NDArray[np.float64]
    """(n,), NaN for rows that are not scored and for heads without global features."""
    logit: NDArray[np.float64]
    """(n,)"""
    score: NDArray[np.float64]
    """(n,) calibrated probability of being generated."""
    verdict: Sequence[Verdict]
    abstention: Sequence[Abstention | None]
    family: Sequence[str | None]
    """The family of generators that a picture looks most like, or ``unknown``; None where the
    verdict is not ``likely_generated``."""
    family_probability: NDArray[np.float64]
    """(n,) of the most probable family, NaN where there is none."""


@dataclass(frozen=True, eq=False)
class Head:
    """A trained model, its calibration, and the limits of what it knows."""

    description: Description
    fitted: Fitted
    familiarity: Familiarity
    attribution: Attribution | None = None

    @classmethod
    def of(
        cls,
        description: Description,
        fitted: Fitted,
        familiarity: Familiarity,
        attribution: Attribution | None = None,
    ) -> Head:
        """A new head; its id and its files' digests are added to the description."""
        known = attribution and attribution.known
        described = description.model_copy(update={"attribution": known})
        head = cls(described, fitted, familiarity, attribution)
        digests = {name: _digest(content) for name, content in head._contents().items()}
        return cls(described.identified(digests), fitted, familiarity, attribution)

    @property
    def head_id(self) -> str:
        """First 16 hex digits of the SHA-256 of all that decides scores."""
        return self.description.head_id

    def check_feature_set(self, feature_set_id: str | None) -> None:
        """UsageError unless the features are those that the head was trained on."""
        if feature_set_id != self.description.feature_set_id:
            raise UsageError(
                f"The head was trained on features of the set "
                f"'{self.description.feature_set_id}' and cannot score those of "
                f"'{feature_set_id}': featurize with the same profile, or train another head."
            )

    def check_table(self, table: pa.Table) -> None:
        """UsageError unless a table says that it is of the feature set of the head."""
        self.check_feature_set(feature_set_of(table))

    def score(self, table: pa.Table) -> Scores:
        """Score rows of a features table; which rows stand beside a row changes nothing.

        Parameters
        ----------
        table : with ``status``, ``caption`` and the columns of
            :data:`item.heads.columns.COLUMNS`, and ``layers`` if the head was trained on them

        Returns
        -------
        Scores. Rows without features, or with numbers that are not finite, are not scored.
        The verdict is uncertain where a row has no caption or a picture unlike the training
        ones.
        """
        table = typed(table)
        rows = np.flatnonzero(pc.equal(table["status"], Status.OK).to_numpy())
        lengths = self.description.dimensions, self.description.layers
        arrays = FeatureArrays.of(table.take(rows), *lengths)
        whole = arrays.complete()
        rows, arrays = rows[whole], arrays.take(whole)
        columns = self.fitted.columns(arrays)
        logits = np.full((2, len(table)), np.nan)
        logits[:, rows] = self.fitted.model.logits(columns)
        unfamiliar = np.zeros(len(table), bool)
        unfamiliar[rows] = self.familiarity.unfamiliar(arrays.image)
        scores = self.description.calibration.scores(logits[1])
        why = [
            None if np.isnan(score) else _abstention(caption, strange)
            for score, caption, strange in zip(
                scores, table["caption"].to_pylist(), unfamiliar, strict=True
            )
        ]
        said = verdicts(scores, self.description.thresholds, [reason is not None for reason in why])
        families = np.full(len(table), None, object)
        probabilities = np.full(len(table), np.nan)
        if self.attribution is not None:
            called = np.array([said[row] == Verdict.LIKELY_GENERATED for row in rows], bool)
            found = self.attribution.of(columns[called])
            families[rows[called]], probabilities[rows[called]] = found
        return Scores(logits[0], logits[1], scores, said, why, families.tolist(), probabilities)

    def files(self) -> dict[str, bytes]:
        """The bundle by file name; ``head.json``, without which it is none, comes last."""
        text = json.dumps(self.description.model_dump(mode="json"), indent=2, ensure_ascii=False)
        return {**self._contents(), DESCRIPTION: (text + "\n").encode()}

    def _contents(self) -> dict[str, bytes]:
        familiarity = {f"familiarity.{name}": x for name, x in self.familiarity.tensors().items()}
        tensors = {**self.fitted.tensors(), **familiarity}
        if self.attribution is not None:
            tensors[ATTRIBUTION] = self.attribution.weights
        texts = {name: text.encode() for name, text in self.fitted.model.texts().items()}
        return {
            TENSORS: save({name: np.ascontiguousarray(x) for name, x in tensors.items()}),
            **texts,
        }

    def save(self, folder: str | Path) -> None:
        """Write the bundle into a local folder, which is made if it is not there."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, content in self.files().items():
            Path(folder, name).write_bytes(content)

    @classmethod
    def load(cls, folder: str | Path = HEAD) -> Head:
        """The head in a local folder; without one, the head that ships with ``mini``.

        Raises
        ------
        UsageError
            If there is none, if it is damaged, or if another version of the program made it.

        Examples
        --------
        >>> import item, PIL.Image
        >>> head = item.Head.load()
        >>> scores = head.score(item.featurize([PIL.Image.new("RGB", (64, 48), "red")]))
        >>> scores.score.shape, bool(0 <= scores.score[0] <= 1)
        ((1,), True)
        """
        return cls.read(lambda name: Path(folder, name).read_bytes(), str(folder))

    @classmethod
    def read(cls, content: Callable[[str], bytes], where: str) -> Head:
        """A head from the files of a bundle, wherever they are; errors as in :meth:`load`.

        Parameters
        ----------
        content : takes a file name; raises FileNotFoundError or NotADirectoryError
        where : what the user calls the place
        """
        try:
            description = _described(content(DESCRIPTION), where)
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(f"There is no head at {where}: it has no {DESCRIPTION}.") from None
        try:
            files = {name: content(name) for name in description.files}
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(f"The head at {where} lacks files: copy or train it anew.") from None
        digests = {name: _digest(data) for name, data in files.items()}
        if description != description.identified(digests):
            raise UsageError(f"The head at {where} is damaged: copy or train it anew.")
        try:
            tensors = load(files.pop(TENSORS))
            texts = {name: data.decode() for name, data in files.items()}
            fitted = Fitted.from_tensors(
                description.settings,
                description.dimensions,
                description.layers,
                tensors,
                texts,
            )
            prefix = "familiarity."
            familiarity = Familiarity.from_tensors(
                {name.removeprefix(prefix): x for name, x in tensors.items() if prefix in name}
            )
            attribution = _attribution(description, tensors)
        except (SafetensorError, LightGBMError, ValueError, KeyError, RuntimeError):
            raise UsageError(
                f"The head at {where} does not hold what its {DESCRIPTION} describes: "
                "train it anew."
            ) from None
        return cls(description, fitted, familiarity, attribution)


def _attribution(description: Description, tensors: Mapping[str, NDArray]) -> Attribution | None:
    known = description.attribution
    if known is None:
        return None
    weights = tensors[ATTRIBUTION]
    columns = widths(description.settings.groups, description.dimensions, description.layers)
    return Attribution(known, weights.reshape(len(known.families), sum(columns) + 1))


def _described(content: bytes, where: str) -> Description:
    try:
        values = json.loads(content)
        version = values["format_version"]
        schema = values["schema_version"]
    except (ValueError, TypeError, KeyError):
        raise UsageError(f"The {DESCRIPTION} at {where} is not that of a head.") from None
    for name, given, known in (
        ("format", version, FORMAT_VERSION),
        ("table schema", schema, SCHEMA_VERSION),
    ):
        if given != known:
            raise UsageError(
                f"The head at {where} is of {name} version {given}, this program knows version "
                f"{known}: train it anew."
            )
    try:
        return Description.model_validate(values)
    except ValidationError as error:
        key = ".".join(map(str, error.errors()[0]["loc"]))
        raise UsageError(
            f"The {DESCRIPTION} at {where} is not that of a head: its '{key}' is wrong."
        ) from None


def _abstention(caption: str | None, unfamiliar: bool) -> Abstention | None:
    if not (caption or "").strip():
        return Abstention.NO_CAPTION
    return Abstention.OUT_OF_DISTRIBUTION if unfamiliar else None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
