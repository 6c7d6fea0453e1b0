"""What is compared, and what shuffling captions leaves alone."""

from __future__ import annotations

import numpy as np
import pytest

from item.heads.columns import Group, fit_statistics, raw_features
from item.heads.settings import HeadSettings
from pipelines.evaluate.methods import (
    DE_FAKE,
    MISALIGNMENT,
    OURS,
    UNIVERSAL,
    Purpose,
    Shuffle,
    methods,
    shuffled,
)
from tests.item.heads.examples import labelled


def test_every_method_has_its_own_name_and_a_sentence():
    compared = methods(HeadSettings(), ("random crops", "K = 1"))
    assert len({method.name for method in compared}) == len(compared)
    assert all(method.sentence.endswith(".") for method in compared)
    assert {method.purpose for method in compared} == set(Purpose)
    assert [method.name for method in compared if method.variant] == [
        f"{what}, {variant}"
        for variant in ("random crops", "K = 1")
        for what in ("Δk", "Δg and Δk")
    ]


def test_baselines_see_what_their_papers_say():
    groups = {method.name: method.head.groups for method in methods(HeadSettings(), ())}
    assert groups[UNIVERSAL] == (Group.IMAGE,)
    assert groups[DE_FAKE] == (Group.IMAGE, Group.CAPTION)
    assert groups["shortcut probe"] == (Group.SHORTCUT,)
    assert groups["caption only"] == (Group.CAPTION,)
    assert groups[OURS] == HeadSettings().groups


RESIDUALS = HeadSettings(kind="logistic", groups=(Group.GLOBAL_RESIDUAL, Group.LOCAL_RESIDUAL))
LAYERS = HeadSettings(groups=(Group.LAYERS,))
MIXED = HeadSettings(groups=(Group.LAYERS, Group.GLOBAL_MISALIGNMENT))


@pytest.mark.parametrize("ours", [LAYERS, MIXED, RESIDUALS])
def test_shuffled_captions_are_given_to_a_head_that_sees_captions(ours):
    controls = [method for method in methods(ours, (), layers=True) if method.shuffle]
    assert len(controls) == len(Shuffle)
    for method in controls:
        assert any(group.sees_captions for group in method.head.groups)
        assert set(ours.groups) <= set(method.head.groups)


@pytest.mark.parametrize("ours", [LAYERS, MIXED, RESIDUALS])
def test_misalignment_alone_layers_alone_and_both_are_heads_of_the_same_kind(ours):
    compared = methods(ours, (), layers=True)
    alone = [method.head.groups for method in compared if method.head.kind == ours.kind]
    assert (Group.LAYERS,) in alone
    assert next(m for m in compared if m.name == "misalignment").head.kind == ours.kind
    always = {method.head.groups for method in compared if method.always}
    assert MISALIGNMENT in always and len(always) >= 2
    assert any(
        Group.LAYERS in groups and Group.GLOBAL_MISALIGNMENT in groups for groups in alone
    ) == (Group.LAYERS in ours.groups)


def test_features_without_layers_are_not_asked_for_them():
    assert not [m for m in methods(RESIDUALS, ()) if Group.LAYERS in m.head.groups]


@pytest.mark.parametrize("group", Group)
def test_groups_that_see_captions_are_those_that_change_with_them(group):
    arrays, labels = labelled(60)
    other = shuffled(arrays, labels, Shuffle.ACROSS)
    statistics = fit_statistics(arrays, labels, (group,), False)
    before, after = (raw_features(one, (group,), statistics) for one in (arrays, other))
    assert group.sees_captions != np.array_equal(before, after)


@pytest.mark.parametrize("shuffle", Shuffle)
def test_shuffling_gives_other_captions_and_keeps_pictures(shuffle):
    arrays, labels = labelled(200)
    other = shuffled(arrays, labels, shuffle)
    np.testing.assert_array_equal(other.image, arrays.image)
    np.testing.assert_array_equal(other.parts, arrays.parts)
    assert (other.caption != arrays.caption).any(axis=1).mean() > 0.9
    expected = (other.image * other.caption).sum(axis=1)
    np.testing.assert_allclose(other.global_similarity, expected, atol=1e-5)


def test_shuffling_within_a_class_keeps_its_captions():
    arrays, labels = labelled(200)

    def captions(rows, label):
        return np.sort(rows.caption[labels == label], axis=0)

    within = shuffled(arrays, labels, Shuffle.WITHIN)
    across = shuffled(arrays, labels, Shuffle.ACROSS)
    for label in (0, 1):
        np.testing.assert_array_equal(captions(within, label), captions(arrays, label))
        assert (captions(across, label) != captions(arrays, label)).any()


def test_objects_go_with_the_caption_that_names_them():
    arrays, labels = labelled(100)
    other = shuffled(arrays, labels, Shuffle.ACROSS, seed=1)
    rows = [
        int(np.flatnonzero((arrays.caption == caption).all(axis=1))[0]) for caption in other.caption
    ]
    np.testing.assert_array_equal(other.local_misalignment, arrays.local_misalignment[rows])
    np.testing.assert_array_equal(other.local_scalars, arrays.local_scalars[rows])
