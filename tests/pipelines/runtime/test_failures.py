"""What a machine does is one sentence with its own exit code; a bug keeps its traceback."""

from __future__ import annotations

import errno
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import ray
from ray import exceptions

from item.errors import JobError, MachineError, UsageError
from pipelines.runtime.failures import machine_failures
from pipelines.runtime.start import start_ray


def raised(error: Exception) -> JobError:
    with pytest.raises(JobError) as found, machine_failures():
        raise error
    return found.value


def from_worker(error: Exception) -> Exception:
    """As a task that raised it gives it to the driver."""
    return exceptions.RayTaskError("work", "Traceback …", error).as_instanceof_cause()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("way", [lambda error: error, from_worker])
def test_full_disk_is_told_with_the_file(number: int, way) -> None:
    error = raised(way(OSError(number, "no room", "/data/features/part.parquet")))
    assert isinstance(error, MachineError) and error.exit_code == 6
    sentence = str(error)
    assert "no room left at /data/features/part.parquet" in sentence
    assert sentence.endswith("it goes on where it was.") and "\n" not in sentence


def test_sentence_of_a_worker_is_that_of_the_job() -> None:
    error = raised(from_worker(UsageError("The table is gone.")))
    assert type(error) is UsageError and str(error) == "The table is gone."
    assert raised(from_worker(MachineError("Reading failed."))).exit_code == 6


@pytest.mark.parametrize(
    "error",
    [
        exceptions.OutOfDiskError("full"),
        exceptions.ObjectStoreFullError("full"),
        exceptions.OutOfMemoryError("killed"),
        exceptions.LocalRayletDiedError(),
        exceptions.RayActorError(),
        exceptions.WorkerCrashedError(),
        exceptions.RpcError("gone"),
    ],
)
def test_what_rays_machines_do_is_a_sentence(error: Exception) -> None:
    found = raised(error)
    assert isinstance(found, MachineError)
    assert str(found).endswith("it goes on where it was.") and "\n" not in str(found)


@pytest.mark.parametrize(
    "error", [ValueError("a bug"), KeyError("x"), OSError(errno.EIO, "bad"), RuntimeError("bug")]
)
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)), machine_failures():
        raise error
    with pytest.raises(exceptions.RayTaskError), machine_failures():
        raise from_worker(error)


def test_what_an_actor_cannot_start_with_is_a_bug() -> None:
    error = exceptions.RayActorError(error_msg="of __init__", actor_init_failed=True)
    with pytest.raises(exceptions.RayActorError), machine_failures():
        raise error


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: UsageError("The model is gone."), r"The model is gone\.$"),
        (lambda: OSError(errno.ENOSPC, "full: /out/part"), r"no room left \(full: /out/part\)"),
        (lambda: OSError(errno.ENOSPC, "full", "/out/part"), r"There is no room left"),
    ],
)
def test_what_a_task_of_ray_data_raises_is_one_line(make, words: str) -> None:
    def work(batch):
        raise make()

    start_ray(0.1)
    with pytest.raises(JobError, match=words) as found, machine_failures():
        ray.data.range(2).map_batches(work).materialize()
    assert "\n" not in str(found.value)


def test_sentences_travel_between_processes() -> None:
    for error in (MachineError("one"), UsageError("two")):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error) and str(again) == str(error)


@pytest.mark.usefixtures("ray_cluster")
def test_file_that_cannot_grow_in_a_worker_is_told(tmp_path: Path) -> None:
    """A limit of the file's size stands for a full disk; the kernel answers alike."""

    @ray.remote
    def work() -> None:
        import resource
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        try:
            (tmp_path / "part.parquet").write_bytes(bytes(100_000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    with pytest.raises(MachineError, match="There is no room left"), machine_failures():
        ray.get(work.remote())


def test_job_ends_with_the_code_and_no_traceback() -> None:
    code = (
        "import typer, sys, errno\nfrom jobs.command_line import refusals\n"
        "try:\n    with refusals():\n        raise OSError(errno.ENOSPC, 'x', '/out')\n"
        "except typer.Exit as end:\n    sys.exit(end.exit_code)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 6
    assert ended.stderr.startswith("error: There is no room left at /out")
