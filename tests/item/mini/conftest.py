"""Fixtures of training: a few photographs of noise, and a place for losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from item.mini.photographs import Photographs

THINGS = ("dog", "cat", "red car", "horse", "bird", "boat", "tree", "guitar")
PLACES = ("the snow", "a street")


@pytest.fixture(scope="module")
def photographs() -> Photographs:
    """Sixteen photographs of noise, each with two captions of its own."""
    generator = np.random.default_rng(0)
    pairs = [(thing, place) for thing in THINGS for place in PLACES]

    def noise(*shape: int) -> Any:
        return generator.normal(size=(len(pairs), *shape)).astype(np.float16)

    return Photographs(
        views=[noise(8, 8, 320), noise(8, 8, 320)],
        logits=[torch.from_numpy(noise(1000)).float() for _ in range(2)],
        captions=[
            [f"A {thing} in {place} .", f"There is a {thing} in {place} ."]
            for thing, place in pairs
        ],
        phrases=[[thing] for thing, _ in pairs],
    )


class Losses(list[float]):
    """Collects the loss from each line that training says."""

    def __call__(self, line: str) -> None:
        self.append(float(line.rsplit(" ", 1)[1]))


@pytest.fixture
def losses() -> Losses:
    return Losses()
