"""What is raised when a person, not the program, has to do something."""

from __future__ import annotations

import errno
from typing import ClassVar

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Of an OSError: the disk, or what somebody may use of it, is full."""


class JobError(Exception):
    """What ends a job with one sentence, without a traceback.

    Parameters
    ----------
    sentence : what happened and what to do; frameworks that add to ``args`` leave it whole

    Attributes
    ----------
    exit_code : int
        The code that the job then exits with.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, sentence: str = "") -> None:
        super().__init__(sentence)
        self.sentence = sentence

    def __str__(self) -> str:
        return self.sentence


class UsageError(JobError):
    """A mistake of the user's: wrong configuration, missing input, missing model.

    The message says what to do.
    """

    exit_code = 2


class MachineError(JobError):
    """A machine, a cluster or a network failed: nothing is damaged, and a later start goes on."""

    exit_code = 6


def refusal_of_disk(error: OSError, sentence: str) -> JobError:
    """What a disk refused, as the machine's fault where it is full and else as the user's."""
    return (MachineError if error.errno in NO_ROOM else UsageError)(sentence)
