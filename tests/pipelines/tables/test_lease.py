from __future__ import annotations

import errno
import json
import os
import posixpath
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from item.errors import UsageError
from pipelines.storage.access import filesystem
from pipelines.storage.configuration import Storage
from pipelines.tables import lease
from pipelines.tables.lease import Lease, LeaseHeldError, LeaseLostError
from tests.conftest import REPOSITORY

STORAGE = Storage(retries=1)
NIGHT = "2026-11-23"


@pytest.fixture
def moto_put(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a function around what moto does with PutObject, one request at a time.

    moto looks whether the object exists and then writes it, with nothing between two
    requests that do so at once; S3 does both in one step.
    """
    from moto.s3.responses import S3Response

    original, one_at_a_time = S3Response.put_object, threading.Lock()

    def around(change: Callable[[Any, Callable[[], Any]], Any]) -> None:
        def put_object(self: Any) -> Any:
            with one_at_a_time:
                return change(self, lambda: original(self))

        monkeypatch.setattr(S3Response, "put_object", put_object)

    around(lambda _, put: put())
    monkeypatch.setattr(lease, "_HONEST", set())
    return around


@pytest.fixture
def s3_root(bucket: str, moto_put: Callable[..., None]) -> str:
    assert moto_put
    return f"s3://{bucket}/audit"


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else request.getfixturevalue("s3_root")


def files(root: str) -> list[str]:
    fs, path = filesystem(f"{root}/_leases/{NIGHT}", STORAGE)
    return sorted(posixpath.basename(file) for file in fs.ls(path, detail=False))


def change(root: str, **fields: Any) -> None:
    """Forge fields of the newest lease."""
    fs, path = filesystem(f"{root}/_leases/{NIGHT}/{files(root)[-1]}", STORAGE)
    fs.pipe_file(path, json.dumps(json.loads(fs.cat_file(path)) | fields).encode())


def put(root: str, content: bytes, generation: int = 1) -> None:
    fs, path = filesystem(f"{root}/_leases/{NIGHT}/{generation:012d}.json", STORAGE)
    if not root.startswith("s3://"):
        fs.makedirs(posixpath.dirname(path), exist_ok=True)
    fs.pipe_file(path, content)


def in_seconds(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def is_free(root: str) -> bool:
    try:
        with Lease(root, NIGHT, STORAGE, seconds=600):
            return True
    except LeaseHeldError:
        return False


HOLDER = """
import sys
from pipelines.tables.lease import Lease, LeaseLostError
from pipelines.storage.configuration import Storage
with Lease(sys.argv[1], sys.argv[2], Storage(retries=1), seconds=float(sys.argv[3])) as lease:
    print("holds", flush=True)
    for line in sys.stdin:
        try:
            lease.check()
            print("ours", flush=True)
        except LeaseLostError as error:
            print(error, flush=True)
"""


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )


@contextmanager
def holder(root: str, seconds: float) -> Iterator[Any]:
    """Another process that holds the lease."""
    process = start(HOLDER, root, NIGHT, str(seconds))
    try:
        assert process.stdout.readline() == "holds\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def ask(process: Any) -> str:
    process.stdin.write("check\n")
    process.stdin.flush()
    return str(process.stdout.readline().strip())


# One holder.


def test_a_held_lease_is_refused_in_one_sentence(root: str) -> None:
    with holder(root, 600) as process, pytest.raises(LeaseHeldError) as caught:
        Lease(root, NIGHT, STORAGE).__enter__()
    assert caught.value.holder.pid == process.pid
    now = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
    sentence = rf"Process {process.pid} on \S+ has held the lease on {NIGHT} since {now} and "
    assert re.fullmatch(rf"{sentence}holds it until {now} at least\.", str(caught.value))


def test_a_lease_is_given_back_at_the_end_and_on_an_exception(root: str) -> None:
    with Lease(root, NIGHT, STORAGE) as first:
        first.check()
        assert not is_free(root)
    with pytest.raises(RuntimeError), Lease(root, NIGHT, STORAGE) as second:
        raise RuntimeError
    with Lease(root, NIGHT, STORAGE) as third:
        third.check()
    assert [first.generation, second.generation, third.generation] == [1, 2, 3]
    with pytest.raises(LeaseLostError, match="given back"):
        third.check()


def test_leases_of_other_names_are_free(root: str) -> None:
    with Lease(root, NIGHT, STORAGE), Lease(root, "2026-11-24", STORAGE) as other:
        other.check()


CONTENDER = """
import os, random, sys, time
from datetime import UTC, datetime
from pipelines.tables.lease import Lease, LeaseHeldError
from pipelines.storage.configuration import Storage
root, name, folder, turns = sys.argv[1:]
storage = Storage(retries=1)
print("ready", flush=True)
sys.stdin.readline()
turns = int(turns)
while turns:
    try:
        with Lease(root, name, storage, seconds=60) as lease:
            inside = os.open(f"{folder}/inside", os.O_CREAT | os.O_EXCL)
            time.sleep(random.uniform(0, 0.005))
            lease.check()
            with open(f"{folder}/log", "a") as log:
                log.write(f"{lease.generation}\\n")
            os.close(inside)
            os.unlink(f"{folder}/inside")
            if random.random() < 0.5:  # leave an expired lease behind, not a released one
                past = datetime(2020, 1, 1, tzinfo=UTC)
                lease._write(lease._holder.model_copy(update={"expires_at": past}))
                lease._lost = "was forged"
            turns -= 1
    except LeaseHeldError:
        time.sleep(random.uniform(0, 0.002))
"""


def test_contending_processes_never_hold_at_the_same_time(root: str, tmp_path: Path) -> None:
    turns = 2 if root.startswith("s3://") else 12
    arguments = [root, NIGHT, str(tmp_path), str(turns)]
    contenders = [start(CONTENDER, *arguments) for _ in range(3)]
    assert all(process.stdout.readline() == "ready\n" for process in contenders)
    for process in contenders:
        process.communicate("go\n")
    assert [process.returncode for process in contenders] == [0, 0, 0]
    generations = [int(line) for line in (tmp_path / "log").read_text().split()]
    assert generations == list(range(1, 3 * turns + 1))


def test_of_two_that_saw_a_free_lease_one_gets_it(root: str) -> None:
    first, second = Lease(root, NIGHT, STORAGE), Lease(root, NIGHT, STORAGE)
    for contender in (first, second):
        contender.generation = 1
        contender._holder, contender._deadline = contender._mine()
    assert first._create(first._holder)
    assert not second._create(second._holder)
    first.check()


def test_contender_that_slept_before_it_created_its_file_is_no_holder(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        assert is_free(root)
    with Lease(root, NIGHT, STORAGE) as held:
        assert held.generation == 4
        slow = Lease(root, NIGHT, STORAGE)
        looks = iter([0])  # what it saw before the others came
        monkeypatch.setattr(slow, "_newest", lambda: next(looks, held.generation))
        assert not slow._try_to_acquire()
        assert files(root) == ["000000000003.json", "000000000004.json"]
        with pytest.raises(LeaseHeldError):
            slow._try_to_acquire()
        held.check()


# Holders that are gone.


def test_a_killed_holder_is_followed_at_once(root: str) -> None:
    with holder(root, 600) as process:
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with Lease(root, NIGHT, STORAGE) as lease:  # it is a zombie now
            lease.check()
        change(root, pid=process.pid, released=False)
        process.wait()
        assert is_free(root)


def test_a_process_that_has_the_number_of_the_dead_holder_holds_nothing(root: str) -> None:
    with Lease(root, NIGHT, STORAGE) as lease:
        assert not is_free(root)
        change(root, process_start=lease._holder.process_start - 1)
        assert is_free(root)


def test_a_dead_holder_on_another_machine_is_followed_once_its_lease_expires(root: str) -> None:
    with holder(root, 600) as process:
        process.kill()
        process.wait()
    change(root, machine="another", expires_at=in_seconds(1.0))
    assert not is_free(root)
    time.sleep(1.05)
    assert is_free(root)


@pytest.mark.parametrize("unknown", [{"machine": None}, {"process_start": None}])
def test_a_holder_that_cannot_be_looked_up_counts_as_alive(unknown: Any, tmp_path: Path) -> None:
    root = str(tmp_path)
    with Lease(root, NIGHT, STORAGE):
        change(root, **unknown)
        assert not is_free(root)


def test_renewal_keeps_the_lease_beyond_its_seconds(root: str) -> None:
    with Lease(root, NIGHT, STORAGE, seconds=8.0) as lease:
        first = lease._holder.expires_at
        until = time.monotonic() + 30
        renewed = first
        while renewed < first + timedelta(seconds=1.0) and time.monotonic() < until:
            time.sleep(0.1)
            with pytest.raises(LeaseHeldError) as caught:
                Lease(root, NIGHT, STORAGE).__enter__()
            renewed = caught.value.holder.expires_at
        assert renewed >= first + timedelta(seconds=1.0)
        lease.check()


def test_a_holder_that_slept_through_its_expiry_finds_out(root: str) -> None:
    with holder(root, 20.0) as process:
        assert ask(process) == "ours"
        process.send_signal(signal.SIGSTOP)
        assert not is_free(root)
        change(root, expires_at=in_seconds(-1))
        with Lease(root, NIGHT, STORAGE) as follower:
            process.send_signal(signal.SIGCONT)
            lost = ask(process)
            assert re.fullmatch(rf"The lease on {NIGHT} .*, so this run may not publish\.", lost)
            process.stdin.close()
            process.wait()
            follower.check()


def test_a_holder_that_slept_is_no_holder_even_if_nobody_followed(tmp_path: Path) -> None:
    with holder(str(tmp_path), 0.8) as process:
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.8)
        process.send_signal(signal.SIGCONT)
        assert "expired" in ask(process)


def test_a_holder_whose_lease_was_taken_finds_out(root: str) -> None:
    with Lease(root, NIGHT, STORAGE) as lease:
        change(root, expires_at=in_seconds(-1))
        with Lease(root, NIGHT, STORAGE) as follower:
            with pytest.raises(LeaseLostError, match="taken by another process"):
                lease.check()
            follower.check()
    assert follower.generation == lease.generation + 1


def test_a_removed_lease_is_lost(root: str) -> None:
    with Lease(root, NIGHT, STORAGE) as lease:
        fs, path = filesystem(f"{root}/_leases/{NIGHT}", STORAGE)
        fs.rm(path, recursive=True)
        with Lease(root, NIGHT, STORAGE) as follower:
            with pytest.raises(LeaseLostError, match="taken"):
                lease.check()
            follower.check()


# Storage that fails.


class Failing:
    """A file system that fails for its first so many writes."""

    def __init__(self, lease: Lease, failures: float) -> None:
        self._write, self.failures = lease._write, failures
        lease._write = self  # type: ignore[method-assign, assignment]

    def __call__(self, *arguments: Any) -> None:
        self.failures -= 1
        if self.failures >= 0:
            raise OSError(errno.EBUSY, "slow down")
        self._write(*arguments)


def test_check_outlives_a_passing_failure(tmp_path: Path) -> None:
    with Lease(str(tmp_path), NIGHT, STORAGE, seconds=3.2) as lease:
        failing = Failing(lease, 3)
        lease.check()
        assert failing.failures < 0


def test_a_lease_that_cannot_be_renewed_is_lost(tmp_path: Path) -> None:
    with Lease(str(tmp_path), NIGHT, STORAGE, seconds=0.6) as lease:
        Failing(lease, float("inf"))
        with pytest.raises(LeaseLostError, match=r"could not be renewed|expired"):
            lease.check()
        with pytest.raises(LeaseLostError):
            lease.check()


def test_a_lost_answer_to_the_creation_does_not_lose_the_lease(s3_root: str, moto_put: Any) -> None:
    answers = iter([(500, {}, "")])

    def lose_first(_: Any, put_object: Callable[[], Any]) -> Any:
        answer = put_object()
        return next(answers, answer)

    moto_put(lose_first)
    with Lease(s3_root, NIGHT, STORAGE) as lease:
        lease.check()


def ignore_condition(response: Any, put_object: Callable[[], Any]) -> Any:
    response.headers = {k: v for k, v in response.headers.items() if k != "If-None-Match"}
    return put_object()


def test_storage_that_ignores_the_condition_is_refused_and_left_free(
    s3_root: str, moto_put: Any
) -> None:
    moto_put(ignore_condition)
    with pytest.raises(UsageError, match=r"conditional writes.* set exclusive_lease to false\.$"):
        Lease(s3_root, NIGHT, STORAGE).__enter__()
    with Lease(s3_root, NIGHT, STORAGE, exclusive=False) as lease:
        assert not is_free(s3_root)
        lease.check()


def test_storage_that_knows_no_condition_is_refused(s3_root: str, moto_put: Any) -> None:
    error = "<Error><Code>NotImplemented</Code><Message>no</Message></Error>"
    moto_put(lambda *_: (501, {}, error))
    with pytest.raises(UsageError, match="conditional writes"):
        Lease(s3_root, NIGHT, STORAGE).__enter__()


def test_the_storage_is_asked_only_once_whether_it_heeds_the_condition(
    s3_root: str, moto_put: Any
) -> None:
    requests = []

    def count(response: Any, put_object: Callable[[], Any]) -> Any:
        requests.append(response.headers.get("If-None-Match"))
        return put_object()

    moto_put(count)
    assert is_free(s3_root)
    assert requests == ["*", "*", None]
    assert is_free(s3_root)
    assert requests[3:] == ["*", None]


def test_a_disk_without_hard_links_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: Any) -> None:
        raise OSError(errno.EPERM, "no links")

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(UsageError, match="hard links"):
        Lease(str(tmp_path), NIGHT, STORAGE).__enter__()
    assert os.listdir(tmp_path / "_leases" / NIGHT) == []
    with Lease(str(tmp_path), NIGHT, STORAGE, exclusive=False) as first:
        second = Lease(str(tmp_path), NIGHT, STORAGE, exclusive=False)
        second.generation = first.generation
        second._holder, second._deadline = second._mine()
        assert second._create(second._holder)  # both saw a free lease
        second.check()
        with pytest.raises(LeaseLostError):
            first.check()
    second.check()


# What the files hold.


def test_two_files_at_most_are_kept(root: str) -> None:
    for _ in range(4):
        assert is_free(root)
    assert files(root) == ["000000000003.json", "000000000004.json"]


def test_a_file_that_is_no_lease_holds_until_it_is_old(root: str) -> None:
    put(root, b'{"token": "')
    with pytest.raises(LeaseHeldError, match="an unknown machine"):
        Lease(root, NIGHT, STORAGE, seconds=600).__enter__()
    time.sleep(1.2)
    with Lease(root, NIGHT, STORAGE, seconds=0.2 if root[:2] != "s3" else 1.0):
        pass


VALID = {
    "token": "a",
    "host": "h",
    "pid": 1,
    "machine": None,
    "process_start": None,
    "acquired_at": "2020-01-01T00:00:00Z",
    "expires_at": "2020-01-01T00:00:00Z",
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@settings(max_examples=50)
@given(
    st.binary()
    | st.dictionaries(st.sampled_from(sorted(VALID)), JSON).map(
        lambda fields: json.dumps(VALID | fields).encode()
    )
)
def test_whatever_a_file_holds_the_lease_is_free_or_held(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    root = str(tmp_path_factory.mktemp("root"))
    put(root, content)
    assert is_free(root) in (True, False)


@settings(max_examples=25)
@given(st.lists(st.sampled_from(["release", "expire", "die"]), max_size=8))
def test_generations_only_grow(
    tmp_path_factory: pytest.TempPathFactory, endings: list[str]
) -> None:
    root = str(tmp_path_factory.mktemp("root"))
    for number, ending in enumerate(endings, 1):
        with Lease(root, NIGHT, STORAGE) as lease:
            assert lease.generation == number
            assert not is_free(root)
            if ending == "expire":
                change(root, token="of another", expires_at=in_seconds(-1))
            elif ending == "die":
                change(root, token="of another", process_start=1)
        assert len(files(root)) <= 2


@given(st.text())
def test_no_name_leaves_the_root(name: str) -> None:
    try:
        folder = Lease("/dumps", name, STORAGE)._folder
    except ValueError:
        return
    assert os.path.dirname(os.path.normpath(folder)) == "/dumps/_leases"


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/a", "a\0", "a\n", "x" * 129])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name"):
        Lease("/dumps", name, STORAGE)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_a_lease_lasts_for_some_time(seconds: float) -> None:
    with pytest.raises(ValueError, match="longer than no time"):
        Lease("/dumps", NIGHT, STORAGE, seconds)
