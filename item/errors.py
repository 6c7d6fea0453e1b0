"""What is raised when a person, not the program, has to do something."""

from __future__ import annotations

from typing import ClassVar


class JobError(Exception):
    """What ends a job with one sentence, without a traceback.

    The message is that sentence. ``exit_code`` is the code that the job then exits with.
    """

    exit_code: ClassVar[int] = 1


class UsageError(JobError):
    """A mistake of the user's: wrong configuration, missing input, missing model.

    The message says what to do.
    """

    exit_code = 2


class MachineError(JobError):
    """A machine, a cluster or a network failed: nothing is damaged, and a later start goes on."""

    exit_code = 5
