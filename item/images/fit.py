"""Pictures brought to the one size that a model reads.

This takes more time than most models take on a GPU, and needs none: the pipelines do it where
they decode, in as many tasks as there are processors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from item.images.boxes import Picture
from item.images.decode import squash


class Fit(Protocol):
    """Makes a model's input of a picture of any size.

    A picture that is fitted already stays as it is, so that a model reads fitted pictures and
    others alike. Fits are compared by value, and may be pickled.
    """

    @property
    def height(self) -> int:
        """Of the result, in pixels."""
        ...

    @property
    def width(self) -> int:
        """Of the result, in pixels."""
        ...

    def __call__(self, picture: Picture) -> Picture:
        """Picture (h, w, 3) -> (height, width, 3), uint8."""
        ...


@dataclass(frozen=True)
class Square:
    """The size of a fit to a square."""

    side: int

    @property
    def height(self) -> int:
        """Of the result, in pixels."""
        return self.side

    @property
    def width(self) -> int:
        """Of the result, in pixels."""
        return self.side


class Squash(Square):
    """To a square, whatever the aspect ratio; see :func:`item.images.decode.squash`."""

    def __call__(self, picture: Picture) -> Picture:
        """Picture (h, w, 3) -> (side, side, 3)."""
        return picture if is_fitted(self, picture) else squash(picture, self.side)


def is_fitted(fit: Fit, picture: Picture) -> bool:
    """Whether a picture has the size already."""
    return picture.shape[:2] == (fit.height, fit.width)
