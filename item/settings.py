"""Turning what a person wrote into frozen settings, or into one sentence of refusal."""

from __future__ import annotations

import copy
import difflib
import typing
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, Discriminator, Tag, ValidationError
from pydantic.fields import FieldInfo

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


def adapted(model: type[BaseModel], values: Any, overrides: Mapping[str, Any]) -> Any:
    """``values`` overridden, without what fits no longer where another ``model`` is chosen.

    Of a section that is one of several kinds, told apart by its key ``model``, and that becomes
    another kind, only those of its earlier keys are kept that both kinds declare alike. Keys
    among the ``overrides`` are never dropped.

    Parameters
    ----------
    model : the class of the settings
    values : nested, by key
    overrides : by dotted key

    Raises
    ------
    UsageError
        If a key leads through something that is no section.
    """
    result = overridden(values, overrides)
    for key in overrides:
        section, _, last = key.rpartition(".")
        if last == "model" and (kinds := _kinds(model, section)):
            typed = {one.removeprefix(f"{section}.").split(".")[0] for one in overrides}
            _adapt(_at(result, section), _at(values, section), kinds, typed)
    return result


def _adapt(new: Any, old: Any, kinds: _Kinds, typed: set[str]) -> None:
    if not isinstance(old, Mapping) or not isinstance(new, dict):
        return
    if new.get("model") is None:
        new.pop("model", None)
    before, after = kinds.of(old), kinds.of(new)
    if after is None:
        return
    if "model" not in after.model_fields:
        new.pop("model", None)
    if after is before:
        return
    for name in set(new) - typed:
        if before is None or not _alike(
            before.model_fields.get(name), after.model_fields.get(name)
        ):
            del new[name]


def _alike(one: FieldInfo | None, other: FieldInfo | None) -> bool:
    """Whether two kinds mean the same by a key."""
    if one is None or other is None:
        return False
    declared = [(kind.annotation, kind.metadata, kind.get_default()) for kind in (one, other)]
    return declared[0] == declared[1]


def _at(values: Any, section: str) -> Any:
    for part in section.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


@dataclass(frozen=True)
class _Kinds:
    """What a section may be, by the tags of a union, and how the tag is told."""

    members: Mapping[str, type[BaseModel]]
    tag: Callable[[Any], Hashable]

    def of(self, section: Any) -> type[BaseModel] | None:
        return self.members.get(str(self.tag(section)))


def _kinds(model: type[BaseModel], section: str) -> _Kinds | None:
    """The kinds of a section; None for one that is no union."""
    *parents, last = section.split(".")
    for parent in parents:
        field = model.model_fields.get(parent)
        inner = _sections(field.annotation).get("") if field else None
        if inner is None:
            return None
        model = inner
    field = model.model_fields.get(last)
    tags = [one for one in field.metadata if isinstance(one, Discriminator)] if field else []
    if not field or not tags or not callable(tags[0].discriminator):
        return None
    return _Kinds(_sections(field.annotation), tags[0].discriminator)


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
        held = _sections(field.annotation) if field else {}
    return keys, section


def _sections(annotation: Any) -> dict[str, type[BaseModel]]:
    """Sections that a value may be, by their tag in a union; one without a tag under ""."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {"": annotation}
    arguments = typing.get_args(annotation)
    tag = next((argument.tag for argument in arguments if isinstance(argument, Tag)), "")
    sections: dict[str, type[BaseModel]] = {}
    for argument in arguments:
        sections |= {outer or tag: section for outer, section in _sections(argument).items()}
    return sections
