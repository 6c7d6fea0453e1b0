"""What an evaluation compares: our heads, the baselines, the controls, the ablations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from item.heads.columns import FeatureArrays, Group
from item.heads.settings import Balance, HeadSettings, Kind
from item.misalignment import global_similarity

OURS = "item"
UNIVERSAL = "image embedding (UniversalFakeDetect)"
DE_FAKE = "image and caption (DE-FAKE)"


class Purpose(StrEnum):
    """Why a method is in the comparison."""

    OURS = "ours"
    BASELINE = "baseline"
    CONTROL = "control"
    ABLATION = "ablation"


class Shuffle(StrEnum):
    """Which captions an image may get instead of its own."""

    WITHIN = "within"
    """Those of its own class, so that what captions say about the class stays."""
    ACROSS = "across"
    """Those of any image."""


@dataclass(frozen=True)
class Method:
    """A head in the comparison."""

    name: str
    purpose: Purpose
    sentence: str
    head: HeadSettings
    shuffle: Shuffle | None = None
    variant: str | None = None
    """The features table to take instead of the main one."""
    always: bool = False
    """Whether it is compared also where each source is left out in its turn, though an ablation."""


def methods(
    ours: HeadSettings, variants: tuple[str, ...], layers: bool = False, seed: int = 0
) -> list[Method]:
    """Everything that stands beside the recommended head.

    Parameters
    ----------
    ours : the head in question
    variants : names of further features tables of the same images, such as ``random crops``
    layers : whether the features have layers
    seed : of the heads that draw
    """
    common = {"balance": Balance.LABEL, "seed": seed, "whitened": False}
    plain = HeadSettings(kind=Kind.LOGISTIC, logistic_c=0.003, **common)

    def logistic(*groups: Group, **changes: object) -> HeadSettings:
        return plain.model_copy(update={"groups": groups, **changes})

    whitened = {"whitened": True, "logistic_c": 0.001}
    g = Group
    both_levels = (g.GLOBAL_MISALIGNMENT, g.LOCAL_MISALIGNMENT)
    paper = (*both_levels, g.GLOBAL_SIMILARITY, g.LOCAL_SIMILARITIES)
    mlp = HeadSettings(kind=Kind.MLP, groups=paper, epochs=30, **common)
    boosted = HeadSettings(kind=Kind.LIGHTGBM, **common)
    baseline, control, ablation = Purpose.BASELINE, Purpose.CONTROL, Purpose.ABLATION
    scalars = (g.GLOBAL_SIMILARITY, g.LOCAL_SIMILARITIES)
    captioned = _captioned(ours)
    with_captions = OURS if captioned == ours else f"{OURS} and misalignment"
    compared = [
        Method(OURS, Purpose.OURS, f"The shipped {ours.kind} head on {_listed(ours)}.", ours),
        Method(UNIVERSAL, baseline, "Logistic regression on v.", logistic(g.IMAGE)),
        Method(DE_FAKE, baseline, "Logistic regression on [v; u].", logistic(g.IMAGE, g.CAPTION)),
        Method("scalars", baseline, "Logistic regression on similarities.", logistic(*scalars)),
        Method(
            "shortcut probe",
            control,
            "Sees file size, width, height, format and JPEG quality only: how much of the task "
            "the files give away without their pictures.",
            logistic(g.SHORTCUT, logistic_c=1.0),
        ),
        Method(
            "caption only",
            control,
            "Sees the caption's embedding only: how much the topic gives away.",
            logistic(g.CAPTION),
        ),
        *(
            Method(
                f"{with_captions}, captions shuffled {shuffle} {what}",
                control,
                "The same head with other images' captions: what it loses is what fitting "
                "captions give.",
                captioned,
                shuffle=shuffle,
            )
            for shuffle, what in ((Shuffle.WITHIN, "the class"), (Shuffle.ACROSS, "classes"))
        ),
        *_beside(ours, captioned, with_captions, layers),
        Method(
            "v and p, whitened",
            ablation,
            "The picture and its parts, without any caption.",
            logistic(g.IMAGE, g.PARTS, **whitened),
        ),
        Method("v, whitened", ablation, "v alone.", logistic(g.IMAGE, **whitened)),
        Method("global only", ablation, "v - E[v|u].", logistic(g.GLOBAL_RESIDUAL, **whitened)),
        Method("local only", ablation, "p - E[p|u].", logistic(g.LOCAL_RESIDUAL, **whitened)),
        Method(
            "residuals, not whitened",
            ablation,
            "What captions leave unexplained, columns scaled one by one.",
            logistic(g.GLOBAL_RESIDUAL, g.LOCAL_RESIDUAL),
        ),
        Method("Δg", ablation, "v - u.", logistic(g.GLOBAL_MISALIGNMENT)),
        Method(
            "Δg, centred",
            ablation,
            "v - u after each modality's mean is taken off.",
            logistic(g.GLOBAL_MISALIGNMENT, centred=True),
        ),
        Method("product", ablation, "v * u.", logistic(g.GLOBAL_PRODUCT)),
        Method("similarity", ablation, "v · u.", logistic(g.GLOBAL_SIMILARITY)),
        Method(
            "Δg and product",
            ablation,
            "v - u and v * u.",
            logistic(g.GLOBAL_MISALIGNMENT, g.GLOBAL_PRODUCT),
        ),
        Method(
            "Δg, product and similarity",
            ablation,
            "All three.",
            logistic(g.GLOBAL_MISALIGNMENT, g.GLOBAL_PRODUCT, g.GLOBAL_SIMILARITY),
        ),
        Method("Δk", ablation, "Pooled o - w.", logistic(g.LOCAL_MISALIGNMENT)),
        Method("Δg and Δk", ablation, "Both levels.", logistic(*both_levels)),
        Method(
            "residuals and Δk",
            ablation,
            "What captions leave unexplained, with pooled o - w beside it.",
            logistic(g.GLOBAL_RESIDUAL, g.LOCAL_RESIDUAL, g.LOCAL_MISALIGNMENT, **whitened),
        ),
        Method("MLP", ablation, "Staged MLP on Δg, Δk and scalars, 512 and 256 wide.", mlp),
        Method(
            "MLP on the columns of item",
            ablation,
            "Staged MLP on what the shipped head sees, 64 wide.",
            mlp.model_copy(
                update={"groups": ours.groups, "whitened": True, "hidden": (64,), "dropout": 0.5}
            ),
        ),
        Method(
            "LightGBM on scalars",
            ablation,
            "Gradient-boosted trees on similarities.",
            boosted.model_copy(update={"groups": scalars}),
        ),
    ]
    for variant in variants:
        compared += [
            Method(
                f"Δk, {variant}",
                ablation,
                f"Pooled o - w from the table '{variant}'.",
                logistic(g.LOCAL_MISALIGNMENT),
                variant=variant,
            ),
            Method(
                f"Δg and Δk, {variant}",
                ablation,
                f"Both levels, objects from the table '{variant}'.",
                logistic(*both_levels),
                variant=variant,
            ),
        ]
    return compared


MISALIGNMENT = (Group.GLOBAL_MISALIGNMENT, Group.LOCAL_MISALIGNMENT, Group.LOCAL_SIMILARITIES)
"""The idea that this project began with."""


def _captioned(ours: HeadSettings) -> HeadSettings:
    """The head itself if it sees captions, else the same with misalignment beside its columns."""
    if any(group.sees_captions for group in ours.groups):
        return ours
    return ours.model_copy(update={"groups": (*ours.groups, *MISALIGNMENT)})


def _beside(
    ours: HeadSettings, captioned: HeadSettings, name: str, layers: bool
) -> Iterator[Method]:
    """Heads of the same kind on layers, on misalignment, and on both."""

    def same(what: str, sentence: str, *groups: Group) -> Method:
        head = ours.model_copy(update={"groups": groups})
        return Method(what, Purpose.ABLATION, sentence, head, always=True)

    yield same("misalignment", "The same head on v - u and pooled o - w alone.", *MISALIGNMENT)
    if captioned != ours:
        yield same(name, "The shipped head with misalignment beside it.", *captioned.groups)
    else:
        left = tuple(group for group in ours.groups if not group.sees_captions)
        if left:
            yield same("item without captions", "The same head without any caption.", *left)
    if layers and ours.groups != (Group.LAYERS,):
        yield same("layers", "The same head on layers alone.", Group.LAYERS)


def _listed(head: HeadSettings) -> str:
    return ", ".join(str(group).replace("_", " ") for group in head.groups)


def shuffled(
    arrays: FeatureArrays, labels: NDArray, shuffle: Shuffle, seed: int = 0
) -> FeatureArrays:
    """The arrays in which each image has another one's caption and objects.

    Parameters
    ----------
    labels : (n,), 1 generated, 0 real
    shuffle : whose captions an image may get
    """
    rng = np.random.default_rng(seed)
    given = np.arange(len(arrays))
    pools = [labels == 0, labels == 1] if shuffle == Shuffle.WITHIN else [labels >= 0]
    for pool in map(np.flatnonzero, pools):
        given[pool] = rng.permutation(pool)
    caption = arrays.caption[given]
    return replace(
        arrays,
        caption=caption,
        global_similarity=global_similarity(arrays.image, caption),
        local_misalignment=arrays.local_misalignment[given],
        local_scalars=arrays.local_scalars[given],
    )
