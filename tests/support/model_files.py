"""The files of a model that is none: small, yet what a repository of one holds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from item.errors import UsageError
from item.models.files import hub as hub_client
from item.models.files.contents import FileFacts, Manifest
from item.models.files.node_cache import sha256
from tests.conftest import REPOSITORY
from tests.support.hub_server import HubServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def weights(seed: int = 0, size: int = 64) -> bytes:
    """A safetensors file with one tensor, ``a``."""
    return save({"a": np.random.default_rng(seed).normal(size=size).astype(np.float32)})


def tiny_model(seed: int = 0) -> dict[str, bytes]:
    """Configuration, tokenizer and weights."""
    return {
        "config.json": json.dumps({"model_type": "tiny", "seed": seed}).encode(),
        "model.safetensors": weights(seed),
        "vocab.txt": b"cat\ndog\n",
    }


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Make a folder with these files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def manifest_of(folder: Path, requested: str | None = None) -> Manifest:
    """What ``jobs/models.py fetch`` would write of a folder's files as a copy of ``org/tiny``."""
    facts = {
        path.name: FileFacts(sha256=sha256(path), size=path.stat().st_size)
        for path in sorted(folder.iterdir())
        if path.name != "item-model.json"
    }
    return Manifest(source="org/tiny", commit=COMMIT, requested=requested, files=facts)


def mirrored(folder: Path, files: Mapping[str, bytes] | None = None) -> Path:
    """A folder as ``jobs/models.py fetch`` makes it."""
    write(folder, tiny_model() if files is None else files)
    (folder / "item-model.json").write_bytes(manifest_of(folder).as_bytes())
    return folder


@contextmanager
def own_hub(patch: pytest.MonkeyPatch, folder: Path) -> Iterator[HubServer]:
    """A hub that this process uses, with caches in ``folder`` that are empty."""
    patch.setenv("ITEM_MODEL_CACHE", str(folder / "node"))
    hub_client.commit.cache_clear()
    with HubServer() as server, server.in_use(patch, folder / "hf"):
        yield server
    hub_client.commit.cache_clear()


def sentence(call: Callable[[], Any]) -> str:
    """What a refused call says: one sentence."""
    with pytest.raises(UsageError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text


def killed_while_held(code: str, hub: HubServer) -> None:
    """Run Python that fetches a model, and kill it in the middle of the weights."""
    hub.holds = "model.safetensors"
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPOSITORY, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert hub.holding.wait(60)
    child.send_signal(signal.SIGKILL)
    child.wait(30)
    hub.holds = None
    hub.release.set()
