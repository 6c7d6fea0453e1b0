"""``docs/configuration.md`` is up to date and explains every key."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import BaseModel, Field

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "make_configuration.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_configuration", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Inner(BaseModel):
    """A section."""

    share: float = Field(default=0.5, gt=0, lt=1)
    """A share, see :class:`other.Thing`."""


class Base(BaseModel):
    """What others extend."""

    first: str | None = None
    """The ``first``."""
    untold: int = 3


class Outer(Base):
    """A job."""

    inner: Inner = Inner()
    """The inner."""
    many: tuple[str, ...] = Field(alias="from", min_length=1)
    """Several
    names."""


def test_the_page_is_up_to_date(script: ModuleType) -> None:
    remedy = "run python docs/make_configuration.py"
    assert script.PAGE.read_text() == script.page(), remedy


def test_every_key_of_every_job_has_a_meaning(script: ModuleType) -> None:
    for job in script.JOBS.values():
        for section in (job, *script.sections(job)):
            for key in script.keys(section):
                assert key.meaning, f"{section.__name__}.{key.name} has no docstring"


def test_keys_come_with_type_default_and_meaning(script: ModuleType) -> None:
    assert script.keys(Outer) == [
        ("inner", "[Inner](#inner)", "its own defaults", "The inner."),
        ("from", "list of text, not empty", "required", "Several names."),
        ("first", "text", "unset", "The `first`."),
        ("untold", "whole number", "3", ""),
    ]
    assert script.keys(Inner) == [
        ("share", "number, above 0, below 1", "0.5", "A share, see `other.Thing`.")
    ]


def test_sections_are_those_inside(script: ModuleType) -> None:
    assert list(script.sections(Outer)) == [Inner]
