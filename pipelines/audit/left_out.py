"""What lay in a dump and was not read, or not as it says, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAMED = 5
"""Names that are no nights that a sentence tells."""


def left_out(manifests: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Sentences about files that nights' manifests say were not read, or not as they say."""
    several = len(manifests) > 1
    sentences: list[str] = []
    others: dict[str, None] = {}
    for night, manifest in manifests.items():
        counts = sorted((manifest.get("left_out") or {}).items())
        said = [f"Not read: {', '.join(f'{n:,} {kind}' for kind, n in counts)}."] if counts else []
        said += manifest.get("notes") or []
        sentences += [f"{night}: {one}" if several else str(one) for one in said]
        others |= dict.fromkeys(manifest.get("no_nights") or ())
    if others:
        named = ", ".join(list(others)[:NAMED]) + (" and others" if len(others) > NAMED else "")
        sentences.append(f"Not read, because {len(others):,} names are no nights: {named}.")
    return sentences
