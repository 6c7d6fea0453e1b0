"""Members of a profile that cost next to nothing, so that what is measured is the pipeline.

They are named in a profile as a user's own classes are; see docs/profiles.md.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import ray
from numpy.typing import NDArray

COLOURS = ("red", "green", "blue")
PLACES = ("on a wooden table", "beside a white wall", "in a wide street", "under a tall tree")


class ColourCaptioner:
    """A sentence with two objects, by the colours of the picture.

    Parameters
    ----------
    seconds : waited for each picture, as for a model on a GPU that leaves the CPU idle
    record : folder where each worker writes how many pictures it had, by node
    """

    def __init__(self, seconds: float = 0.0, record: str | None = None) -> None:
        self.seconds = seconds
        self.pictures = 0
        self.file = None
        if record:
            node = ray.get_runtime_context().get_node_id()
            self.file = Path(record, f"{node}-{os.getpid()}")
            self.file.write_text("0")

    def caption(self, pictures: Sequence[NDArray[np.uint8]]) -> list[str]:
        """Pictures (h, w, 3) -> one sentence each."""
        time.sleep(self.seconds * len(pictures))
        self.pictures += len(pictures)
        if self.file:
            self.file.write_text(str(self.pictures))
        return [self._sentence(picture) for picture in pictures]

    @staticmethod
    def _sentence(picture: NDArray[np.uint8]) -> str:
        mean = picture[::8, ::8].reshape(-1, 3).mean(axis=0)
        place = PLACES[int(mean.sum()) % len(PLACES)]
        return f"a {COLOURS[int(mean.argmax())]} box {place}"


class PooledEncoder:
    """Pictures as 4 by 4 pixels, texts as hashed words, both as unit vectors of 48 numbers."""

    dimensions = 48

    def embed_images(self, pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Pictures (h, w, 3) of at least 4 by 4 pixels -> (n, 48)."""
        if not pictures:
            return np.zeros((0, self.dimensions), np.float32)
        return _unit(np.stack([_pooled(picture) for picture in pictures]))

    embed_crops = embed_images

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Texts -> (n, 48)."""
        if not texts:
            return np.zeros((0, self.dimensions), np.float32)
        return _unit(np.stack([sum(map(_hashed, text.split()), _hashed("")) for text in texts]))


def _pooled(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    height, width = (side // 4 for side in picture.shape[:2])
    return picture[::height, ::width][:4, :4].astype(np.float32).ravel() - 127.5


@lru_cache(maxsize=4096)
def _hashed(word: str) -> NDArray[np.float32]:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")
    return np.random.default_rng(seed).normal(size=PooledEncoder.dimensions).astype(np.float32)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.maximum(norms, 1e-6)).astype(np.float32)
