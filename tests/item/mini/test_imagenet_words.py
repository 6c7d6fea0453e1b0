"""Everyday names of the ImageNet classes."""

import re

import pytest

from item.mini.imagenet_words import everyday_names, plural


@pytest.fixture(scope="module")
def names():
    return everyday_names()


@pytest.mark.parametrize(
    ("index", "name"),
    [
        *((0, "fish"), (151, "dog"), (207, "dog"), (268, "dog"), (281, "cat"), (285, "cat")),
        *((269, "wolf"), (340, "zebra"), (404, "airplane"), (760, "refrigerator")),
        *((963, "pizza"), (967, "cup of coffee"), (998, "corn")),
    ],
)
def test_captions_would_say_so(names, index, name):
    assert names[index] == name


def test_every_class_has_a_short_lower_case_name(names):
    assert len(names) == 1000
    for name in names:
        assert name == name.lower().strip()
        assert re.fullmatch(r"[a-z][a-z0-9' .&-]*", name), name
        assert len(name.split()) <= 5, name


def test_many_classes_share_a_name(names):
    assert names.count("dog") > 100
    assert len(set(names)) < 700


@pytest.mark.parametrize(
    ("name", "several"),
    [
        *(("dog", "dogs"), ("bus", "bus"), ("box", "boxes"), ("bench", "benches")),
        *(("puppy", "puppies"), ("monkey", "monkeys"), ("golf ball", "golf balls")),
    ],
)
def test_plurals(name, several):
    assert plural(name) == several
