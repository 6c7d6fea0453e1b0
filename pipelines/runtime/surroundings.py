"""What Ray needs of the machine around it: a folder, a user's name, a token, room in memory."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from item.errors import MachineError

LEAST_ROOM = 200 << 20
"""Bytes that Ray's folder for temporary files must have; sessions and logs take some of it."""
LONGEST_TEMPORARY = 40
"""Characters of that folder: Ray adds some 65, and the path of a socket may have 107."""


def temporary_folder() -> str:
    """A folder with room and a short path, for Ray's sockets and logs.

    ``RAY_TMPDIR`` if it is set, else ``TMPDIR`` or ``/tmp``, whichever is fit for that.
    """
    if asked := os.environ.get("RAY_TMPDIR"):
        candidates = [os.path.abspath(asked)]
    else:
        candidates = [os.path.abspath(os.environ.get("TMPDIR") or "/tmp"), "/tmp"]
    reasons = []
    for folder in dict.fromkeys(candidates):
        if len(folder) > LONGEST_TEMPORARY:
            reasons.append(f"the path of {folder} is too long")
        elif why := _unusable(os.path.join(folder, "ray")):
            reasons.append(why)
        else:
            return folder
    raise MachineError(
        f"Ray needs a folder for temporary files: {' and '.join(reasons)}. Set RAY_TMPDIR to a "
        f"folder that can be written, with {LEAST_ROOM >> 20} MB of room and a short path."
    )


def _unusable(folder: str) -> str | None:
    try:
        if not os.path.isdir(folder):
            with tempfile.TemporaryDirectory(dir=os.path.dirname(folder)):
                pass
            folder = os.path.dirname(folder)
        else:
            with tempfile.TemporaryFile(dir=folder):
                pass
        room = shutil.disk_usage(folder).free
    except OSError as error:
        return f"{folder} cannot be written ({error.strerror})"
    return None if room >= LEAST_ROOM else f"{folder} has {room >> 20} MB of room"


def bring_token() -> None:
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


def name_user() -> None:
    """Give a user without a name one: libraries ask for it."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ.setdefault("USER", f"user-{os.getuid()}")
        os.environ.setdefault("LOGNAME", os.environ["USER"])


@contextlib.contextmanager
def neutral_folder() -> Iterator[None]:
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
