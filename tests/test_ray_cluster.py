"""``ray_cluster.yaml`` is what Ray's own launcher accepts, and holds what a pool needs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.conftest import REPOSITORY

FILE = REPOSITORY / "ray_cluster.yaml"

Cluster = dict[str, Any]


@pytest.fixture
def cluster() -> Cluster:
    return yaml.safe_load(FILE.read_text())


def check(cluster: Cluster) -> Cluster:
    """Fill in the provider's defaults and validate, as ``ray up`` does before anything else."""
    filled = prepare_config(copy.deepcopy(cluster))
    validate_config(filled)
    return filled


def workers(cluster: Cluster) -> list[Cluster]:
    types = cluster["available_node_types"]
    return [types[name] for name in types if name != cluster["head_node_type"]]


def commands(cluster: Cluster, kind: str) -> str:
    return "\n".join(cluster[kind])


def test_ray_accepts_the_file(cluster: Cluster) -> None:
    filled = check(cluster)
    assert filled["max_workers"] == cluster["max_workers"]
    assert filled["available_node_types"]["gpu_worker"]["min_workers"] == 0
    machines = [worker["node_config"]["InstanceType"] for worker in workers(filled)]
    assert len(set(machines)) == len(machines) == 2


def misspell(cluster: Cluster) -> None:
    cluster["idle_timeout_minuts"] = 10


def drop_provider_type(cluster: Cluster) -> None:
    del cluster["provider"]["type"]


def ask_for_half_a_cpu(cluster: Cluster) -> None:
    cluster["available_node_types"]["gpu_worker"]["resources"] = {"GPU": 0.5}


def misspell_of_node_type(cluster: Cluster) -> None:
    cluster["available_node_types"]["gpu_worker"]["max_worker"] = 8


def name_no_head(cluster: Cluster) -> None:
    cluster["head_node_type"] = "other"


def want_more_than_allowed(cluster: Cluster) -> None:
    cluster["available_node_types"]["gpu_worker"]["min_workers"] = cluster["max_workers"] + 1


@pytest.mark.parametrize(
    ("break_it", "error"),
    [
        (misspell, ValidationError),
        (drop_provider_type, KeyError),
        (ask_for_half_a_cpu, ValidationError),
        (misspell_of_node_type, ValidationError),
        (name_no_head, (ValueError, KeyError)),
        (want_more_than_allowed, ValueError),
    ],
)
def test_ray_refuses_a_broken_file(
    cluster: Cluster, break_it: Callable[[Cluster], None], error: Any
) -> None:
    break_it(cluster)
    with pytest.raises(error):
        check(cluster)


def test_head_offers_no_cpu_for_work(cluster: Cluster) -> None:
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert "--num-cpus=0" in commands(cluster, "head_start_ray_commands")


def test_workers_are_spot_machines_that_come_and_go(cluster: Cluster) -> None:
    for worker in workers(cluster):
        assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert worker["min_workers"] == 0 < worker["max_workers"] <= cluster["max_workers"]
    assert 0 < cluster["idle_timeout_minutes"] <= 30
    assert cluster["provider"]["cache_stopped_nodes"] is False


def test_nodes_install_the_project_and_no_other_ray(cluster: Cluster) -> None:
    filled = check(cluster)
    for role in ("head_setup_commands", "worker_setup_commands"):
        setup = commands(filled, role)
        assert "--constraint ~/item-audit/constraints.txt ~/item-audit" in setup
        assert "ray-wheels" not in setup


def test_everything_that_the_nodes_install_from_is_sent(cluster: Cluster) -> None:
    sent = cluster["file_mounts"]
    here = {Path(local).name for local in sent.values() if local.startswith("./")}
    assert {"item", "pipelines", "jobs", "pyproject.toml", "constraints.txt", "README.md"} == here
    for local in sent.values():
        if local.startswith("./"):
            assert (REPOSITORY / local).exists(), local


def test_cluster_asks_for_a_token_on_every_node(cluster: Cluster) -> None:
    assert "RAY_AUTH_MODE=token" in commands(cluster, "setup_commands")
    assert cluster["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"
    assert "--dashboard-host=127.0.0.1" in commands(cluster, "head_start_ray_commands")


def test_every_node_serves_its_metrics_at_one_port(cluster: Cluster) -> None:
    for kind in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert "--metrics-export-port=8080" in commands(cluster, kind)


def test_file_holds_no_credentials(cluster: Cluster) -> None:
    assert set(cluster["auth"]) == {"ssh_user"}
    assert "aws_credentials" not in cluster["provider"]
    text = FILE.read_text().lower()
    for word in ("access_key", "secret", "password", "session_token", "arn:"):
        assert word not in text
