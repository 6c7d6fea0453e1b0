"""The program's own metrics: what is counted, and that Prometheus really gets it."""

from __future__ import annotations

import time
from collections import Counter as Sums
from typing import ClassVar
from urllib.request import ProxyHandler, build_opener

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from item.tables import ErrorCode
from pipelines.runtime import counters
from pipelines.runtime.counters import IMAGES, REJECTS, STAGE_SECONDS, TAGS, Counters
from pipelines.runtime.stages import PENDING, SECONDS


class Recorded:
    """Ray's counter without Ray: refuses what that refuses, keeps the sums."""

    sums: ClassVar[Sums[tuple[str, ...]]] = Sums()

    def __init__(self, name, description, tag_keys):
        assert description
        self.name, self.tag_keys = name, tag_keys

    def inc(self, value, tags):
        assert value > 0
        assert set(tags) == set(self.tag_keys)
        assert all(isinstance(tag, str) for tag in tags.values())
        Recorded.sums[self.name, *(tags[key] for key in self.tag_keys)] += value


@pytest.fixture
def recorded(monkeypatch):
    """What is counted, by name and tags."""
    monkeypatch.setattr(counters, "Counter", Recorded)
    monkeypatch.setattr(Recorded, "sums", Sums())
    return Recorded


def batch(*statuses, seconds=None):
    """A batch that is done; rows that are not ok were truncated."""
    codes = [None if status in ("ok", PENDING) else "truncated" for status in statuses]
    columns = {
        "status": pa.array(statuses, pa.string()),
        "error_code": pa.array(codes, pa.string()),
    }
    for stage, share in (seconds or {}).items():
        columns[SECONDS + stage] = pa.array([share] * len(statuses), pa.float32())
    return pa.table(columns)


def test_rows_are_counted_by_status_and_rejects_by_code(recorded):
    Counters("featurize").add(batch("ok", "rejected", "ok", "failed"))
    assert recorded.sums == {
        (IMAGES, "featurize", "ok"): 2,
        (IMAGES, "featurize", "rejected"): 1,
        (IMAGES, "featurize", "failed"): 1,
        (REJECTS, "featurize", "truncated"): 2,
    }


def test_batches_add_up(recorded):
    found = Counters("score")
    for _ in range(3):
        found.add(batch("ok", seconds={"head": 0.5}))
    assert recorded.sums == {
        (IMAGES, "score", "ok"): 3,
        (STAGE_SECONDS, "score", "head"): pytest.approx(1.5),
    }


def test_seconds_are_summed_by_stage(recorded):
    Counters("featurize").add(batch("ok", "ok", seconds={"decode": 0.25, "caption": 2.0}))
    assert recorded.sums[STAGE_SECONDS, "featurize", "decode"] == pytest.approx(0.5)
    assert recorded.sums[STAGE_SECONDS, "featurize", "caption"] == pytest.approx(4)


def test_rows_that_take_the_features_of_others_are_reused(recorded):
    Counters("featurize").add(batch(PENDING, "ok", PENDING, seconds={"decode": 1.0}))
    assert recorded.sums == {
        (IMAGES, "featurize", "ok"): 1,
        (IMAGES, "featurize", "reused"): 2,
        (STAGE_SECONDS, "featurize", "decode"): pytest.approx(3),
    }


@pytest.mark.parametrize("seconds", [None, {"decode": 0.0}, {"decode": None}])
def test_nothing_is_no_error(recorded, seconds):
    Counters("featurize").add(batch(seconds=seconds))
    assert recorded.sums == {}


def test_seconds_that_are_zero_or_unknown_are_left_out(recorded):
    Counters("featurize").add(batch("ok", seconds={"decode": 0.0, "caption": None}))
    assert recorded.sums == {(IMAGES, "featurize", "ok"): 1}


@given(st.lists(st.sampled_from(["ok", "rejected", "failed", PENDING])))
def test_every_row_that_is_done_is_counted_once(statuses):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counters, "Counter", Recorded)
        patch.setattr(Recorded, "sums", Sums())
        Counters("featurize").add(batch(*statuses))
        images = {key: number for key, number in Recorded.sums.items() if key[0] == IMAGES}
        assert sum(images.values()) == len(statuses)
        lost = statuses.count("rejected") + statuses.count("failed")
        assert Recorded.sums[REJECTS, "featurize", "truncated"] == lost


def test_no_tag_is_one_that_prometheus_sets_itself():
    assert not {"job", "instance"} & {tag for tags in TAGS.values() for tag in tags}


def test_names_are_those_of_prometheus_counters():
    assert all(name.startswith("item_") and name.endswith("_total") for name in TAGS)


# Through Ray


def exported(pipeline):
    """What the agent of this node shows of a pipeline, by name and tags."""
    import ray

    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with build_opener(ProxyHandler({})).open(url, timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    sums: ClassVar[Sums[tuple[str, ...]]] = Sums()
    for sample in (sample for family in families for sample in family.samples):
        tags = TAGS.get(sample.name.removeprefix("ray_"))
        if tags and sample.labels["pipeline"] == pipeline:
            sums[sample.name, *(sample.labels[tag] for tag in tags)] += sample.value
    return sums


@pytest.mark.usefixtures("ray_cluster")
def test_prometheus_gets_what_workers_and_driver_counted():
    import ray

    @ray.remote(num_cpus=0.1)
    def work(found, table):
        found.add(table)

    found = Counters("test of counters")
    table = batch("ok", "ok", "rejected", seconds={"decode": 0.5})
    ray.get([work.remote(found, table) for _ in range(4)])
    found.add(batch("ok", PENDING))
    expected = {
        ("ray_" + IMAGES, "test of counters", "ok"): 9,
        ("ray_" + IMAGES, "test of counters", "rejected"): 4,
        ("ray_" + REJECTS, "test of counters", ErrorCode.TRUNCATED): 4,
        ("ray_" + STAGE_SECONDS, "test of counters", "decode"): pytest.approx(6),
        ("ray_" + IMAGES, "test of counters", "reused"): 1,
    }
    for _ in range(60):  # workers report every ten seconds
        if exported("test of counters") == expected:
            break
        time.sleep(1)
    assert exported("test of counters") == expected
