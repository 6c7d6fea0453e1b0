"""Releases of packages other than those of the environment, for a process of their own."""

from __future__ import annotations

import datetime
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import pytest


def installed(*requirements: str) -> Path:
    """Folder with exactly these packages, to be put on ``PYTHONPATH``; kept from run to run.

    What is newest, of packages without a version, is asked for once a month. Skips the
    test where they are not to be had: no index, or no wheel for this Python.
    """
    pinned = all("==" in one for one in requirements)
    since = "" if pinned else f"-{datetime.date.today():%Y-%m}"
    name = "+".join(requirements).replace("=", "")
    folder = _cache() / f"{name}-{sys.implementation.cache_tag}{since}"
    if folder.exists():
        return folder
    aside = folder.with_name(f".{uuid.uuid4().hex}")
    uv = shutil.which("uv")
    command = [uv, "pip"] if uv else [sys.executable, "-m", "pip"]
    options = ["install", "--quiet", "--no-deps", "--only-binary=:all:", "--target", str(aside)]
    ended = subprocess.run(
        [*command, *options, *requirements], capture_output=True, text=True, timeout=240
    )
    if ended.returncode != 0:
        shutil.rmtree(aside, ignore_errors=True)
        lines = ended.stderr.strip().splitlines() or ["no reason given"]
        pytest.skip(f"{', '.join(requirements)} cannot be installed: {lines[-1]}")
    try:
        aside.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path(tempfile.gettempdir(), f"cache-{os.getuid()}")
    folder = Path(home, "item-audit-tests")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
