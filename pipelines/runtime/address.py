"""Which Ray cluster a job joins, found before Ray itself looks for it for minutes."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterable

from ray._private.services import find_gcs_addresses
from ray._private.utils import read_ray_address

from item.errors import MachineError, UsageError

PROBE_SECONDS = 5.0

_INSTEAD = "start the cluster, correct RAY_ADDRESS, or unset it to start Ray here"


def cluster_address() -> str | None:
    """Address, ``host:port``, of the cluster to join; None to start Ray on this machine.

    That is ``RAY_ADDRESS``, else a cluster that was started on this machine by ``ray start``.

    Raises
    ------
    UsageError
        If ``RAY_ADDRESS`` is of a kind that jobs cannot use.
    MachineError
        If no cluster answers there.
    """
    asked = os.environ.get("RAY_ADDRESS", "").strip()
    if asked == "local":
        return None
    started = [read_ray_address()]
    if not asked:
        return _first_that_answers(started)
    if asked == "auto":
        if found := _first_that_answers([*started, *sorted(find_gcs_addresses())]):
            return found
        raise MachineError(f"RAY_ADDRESS is auto, but no cluster runs here: {_INSTEAD}.")
    _check_kind(asked)
    if why := silence(asked, PROBE_SECONDS):
        raise MachineError(f"No Ray cluster answers at RAY_ADDRESS={asked} ({why}): {_INSTEAD}.")
    return asked


def silence(address: str, seconds: float) -> str | None:
    """Why nobody answers for a cluster at ``host:port``; None if its head does."""
    if why := closed(address, seconds):
        return why
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    answers: list[str | None] = []

    def ask() -> None:
        try:
            GcsClient(address=address).internal_kv_keys(b"", None, timeout=seconds)
            answers.append(None)
        except Exception:
            answers.append("what listens there is not the head of a cluster")

    asking = threading.Thread(target=ask, daemon=True)  # some servers keep it for minutes
    asking.start()
    asking.join(2 * seconds)
    return answers[0] if answers else "what listens there does not answer"


def closed(address: str, seconds: float) -> str | None:
    """Why no connection to ``host:port`` can be made; None if it can."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), seconds):
            return None
    except OSError as error:
        return error.strerror or str(error)


def _first_that_answers(addresses: Iterable[str | None]) -> str | None:
    """Dead clusters leave their address behind: those are passed over."""
    return next((one for one in addresses if one and not silence(one, PROBE_SECONDS)), None)


def _check_kind(address: str) -> None:
    if address.startswith("ray://"):
        raise UsageError(
            f"RAY_ADDRESS is {address}, the address of a Ray client, which jobs cannot use: send "
            "the job with `ray job submit`, or start it on a machine of the cluster with "
            "RAY_ADDRESS=auto."
        )
    if address.startswith(("http://", "https://")):
        raise UsageError(
            f"RAY_ADDRESS is {address}, the address for `ray job submit`: send the job with that, "
            "or give host:port of the cluster's head, whose port is 6379 unless it was chosen."
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise UsageError(f"RAY_ADDRESS is {address}: write host:port, auto, or unset it.")
