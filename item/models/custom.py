"""A user's own captioner, grounder or dual encoder, by import path."""

from __future__ import annotations

import importlib
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from item.errors import UsageError


class CustomModel(BaseModel):
    """A class of the user's, constructed once a worker with ``options`` as keywords."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Literal["custom"]
    """Says that the model is the user's."""
    load: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """``package.module:Class``, importable on every node."""
    revision: str = Field(min_length=1)
    """What the user calls this state of the model: features of another one are not mixed."""
    options: dict[str, Any] = {}
    """Keyword arguments of the class."""


def load_custom(settings: CustomModel, *methods: str) -> Any:
    """The user's object, ready to run.

    Parameters
    ----------
    settings : which class
    methods : what it must have

    Raises
    ------
    UsageError
        It cannot be imported or constructed, or lacks a method.
    """
    kind = _imported(settings)
    try:
        found = kind(**settings.options)
    except TypeError as error:
        raise UsageError(
            f"The class {settings.load} does not take these options: {error}."
        ) from None
    missing = [name for name in methods if not hasattr(found, name)]
    if missing:
        raise UsageError(f"The class {settings.load} lacks {', '.join(missing)}.")
    return found


def check_custom(settings: CustomModel) -> None:
    """UsageError if there is no such class; constructs nothing."""
    _imported(settings)


def custom_revision(settings: CustomModel) -> str:
    """Import path and what the user calls the model's state."""
    return f"{settings.load}@{settings.revision}"


def _imported(settings: CustomModel) -> Any:
    module, _, name = settings.load.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise UsageError(
            f"The class {settings.load} cannot be imported ({error}): put its folder on "
            "PYTHONPATH, on every node."
        ) from None
    except AttributeError:
        raise UsageError(f"The module {module} has no class {name}.") from None
