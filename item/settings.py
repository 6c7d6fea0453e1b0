"""Turning what a person wrote into frozen settings, or into one sentence of refusal."""

from __future__ import annotations

import copy
import difflib
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, Tag, ValidationError

from item.errors import UsageError

Settings = TypeVar("Settings", bound=BaseModel)


def overridden(values: Any, overrides: Mapping[str, Any]) -> Any:
    """A copy of nested ``values`` with dotted keys, such as ``captioner.beams``, replaced.

    Raises
    ------
    UsageError
        If a key leads through something that is no section.
    """
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
        place[last] = copy.deepcopy(value)
    return result


def validated(model: type[Settings], values: Any, what: str) -> Settings:
    """``values`` as a settings object.

    Parameters
    ----------
    model : the class of the settings
    values : by key
    what : what the user calls them, such as "profile"

    Raises
    ------
    UsageError
        It names each wrong key and what is allowed.
    """
    if not isinstance(values, Mapping):
        raise UsageError(f"The {what} must be a mapping of keys to values.")
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        sentences = [_sentence(model, problem, what) for problem in error.errors()]
        raise UsageError(" ".join(sentences)) from None


def named_model(default: str) -> Callable[[Any], str]:
    """Tells members of a union apart by their key ``model``, for pydantic's Discriminator.

    Parameters
    ----------
    default : what a section without that key means
    """

    def name(values: Any) -> str:
        if isinstance(values, Mapping):
            return str(values.get("model", default))
        return str(getattr(values, "model", default))

    return name


def _sentence(model: type[BaseModel], problem: Any, what: str) -> str:
    location, section = _walk(model, problem["loc"])
    key = ".".join(location)
    if problem["type"] == "union_tag_invalid":
        allowed = problem["ctx"]["expected_tags"].replace("'", "")
        tag = problem["ctx"]["tag"]
        return (
            f"The key '{key}.model' of the {what} is wrong: "
            f"'{tag}' is not known, allowed are {allowed}."
        )
    if problem["type"] == "extra_forbidden":
        allowed = sorted(section.model_fields)
        near = difflib.get_close_matches(str(problem["loc"][-1]), allowed, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        return f"Unknown key '{key}' in the {what}{hint}: allowed are {', '.join(allowed)}."
    if problem["type"] == "missing":
        return f"The key '{key}' of the {what} is missing."
    message = problem["msg"].removeprefix("Value error, ").rstrip(".")
    return f"The key '{key}' of the {what} is wrong: {message[0].lower()}{message[1:]}."


def _walk(
    model: type[BaseModel], location: tuple[int | str, ...]
) -> tuple[list[str], type[BaseModel]]:
    """A problem's key, without the tags of unions, and the section in which its last part is."""
    keys: list[str] = []
    section = model
    held: dict[str, type[BaseModel]] = {}
    for part in map(str, location):
        if part in held:
            section, held = held[part], {}
            continue
        section = held.get("", section)
        keys.append(part)
        field = section.model_fields.get(part)
        held = sections_of(field.annotation) if field else {}
    return keys, section


def sections_of(annotation: Any) -> dict[str, type[BaseModel]]:
    """Sections that a value may be, by their tag in a union; one without a tag under ""."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {"": annotation}
    arguments = typing.get_args(annotation)
    tag = next((argument.tag for argument in arguments if isinstance(argument, Tag)), "")
    sections: dict[str, type[BaseModel]] = {}
    for argument in arguments:
        sections |= {outer or tag: section for outer, section in sections_of(argument).items()}
    return sections
