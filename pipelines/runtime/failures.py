"""What a machine, a cluster or a disk did, as one sentence; what a programmer did stays one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from ray import exceptions

from item.errors import NO_ROOM, JobError, MachineError

_GO_ON = "start the same command again, it goes on where it was"


@contextmanager
def machine_failures() -> Iterator[None]:
    """Raise MachineError, or a worker's own JobError, for what ended the block.

    Errors of the program itself pass as they are.
    """
    try:
        yield
    except Exception as error:
        found = next(filter(None, map(_as_job_error, _chain(error))), None)
        if found is None or found is error:
            raise
        raise found from error


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, what caused it, and what a worker had raised."""
    waiting, seen = [error], set()
    while waiting:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        for other in (getattr(one, "cause", None), one.__cause__, one.__context__):
            if isinstance(other, BaseException):
                waiting.append(other)


def _as_job_error(error: BaseException) -> JobError | None:
    match error:
        case exceptions.RayActorError(actor_init_failed=True):  # a bug
            return None
        case exceptions.RayTaskError():  # of every kind at once; what it carries comes next
            return None
        case JobError():
            return error
        case OSError() if error.errno in NO_ROOM:
            # Ray puts lines of its own where an error had no file name.
            named = error.filename and "\n" not in str(error.filename)
            where = f" at {error.filename}" if named else ""
            why = error.strerror or os.strerror(error.errno or 0)
            return MachineError(f"There is no room left{where} ({why}): make room, then {_GO_ON}.")
        case exceptions.OutOfDiskError():
            return MachineError(
                "A machine of the cluster has no room left for Ray's objects: make room in its "
                f"folder for temporary files (RAY_TMPDIR), then {_GO_ON}."
            )
        case exceptions.ObjectStoreFullError() | exceptions.OutOfMemoryError():
            return MachineError(
                "A machine of the cluster ran out of memory: set object_store_gb or "
                f"profile.resources lower, then {_GO_ON}."
            )
        case exceptions.LocalRayletDiedError() | exceptions.NodeDiedError():
            return MachineError(f"A machine of the cluster was lost: {_GO_ON}.")
        case exceptions.RayActorError() | exceptions.WorkerCrashedError():
            return MachineError(
                "A worker died, most often for lack of memory: see `ray status` and "
                f"`dmesg`, then {_GO_ON}."
            )
        case exceptions.RaySystemError() | exceptions.RpcError():
            return MachineError(f"The Ray cluster does not answer any more: {_GO_ON}.")
    return None
