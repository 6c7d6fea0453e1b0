"""ITEM finds AI-generated images by how badly picture and text fit, and says what it does not know.

This is all that a notebook needs; it runs without Ray:

>>> import item
>>> profile = item.load_profile("mini")
>>> profile.feature_set_id().startswith("mini-")
True

``item.featurize(pictures)`` gives a table, ``item.Head.load().score(table)`` scores it, and
``item.explain(picture)`` says of one picture what a head makes of it. What a user has to mend
is an ``item.UsageError``, one sentence.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from item.errors import UsageError
from item.version import __version__

if TYPE_CHECKING:
    from item.explanation.one_picture import explain
    from item.featurizing import featurize
    from item.heads.head import Head
    from item.profiles import Profile, load_profile

__all__ = [
    "Head",
    "Profile",
    "UsageError",
    "__version__",
    "explain",
    "featurize",
    "load_profile",
]

_MODULES = {
    "Head": "item.heads.head",
    "Profile": "item.profiles",
    "explain": "item.explanation.one_picture",
    "featurize": "item.featurizing",
    "load_profile": "item.profiles",
}
"""Imported when they are asked for: torch and pyarrow take seconds."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'item' has no attribute '{name}'")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
