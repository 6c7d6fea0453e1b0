"""The stages on good and bad pictures: the right outcome for each, whatever the batches."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from item.featurizing import Featurizer
from item.images.decode import image_id
from item.images.perturb import Perturbation
from item.misalignment import global_misalignment
from item.profiles import Profile, load_profile
from item.profiles.inputs import picture_inputs
from item.tables import FEATURES, ErrorCode, Note, as_features, with_feature_set
from pipelines.featurize.steps import (
    OBJECT_EMBEDDINGS,
    Embed,
    FindObjects,
    Perturb,
    Phrases,
    stages,
)
from pipelines.runtime.stages import Columns, Stage, run_stage
from tests.support.dumps import make, planned, tables_of
from tests.support.odd_files import ODD_FILES, Accepted, encode, flat
from tests.support.photographs import photograph, photographs

ODD = [
    "no bytes",
    "html error page",
    "heic",
    "jpeg cut in half",
    "png cut in half",
    "png with a bad checksum",
    "jpeg with too many scans",
    "png bomb of 50,000 x 50,000",
    "one pixel",
    "1 x 5000",
    "grey png of 16 bits",
    "half transparent png",
    "cmyk jpeg",
    "animated gif",
    "jpeg of orientation 6",
]
WITH_FEATURES = ["caption", "objects", "image_embedding", "global_misalignment"]
SIMILARITIES = [
    "global_similarity",
    *(f"local_similarity_{pooled}" for pooled in ("min", "mean", "max", "std")),
]

pytestmark = pytest.mark.timeout(120)


def rotated() -> bytes:
    """A photograph that lies on its side and says so."""
    picture = photograph("rocket").transpose(2)
    exif = picture.getexif()
    exif[0x0112] = 6
    return encode(picture, "JPEG", exif=exif)


@pytest.fixture(scope="module")
def profile() -> Profile:
    """The embedded models; pictures are decoded smaller than they are, so boxes are scaled."""
    # Every phrase is grounded at this threshold, whatever the encoder's cosines.
    return load_profile("mini", {"decoding.max_side": 100, "grounder.threshold": -1})


@pytest.fixture(scope="module")
def ready(profile: Profile) -> list[Stage]:
    method = stages(profile)
    for stage in method:
        stage.set_up()
    return method


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    files = {name: ODD_FILES[name][0] for name in ODD} | photographs(6)
    files |= {"rotated.jpg": rotated(), "thin.png": encode(flat(size=(3, 700)), "PNG")}
    dump = make(tmp_path_factory.mktemp("mixed"), {f"{name}.jpg": files[name] for name in files})
    return pa.concat_tables(tables_of(planned(dump), None, 1 << 20)).combine_chunks()


@pytest.fixture(scope="module")
def rows(ready: list[Stage], images: pa.Table) -> dict[str, dict[str, Any]]:
    """All rows of one batch, by the name of their file."""
    return by_name(through(ready, images, len(images)))


def through(method: list[Stage], images: pa.Table, batch_size: int) -> pa.Table:
    for stage in method:
        batches = [
            run_stage(stage, images.slice(start, batch_size))
            for start in range(0, len(images), batch_size)
        ]
        images = pa.concat_tables(batches)
    return images


def by_name(table: pa.Table) -> dict[str, dict[str, Any]]:
    found = {Path(row["uri"]).stem: row for row in table.to_pylist()}
    assert len(found) == len(table)
    return found


def good(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: row for name, row in rows.items() if row["status"] == "ok"}


def sides(box: dict[str, float]) -> list[float]:
    return [box[side] for side in ("x0", "y0", "x1", "y1")]


# Every row


def test_every_row_comes_out_once_with_the_expected_outcome(
    images: pa.Table, rows: dict[str, dict[str, Any]]
) -> None:
    assert len(rows) == len(images)
    for name, row in rows.items():
        expected = ODD_FILES[name][1] if name in ODD_FILES else None
        outcome = row["status"], row["error_code"]
        if isinstance(expected, ErrorCode):
            assert outcome == (expected.status, expected), name
            assert row["error_message"]
        else:
            assert outcome == ("ok", None), name


@pytest.mark.parametrize("column", WITH_FEATURES)
def test_features_are_there_for_good_rows_and_null_for_others(
    rows: dict[str, dict[str, Any]], column: str
) -> None:
    assert {row["status"] for row in rows.values()} == {"ok", "rejected"}
    for row in rows.values():
        assert (row[column] is not None) == (row["status"] == "ok")


def test_rejected_rows_still_say_which_file_it_was(rows: dict[str, dict[str, Any]]) -> None:
    for name, row in rows.items():
        if name in ODD_FILES:
            assert row["byte_count"] == len(ODD_FILES[name][0])
        assert len(row["image_id"]) == 64
    assert len({row["image_id"] for row in rows.values()}) == len(rows)


def test_odd_pictures_keep_their_size_format_and_notes(rows: dict[str, dict[str, Any]]) -> None:
    for name in ODD:
        expected = ODD_FILES[name][1]
        if isinstance(expected, Accepted):
            row = rows[name]
            assert (row["format"], row["notes"]) == (expected.format, list(expected.notes))
            assert (row["width"], row["height"]) == expected.size


def test_rows_carry_nothing_that_the_table_does_not_need(
    ready: list[Stage], images: pa.Table, profile: Profile
) -> None:
    table = through(ready, images.slice(0, 4), 4)
    assert not {"bytes", "pixels", "pixel_rows", "captions", "crop_embeddings"} & set(
        table.column_names
    )
    features = as_features(table, profile.dimensions)
    assert features.schema.equals(FEATURES)


# Without stages

OF_THE_INPUT = ("source", "input_version")


def test_featurizer_gives_the_rows_of_the_stages(
    ready: list[Stage], images: pa.Table, profile: Profile
) -> None:
    """The same values where the same pictures go through a model together.

    But for their last bits, in which matrix products depend on where in memory they work, and
    which decide to which side a vector's number is rounded to half precision.
    """
    assert len(images) <= profile.resources.embed.batch_size
    by_stages = as_features(through(ready, images, len(images)), profile.dimensions)
    by_stages = with_feature_set(by_stages, profile.feature_set_id())
    columns = [name for name in by_stages.column_names if name not in OF_THE_INPUT]
    found = Featurizer(profile).featurize(images["bytes"].to_pylist(), images["uri"].to_pylist())
    assert found.schema.equals(by_stages.schema)
    one, other = (table.select(columns).to_pandas() for table in (found, by_stages))
    pd.testing.assert_frame_equal(one, other, rtol=2e-3, atol=1e-5)


# Batches


@pytest.mark.parametrize("batch_size", [1, 7])
def test_results_do_not_depend_on_batches_and_order(
    ready: list[Stage], images: pa.Table, rows: dict[str, dict[str, Any]], batch_size: int
) -> None:
    order = random.Random(batch_size).sample(range(len(images)), len(images))
    found = by_name(through(ready, images.take(order), batch_size))
    assert found.keys() == rows.keys()
    for name, row in good(rows).items():
        other = found[name]
        for column in ("caption", "object_count", "image_id", "width"):
            assert other[column] == row[column], (name, column)
        for column in SIMILARITIES:
            assert other[column] == pytest.approx(row[column], abs=1e-4), (name, column)
        assert [one["phrase"] for one in other["objects"]] == [
            one["phrase"] for one in row["objects"]
        ]
        np.testing.assert_allclose(other["image_embedding"], row["image_embedding"], atol=1e-4)
    for name in rows.keys() - good(rows).keys():
        assert found[name]["error_code"] == rows[name]["error_code"]


# Perturbed


def test_perturbed_rows_are_those_of_the_perturbed_files(
    profile: Profile, images: pa.Table, rows: dict[str, dict[str, Any]]
) -> None:
    name = "resize-0.5+jpeg-75"
    method = stages(profile, name)
    assert [stage.name for stage in method[:3]] == ["perturb", "identify", "decode"]
    found = by_name(through(method[:3], images, 7))
    files = dict(zip(found, images["bytes"].to_pylist(), strict=True))
    for uri, row in found.items():
        data = Perturbation.parse(name).apply(files[uri])
        assert (row["image_id"], row["byte_count"]) == (image_id(data), len(data))
        assert (row["status"], row["error_code"]) == (rows[uri]["status"], rows[uri]["error_code"])
        if row["status"] == "ok":
            assert (row["format"], row["jpeg_quality"]) == ("jpeg", 75)
            assert row["width"] == max(1, round(rows[uri]["width"] / 2))
        else:
            assert row["image_id"] == rows[uri]["image_id"]


def test_row_that_cannot_be_perturbed_has_a_reason(profile: Profile, tmp_path: Path) -> None:
    pictures = {"long.jpg": encode(flat(size=(16_384, 1)), "PNG"), "good.jpg": rotated()}
    images = pa.concat_tables(tables_of(planned(make(tmp_path, pictures)), None, 1 << 20))
    method = stages(profile, "webp-80")[:3]
    found = by_name(through(method, images, 2))
    assert (found["long"]["status"], found["long"]["error_code"]) == ("rejected", "too_many_pixels")
    assert "16384 x 1" in found["long"]["error_message"]
    assert (found["good"]["status"], found["good"]["format"]) == ("ok", "webp")


def test_perturbing_is_a_free_task_with_the_resources_of_decoding(profile: Profile) -> None:
    assert Perturb(profile, "blur-1").resources == profile.resources.decode
    assert [stage.name for stage in stages(profile, "none")] == [
        stage.name for stage in stages(profile)
    ]


# Boxes


def test_boxes_lie_in_the_upright_full_size_picture(rows: dict[str, dict[str, Any]]) -> None:
    boxes = 0
    for name, row in good(rows).items():
        for one in row["objects"]:
            x0, y0, x1, y1 = sides(one["box"])
            assert 0 <= x0 < x1 <= row["width"] + 1e-3, name
            assert 0 <= y0 < y1 <= row["height"] + 1e-3, name
            boxes += 1
    assert boxes


class OneObject(Phrases):
    """The same phrase for every caption."""

    def process(self, columns: Columns) -> Columns:
        return {"phrases": [["a thing"] for _ in columns["caption"]]}


def found_whole(profile: Profile, pictures: dict[str, bytes], folder: Path) -> dict[str, Any]:
    """Rows in which the box of the one object is the whole picture."""
    whole = profile.model_copy(
        update={"grounder": profile.grounder.model_copy(update={"scales": (1.0,)})}
    )
    images = pa.concat_tables(tables_of(planned(make(folder, pictures)), None, 1 << 20))
    method = stages(whole)[:5]
    assert isinstance(method[3], Phrases) and isinstance(method[4], FindObjects)
    method[3] = OneObject(whole)
    for stage in method:
        stage.set_up()
    return by_name(through(method, images, 4))


def test_box_of_the_whole_is_the_whole_upright_picture(profile: Profile, tmp_path: Path) -> None:
    """A side that was rounded, a side that fell to one pixel, a turned picture."""
    pictures = {
        "round.jpg": encode(flat(size=(144, 97)), "PNG"),
        "thin.jpg": encode(flat(size=(3, 700)), "PNG"),
        "flat.jpg": encode(flat(size=(700, 3)), "PNG"),
        "turned.jpg": rotated(),
    }
    rows = found_whole(profile, pictures, tmp_path)
    for row in rows.values():
        [one] = row["objects"]
        assert sides(one["box"]) == pytest.approx([0, 0, row["width"], row["height"]], rel=1e-5)
    turned = rows["turned"]
    assert turned["notes"] == [Note.EXIF_ROTATED]
    assert (turned["width"], turned["height"]) == photograph("rocket").size


# Embeddings


def without_embeddings(table: pa.Table) -> pa.Table:
    """The table as a grounder leaves it that finds boxes and embeds nothing."""
    for name in ("crop_embeddings", "phrase_embeddings"):
        nothing = [None if some is None else [None] * len(some) for some in table[name].to_pylist()]
        place = table.column_names.index(name)
        table = table.set_column(place, name, pa.array(nothing, OBJECT_EMBEDDINGS[name]))
    return table


def test_crops_that_the_grounder_left_are_embedded_into_the_same_space(
    profile: Profile, ready: list[Stage], images: pa.Table
) -> None:
    found = through(ready[:5], images, len(images))
    models_read = picture_inputs(profile)
    embed = Embed(profile, replace(models_read, crops=models_read.encoder))
    embed.set_up()
    own, by_grounder = run_stage(embed, without_embeddings(found)), run_stage(embed, found)
    objects = 0
    for name in ("crop_embeddings", "phrase_embeddings"):
        for mine, theirs in zip(own[name].to_pylist(), by_grounder[name].to_pylist(), strict=True):
            assert (mine is None) == (theirs is None)
            for one, other in zip(mine or (), theirs or (), strict=True):
                np.testing.assert_allclose(one, other, atol=1e-4)
                objects += 1
    assert objects


def test_embeddings_are_unit_and_similarities_cosines(rows: dict[str, dict[str, Any]]) -> None:
    for row in good(rows).values():
        assert np.linalg.norm(row["image_embedding"]) == pytest.approx(1, abs=1e-4)
        for column in SIMILARITIES[:-1]:
            assert row[column] is None or -1.0001 <= row[column] <= 1.0001
        for one in row["objects"]:
            assert -1.0001 <= one["similarity"] <= 1.0001
            assert -1.0001 <= one["image_similarity"] <= 1.0001


def test_misalignment_is_as_long_as_the_similarity_says(
    ready: list[Stage], images: pa.Table, profile: Profile
) -> None:
    features = as_features(through(ready, images, 8), profile.dimensions).to_pylist()
    assert sum(row["status"] == "ok" for row in features) > 10
    for row in features:
        if row["status"] == "ok":
            squared = np.sum(np.square(row["global_misalignment"], dtype=np.float64))
            assert squared == pytest.approx(2 - 2 * row["global_similarity"], abs=5e-3)


def test_misalignment_points_from_caption_to_image(
    ready: list[Stage], rows: dict[str, dict[str, Any]]
) -> None:
    [row] = [row for name, row in rows.items() if name.startswith("cat")]
    caption = ready[4].encoder.embed_texts([row["caption"]])  # type: ignore[attr-defined]
    expected = global_misalignment(np.array([row["image_embedding"]], np.float32), caption)[0]
    np.testing.assert_allclose(row["global_misalignment"], expected, atol=1e-4)


def test_pooled_numbers_agree_with_the_objects(rows: dict[str, dict[str, Any]]) -> None:
    counts = set()
    for name, row in good(rows).items():
        similarities = [one["similarity"] for one in row["objects"] if one["grounded"]]
        assert row["object_count"] == len(similarities), name
        counts.add(len(similarities))
        if similarities:
            assert row["ungrounded_fraction"] == 1 - len(similarities) / len(row["objects"])
            found = [row[column] for column in SIMILARITIES[1:]]
            values = np.array(similarities)
            expected = [values.min(), values.mean(), values.max(), values.std()]
            assert found == pytest.approx(expected, abs=1e-5), name
        else:
            assert not np.any(row["local_misalignment"])
    assert max(counts) > 0


def test_phrases_are_distinct_and_few(rows: dict[str, dict[str, Any]], profile: Profile) -> None:
    for row in good(rows).values():
        phrases = [one["phrase"] for one in row["objects"]]
        assert len(set(phrases)) == len(phrases) <= profile.phrases.max_phrases
