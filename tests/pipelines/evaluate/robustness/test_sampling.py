"""Images that belong together, and those that a head was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from item.heads.head import Head
from pipelines.evaluate.robustness.configuration import resolve
from pipelines.evaluate.robustness.sampling import image_clusters, seen_in_training
from tests.support.dumps import make, parquet_of


def test_head_is_named_that_was_trained_on_what_is_measured(head: Head) -> None:
    rows = pd.DataFrame(
        [(1, "model-0", "x"), (0, None, "photographs"), (1, None, "elsewhere")],
        columns=["label", "generator", "source"],
    )
    [sentence] = seen_in_training({"ours": head}, rows)
    assert sentence.startswith("The head 'ours' was trained on model-0:")
    assert seen_in_training({"ours": head}, rows[1:]) == []


def test_images_of_one_group_are_one_cluster(settings: dict[str, Any], tmp_path: Path) -> None:
    columns = {"uri": list("abcd"), "prompt": ["a cat", "a cat", "a dog", None]}
    groups = make(tmp_path / "groups", {"a.parquet": parquet_of(columns)})
    grouped = settings | {"metadata": str(groups), "group_column": "prompt"}
    names = image_clusters(list("abcde"), resolve(None, grouped, {}))
    assert names[0] == names[1] and len(set(names)) == 4
    assert image_clusters(["a", "b"], resolve(None, settings, {})) == ["a", "b"]
