"""A lease on a night or a piece of work, so that two runs do not both publish it.

Below a root, ``_leases/NAME/GENERATION.json`` says who holds NAME: the highest generation.
To acquire is to create the next generation, which the storage lets only one process do.
After that only its owner writes it: to renew it and, in the end, to release it. A holder
whose lease was released, has expired, or whose process is provably dead is followed at once.

Rules that make this hold when processes stop at any instant, for any time:

- A generation appears whole (a hard link on local disk, ``If-None-Match`` on S3).
- The highest generation is never removed, so the highest number only grows. Whoever has
  created a generation looks once more whether it is the highest: a process that slept
  between its look and its creation would otherwise fill a gap behind the holder.
- A holder counts its time on its own clock, which goes on while the machine sleeps, and
  gives its lease up a quarter of `seconds` before others take it. So the wall clocks of
  machines that share a root may differ by less than a quarter of `seconds`.

A file that is no lease counts as held until `seconds` after it was last written.
A person who knows that a holder is gone may remove the folder of its lease.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import random
import re
import socket
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from botocore.exceptions import BotoCoreError
from fsspec.implementations.local import LocalFileSystem
from pydantic import AwareDatetime, BaseModel, ValidationError

from item.errors import JobError, UsageError
from pipelines.storage.access import filesystem, reason
from pipelines.storage.atomic import write_atomically
from pipelines.storage.configuration import Storage
from pipelines.storage.urls import join, redact
from pipelines.tables.exclusive import link_in_place, not_exclusive, put_if_absent

FOLDER = "_leases"


class Holder(BaseModel, frozen=True):
    """What a lease file says: which process holds the lease, since when and until when.

    ``machine`` names a running kernel and a process namespace in it, and ``process_start``
    is in clock ticks since that kernel started; both are null where they cannot be told.
    """

    token: str
    host: str
    pid: int
    machine: str | None
    process_start: int | None
    acquired_at: AwareDatetime
    expires_at: AwareDatetime
    released: bool = False

    def stands(self) -> bool:
        """Whether others have to respect the lease: they do unless its end is sure."""
        over = self.released or datetime.now(UTC) >= self.expires_at
        return not over and not self._is_dead()

    def _is_dead(self) -> bool:
        if self.machine is None or self.machine != _machine():
            return False
        try:
            os.kill(self.pid, 0)  # unlike /proc, this sees every user's processes
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            return False
        now = _process(self.pid)
        if now is None or self.process_start is None:
            return False
        return now[0] in "ZX" or now[1] != self.process_start


class LeaseHeldError(JobError):
    """Another process holds the lease; try again later.

    Attributes
    ----------
    name : str
    holder : Holder
    """

    exit_code = 4

    def __init__(self, name: str, holder: Holder) -> None:
        super().__init__(
            f"Process {holder.pid} on {holder.host} has held the lease on {name} since "
            f"{_shown(holder.acquired_at)} and holds it until {_shown(holder.expires_at)} at least."
        )
        self.name = name
        self.holder = holder

    def __reduce__(self) -> tuple[type[LeaseHeldError], tuple[str, Holder]]:
        return type(self), (self.name, self.holder)


class LeaseLostError(JobError):
    """The lease could not be renewed in time or is another's: nothing may be published."""

    exit_code = 4


class LeaseSettings(Protocol):
    """What a job's configuration says about its leases."""

    @property
    def storage(self) -> Storage: ...
    @property
    def lease_seconds(self) -> float: ...
    @property
    def exclusive_lease(self) -> bool: ...


def lease_on(root: str, name: str, settings: LeaseSettings) -> Lease:
    """A lease as a job's configuration wants it."""
    return Lease(root, name, settings.storage, settings.lease_seconds, settings.exclusive_lease)


class Lease:
    """The right of one process to publish something, as a context manager.

    Parameters
    ----------
    root : local folder or ``s3://`` prefix that all contenders share
    name : what is leased, such as ``2026-11-23``; letters, digits and ``._=-``
    storage : how S3 is reached
    seconds : how long the lease outlives its holder where nobody can tell that it is dead
        A thread renews it every quarter of that. It has to be well above four times the
        difference between the clocks of the machines that share `root`.
    exclusive : whether the storage must be able to create a file only if there is none
        False takes S3-compatible storage without conditional writes, and file systems
        without hard links. Runs that start in the same second may then both get the lease;
        all but the last one find out in `check`.

    Attributes
    ----------
    generation : int
        The fencing token: larger than that of every earlier holder.

    Raises
    ------
    LeaseHeldError
        On entering, if another process holds the lease.
    UsageError
        On entering, if `exclusive` cannot be had here.
    OSError, BotoCoreError
        On entering, if the storage failed.
    """

    def __init__(
        self,
        root: str,
        name: str,
        storage: Storage,
        seconds: float = 120.0,
        exclusive: bool = True,
    ) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._=-]{0,127}", name):
            raise ValueError(f"{name!r} cannot be the name of a lease")
        if not seconds > 0:
            raise ValueError("a lease has to last longer than no time")
        self.name = name
        self.seconds = seconds
        self.exclusive = exclusive
        self.generation = 0
        self._fs, self._folder = filesystem(join(root, FOLDER, name), storage)
        wait = max(1.0, seconds / 8)
        quick = {
            "connect_timeout": min(wait, storage.connect_timeout),
            "read_timeout": min(wait, storage.read_timeout),
            "retries": 0,
        }
        self._quick_fs, _ = filesystem(root, storage.model_copy(update=quick))
        self._where = redact(storage.endpoint_url or root)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._lost: str | None = None

    def __enter__(self) -> Self:
        for attempt in range(_ATTEMPTS):
            if self._try_to_acquire():
                break
            time.sleep(random.uniform(0, 0.01) * attempt)
        else:
            raise OSError(errno.EBUSY, f"the lease on {self.name} changes hands all the time")
        self._remove_older()
        # From here on, waiting long for one answer would let the lease expire meanwhile.
        self._fs = self._quick_fs
        self._thread = threading.Thread(target=self._keep, name=f"lease {self.name}", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(LeaseLostError, *_STORAGE_ERRORS):  # it expires by itself
            self._check_time("expired before it was given back")
            self._check_ours()
            self._write(self._holder.model_copy(update={"released": True}))
        self._lost = self._lost or "was given back"

    def check(self) -> None:
        """Make sure that the lease is ours for another three quarters of `seconds`.

        To be called right before publication. Renews the lease; if the storage fails, tries
        again for as long as the lease lasts.

        Raises
        ------
        LeaseLostError
            If it expired, whether or not another process has taken it since.
        """
        while True:
            try:
                self._renew()
            except _STORAGE_ERRORS as error:
                self._check_time(f"could not be renewed ({reason(error)})")
                time.sleep(self.seconds / 32)
            else:
                return

    # Acquiring.

    def _try_to_acquire(self) -> bool:
        """Create the next generation; False if another process was first."""
        newest = self._newest()
        if newest > 0:
            try:
                holder = self._read(newest)
            except FileNotFoundError:
                return False
            if holder.stands():
                raise LeaseHeldError(self.name, holder)
        self.generation = newest + 1
        self._holder, self._deadline = self._mine()
        if not self._create(self._holder):
            return False
        if self._newest() == self.generation:
            return True
        self._fs.rm_file(self._path(self.generation))
        return False

    def _mine(self) -> tuple[Holder, float]:
        """A lease of this process from now on, and when it has to stop to rely on it."""
        process = _process(os.getpid())
        now = datetime.now(UTC)
        holder = Holder(
            token=uuid.uuid4().hex,
            host=socket.gethostname(),
            pid=os.getpid(),
            machine=_machine(),
            process_start=process[1] if process else None,
            acquired_at=now,
            expires_at=now + timedelta(seconds=self.seconds),
        )
        return holder, _clock() + 0.75 * self.seconds

    def _create(self, holder: Holder) -> bool:
        path, content = self._path(self.generation), holder.model_dump_json().encode()
        if not self.exclusive:
            self._write(holder)
        elif isinstance(self._fs, LocalFileSystem):
            link_in_place(path, content)
        elif put_if_absent(self._fs, path, content) and self._s3_only_pretends(path, content):
            self._write(holder.model_copy(update={"released": True}))
            raise UsageError(not_exclusive(self._where))
        # Read it even after a failure: the answer to a first try, which succeeded, may have
        # been lost, so that the client tried again.
        try:
            return self._read(self.generation).token == holder.token
        except FileNotFoundError:
            return False

    def _s3_only_pretends(self, path: str, content: bytes) -> bool:
        """Whether the storage ignores ``If-None-Match``: asked once a process and bucket."""
        place = self._where, path.partition("/")[0]
        if place in _HONEST:
            return False
        if put_if_absent(self._fs, path, content):
            return True
        _HONEST.add(place)
        return False

    def _remove_older(self) -> None:
        # All but the one before: POSIX lets a listing miss a file while it is renewed, that
        # is renamed over; who sees the one before as the newest then cannot create the next.
        with contextlib.suppress(*_STORAGE_ERRORS):
            for generation in self._generations():
                if generation < self.generation - 1:
                    self._fs.rm_file(self._path(generation))

    # Holding.

    def _keep(self) -> None:
        """Renew the lease until it is given back or lost."""
        pause = self.seconds / 4
        while not self._stop.wait(pause):
            try:
                self._renew()
                pause = self.seconds / 4
            except _STORAGE_ERRORS:
                pause = self.seconds / 32
            except LeaseLostError:
                return

    def _renew(self) -> None:
        with self._lock:
            self._check_time("expired before it was renewed")
            self._check_ours()
            deadline = _clock() + 0.75 * self.seconds
            expires_at = datetime.now(UTC) + timedelta(seconds=self.seconds)
            self._write(self._holder.model_copy(update={"expires_at": expires_at}))
            # A contender may have seen the old time pass if the new one came too late.
            self._check_time("was renewed too late")
            self._deadline = deadline

    def _check_time(self, otherwise: str) -> None:
        if self._lost is None and _clock() >= self._deadline:
            self._lost = otherwise
        self._raise_if_lost()

    def _check_ours(self) -> None:
        try:
            ours = self._read(self.generation).token == self._holder.token
        except FileNotFoundError:
            ours = False
        if not ours or self._newest() > self.generation:
            self._lost = "was taken by another process"
        self._raise_if_lost()

    def _raise_if_lost(self) -> None:
        if self._lost is not None:
            raise LeaseLostError(
                f"The lease on {self.name} {self._lost}, so this run may not publish."
            )

    # Files.

    def _path(self, generation: int) -> str:
        return posixpath.join(self._folder, f"{generation:012d}.json")

    def _generations(self) -> list[int]:
        try:
            paths = self._fs.ls(self._folder, detail=False)
        except FileNotFoundError:
            return []
        names = [posixpath.basename(path) for path in paths]
        return [int(name[:12]) for name in names if re.fullmatch(r"[0-9]{12}\.json", name)]

    def _newest(self) -> int:
        return max(self._generations(), default=0)

    def _read(self, generation: int) -> Holder:
        path = self._path(generation)
        content = self._fs.cat_file(path)
        try:
            return Holder.model_validate_json(content)
        except ValidationError:
            written = self._fs.modified(path)
            return Holder(
                token="",
                host="an unknown machine",
                pid=0,
                machine=None,
                process_start=None,
                acquired_at=written,
                expires_at=written + timedelta(seconds=self.seconds),
            )

    def _write(self, holder: Holder) -> None:
        write_atomically(self._fs, self._path(self.generation), holder.model_dump_json().encode())


_ATTEMPTS = 100
_STORAGE_ERRORS = (OSError, BotoCoreError)
_HONEST: set[tuple[str, str]] = set()
"""Endpoints and buckets that were seen to refuse the creation of what exists."""


def _clock() -> float:
    """Seconds that also pass while the machine sleeps, whatever is done to its clock."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _machine() -> str | None:
    """What tells this running kernel and process namespace from all others, on Linux."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _process(pid: int) -> tuple[str, int] | None:
    """State and start time (clock ticks since the kernel started) of a process, on Linux."""
    try:
        # Not psutil's create_time: it moves when the wall clock is set.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


def _shown(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
