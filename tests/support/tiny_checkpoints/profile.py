"""The base profile with tiny checkpoints in the place of its models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from item.profiles import Profile, load_profile
from tests.support.tiny_checkpoints.captioners import tiny_blip
from tests.support.tiny_checkpoints.clips import tiny_clip
from tests.support.tiny_checkpoints.detectors import tiny_owlv2


def settings(folder: Path, detector: Any = tiny_owlv2, clip: Any = tiny_clip) -> dict[str, Any]:
    """Overrides that put tiny checkpoints in the place of the profile's models."""
    return {
        "captioner.files": {"source": str(tiny_blip(folder / "captioner"))},
        "grounder.files": {"source": str(detector(folder / "grounder"))},
        "clip.files": {"source": str(clip(folder / "clip"))},
        **{f"{member}.precision": "float32" for member in ("captioner", "grounder", "clip")},
        **{f"resources.{stage}.gpus": 0 for stage in ("caption", "objects", "embed")},
    }


def tiny(folder: Path, overrides: dict[str, Any], **kinds: Any) -> Profile:
    """The base profile with tiny checkpoints; the dimensions are those of the tiny CLIP."""
    found = settings(folder, **kinds)
    config = Path(found["clip.files"]["source"], "open_clip_config.json")
    width = json.loads(config.read_text())["model_cfg"]["embed_dim"]
    return load_profile("base", found | {"clip.dimensions": width} | overrides)
