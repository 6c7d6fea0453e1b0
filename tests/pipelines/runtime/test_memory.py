"""The peak of a run's memory."""

import time

import numpy as np
import psutil
import pytest
from ray.runtime_context import RuntimeContext

from pipelines.runtime import memory
from pipelines.runtime.memory import PeakMemory


@pytest.fixture(autouse=True)
def _often(monkeypatch):
    monkeypatch.setattr(memory, "INTERVAL_SECONDS", 0.02)


def test_memory_held_for_a_while_is_seen_after_it_is_gone():
    with PeakMemory() as before:
        time.sleep(0.2)
    with PeakMemory() as peak:
        block = np.ones(200 << 17)
        time.sleep(0.5)
        del block
        time.sleep(0.1)
    assert before.peak_bytes + (150 << 20) < peak.peak_bytes < before.peak_bytes + (400 << 20)


def test_the_peak_stays_when_the_block_is_left_and_errors_pass():
    with pytest.raises(KeyError), PeakMemory() as peak:
        time.sleep(0.2)
        raise KeyError
    seen = peak.peak_bytes
    time.sleep(0.1)
    assert peak.peak_bytes == seen > 0


def test_a_process_that_is_gone_takes_nothing(monkeypatch):
    def gone(self):
        raise psutil.NoSuchProcess(self.pid)

    monkeypatch.setattr(psutil.Process, "memory_full_info", gone)
    assert memory._bytes(psutil.Process()) == 0


@pytest.mark.usefixtures("ray_cluster")
def test_processes_of_other_clusters_do_not_count(monkeypatch):
    assert len(memory._processes()) > 1
    monkeypatch.setattr(RuntimeContext, "get_session_name", lambda _self: "session_of_others")
    assert memory._processes() == {psutil.Process()}
