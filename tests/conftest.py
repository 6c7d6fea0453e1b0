"""Fixtures that any test may use: a small Ray cluster and an S3 server over real HTTP."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parents[1]

# Two processes whose threads wait for each other on two cores take ten times as long. Libraries
# read it when they are imported, which is after this file.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes depends on what else the machine does.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


RAY_FIXTURES = {"ray_cluster", "own_ray"}
"""A test that starts Ray uses one of them, directly or through another fixture."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use Ray, and say which run in one process.

    All files with a test of the session's cluster share a process, so that there is one cluster;
    any other file is a group of its own. Two clusters at once on two cores take longer.
    """
    with_cluster = set()
    for item in items:
        fixtures = RAY_FIXTURES.intersection(getattr(item, "fixturenames", ()))
        if fixtures:
            item.add_marker(pytest.mark.ray)
        if "ray_cluster" in fixtures:
            with_cluster.add(item.path)
    for item in items:
        group = "ray" if item.path in with_cluster else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Let Ray start in no test without the mark, nor in a process that such a test starts."""
    if item.get_closest_marker("ray"):
        return (yield)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "only-tests-that-use-a-ray-fixture-start-it")
        return (yield)


@dataclass(frozen=True)
class S3Server:
    """A moto server and a boto3 client of it."""

    endpoint: str
    client: Any

    def fill(self, bucket: str, files: dict[str, bytes]) -> None:
        """Put `files`, by key, into `bucket`."""
        for key, content in files.items():
            self.client.put_object(Bucket=bucket, Key=key, Body=content)


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """An S3 server on this machine; its address and credentials are in the environment.

    It starts before Ray, whose workers inherit the environment.
    """
    boto3 = pytest.importorskip("boto3")
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        yield S3Server(endpoint, boto3.client("s3", endpoint_url=endpoint))
    server.stop()


@pytest.fixture
def bucket(s3: S3Server) -> str:
    """The name of a fresh, empty bucket."""
    name = f"test-{uuid.uuid4().hex}"
    s3.client.create_bucket(Bucket=name)
    return name


@pytest.fixture(scope="session")
def ray_cluster(request: pytest.FixtureRequest) -> Iterator[None]:
    """One Ray cluster of two CPUs on this machine for the whole session."""
    request.getfixturevalue("s3")  # workers inherit the environment that it sets
    with pytest.MonkeyPatch.context() as patch:
        # A token left by an earlier cluster would otherwise switch authentication on.
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        path = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
        patch.setenv("PYTHONPATH", os.pathsep.join(path))
        ray = pytest.importorskip("ray")
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=300 << 20,
        )
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        yield
        ray.shutdown()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 100 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)
