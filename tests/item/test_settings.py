"""Overrides by dotted keys, and refusals in one sentence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, field_validator

from item.errors import UsageError
from item.settings import overridden, validated


class Oven(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    degrees: int = Field(default=180, ge=50, le=250)
    racks: tuple[int, ...] = (1,)


class Kitchen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    oven: Oven = Oven()
    spare: Oven | None = None

    @field_validator("name")
    @classmethod
    def _is_clean(cls, value):
        if value == "dirty":
            raise ValueError("A kitchen must be clean.")
        return value


# Overrides


def test_dotted_keys_replace_and_add():
    values = {"oven": {"degrees": 180}, "name": "a"}
    found = overridden(values, {"oven.degrees": 200, "oven.racks": [2], "spare.degrees": 60})
    assert found == {
        "oven": {"degrees": 200, "racks": [2]},
        "name": "a",
        "spare": {"degrees": 60},
    }


def test_values_given_are_left_alone():
    values = {"oven": {"racks": [1]}}
    overridden(values, {"oven.racks": [2]})["oven"]["racks"].append(3)
    assert values == {"oven": {"racks": [1]}}


@pytest.mark.parametrize("values", [{"name": "a"}, {"name": None}, {"name": [1]}])
def test_a_value_is_no_section(values):
    with pytest.raises(UsageError, match=r"'name.first' cannot be set: 'name' is not a section"):
        overridden(values, {"name.first": "b"})


@pytest.mark.parametrize("values", [None, "mini", ["a"]])
@pytest.mark.parametrize("key", ["name", "oven.degrees"])
def test_overrides_of_what_is_no_mapping_are_refused(values, key):
    with pytest.raises(UsageError, match=f"'{key}' cannot be set"):
        overridden(values, {key: 1})


names = st.text("abc", min_size=1, max_size=3)
trees = st.dictionaries(names, st.integers() | st.dictionaries(names, st.integers()))


@given(trees, names, names, st.integers())
def test_the_override_is_there_and_all_else_is_as_before(tree, parent, child, value):
    tree = {key: inner for key, inner in tree.items() if key != parent or isinstance(inner, dict)}
    found = overridden(tree, {f"{parent}.{child}": value})
    assert found[parent].pop(child) == value
    before = {key: dict(some) if isinstance(some, dict) else some for key, some in tree.items()}
    before.setdefault(parent, {}).pop(child, None)
    assert found == before


# Validation


def test_good_values_become_settings_with_defaults():
    kitchen = validated(Kitchen, {"name": "a", "oven": {"racks": [1, 2]}}, "kitchen")
    assert kitchen == Kitchen(name="a", oven=Oven(degrees=180, racks=(1, 2)))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (["name"], "The kitchen must be a mapping of keys to values."),
        (None, "The kitchen must be a mapping of keys to values."),
        ({}, "The key 'name' of the kitchen is missing."),
        (
            {"name": "a", "ovn": {}},
            "Unknown key 'ovn' in the kitchen (did you mean 'oven'?): "
            "allowed are name, oven, spare.",
        ),
        (
            {"name": "a", "oven": {"degree": 200}},
            "Unknown key 'oven.degree' in the kitchen (did you mean 'degrees'?): "
            "allowed are degrees, racks.",
        ),
        (
            {"name": "a", "spare": {"colour": 200}},
            "Unknown key 'spare.colour' in the kitchen: allowed are degrees, racks.",
        ),
        (
            {"name": "a", "oven": {"degrees": 251}},
            "The key 'oven.degrees' of the kitchen is wrong: "
            "input should be less than or equal to 250.",
        ),
        (
            {"name": "a", "oven": {"racks": [1, "x"]}},
            "The key 'oven.racks.1' of the kitchen is wrong: "
            "input should be a valid integer, unable to parse string as an integer.",
        ),
        ({"name": "dirty"}, "The key 'name' of the kitchen is wrong: a kitchen must be clean."),
    ],
)
def test_refusals_name_the_key_and_what_is_allowed(values, sentence):
    with pytest.raises(UsageError) as refusal:
        validated(Kitchen, values, "kitchen")
    assert str(refusal.value) == sentence


def test_every_mistake_is_named_at_once():
    with pytest.raises(UsageError) as refusal:
        validated(Kitchen, {"oven": {"degrees": 1}}, "kitchen")
    assert "'name'" in str(refusal.value)
    assert "'oven.degrees'" in str(refusal.value)
