"""Settings of a training: where they come from, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from item.errors import UsageError
from pipelines.train.configuration import TrainConfiguration, resolve
from tests.pipelines.train.examples import SMALL


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"head.kind": "forest"}, "'head.kind'"),
        ({"head.epoch": 3}, "did you mean 'epochs'"),
        ({"metadata": "prompts.parquet"}, "metadata needs group_column"),
        ({"features": []}, "'features'"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        resolve(None, {"features": ["x"], "output": "y"}, settings)


def test_settings_come_after_options_and_options_after_the_file(tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    file.write_text(yaml.safe_dump({**SMALL, "output": "file", "workers": 3}))
    options = {"features": ["x"], "output": "option", "head.seed": 1, "head.kind": None}
    resolved = resolve(str(file), options, {"head.seed": 2})
    assert (resolved.workers, resolved.head.seed) == (3, 2)
    assert resolved.output == str(Path.cwd() / "option")
    assert TrainConfiguration.model_validate(yaml.safe_load(resolved.as_yaml())) == resolved
