"""Ray starts in no test without the mark: those are the ones that ``make test-fast`` runs."""

from __future__ import annotations

import subprocess
import sys


def test_ray_is_refused_to_tests_without_its_fixture(request) -> None:
    assert request.node.get_closest_marker("ray") is None
    program = "import ray; ray.init(include_dashboard=False, num_cpus=1)"
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode != 0
    assert "only-tests-that-use-a-ray-fixture-start-it" in ended.stderr
