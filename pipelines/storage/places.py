"""Places that a user types: made absolute before anything leaves for a cluster."""

from __future__ import annotations

import os
import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator


def absolute(place: str) -> str:
    """A place as it was meant where the command was typed; URLs stay as they are.

    A worker has another working folder, on a cluster perhaps on another machine.
    """
    if not place:
        raise ValueError("must not be empty")
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", place):
        return place
    return os.path.abspath(os.path.expanduser(place))


Place = Annotated[str, AfterValidator(absolute)]
"""A file or folder, or a URL."""
Places = Annotated[
    tuple[Place, ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
]
"""Some of them; one may be given without a list."""
