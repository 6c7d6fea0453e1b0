"""Settings of a robustness report: featurizing beside its own, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from item.errors import UsageError
from item.images.perturb import STANDARD
from pipelines.evaluate.robustness.configuration import resolve


def test_keys_of_featurizing_and_of_the_report_stand_side_by_side(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("input: dump\nheads: [head]\nseed: 3\nrows_per_part: 7\n")
    options = {"output": "out", "images": 12, "seed": None}
    keys = {"profile.captioner.beams": 2, "resamples": 200, "storage.retries": 0}
    configuration = resolve(str(file), options, keys)
    assert (
        configuration.seed,
        configuration.rows_per_part,
        configuration.images,
        configuration.resamples,
    ) == (3, 7, 12, 200)
    table = configuration.of_table("jpeg-75")
    out = Path.cwd() / "out"
    assert (table.input, table.output) == ((f"{out}/sample",), f"{out}/features/jpeg-75")
    assert (table.perturbation, table.rows_per_part) == ("jpeg-75", 7)
    assert table.profile.captioner.beams == 2 and table.storage.retries == 0
    file.write_text(configuration.as_yaml())
    assert resolve(str(file), {}, {}) == configuration


def test_whole_input_is_featurized_where_no_sample_is_asked_for() -> None:
    configuration = resolve(None, {"input": "dump", "output": "out", "heads": ["head"]}, {})
    assert configuration.of_table("none").input == (str(Path.cwd() / "dump"),)
    assert configuration.perturbations == STANDARD


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"heads": ["a/head", "b/head/"]}, "two are the same"),
        ({"heads": None}, "'heads' of the configuration is missing"),
        ({"input": None}, "'input' of the configuration is missing"),
        ({"perturbations": ["sepia-3"]}, "no perturbation step 'sepia-3'"),
        ({"perturbation": "jpeg-75"}, "under perturbations"),
        ({"metadata": "table.parquet"}, "metadata and group_column need each other"),
        ({"generators": ["SD1.5"]}, "need images"),
        ({"imges": 5}, "did you mean 'images'"),
    ],
)
def test_wrong_configuration_is_refused(changes: dict[str, Any], sentence: str) -> None:
    options = {"input": "dump", "output": "out", "heads": ["head"], **changes}
    with pytest.raises(UsageError, match=sentence):
        resolve(None, options, {})


def test_perturbation_that_the_profile_cannot_decode_is_refused_before_any_work(
    settings: dict[str, Any],
) -> None:
    keys = {"profile.decoding.formats": ["JPEG", "PNG"]}
    job = resolve(None, settings | {"perturbations": ["webp-80"]}, keys)
    with pytest.raises(UsageError, match="writes WEBP"):
        job.of_table("webp-80")
