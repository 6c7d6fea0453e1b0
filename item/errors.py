"""What is raised when a person, not the program, has to change something."""

from __future__ import annotations


class UsageError(Exception):
    """A mistake of the user's: wrong configuration, missing input, missing model.

    The message is one sentence that says what to do. Jobs print it without a
    traceback and exit with code 2.
    """
