"""What a profile asks of a cluster: processors, GPUs and memory for rows between stages."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from item.errors import UsageError
from item.profiles import Profile, Resources
from item.profiles.inputs import PIXELS, picture_inputs
from pipelines.runtime.stages import shares_workers, workers

WITH_PICTURES = ("decode", "caption", "phrases", "objects", "embed")
"""Stages whose batches hold pictures."""
FEWEST_ROWS = 4
"""Of a batch that is made smaller: below this, passing rows on costs more than it saves."""


def pools(profile: Profile) -> dict[str, Resources]:
    """The stages that have workers or tasks of their own, by their keys, in order."""
    keys = ["decode", "embed"]
    if not profile.embeds_only:
        captioning = [] if profile.captions_given else ["caption"]
        keys = ["decode", *captioning, "phrases", "objects", "embed", "misalign"]
    found: dict[str, Resources] = {}
    for key in keys:
        resources: Resources = getattr(profile.resources, key)
        if not (found and shares_workers(resources, list(found.values())[-1])):
            found[key] = resources
    return found


def check_shares(profile: Profile, cluster: Mapping[str, float]) -> None:
    """UsageError if workers would wait for ever, or leave the tasks between them no processor.

    Parameters
    ----------
    profile : which models, with their resources
    cluster : CPUs and GPUs that it has, as ``ray.cluster_resources()`` gives them
    """
    _check_gpus(profile, cluster)
    _check_cpus(profile, cluster)


def _check_gpus(profile: Profile, cluster: Mapping[str, float]) -> None:
    most = cluster.get("GPU", 0.0)
    of_workers = {key: one for key, one in pools(profile).items() if one.gpus}
    starved = {key: one.gpus for key, one in of_workers.items() if one.gpus > most}
    if starved:
        asked = " and ".join(f"{gpus:g} for {key}" for key, gpus in starved.items())
        keys = " and ".join(f"profile.resources.{key}.gpus=0" for key in starved)
        raise UsageError(
            f"The profile '{profile.name}' asks for GPUs ({asked}) and the cluster has "
            f"{most:g}: run it where there are enough, set {keys} to use CPUs, or "
            "wait_for_gpus=true if the cluster will start some."
        )
    together = sum((workers(one, cluster) or 0) * one.gpus for one in of_workers.values())
    if together > most * (1 + 1e-6):
        keys = ", ".join(f"profile.resources.{key}.gpus" for key in of_workers)
        raise UsageError(
            f"The workers of the profile '{profile.name}' ask for {together:g} GPUs together and "
            f"the cluster has {most:g}, so that some would wait for ever: lower {keys}."
        )


def _check_cpus(profile: Profile, cluster: Mapping[str, float]) -> None:
    there = cluster.get("CPU", 1.0)
    found = pools(profile)
    held = {
        key: number * one.cpus
        for key, one in found.items()
        if (number := workers(one, cluster)) is not None
    }
    needed = max((one.cpus for key, one in found.items() if key not in held), default=0.0)
    if sum(held.values()) + needed > there * (1 + 1e-6):
        asked = " and ".join(f"{cpus:g} for {key}" for key, cpus in held.items())
        keys = " or ".join(f"profile.resources.{key}.cpus" for key in held)
        raise UsageError(
            f"The workers of the profile '{profile.name}' hold {sum(held.values()):g} of the "
            f"cluster's {there:g} CPUs ({asked}), which leaves no {needed:g} to decode: lower "
            f"{keys}, or add CPUs."
        )


def row_bytes(profile: Profile) -> int:
    """Bytes of pictures that travel with a row between stages, at most."""
    models_read = picture_inputs(profile)
    fitted = sum(3 * fit.height * fit.width for fit in models_read.fits.values())
    decoded = 3 * profile.decoding.max_side**2 if PIXELS in models_read.names else 0
    return fitted + decoded


def with_room(profile: Profile, cluster: Mapping[str, float], store: float) -> Profile:
    """The profile with batches of which the memory for rows between stages holds enough.

    Ray Data gives each stage an equal part of it. Where that does not hold a batch for each of the
    stage's workers and one more, stages wait for each other one batch at a time. Smaller batches
    are told on standard error.

    Parameters
    ----------
    profile : which models, with their resources
    cluster : as for :func:`check_shares`
    store : bytes for rows between stages

    Raises
    ------
    UsageError
        If not even small batches fit.
    """
    found = pools(profile)
    batches = (len(found) + 1) * (1 + max(workers(one, cluster) or 1 for one in found.values()))
    of_a_row = row_bytes(profile)
    most = int(store / (batches * of_a_row))
    if most < FEWEST_ROWS:
        needed = FEWEST_ROWS * batches * of_a_row / 1e9
        raise UsageError(
            f"The memory for rows between stages is {store / 1e9:.2g} GB; {batches} batches of "
            f"{FEWEST_ROWS} pictures, {of_a_row / 1e6:.2g} MB each, need {needed:.2g}: raise "
            "object_store_gb, and Ray's own where it has less than twice that, or lower "
            "profile.decoding.max_side."
        )
    large = [key for key in WITH_PICTURES if getattr(profile.resources, key).batch_size > most]
    if not large:
        return profile
    print(
        f"Batches have at most {most} rows, so that the {store / 1e9:.2g} GB between stages hold "
        f"{batches} of them: raise object_store_gb for larger ones.",
        file=sys.stderr,
    )
    smaller = {
        key: getattr(profile.resources, key).model_copy(update={"batch_size": most})
        for key in large
    }
    return profile.model_copy(update={"resources": profile.resources.model_copy(update=smaller)})
