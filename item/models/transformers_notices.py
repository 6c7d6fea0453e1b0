"""What transformers says while it loads a model, and when it cannot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from item.errors import UsageError


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bar and no table of what does not fit, which the exception says anyway."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def cannot_be_loaded(what: str, folder: Path, error: Exception) -> UsageError:
    """That something in a folder cannot be loaded, with what the library says first."""
    said = str(error).strip().partition("\n")[0].partition(". ")[0].rstrip(".:")
    return UsageError(
        f"The {what} in '{folder}' cannot be loaded, perhaps because a file is damaged "
        f"({type(error).__name__}: {said})."
    )
