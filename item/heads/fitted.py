"""A trained model with the statistics of its features, and how both are written down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from numpy.typing import NDArray

from item.heads.boosting import BoostingModel
from item.heads.columns import FeatureArrays, Floats, Statistics, features, local_columns, widths
from item.heads.hierarchy import HierarchyModel
from item.heads.kernel import KernelModel
from item.heads.logistic import LogisticModel
from item.heads.settings import HeadSettings, Kind


class Model(Protocol):
    """Whatever turns a head's columns into logits."""

    def logits(self, columns: Floats) -> tuple[NDArray, NDArray]:
        """Columns (n, columns) -> global logits (n,), NaN if there are none, and logits (n,)."""
        ...

    def tensors(self) -> dict[str, NDArray]:
        """Weights by name."""
        ...

    def texts(self) -> dict[str, str]:
        """What is no tensor, by file name."""
        ...


@dataclass(frozen=True, eq=False)
class Fitted:
    """What training leaves."""

    settings: HeadSettings
    statistics: Statistics
    model: Model

    def logits(self, arrays: FeatureArrays) -> tuple[NDArray, NDArray]:
        """Global logits (n,), NaN without global features, and logits (n,)."""
        return self.model.logits(self.columns(arrays))

    def columns(self, arrays: FeatureArrays) -> Floats:
        """What the model sees, (n, columns)."""
        return features(arrays, self.settings.groups, self.statistics)

    def tensors(self) -> dict[str, NDArray]:
        """Statistics and weights, by names that begin with ``statistics.`` and ``model.``."""
        groups = {"statistics": self.statistics.tensors(), "model": self.model.tensors()}
        return {
            f"{kind}.{name}": x for kind, tensors in groups.items() for name, x in tensors.items()
        }

    @classmethod
    def from_tensors(
        cls,
        settings: HeadSettings,
        dimensions: int,
        layers: int,
        tensors: Mapping[str, NDArray],
        texts: Mapping[str, str],
    ) -> Fitted:
        """The inverse of :meth:`tensors` and of the model's texts.

        Raises
        ------
        ValueError, KeyError, RuntimeError
            If something is missing or has another shape than the settings ask for.
        """
        statistics = Statistics.from_tensors(_below("statistics.", tensors))
        columns = sum(widths(settings.groups, dimensions, layers))
        if not len(statistics.mean) == len(statistics.scale) == columns:
            raise ValueError(f"the statistics are not those of {columns} columns")
        local = local_columns(settings.groups, dimensions, layers)
        weights = _below("model.", tensors)
        model: Model
        match settings.kind:
            case Kind.MLP:
                model = HierarchyModel.from_tensors(weights, local, settings.hidden)
            case Kind.LOGISTIC:
                model = LogisticModel(weights["weights"].reshape(2, columns + 1))
            case Kind.KERNEL:
                model = KernelModel.from_tensors(weights, local)
            case Kind.LIGHTGBM:
                model = BoostingModel(texts["model.txt"], texts.get("global_model.txt"), local)
        return cls(settings, statistics, model)


def _below(prefix: str, tensors: Mapping[str, NDArray]) -> dict[str, NDArray]:
    return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
