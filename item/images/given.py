"""Pictures as a notebook gives them: bytes, paths, or Pillow's."""

from __future__ import annotations

import io
import os
from pathlib import Path

import PIL.Image

from item.errors import UsageError

GivenPicture = bytes | str | os.PathLike[str] | PIL.Image.Image
"""The content of an image file, the path of one, or a picture in memory."""


def content_of(picture: GivenPicture) -> tuple[bytes, str | None]:
    """The file that a picture is, and its path if it has one; UsageError if it is unreadable."""
    if isinstance(picture, bytes):
        return picture, None
    if isinstance(picture, PIL.Image.Image):
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        return buffer.getvalue(), None
    path = Path(picture)
    try:
        return path.read_bytes(), str(path)
    except OSError as error:
        raise UsageError(f"The picture {path} cannot be read: {error.strerror}.") from None
