"""How jobs start Ray, or join a cluster that runs."""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
import secrets
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray.data import DataContext, ExecutionResources

from item.errors import MachineError, UsageError

BLOCK_BYTES = 16 << 20
"""Some 80 decoded pictures: Ray's own 128 MiB are hundreds, which arrive in bursts, leave
workers idle at the end, and take memory in every stage."""

PROBE_SECONDS = 5.0
LEAST_ROOM = 200 << 20
"""Bytes that Ray's folder for temporary files must have; sessions and logs take some of it."""
LONGEST_TEMPORARY = 40
"""Characters of that folder: Ray adds some 65, and the path of a socket may have 107."""


def start_ray(object_store_gb: float, preserve_order: bool = False) -> None:
    """Start Ray on this machine if no cluster is named and none runs, and tune Ray Data.

    Parameters
    ----------
    object_store_gb : memory for rows between stages, in GB
    preserve_order : whether rows keep their order, which costs speed

    Raises
    ------
    UsageError
        If ``RAY_ADDRESS`` is an address that jobs cannot use.
    MachineError
        If nobody answers there, or Ray cannot be started here.
    """
    if not ray.is_initialized():
        with _neutral_folder():
            if os.environ.get("RAY_ADDRESS", "local") != "local":
                _join(os.environ["RAY_ADDRESS"])
            else:
                _start_here()
    context = DataContext.get_current()
    # The run shows its own progress; Ray's notices on pools and memory help no user.
    context.enable_progress_bars = False
    context.target_max_block_size = BLOCK_BYTES
    context.issue_detectors_config.detectors = []
    context.execution_options.preserve_order = preserve_order
    context.execution_options.resource_limits = ExecutionResources.for_limits(
        object_store_memory=object_store_gb * 1e9
    )


def _join(address: str) -> None:
    if address.startswith("ray://"):
        raise UsageError(
            f"RAY_ADDRESS is {address}, the address of a Ray client, which jobs cannot use: send "
            "the job with `ray job submit`, or start it on a machine of the cluster with "
            "RAY_ADDRESS=auto."
        )
    if address != "auto":
        _probe(address)
    try:
        _init(address=address)
    except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
        raise MachineError(
            f"The Ray cluster at RAY_ADDRESS={address} cannot be joined "
            f"({_first_line(error)}): start it, correct RAY_ADDRESS, or unset it to start Ray here."
        ) from None


def _probe(address: str) -> None:
    """Make sure, within seconds, that somebody listens: Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"RAY_ADDRESS is {address}: write host:port, auto, or unset it.")
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    answers: list[Exception | None] = []

    def ask() -> None:
        try:
            GcsClient(address=address).internal_kv_keys(b"", None, timeout=PROBE_SECONDS)
            answers.append(None)
        except Exception as error:
            answers.append(error)

    try:
        with socket.create_connection((host.strip("[]"), int(port)), PROBE_SECONDS):
            pass
        asking = threading.Thread(target=ask, daemon=True)  # some servers keep it for minutes
        asking.start()
        asking.join(2 * PROBE_SECONDS)
        if not answers or answers[0] is not None:
            raise answers[0] if answers and answers[0] else TimeoutError("it is no Ray cluster")
    except Exception as error:
        raise MachineError(
            f"Nobody answers at RAY_ADDRESS={address} ({_first_line(error)}): start the "
            "cluster, correct RAY_ADDRESS, or unset it to start Ray here."
        ) from None


def _start_here() -> None:
    folder = _temporary_folder()
    _name_user()
    _bring_token()
    # Ray's C++ side prints notices on standard error that are meant for Ray itself.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        _init(include_dashboard=False, _temp_dir=os.path.join(folder, "ray"))
    except (OSError, RuntimeError, ValueError) as error:
        raise MachineError(
            f"Ray cannot be started on this machine ({_first_line(error)}): see that {folder} and "
            "/dev/shm can be written and have room, and start again."
        ) from None


def _init(**options: Any) -> None:
    ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)


def _temporary_folder() -> str:
    """A folder with room and a short path, for Ray's sockets and logs."""
    asked = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    reasons = []
    for folder in dict.fromkeys([os.path.abspath(asked), "/tmp"]):
        if len(folder) > LONGEST_TEMPORARY:
            reasons.append(f"the path of {folder} is too long")
        elif why := _unusable(os.path.join(folder, "ray"), folder):
            reasons.append(why)
        else:
            return folder
    raise MachineError(
        f"Ray needs a folder for temporary files: {' and '.join(reasons)}. Set RAY_TMPDIR to a "
        f"folder that can be written, with {LEAST_ROOM >> 20} MB of room and a short path."
    )


def _unusable(inner: str, folder: str) -> str | None:
    nearest = inner if os.path.isdir(inner) else folder
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
        room = shutil.disk_usage(nearest).free
    except OSError as error:
        return f"{nearest} cannot be written ({error.strerror})"
    return None if room >= LEAST_ROOM else f"{nearest} has {room >> 20} MB of room"


def _bring_token() -> None:
    """Have a token for this cluster where Ray cannot keep one in the home folder."""
    if any(name.startswith("RAY_AUTH_") for name in os.environ):
        return
    home = os.path.expanduser("~")
    if os.path.isfile(os.path.join(home, ".ray", "auth_token")):
        return
    try:
        if not os.path.isabs(home):
            raise FileNotFoundError(home)
        os.makedirs(os.path.join(home, ".ray"), exist_ok=True)
        with tempfile.TemporaryFile(dir=os.path.join(home, ".ray")):
            return
    except OSError:
        from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        AuthenticationTokenLoader.instance().reset_cache()


def _name_user() -> None:
    """Give a user without a name one: libraries ask for it."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ.setdefault("USER", f"user-{os.getuid()}")
        os.environ.setdefault("LOGNAME", os.environ["USER"])


@contextlib.contextmanager
def _neutral_folder() -> Iterator[None]:
    """Be in the program's own folder: Ray's workers look for modules where their driver was.

    A user's project may have packages of the same names. Paths are absolute by now.
    """
    try:
        before = os.getcwd()
    except FileNotFoundError:
        before = "/"
    os.chdir(Path(__file__).resolve().parents[2])
    try:
        yield
    finally:
        os.chdir(before)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")[:200]
