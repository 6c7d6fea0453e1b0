"""The nightly audit as a DAG of Airflow 3.

Copy it into the folder of DAGs. The Airflow workers need ``ray[default]`` of the cluster's
version and, in their environment, RAY_API_SERVER_ADDRESS, RAY_AUTH_MODE=token and the token in
RAY_AUTH_TOKEN. CHANGE marks what is yours.
"""

from __future__ import annotations

import shlex
import time
from datetime import UTC, date, datetime, timedelta

from airflow.exceptions import AirflowFailException
from airflow.sdk import dag, task

INPUT = "s3://BUCKET/dump"  # CHANGE
OUTPUT = "s3://BUCKET/audit"  # CHANGE
HEAD = "s3://BUCKET/heads/mini"  # CHANGE
NIGHTS = 7
"""How many nights are looked at: done ones are left alone, late pictures are added."""
SECONDS_BETWEEN_LOOKS = 30
IN_VAIN = {
    2: "something has to be changed first",
    3: "a night has too many rows without features",
}
"""Exit codes after which the same command would end the same."""


def command(today: date) -> list[str]:
    """What runs on the cluster, for the nights that are over."""
    first, last = today - timedelta(days=NIGHTS), today - timedelta(days=1)
    options = {"input": INPUT, "head": HEAD, "output": OUTPUT, "from": first, "to": last}
    named = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return ["python", "-m", "jobs.nightly", *named]


def run(words: list[str]) -> tuple[int | None, str]:
    """Run a command as a Ray job; returns its exit code and what it printed.

    The exit code is None where the job never ended by itself, because its machine was lost.
    """
    from ray.job_submission import JobSubmissionClient

    client = JobSubmissionClient()
    job = client.submit_job(entrypoint=shlex.join(words))
    while not client.get_job_status(job).is_terminal():
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return client.get_job_info(job).driver_exit_code, client.get_job_logs(job)


@dag(
    schedule="15 2 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,  # each run catches up by itself
    max_active_runs=1,
    # A run that finds a night held by another ends with 4: it is worth another try.
    default_args={"retries": 3, "retry_delay": timedelta(minutes=15)},
)
def item_audit() -> None:
    """Audit the nights of the last week."""

    @task(execution_timeout=timedelta(hours=20))
    def audit_nights() -> None:
        code, printed = run(command(datetime.now(UTC).date()))
        print(printed[-20_000:])
        if code in IN_VAIN:
            raise AirflowFailException(f"jobs/nightly.py ended with {code}: {IN_VAIN[code]}.")
        if code != 0:
            raise RuntimeError(f"jobs/nightly.py ended with {code}.")

    audit_nights()


item_audit()
