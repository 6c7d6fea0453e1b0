"""What an evaluation will train and test: subsets, variants, a trained head."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from item.errors import UsageError
from item.statistics.calibration import OperatingPoints
from pipelines.evaluate.plan import plan_evaluation
from pipelines.evaluate.protocols import ALL
from tests.item.heads.examples import features_table
from tests.item.heads.test_head import trained
from tests.pipelines.evaluate.examples import (
    COUNT,
    configuration,
    table,
)
from tests.support.feature_tables import write_features


def test_an_ablation_takes_its_own_table(features, tmp_path):
    other = write_features(tmp_path / "other", table(local_misalignment=np.ones((COUNT, 8))))
    plan = plan_evaluation(configuration(features, tmp_path / "e", variants={"ones": other}))
    assert (plan.arrays["ones"].local_misalignment == 1).all()
    np.testing.assert_array_equal(plan.arrays["ones"].image, plan.arrays[None].image)
    assert {method.variant for method in plan.methods} == {None, "ones"}


def test_an_ablation_that_lacks_images_is_refused(features, tmp_path):
    fewer = write_features(tmp_path / "fewer", features_table(100))
    with pytest.raises(UsageError, match=r"The table 'fewer' at .* lacks 800 of the images"):
        plan_evaluation(configuration(features, tmp_path / "e", variants={"fewer": fewer}))


def test_subset_is_read_from_the_metadata(features, tmp_path):
    uris = [f"pictures/0-{row}.jpg" for row in range(COUNT)]
    styles = [None if row % 4 == 1 else "anime" for row in range(COUNT)]
    metadata = tmp_path / "metadata.parquet"
    pd.DataFrame({"uri": uris, "style": styles, "prompt": uris}).to_parquet(metadata)
    plan = plan_evaluation(
        configuration(
            features,
            tmp_path / "e",
            metadata=str(metadata),
            group_column="prompt",
            subset_column="style",
        )
    )
    realistic = {test.subset for test in plan.trials[0].tests}
    assert realistic == {ALL, "realistic"}
    for trial in plan.trials:
        learned = trial.training[plan.rows.labels[trial.training] == 1]
        assert all(styles[int(plan.rows.uris[row].split("-")[1][:-4])] is None for row in learned)


def test_too_few_rows_for_an_operating_point_are_refused_before_training(tmp_path):
    few = write_features(tmp_path / "few", table().slice(0, 300))
    with pytest.raises(UsageError, match="needs at least"):
        plan_evaluation(configuration(few, tmp_path / "e", operating_points=OperatingPoints()))


def test_what_a_head_was_trained_on_is_said(tmp_path):
    trained().save(tmp_path / "head")  # on rows of model-0
    features = write_features(tmp_path / "f", features_table(400))
    plan = plan_evaluation(configuration(features, tmp_path / "e", trained=str(tmp_path / "head")))
    assert plan.notes == (
        "The head was trained on rows of model-0: figures on those are not held out.",
    )


def test_a_head_of_another_feature_set_is_refused(tmp_path):
    trained().save(tmp_path / "head")
    other = write_features(tmp_path / "f", features_table(400), "base-1")
    with pytest.raises(UsageError, match="cannot score those of 'base-1'"):
        plan_evaluation(configuration(other, tmp_path / "e", trained=str(tmp_path / "head")))
