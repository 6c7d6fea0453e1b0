"""What a file or a run must say about where it came from."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Any

from item.images.perturb import NONE
from item.profiles import Profile
from item.tables import KEYS_VERSION, SCHEMA_VERSION, encoded
from item.version import __version__, source_commit

_PACKAGES = ("ray", "torch", "transformers", "spacy", "pyarrow", "pillow", "numpy", "timm")


def versions() -> dict[str, str]:
    """Versions of everything that may change a result; ``commit`` only in a git checkout."""
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    own = {"item": __version__, "python": platform.python_version(), **packages}
    commit = source_commit()
    return own | {"commit": commit} if commit else own


def provenance(profile: Profile, run_id: str, perturbation: str = NONE) -> dict[str, str]:
    """Key-value metadata of a ``features`` file."""
    return encoded(
        {
            "table": "features",
            "schema_version": SCHEMA_VERSION,
            "keys_version": KEYS_VERSION,
            "feature_set_id": profile.feature_set_id(),
            "dimensions": profile.dimensions,
            "layers": profile.clip.layers,
            "profile": profile.name,
            "models": profile.revisions(),
            "decoding": profile.decoding.model_dump(mode="json"),
            "perturbation": perturbation,
            "code_version": __version__,
            "run_id": run_id,
        }
    )


def with_part_facts(metadata: Mapping[str, str], facts: Mapping[str, Any]) -> dict[str, str]:
    """A file's provenance together with what is true of this file alone."""
    return {**metadata, **encoded(facts)}
