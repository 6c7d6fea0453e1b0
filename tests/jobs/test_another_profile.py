"""The same job with another profile: public architectures in the place of the packaged models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from item.errors import UsageError
from item.mini import HEAD
from item.profiles import load_profile
from item.tables import FEATURES
from pipelines.featurize.configuration import resolve
from pipelines.featurize.plan import plan_featurizing
from pipelines.featurize.run import run_featurizing
from pipelines.score.configuration import ScoreConfiguration
from pipelines.score.job import plan_scoring
from tests.support.dumps import make
from tests.support.photographs import photographs
from tests.support.tiny_checkpoints.profile import tiny

pytestmark = pytest.mark.timeout(240)


@pytest.mark.usefixtures("ray_cluster")
def test_one_other_line_gives_the_same_columns_and_features_that_the_shipped_head_refuses(
    tmp_path: Path,
) -> None:
    """On the cluster, with models that are loaded from disk as real ones are."""
    make(tmp_path / "dump", photographs(3) | {"broken.jpg": b"no picture"})
    profile = tiny(tmp_path / "models", {"name": "tiny-base"})
    # All three in one worker, which starts sooner than three on two cores.
    small: dict[str, Any] = {"cpus": 0.5, "workers_per_cpu": 0.5, "most_workers": 1}
    together = {"caption": False, "objects": True, "embed": True}
    values = profile.model_dump(mode="json")
    for stage, with_previous in together.items():
        values["resources"][stage] |= small | {"with_previous": with_previous}
    (tmp_path / "tiny-base.yaml").write_text(yaml.safe_dump(values))
    options = {"input": str(tmp_path / "dump"), "output": str(tmp_path / "features")}
    options |= {"profile": str(tmp_path / "tiny-base.yaml")}  # the line that changes
    told = run_featurizing(plan_featurizing(resolve(None, options, {"max_error_rate": 0.5})))
    assert told["outcome"] == "published", told

    [file] = (tmp_path / "features").glob("date=*/*.parquet")
    assert pq.read_schema(file).names == FEATURES.names
    rows = pd.read_parquet(tmp_path / "features").set_index("uri")
    broken = rows.index.str.endswith("broken.jpg")
    assert list(rows[broken]["error_code"]) == ["not_an_image"]
    good = rows[~broken]
    assert (good["status"] == "ok").all() and good["caption"].str.len().gt(0).all()
    assert told["feature_set_id"] == profile.feature_set_id()
    assert profile.feature_set_id() != load_profile("mini").feature_set_id()

    score = {"input": str(tmp_path / "features"), "output": str(tmp_path / "scores")}
    with pytest.raises(UsageError, match="cannot score"):
        plan_scoring(ScoreConfiguration(**score, head=str(HEAD)))
