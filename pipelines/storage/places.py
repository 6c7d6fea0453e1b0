"""Places that a person names: what is relative is meant where the command was typed."""

from __future__ import annotations

import os
import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")


def absolute(place: str) -> str:
    """Return a place as it was meant where the command was typed; URLs stay as they are.

    A worker has another working folder, on a cluster perhaps on another machine.
    """
    if not place:
        raise ValueError("must not be empty")
    if "\0" in place:
        raise ValueError("must not hold a null character")
    if _URL.match(place):
        return place
    expanded = os.path.expanduser(place)
    if expanded == "~" or expanded.startswith("~/"):
        raise ValueError(f"{place} has no meaning, because this user has no home: write it in full")
    try:
        return os.path.abspath(expanded)
    except FileNotFoundError:
        raise ValueError(f"{place} is relative, and the current folder is gone") from None


Place = Annotated[str, AfterValidator(absolute)]
"""A file or folder, or a URL."""
Places = Annotated[
    tuple[Place, ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
]
"""Some of them; one may be given without a list."""
