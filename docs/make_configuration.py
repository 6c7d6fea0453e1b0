"""Write ``docs/configuration.md``: every key of every job, from the settings' own docstrings.

python docs/make_configuration.py
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import textwrap
import types
import typing
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from item.mini import HEAD
from item.profiles import Profile
from pipelines.audit.configuration import AuditConfiguration
from pipelines.evaluate.configuration import EvaluateConfiguration
from pipelines.evaluate.robustness.configuration import RobustnessConfiguration
from pipelines.featurize.configuration import FeaturizeConfiguration
from pipelines.nightly.configuration import NightlyConfiguration
from pipelines.score.configuration import ImageScoringConfiguration
from pipelines.train.configuration import TrainConfiguration

PAGE = Path(__file__).parent / "configuration.md"

JOBS: dict[str, type[BaseModel]] = {
    "featurize": FeaturizeConfiguration,
    "score": ImageScoringConfiguration,
    "nightly": NightlyConfiguration,
    "audit": AuditConfiguration,
    "train": TrainConfiguration,
    "evaluate": EvaluateConfiguration,
    "robustness": RobustnessConfiguration,
}

INTRODUCTION = """\
# Configuration

This page is made by `python docs/make_configuration.py`; do not edit it.

A job takes its defaults, then the file of `--config` (YAML), then its options, then
`--set key=value`:

```bash
item-audit featurize --input photos/ --output features/ \\
    --set profile.captioner.beams=5 --set max_error_rate=0.1
```

Values of `--set` are read as YAML. A key inside a section is written with dots. Unknown keys are
refused with the allowed ones. `--dry-run` prints the stages, models and resources and stops. Each
run writes its resolved configuration beside its output, in `_runs/`; `--config` takes it back.

Jobs: JOBS. The other commands have options only; `--help` lists them.

Sections: SECTIONS. What is required in a profile's sections stands in the profile's own file
([profiles.md](profiles.md)).
"""

Settings = type[Any]
"""A pydantic model or a dataclass."""


class Key(NamedTuple):
    """A key of a configuration, as its table shows it."""

    name: str
    kind: str
    default: str
    meaning: str


def keys(settings: Settings) -> list[Key]:
    """The keys of a section: its class's own first, then those of the classes above it."""
    meanings = docstrings(settings)
    order = [name for kind in settings.__mro__ for name in vars(kind).get("__annotations__", ())]
    fields = sorted(_fields(settings), key=lambda field: order.index(field[0]))
    return [
        Key(name, *_kind_and_default(field), meanings.get(attribute, ""))
        for attribute, name, field in fields
    ]


def docstrings(settings: Settings) -> dict[str, str]:
    """The docstrings below the attributes of a class and its bases, as Markdown."""
    found: dict[str, str] = {}
    for base in reversed(settings.__mro__):
        if base is BaseModel or not _is_settings(base):
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(definition, ast.ClassDef)
        for statement, after in zip(definition.body, definition.body[1:], strict=False):
            match statement, after:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(ast.Constant(text)):
                    found[name] = markdown(str(text))
    return found


def markdown(docstring: str) -> str:
    """A docstring on one line, its marks in Markdown."""
    line = " ".join(docstring.split())
    line = re.sub(r":\w+:`~?([\w.]+)`", r"`\1`", line)
    line = line.replace("``", "`").replace("|", r"\|")
    return line if line.endswith((".", "!", "?")) else f"{line}."


def sections(settings: Settings) -> Iterator[Settings]:
    """The sections that a section holds, and theirs, each where it is first met."""
    for _, _, field in _fields(settings):
        for inner in _settings_in(field.annotation):
            yield inner
            yield from sections(inner)


def title(settings: Settings) -> str:
    """The heading of a section: its class in words."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", settings.__name__).capitalize()


def link(settings: Settings) -> str:
    """A link to a section."""
    return f"[{title(settings)}](#{title(settings).lower().replace(' ', '-')})"


def page() -> str:
    """The whole page."""
    shared = list(dict.fromkeys(inner for job in JOBS.values() for inner in sections(job)))
    introduction = INTRODUCTION.replace(
        "JOBS", ", ".join(f"[{name}](#{name})" for name in JOBS)
    ).replace("SECTIONS", ", ".join(map(link, shared)))
    parts = [introduction]
    parts += [_part(name, job) for name, job in JOBS.items()]
    parts += [_part(title(section), section) for section in shared]
    return "\n".join(parts)


def _part(heading: str, settings: Settings) -> str:
    paragraphs = (settings.__doc__ or "").split("\n\n")
    lines = [f"## {heading}", ""]
    for paragraph in paragraphs:
        lines += [markdown(paragraph), ""]
    lines += ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    lines += [
        f"| `{key.name}` | {key.kind} | {key.default} | {key.meaning} |" for key in keys(settings)
    ]
    return "\n".join(lines) + "\n"


class _Field(NamedTuple):
    annotation: Any
    default: Any
    limits: list[Any]


def _fields(settings: Settings) -> Iterator[tuple[str, str, _Field]]:
    """Attribute, key and field."""
    if issubclass(settings, BaseModel):
        for attribute, field in settings.model_fields.items():
            default = field.get_default(call_default_factory=True)
            limits = [*field.metadata]
            yield attribute, field.alias or attribute, _Field(field.annotation, default, limits)
    else:
        hints = typing.get_type_hints(settings)
        for field in dataclasses.fields(settings):
            missing = field.default is dataclasses.MISSING
            default = PydanticUndefined if missing else field.default
            yield field.name, field.name, _Field(hints[field.name], default, [])


def _kind_and_default(field: _Field) -> tuple[str, str]:
    kind = _words(field.annotation)
    limits = [words for limit in field.limits if (words := _limit(limit))]
    return ", ".join([kind, *limits]), _default(field)


def _words(annotation: Any) -> str:
    """A type in words."""
    names = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    if annotation in names:
        return names[annotation]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _words(arguments[0])
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_words(one) for one in arguments if one is not type(None))
    if origin is tuple:
        return f"list of {_words(arguments[0])}"
    if origin is dict:
        return f"mapping of names to {_words(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return " or ".join(f"`{value}`" for value in annotation)
    if _is_settings(annotation):
        return link(annotation)
    return {"date": "date"}.get(getattr(annotation, "__name__", ""), "any value")


def _limit(limit: Any) -> str:
    match limit:
        case Ge(ge=value):
            return f"at least {value:,}"
        case Gt(gt=value):
            return f"above {value:,}"
        case Le(le=value):
            return f"at most {value:,}"
        case Lt(lt=value):
            return f"below {value:,}"
        case MinLen(min_length=_):
            return "not empty"
    return ""


def _default(field: _Field) -> str:
    value = field.default
    if value is PydanticUndefined:
        return "the profile `mini`" if field.annotation is Profile else "required"
    if value is None:
        return "unset"
    if _is_settings(type(value)):
        return "its own defaults"
    if value == str(HEAD):
        return "the head of `mini`"
    if (isinstance(value, tuple) and not value) or value == {}:
        return "none"
    if isinstance(value, (tuple, list)):
        return ", ".join("null" if one is None else f"`{one}`" for one in value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"`{json.dumps(value).strip(chr(34))}`"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _settings_in(annotation: Any) -> Iterator[Settings]:
    if _is_settings(annotation):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _settings_in(argument)


def _is_settings(annotation: Any) -> bool:
    return isinstance(annotation, type) and (
        issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation)
    )


if __name__ == "__main__":
    PAGE.write_text(page())
