"""A featurize job on a Ray cluster of its own that has a GPU on paper; run as a program."""

from __future__ import annotations

import sys

import ray

from pipelines.featurize.configuration import resolve
from pipelines.featurize.plan import plan_featurizing
from pipelines.featurize.run import run_featurizing


def main(profile: str, dump: str, output: str) -> None:
    ray.init(
        address="local",
        num_cpus=4,
        num_gpus=1,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=300 << 20,
    )
    options = {"input": dump, "output": output, "profile": profile}
    manifest = run_featurizing(plan_featurizing(resolve(None, options, {})))
    workers = {stage["stage"]: stage["workers"] for stage in manifest["stages"]}
    print(f"workers {workers}")


if __name__ == "__main__":
    main(*sys.argv[1:])
