"""Small photographs for tests, cut from those that ship inside scikit-image and scikit-learn."""

from __future__ import annotations

import importlib.resources
import io
from functools import cache

from PIL import Image, ImageOps

from tests.support.odd_files import encode

SHIPPED = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "cat": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "temple": ("sklearn", "datasets/images/china.jpg"),
}


@cache
def photograph(name: str) -> Image.Image:
    """A photograph of SHIPPED, its longer side 144 pixels."""
    package, path = SHIPPED[name]
    data = importlib.resources.files(package).joinpath(*path.split("/")).read_bytes()
    with Image.open(io.BytesIO(data)) as picture:
        return ImageOps.contain(picture.convert("RGB"), (144, 144))


def photographs(number: int) -> dict[str, bytes]:
    """``number`` different files by name, JPEG and PNG: whole photographs first, then cuts."""
    files = {}
    for index in range(number):
        name = list(SHIPPED)[index % len(SHIPPED)]
        picture = photograph(name)
        off = 8 * (index // len(SHIPPED))
        picture = picture.crop((off, 0, picture.width, picture.height - off))
        suffix, kind = ("png", "PNG") if index % 3 == 0 else ("jpg", "JPEG")
        files[f"{name}-{index:02}.{suffix}"] = encode(picture, kind)
    return files
