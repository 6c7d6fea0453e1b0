"""Which rows an evaluation trains on and which it tests on.

In every protocol the rows of a group, such as all images of one prompt, are all trained on or
all tested on, and no generator that is tested on has been trained on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from item.errors import UsageError
from pipelines.train.rows import Indices, LabelledRows
from pipelines.train.unseen_sources import dealt, families

SOURCE_FOLDS = 4
"""Parts of the sources of each label that are left out in their turn; more take longer."""
ALL = "all"
"""The subset that leaves nothing out."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Rows of one generator beside real ones of one source, none of them trained on."""

    subset: str
    real_source: str
    generator: str
    rows: Indices


@dataclass(frozen=True, eq=False)
class Trial:
    """One training and what it is tested on."""

    protocol: str
    seed: int
    held_out: str
    """The generator left out, where the protocol leaves out one at a time; else empty."""
    training: Indices
    calibration: Indices
    tests: tuple[HeldOut, ...]


@dataclass(frozen=True)
class Pair:
    """A published protocol: train on these generators, test on those."""

    training: tuple[str, ...]
    tested: tuple[str, ...]


PAIRS = {
    "progan_to_universalfakedetect": Pair(
        ("ProGAN",),
        (
            *("CycleGAN", "BigGAN", "StyleGAN", "GauGAN", "StarGAN", "Deepfakes", "SITD", "SAN"),
            *("CRN", "IMLE", "Guided", "LDM-200", "LDM-200-CFG", "LDM-100", "Glide-100-27"),
            *("Glide-50-27", "Glide-100-10", "DALLE"),
        ),
    ),
    "sd14_to_genimage": Pair(
        ("SD1.4",),
        ("Midjourney", "SD1.5", "ADM", "GLIDE", "Wukong", "VQDM", "BigGAN"),
    ),
}
"""Train on ProGAN and test as Ojha et al. (CVPR 2023), UniversalFakeDetect, do; train on
Stable Diffusion 1.4 and test as Zhu et al. (NeurIPS 2023), GenImage, do. The names are those
that the column ``generator`` must hold."""

ONE_TO_ALL = "one_to_all"
LEAVE_ONE_OUT = "leave_one_out"
LEAVE_SOURCES_OUT = "leave_sources_out"
TRAINED_HEAD = "trained_head"
SENTENCES = {
    ONE_TO_ALL: "Trained on one generator, tested on every other one.",
    LEAVE_ONE_OUT: "Trained on all generators but one, tested on that one; each in its turn.",
    LEAVE_SOURCES_OUT: "Trained without the photographs' source and without the generator that "
    "are tested, and on several other sources of both.",
    "progan_to_universalfakedetect": "Trained on ProGAN, tested on UniversalFakeDetect's others.",
    "sd14_to_genimage": "Trained on Stable Diffusion 1.4, tested on GenImage's others.",
    TRAINED_HEAD: "A head that was trained before, as it is.",
}


@dataclass(frozen=True, eq=False)
class Design:
    """What all protocols of an evaluation have in common.

    Parameters
    ----------
    rows : labelled rows
    training_source : real source to train on; the rows left over and all of the other real
        sources are tested on
    training_generator : of the protocol ``one_to_all``
    subsets : rows to test on by the subset's name, masks of shape (n,); ``all`` is one of them
    learnable : (n,) which rows may be trained on
    share : of the groups that are trained and calibrated on
    calibration_share : of those groups, that are calibrated on
    """

    rows: LabelledRows
    training_source: str
    training_generator: str
    subsets: dict[str, NDArray[np.bool_]]
    learnable: NDArray[np.bool_]
    share: float = 0.6
    calibration_share: float = 0.2

    def trials(self, protocol: str, seeds: int) -> Iterator[Trial]:
        """Every training of a protocol.

        Raises
        ------
        UsageError
            If the table lacks what the protocol needs.
        """
        for seed in range(seeds):
            if protocol == ONE_TO_ALL:
                others = [name for name in self.generators() if name != self.training_generator]
                yield self._trial(protocol, seed, "", [self.training_generator], others)
            elif protocol == LEAVE_ONE_OUT:
                for left_out in self.generators():
                    others = [name for name in self.generators() if name != left_out]
                    yield self._trial(protocol, seed, left_out, others, [left_out])
            elif protocol == LEAVE_SOURCES_OUT:
                yield from self._without_sources(seed)
            else:
                pair = PAIRS[protocol]
                yield self._trial(protocol, seed, "", pair.training, pair.tested)

    def _without_sources(self, seed: int) -> Iterator[Trial]:
        """Each part of the photographs' sources left out with each part of the generators.

        So every pair of a source and a generator is tested once, by a head that saw neither.
        """
        rows = self.rows
        names = families(rows.labels, rows.generators, rows.sources)
        fold = dealt(rows.labels, names, SOURCE_FOLDS)
        training, calibrating, _ = replace(self, share=1.0).sides(seed)
        real = rows.labels == 0
        for of_real, of_generated in product(np.unique(fold[real]), np.unique(fold[~real])):
            held = fold == np.where(real, of_real, of_generated)
            learned = self.learnable & ~np.isin(rows.groups, rows.groups[held])
            if len({*rows.labels[learned & training]}) < 2:
                raise UsageError(
                    f"The protocol {LEAVE_SOURCES_OUT} needs two sources of photographs and two "
                    "generators or more."
                )
            yield Trial(
                LEAVE_SOURCES_OUT,
                seed,
                f"part {of_real} of the sources, {of_generated} of the generators",
                np.flatnonzero(learned & training),
                np.flatnonzero(learned & calibrating),
                tuple(self._held_pairs(held, names)),
            )

    def _held_pairs(self, held: NDArray[np.bool_], names: NDArray[np.object_]) -> Iterator[HeldOut]:
        real = self.rows.labels == 0
        for subset, chosen in self.subsets.items():
            for source, generator in product(
                _names(names[held & real]), _names(names[held & ~real])
            ):
                positives = held & ~real & chosen & (names == generator)
                if positives.any():
                    negatives = held & real & (names == source)
                    yield HeldOut(subset, source, generator, np.flatnonzero(positives | negatives))

    def generators(self) -> list[str]:
        """Names of the generators, in alphabetical order."""
        return _names(self.rows.generators[self.rows.labels == 1])

    def _trial(
        self,
        protocol: str,
        seed: int,
        held_out: str,
        trained: Sequence[str],
        tested: Sequence[str],
    ) -> Trial:
        rows = self.rows
        real, home = rows.labels == 0, rows.sources == self.training_source
        of_trained = np.isin(rows.generators.astype(str), list(trained)) & ~real
        training, calibrating, testing = self.sides(seed)
        learned = (of_trained | (real & home)) & self.learnable
        for label, name in ((0, self.training_source), (1, " or ".join(trained))):
            if not (learned & (rows.labels == label)).any():
                raise UsageError(
                    f"The protocol {protocol} trains on rows of {name}, and the table has none."
                )
        tests = tuple(self._tests(tested, real, testing))
        if not tests:
            raise UsageError(
                f"The protocol {protocol} tests on rows of "
                f"{', '.join(tested) or 'other generators'}, and the table has none."
            )
        return Trial(
            protocol,
            seed,
            held_out,
            np.flatnonzero(learned & training),
            np.flatnonzero(learned & calibrating),
            tests,
        )

    def _tests(
        self, tested: Sequence[str], real: NDArray[np.bool_], testing: NDArray[np.bool_]
    ) -> Iterator[HeldOut]:
        rows = self.rows
        for subset, chosen in self.subsets.items():
            for source in _names(rows.sources[real]):
                apart = testing if source == self.training_source else np.ones_like(testing)
                negatives = real & (rows.sources == source) & apart
                for generator in tested:
                    positives = (rows.generators == generator) & ~real & testing & chosen
                    if positives.any() and negatives.any():
                        both = np.flatnonzero(positives | negatives)
                        yield HeldOut(subset, source, generator, both)

    def sides(self, seed: int) -> tuple[NDArray[np.bool_], ...]:
        """Training, calibration and test rows, (n,) each, by whole groups.

        Groups are dealt out label by label, so that each side has its share of both.
        """
        groups, labels = self.rows.groups, self.rows.labels
        rng = np.random.default_rng(seed)
        side = np.full(groups.max() + 1, 2)
        for label in (0, 1):
            shuffled = rng.permutation(np.unique(groups[labels == label]))
            ends = np.round(np.array([1 - self.calibration_share, 1]) * self.share * len(shuffled))
            for number, part in enumerate(np.split(shuffled, ends.astype(int))):
                side[part] = number
        return tuple(side[groups] == number for number in range(3))


def trained_head_trial(rows: LabelledRows, subsets: dict[str, NDArray[np.bool_]]) -> Trial:
    """Every generator beside every real source, for a head that is trained already.

    Raises
    ------
    UsageError
        If the table names no generators or no sources.
    """
    real = rows.labels == 0
    tests = []
    for subset, chosen in subsets.items():
        for source in _names(rows.sources[real]):
            for generator in _names(rows.generators[~real]):
                positives = ~real & chosen & (rows.generators == generator)
                if positives.any():
                    both = np.flatnonzero(positives | real & (rows.sources == source))
                    tests.append(HeldOut(subset, source, generator, both))
    if not tests:
        raise UsageError("An evaluation needs the columns source and generator to be filled.")
    nothing = np.array([], np.int64)
    return Trial(TRAINED_HEAD, 0, "", nothing, nothing, tuple(tests))


def most_frequent(values: Sequence[str | None]) -> str | None:
    """The most frequent name, of equally frequent ones the first; None if there is none."""
    names = sorted(value for value in values if value)
    return max(dict.fromkeys(names), key=names.count) if names else None


def _names(column: NDArray[np.object_]) -> list[str]:
    return sorted({name for name in column if name})
