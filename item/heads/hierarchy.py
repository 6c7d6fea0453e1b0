"""The staged MLP: a logit of the whole image first, and what its objects add to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from item.heads.columns import Level

LEAST_NORMED = 16
"""Fewest columns that a LayerNorm may see: it takes two of them away, and from one leaves
nothing."""
ROWS_AT_ONCE = 8192


class Hierarchy(nn.Module):
    """Global columns to a logit; local columns to what is added to it.

    The local part ends in zeros, so a new hierarchy's logit is its global one. A head with
    columns of one level has one part; without a global part the global logit is 0, which
    says nothing.

    Parameters
    ----------
    local : (columns,) bool, which columns speak of objects
    hidden : widths of each part's hidden layers
    dropout : share of hidden values that are set to zero in training
    """

    def __init__(self, local: ArrayLike, hidden: Sequence[int], dropout: float) -> None:
        super().__init__()
        where = torch.as_tensor(np.asarray(local, bool))
        self.register_buffer("places_global", torch.nonzero(~where).flatten(), persistent=False)
        self.register_buffer("places_local", torch.nonzero(where).flatten(), persistent=False)
        self.parts = nn.ModuleDict()
        for level, places in ((Level.GLOBAL, ~where), (Level.LOCAL, where)):
            if places.any():
                self.parts[level] = _part(int(places.sum()), hidden, dropout)
        if Level.LOCAL in self.parts and Level.GLOBAL in self.parts:
            last = self.parts[Level.LOCAL][-1]
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    @property
    def stages(self) -> list[Level]:
        """The parts that there are, in the order of their training."""
        return [level for level in (Level.GLOBAL, Level.LOCAL) if level in self.parts]

    def columns(self, features: Tensor, level: Level) -> Tensor:
        """What a part sees of features (n, columns)."""
        places = self.places_global if level == Level.GLOBAL else self.places_local
        return features.index_select(1, places)

    def logit_of(self, features: Tensor, level: Level) -> Tensor:
        """What a part says, (n,); zeros if there is no such part."""
        if level not in self.parts:
            return features.new_zeros(len(features))
        return self.parts[level](self.columns(features, level)).squeeze(1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features (n, columns) -> global logit (n,) and logit (n,)."""
        of_image = self.logit_of(features, Level.GLOBAL)
        return of_image, of_image + self.logit_of(features, Level.LOCAL)


def _part(columns: int, hidden: Sequence[int], dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = [nn.LayerNorm(columns)] if columns >= LEAST_NORMED else []
    for width in hidden:
        layers += [nn.Linear(columns, width), nn.GELU(), nn.Dropout(dropout)]
        columns = width
    return nn.Sequential(*layers, nn.Linear(columns, 1))


class HierarchyModel:
    """A trained hierarchy that takes and returns arrays.

    It computes in float64, so that a row's logit does not depend on the rows beside it.
    """

    def __init__(self, network: Hierarchy) -> None:
        self.network = network.to("cpu", torch.float64).eval()

    @torch.inference_mode()
    def logits(self, columns: NDArray[np.float32]) -> tuple[NDArray, NDArray]:
        """Standardised columns (n, columns) -> global logits (n,), NaN without a global part,
        and logits (n,)."""
        whole = np.empty((2, len(columns)))
        for start in range(0, len(columns), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            logits = self.network(torch.as_tensor(columns[rows], dtype=torch.float64))
            whole[:, rows] = torch.stack(logits).numpy()
        if Level.GLOBAL not in self.network.parts:
            whole[0] = np.nan
        return whole[0], whole[1]

    def tensors(self) -> dict[str, NDArray]:
        """Weights in float32, in which they were trained, for safetensors."""
        return {
            name: value.to(torch.float32).numpy()
            for name, value in self.network.state_dict().items()
        }

    def texts(self) -> dict[str, str]:
        """None: the weights are all."""
        return {}

    @classmethod
    def from_tensors(
        cls, tensors: dict[str, NDArray], local: ArrayLike, hidden: Sequence[int]
    ) -> HierarchyModel:
        """The inverse of :meth:`tensors`; RuntimeError if names or shapes differ."""
        network = Hierarchy(local, hidden, dropout=0.0)
        network.load_state_dict({name: torch.from_numpy(x) for name, x in tensors.items()})
        return cls(network)
