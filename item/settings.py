"""Turning what a person wrote into frozen settings, or into one sentence of refusal."""

from __future__ import annotations

import copy
import difflib
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from item.errors import UsageError

Settings = TypeVar("Settings", bound=BaseModel)


def overridden(values: Any, overrides: Mapping[str, Any]) -> Any:
    """A copy of nested ``values`` with dotted keys, such as ``captioner.beams``, replaced."""
    result = copy.deepcopy(values)
    for key, value in overrides.items():
        *parents, last = key.split(".")
        place = result
        for parent in parents:
            child = place.setdefault(parent, {}) if isinstance(place, dict) else None
            if not isinstance(child, dict):
                raise UsageError(f"The key '{key}' cannot be set: '{parent}' is not a section.")
            place = child
        if not isinstance(place, dict):
            raise UsageError(f"The key '{key}' cannot be set: it has no section to stand in.")
        place[last] = value
    return result


def validated(model: type[Settings], values: Any, what: str) -> Settings:
    """``values`` as a settings object; UsageError names the key and what is allowed."""
    if not isinstance(values, Mapping):
        raise UsageError(f"The {what} must be a mapping of keys to values.")
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        sentences = [_sentence(model, problem, what) for problem in error.errors()]
        raise UsageError(" ".join(sentences)) from None


def _sentence(model: type[BaseModel], problem: Any, what: str) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        allowed = _keys_beside(model, problem["loc"])
        near = difflib.get_close_matches(str(problem["loc"][-1]), allowed, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        return f"Unknown key '{key}' in the {what}{hint}: allowed are {', '.join(allowed)}."
    if problem["type"] == "missing":
        return f"The key '{key}' of the {what} is missing."
    message = problem["msg"].removeprefix("Value error, ").rstrip(".")
    return f"The key '{key}' of the {what} is wrong: {message[0].lower()}{message[1:]}."


def _keys_beside(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Field names of the section in which the last key of ``location`` stands."""
    section = model
    for part in location[:-1]:
        field = section.model_fields.get(str(part))
        inner = next(_models(field.annotation), None) if field else None
        if inner is None:
            break
        section = inner
    return sorted(section.model_fields)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models(argument)
