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


@pytest.mark.parametrize("name", ["mean", "worst", "spread"])
def test_a_generator_called_like_an_aggregate_is_refused(tmp_path, name):
    generators = [name if row % 4 == 1 else "b" if row % 2 else None for row in range(COUNT)]
    features = write_features(tmp_path / "features", table(generator=generators))
    with pytest.raises(UsageError, match=f"A generator is called '{name}', as the tables call"):
        plan_evaluation(configuration(features, tmp_path / "e"))
    labels = pd.DataFrame({"uri": [f"pictures/0-{row}.jpg" for row in range(COUNT)]})
    labels = labels.assign(label=np.arange(COUNT) % 2, generator=generators)
    labels.replace({name: "a"}).to_csv(tmp_path / "labels.csv", index=False)
    given = configuration(features, tmp_path / "e", labels=str(tmp_path / "labels.csv"))
    assert set(plan_evaluation(given).rows.generators) == {"a", "b", None}


def test_a_subset_is_not_called_as_all_rows_are(tmp_path):
    with pytest.raises(ValueError, match="subset_name must not be all"):
        configuration("features", tmp_path / "e", subset_name="all")


def test_labels_beside_the_features_serve_variants_too(features, tmp_path):
    nobody = dict.fromkeys(("label", "generator", "source"), [None] * COUNT)
    bare = write_features(tmp_path / "bare", table(**nobody))
    own = table().select(["uri", "label", "generator", "source"]).to_pandas()
    own.to_parquet(tmp_path / "labels.parquet")
    given = {"labels": str(tmp_path / "labels.parquet"), "variants": {"same": bare}}
    plan = plan_evaluation(configuration(bare, tmp_path / "e", **given))
    np.testing.assert_array_equal(plan.arrays["same"].image, plan.arrays[None].image)
    labelled = plan_evaluation(configuration(features, tmp_path / "e"))
    assert plan.rows.describe() == labelled.rows.describe()
    assert f"{COUNT} of {COUNT} rows with features are named in it" in plan.notes[0]


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


def test_source_called_as_the_mean_over_sources_is_refused(tmp_path):
    columns = table(source=["mean" if n % 2 == 0 else "prompts" for n in range(COUNT)])
    features = write_features(tmp_path / "features", columns)
    with pytest.raises(UsageError, match="A source of photographs is called 'mean'"):
        plan_evaluation(configuration(features, tmp_path))
