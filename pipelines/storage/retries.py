"""How many requests this process had to repeat."""

from __future__ import annotations

import threading

_retries = 0
_counting = threading.Lock()


def take_retries() -> int:
    """How many requests this process had to repeat since it was last asked."""
    global _retries
    with _counting:
        taken, _retries = _retries, 0
    return taken


def count_repeated_request() -> None:
    """Add one to what `take_retries` returns."""
    global _retries
    with _counting:
        _retries += 1
