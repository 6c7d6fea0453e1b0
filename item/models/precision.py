"""The number types that models run in."""

from typing import Literal

Precision = Literal["float32", "bfloat16", "float16"]
