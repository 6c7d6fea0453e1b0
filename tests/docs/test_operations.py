"""``docs/operations.md`` and the files beside it name what is there, and do what they say."""

from __future__ import annotations

import importlib
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import typer.main
import yaml
from jsonschema import Draft202012Validator, ValidationError, validate

from item.errors import JobError, MachineError, UsageError
from jobs.audit import EXIT_DRIFT
from pipelines.featurize.error_rate import ErrorRateError
from pipelines.runtime.counters import TAGS
from pipelines.storage.configuration import Storage
from pipelines.tables.lease import LeaseHeldError
from tests.conftest import REPOSITORY

PAGE = REPOSITORY / "docs" / "operations.md"
FOLDER = REPOSITORY / "docs" / "operations"
TEXT = PAGE.read_text()


def options_of(words: list[str]) -> dict[str, Any]:
    """What a job's own command line makes of ``python jobs/X.py …`` or ``python -m jobs.X …``."""
    place = next(n for n, word in enumerate(words) if re.fullmatch(r"jobs[./]\w+(\.py)?", word))
    job = re.fullmatch(r"jobs[./](\w+?)(\.py)?", words[place])
    assert job
    command = typer.main.get_command(importlib.import_module(f"jobs.{job[1]}").app)
    arguments = words[place + 1 :]
    return command.make_context(job[1], arguments).params


def nights_until_yesterday(options: dict[str, Any]) -> bool:
    """Whether a range of nights is the last seven, whatever type the job gives its dates."""
    today = datetime.now(UTC).date()
    said = " ".join(str(value) for value in options.values())
    return all((today - timedelta(days=days)).isoformat() in said for days in (1, 7))


# The page


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def anchors() -> set[str]:
    headings = re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


def commands() -> list[str]:
    """Lines of the page's shell blocks that start one of our jobs."""
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [line for line in lines if re.search(r"\bjobs[./]\w", line)]


def test_every_link_leads_somewhere() -> None:
    for link in re.findall(r"\]\(([^)]+)\)", TEXT):
        path, _, anchor = link.partition("#")
        assert (PAGE.parent / path).exists(), link
        assert path or anchor in anchors(), link


@pytest.mark.parametrize("line", commands())
def test_jobs_know_the_options_of_every_command(line: str) -> None:
    assert options_of(shlex.split(line))["output"]


def test_there_are_commands_to_check() -> None:
    assert len(commands()) >= 8


def test_every_exit_code_is_explained() -> None:
    codes = {int(code) for code in re.findall(r"^\| `(\d)` \|", TEXT, re.MULTILINE)}
    errors = (JobError, UsageError, ErrorRateError, LeaseHeldError, MachineError)
    told = [0, *(error.exit_code for error in errors), EXIT_DRIFT]
    assert len(set(told)) == len(told), "one code, one meaning"
    assert codes == set(told)


def test_every_setting_of_the_storage_is_explained() -> None:
    named = re.findall(r"^\| `storage\.(\w+)` \|", TEXT, re.MULTILINE)
    assert named == list(Storage.model_fields)
    for name in ("retries", "connect_timeout", "read_timeout"):
        default = f"{Storage.model_fields[name].default:g}"
        assert re.search(rf"^\| `storage\.{name}` \| {default} \|", TEXT, re.MULTILINE)


def test_every_metric_is_explained_with_its_tags() -> None:
    rows = re.findall(r"^\| `ray_(item_\w+)` \| (.+?) \|", TEXT, re.MULTILINE)
    assert {name: tuple(re.findall(r"`(\w+)`", tags)) for name, tags in rows} == TAGS


def test_python_on_the_page_runs(tmp_path: Path) -> None:
    (tmp_path / "2026-01-31.json").write_text('{"outcome": "published"}')
    (code,) = blocks("python")
    names: dict[str, Any] = {}
    exec(code.replace("s3://BUCKET/audit/_nights", str(tmp_path)), names)
    assert names["done"] is True


# cron


def ranges() -> list[tuple[int, int]]:
    """Least and greatest values of the five fields."""
    return [(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)]


@pytest.fixture
def line() -> tuple[list[str], str]:
    """The five fields of the one entry of the crontab, and its command."""
    entries = [
        one
        for one in (FOLDER / "crontab").read_text().splitlines()
        if one and not one.startswith("#") and not re.match(r"\w+=", one)
    ]
    (entry,) = entries
    *fields, command = entry.split(maxsplit=5)
    return fields, command


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Callable[[str], tuple[list[str], str]]]:
    """Runs a command line with a ``python`` that writes down its arguments and ends with 3."""
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    writes = f'printf "%s\\n" "$@" > {tmp_path}/arguments'
    python.write_text(f"#!/bin/sh\n{writes}\necho noise\nexit 3\n")
    python.chmod(0o755)

    def run(command: str) -> tuple[list[str], str]:
        path = f"{python.parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["/bin/bash", "-c", command],
            env={"PATH": path},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert not done.stderr
        return (tmp_path / "arguments").read_text().splitlines(), done.stdout

    yield run


def test_cron_starts_once_a_night(line: tuple[list[str], str]) -> None:
    minute, hour, *rest = line[0]
    assert rest == ["*", "*", "*"]
    for value, (least, greatest) in zip((minute, hour), ranges(), strict=False):
        assert least <= int(value) <= greatest


def test_cron_escapes_what_is_special_to_it(line: tuple[list[str], str]) -> None:
    assert not re.search(r"(?<!\\)%", line[1])


def test_cron_starts_the_job_and_mails_only_a_failure(
    line: tuple[list[str], str], here: Any, tmp_path: Path
) -> None:
    command = line[1].replace("\\%", "%").replace("$HOME/item-audit", str(tmp_path))
    log = tmp_path / "item-audit.log"
    arguments, printed = here(command.replace("/var/log/item-audit.log", str(log)))
    assert "ended with 3" in printed
    assert "noise" not in printed
    assert log.read_text() == "noise\n"
    assert arguments[0] == "jobs/nightly.py"
    assert nights_until_yesterday(options_of(arguments))


def test_cron_has_the_mode_of_ray_and_a_shell() -> None:
    text = (FOLDER / "crontab").read_text()
    set_there = dict(re.findall(r"^(\w+)=(.+)$", text, re.MULTILINE))
    assert set_there["RAY_AUTH_MODE"] in ("disabled", "token")
    assert set_there["SHELL"] == "/bin/bash"
    assert set_there["CRON_TZ"] == "UTC"


# Airflow


class FailError(Exception):
    """Stands for Airflow's AirflowFailException."""


@pytest.fixture
def dag(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The DAG's file, run with a stand-in for Airflow that keeps what it is told."""
    kept = SimpleNamespace(dag={}, tasks=[])

    def decorate_dag(**settings: Any) -> Callable[[Any], Any]:
        kept.dag = settings
        return lambda function: function

    def decorate_task(**settings: Any) -> Callable[[Any], Any]:
        def decorate(function: Any) -> Any:
            kept.tasks.append((function, settings))
            return lambda: None

        return decorate

    modules: dict[str, dict[str, Any]] = {
        "airflow": {},
        "airflow.sdk": {"dag": decorate_dag, "task": decorate_task},
        "airflow.exceptions": {"AirflowFailException": FailError},
    }
    for name, contents in modules.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    kept.names = runpy.run_path(str(FOLDER / "airflow_dag.py"))
    return kept


def test_airflow_runs_the_job_for_the_nights_that_are_over(dag: SimpleNamespace) -> None:
    words = dag.names["command"](date(2026, 3, 3))
    assert words[words.index("--from") + 1] == "2026-02-24"
    assert words[words.index("--to") + 1] == "2026-03-02"
    assert words[:3] == ["python", "-m", "jobs.nightly"]
    assert options_of(words)["head"] == dag.names["HEAD"]
    assert nights_until_yesterday(options_of(dag.names["command"](datetime.now(UTC).date())))


def test_airflow_starts_once_a_night_and_tries_again(dag: SimpleNamespace) -> None:
    assert dag.dag["schedule"].split()[2:] == ["*", "*", "*"]
    assert dag.dag["catchup"] is False
    assert dag.dag["max_active_runs"] == 1
    assert dag.dag["default_args"]["retries"] > 0


@pytest.mark.parametrize(
    ("code", "raised"),
    [
        *((0, None), (1, RuntimeError), (2, FailError), (3, FailError), (4, RuntimeError)),
        (None, RuntimeError),
    ],
)
def test_airflow_tries_again_only_what_may_end_better(
    dag: SimpleNamespace, code: int | None, raised: type[Exception] | None
) -> None:
    ((task, _),) = dag.tasks
    task.__globals__["run"] = lambda _: (code, "log")
    if raised is None:
        task()
    else:
        with pytest.raises(raised, match=str(code)):
            task()


def test_airflow_waits_for_the_job_and_asks_for_its_exit_code(
    dag: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray.job_submission
    from ray.job_submission import JobStatus

    class Client:
        states = iter([JobStatus.PENDING, JobStatus.RUNNING, JobStatus.FAILED])

        def submit_job(self, *, entrypoint: str) -> str:
            assert entrypoint == "python -m jobs.nightly --input 'a b'"
            return "job"

        def get_job_status(self, _: str) -> JobStatus:
            return next(self.states)

        def get_job_info(self, _: str) -> SimpleNamespace:
            return SimpleNamespace(driver_exit_code=4)

        def get_job_logs(self, _: str) -> str:
            return "summary"

    monkeypatch.setattr(ray.job_submission, "JobSubmissionClient", Client)
    run = dag.names["run"]
    run.__globals__["SECONDS_BETWEEN_LOOKS"] = 0
    assert run(["python", "-m", "jobs.nightly", "--input", "a b"]) == (4, "summary")


# KubeRay

POD = {
    "type": "object",
    "required": ["spec"],
    "properties": {
        "spec": {
            "type": "object",
            "required": ["containers"],
            "properties": {
                "serviceAccountName": {"type": "string"},
                "nodeSelector": {"type": "object", "additionalProperties": {"type": "string"}},
                "tolerations": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            "key": {"type": "string"},
                            "operator": {"enum": ["Exists", "Equal"]},
                            "effect": {"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
                        },
                        "additionalProperties": False,
                    },
                },
                "volumes": {"type": "array", "items": {"type": "object", "required": ["name"]}},
                "containers": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "required": ["name", "image"],
                        "properties": {
                            "name": {"type": "string"},
                            "image": {"type": "string"},
                            "ports": {
                                "type": "array",
                                "items": {"type": "object", "required": ["containerPort"]},
                            },
                            "resources": {
                                "type": "object",
                                "propertyNames": {"enum": ["limits", "requests"]},
                                "additionalProperties": {
                                    "type": "object",
                                    "additionalProperties": {"type": "string"},
                                },
                            },
                            "volumeMounts": {
                                "type": "array",
                                "items": {"type": "object", "required": ["name", "mountPath"]},
                            },
                        },
                        "additionalProperties": False,
                    },
                },
            },
            "additionalProperties": False,
        }
    },
    "additionalProperties": False,
}
START = {"type": "object", "additionalProperties": {"type": "string"}}
COUNT = {"type": "integer", "minimum": 0}
RAY_JOB = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": {"type": "object", "required": ["generateName"]},
        "spec": {
            "type": "object",
            "required": ["entrypoint", "rayClusterSpec"],
            "properties": {
                "entrypoint": {"type": "string"},
                "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
                "backoffLimit": COUNT,
                "activeDeadlineSeconds": {"type": "integer", "minimum": 1},
                "shutdownAfterJobFinishes": {"type": "boolean"},
                "ttlSecondsAfterFinished": COUNT,
                "rayClusterSpec": {
                    "type": "object",
                    "required": ["headGroupSpec"],
                    "properties": {
                        "rayVersion": {"type": "string"},
                        "authOptions": {
                            "type": "object",
                            "properties": {"mode": {"enum": ["disabled", "token"]}},
                            "additionalProperties": False,
                        },
                        "headGroupSpec": {
                            "type": "object",
                            "required": ["template"],
                            "properties": {"rayStartParams": START, "template": POD},
                            "additionalProperties": False,
                        },
                        "workerGroupSpecs": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["groupName", "minReplicas", "maxReplicas", "template"],
                                "properties": {
                                    "groupName": {"type": "string"},
                                    "replicas": COUNT,
                                    "minReplicas": COUNT,
                                    "maxReplicas": COUNT,
                                    "rayStartParams": START,
                                    "template": POD,
                                },
                                "additionalProperties": False,
                            },
                        },
                    },
                    "additionalProperties": False,
                },
            },
            "additionalProperties": False,
        },
    },
    "additionalProperties": False,
}
"""What of KubeRay's definition of a RayJob (ray.io/v1) the file uses; all else is refused."""


@pytest.fixture
def ray_job() -> dict[str, Any]:
    return yaml.safe_load((FOLDER / "rayjob.yaml").read_text())


def test_rayjob_is_what_kuberay_accepts(ray_job: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(RAY_JOB)
    validate(ray_job, RAY_JOB)


@pytest.mark.parametrize("part", ["entrypoint", "rayClusterSpec"])
def test_a_rayjob_without_a_part_is_refused(ray_job: dict[str, Any], part: str) -> None:
    del ray_job["spec"][part]
    with pytest.raises(ValidationError):
        validate(ray_job, RAY_JOB)


def test_rayjob_starts_the_job(ray_job: dict[str, Any], here: Any) -> None:
    arguments, _ = here(ray_job["spec"]["entrypoint"])
    assert arguments[:2] == ["-m", "jobs.nightly"]
    assert nights_until_yesterday(options_of(arguments))


def test_rayjob_has_the_version_of_ray_that_is_installed(ray_job: dict[str, Any]) -> None:
    constraints = (REPOSITORY / "constraints.txt").read_text()
    pinned = re.search(r"^ray(?:\[[\w,]+\])?==(.+)$", constraints, re.MULTILINE)
    assert pinned
    assert ray_job["spec"]["rayClusterSpec"]["rayVersion"] == pinned[1]
    assert f"rayproject/ray:{pinned[1]}-" in TEXT


def test_rayjob_mounts_only_volumes_that_are_there(ray_job: dict[str, Any]) -> None:
    for group in ray_job["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        mounted = {m["name"] for c in pod["containers"] for m in c.get("volumeMounts", ())}
        assert mounted == {volume["name"] for volume in pod.get("volumes", ())}
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


# Prometheus


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    return group["rules"]


def selectors(expression: str) -> list[tuple[str, set[str]]]:
    """Metrics that PromQL names, with the labels that it asks for."""
    found = re.findall(r"\b(ray_\w+)(?:\{(.*?)\})?", expression)
    return [(name, set(re.findall(r"(\w+)\s*(?:=|!)", labels))) for name, labels in found]


def test_there_are_three_alerts() -> None:
    assert len({rule["alert"] for rule in rules()}) == len(rules()) == 3


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_alerts_ask_for_metrics_that_there_are_and_say_where_to_read_on(
    rule: dict[str, Any],
) -> None:
    asked = selectors(rule["expr"])
    assert asked
    for name, labels in asked:
        assert labels <= set(TAGS[name.removeprefix("ray_")])
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert REPOSITORY / page == PAGE
    assert anchor in anchors()
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["labels"]["severity"] in ("page", "ticket")


def test_queries_on_the_page_ask_for_metrics_that_there_are() -> None:
    (code,) = blocks("promql")
    asked = selectors(code)
    assert len(asked) == 4
    for name, labels in asked:
        assert labels <= set(TAGS[name.removeprefix("ray_")])


def test_prometheus_reads_what_ray_lists_and_our_rules() -> None:
    settings = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    (scrape,) = settings["scrape_configs"]
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    (files,) = [one["files"] for one in scrape["file_sd_configs"]]
    assert files == [f"/tmp/ray/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"]
    assert all((FOLDER / one).exists() for one in settings["rule_files"])
