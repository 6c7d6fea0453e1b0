"""How jobs start Ray, or join a cluster that runs."""

from __future__ import annotations

import logging
import os
from typing import Any

import ray
from ray.data import DataContext, ExecutionResources

from item.errors import MachineError
from pipelines.runtime import surroundings
from pipelines.runtime.address import cluster_address

BLOCK_BYTES = 16 << 20
"""Some 80 decoded pictures: Ray's own 128 MiB are hundreds, which arrive in bursts, leave
workers idle at the end, and take memory in every stage."""


USUAL_ROOM = 2e9
"""Bytes for rows between stages where nobody says how many."""
ROOM_SHARE = 1 / 3
"""Of what Ray has for objects, where GPUs wait for rows."""
USED_BY_RAY_DATA = 0.5
"""Of what Ray has for objects, at most; Ray Data's own limit."""


def start_ray(object_store_gb: float | None, preserve_order: bool = False) -> None:
    """Start Ray on this machine if no cluster is named and none runs, and tune Ray Data.

    Parameters
    ----------
    object_store_gb : memory for rows between stages, in GB; None for what is usual, which is more
        where there are GPUs
    preserve_order : whether rows keep their order, which costs speed

    Raises
    ------
    UsageError
        If ``RAY_ADDRESS`` is an address that jobs cannot use.
    MachineError
        If nobody answers there, or Ray cannot be started here.
    """
    if not ray.is_initialized():
        with surroundings.neutral_folder():
            if address := cluster_address():
                _join(address)
            else:
                _start_here()
    context = DataContext.get_current()
    # The run shows its own progress; Ray's notices on pools and memory help no user.
    context.enable_progress_bars = False
    context.target_max_block_size = BLOCK_BYTES
    context.issue_detectors_config.detectors = []
    # Ray's own error around it would leave out what a worker raised.
    context.raise_original_map_exception = True
    context.execution_options.preserve_order = preserve_order
    context.execution_options.resource_limits = ExecutionResources.for_limits(
        object_store_memory=_usual_room() if object_store_gb is None else object_store_gb * 1e9
    )


def room_between_stages() -> float:
    """Bytes that rows may take between stages: what was asked for, as far as Ray Data allows."""
    asked = DataContext.get_current().execution_options.resource_limits.object_store_memory
    return min(asked, USED_BY_RAY_DATA * ray.cluster_resources().get("object_store_memory", asked))


def _usual_room() -> float:
    there = ray.cluster_resources()
    if not there.get("GPU"):
        return USUAL_ROOM
    return max(USUAL_ROOM, ROOM_SHARE * there.get("object_store_memory", 0.0))


def _join(address: str) -> None:
    try:
        _init(address=address)
    except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
        raise MachineError(
            f"The Ray cluster at {address} cannot be joined ({_first_line(error)}): start it, "
            "correct RAY_ADDRESS, or set it to local to start Ray here."
        ) from None


def _start_here() -> None:
    folder = surroundings.temporary_folder()
    surroundings.name_user()
    surroundings.bring_token()
    # Ray's C++ side prints notices on standard error that are meant for Ray itself.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        _init(address="local", include_dashboard=False, _temp_dir=os.path.join(folder, "ray"))
    except (OSError, RuntimeError, ValueError) as error:
        raise MachineError(
            f"Ray cannot be started on this machine ({_first_line(error)}): see that {folder} and "
            "/dev/shm can be written and have room, and start again."
        ) from None


def _init(**options: Any) -> None:
    ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **options)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")[:200]
