"""How jobs start Ray, or join a cluster that runs."""

from __future__ import annotations

import logging
import os

import ray
from ray.data import DataContext, ExecutionResources

BLOCK_BYTES = 16 << 20
"""Some 80 decoded pictures: Ray's own 128 MiB are hundreds, which arrive in bursts, leave
workers idle at the end, and take memory in every stage."""


def start_ray(object_store_gb: float, preserve_order: bool = False) -> None:
    """Start Ray on this machine if no cluster is named and none runs, and tune Ray Data.

    Parameters
    ----------
    object_store_gb : memory for rows between stages, in GB
    preserve_order : whether rows keep their order, which costs speed
    """
    if not ray.is_initialized():
        # A submitted job finds its cluster in RAY_ADDRESS; without one, Ray runs here.
        local = {} if "RAY_ADDRESS" in os.environ else {"include_dashboard": False}
        if local:
            # Ray's C++ side prints notices on standard error that are meant for Ray itself.
            os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **local)
    context = DataContext.get_current()
    # The run shows its own progress; Ray's notices on pools and memory help no user.
    context.enable_progress_bars = False
    context.target_max_block_size = BLOCK_BYTES
    context.issue_detectors_config.detectors = []
    context.execution_options.preserve_order = preserve_order
    context.execution_options.resource_limits = ExecutionResources.for_limits(
        object_store_memory=object_store_gb * 1e9
    )
