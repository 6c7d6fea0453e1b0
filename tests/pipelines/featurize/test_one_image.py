"""One image by itself: the same row as the pipeline gives, without Ray's cluster."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray

from item.errors import UsageError
from item.featurizing import featurizer_of
from item.images.decode import image_id
from item.profiles import Profile, load_profile
from item.tables import FEATURES, ErrorCode, as_features, with_feature_set
from pipelines.featurize.one_image import featurize_one, read_one
from pipelines.featurize.steps import stages
from pipelines.runtime.stages import run_stage
from pipelines.storage.configuration import Storage
from tests.support.dumps import make, planned, tables_of
from tests.support.odd_files import ODD_FILES
from tests.support.photographs import photographs

FILES = photographs(3) | {name: ODD_FILES[name][0] for name in ("jpeg cut in half", "no bytes")}

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def profile() -> Profile:
    return load_profile("mini")


@pytest.fixture(scope="module")
def together(profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The rows of all files in one batch through the stages, by file name."""
    dump = make(tmp_path_factory.mktemp("one") / "dump", {f"{n}.jpg": FILES[n] for n in FILES})
    table = pa.concat_tables(tables_of(planned(dump), None, 1 << 20)).combine_chunks()
    for stage in stages(profile):
        stage.set_up()
        table = run_stage(stage, table)
    features = as_features(table, profile.dimensions)
    rows = with_feature_set(features, profile.feature_set_id()).to_pylist()
    return {Path(row["uri"]).stem: row for row in rows}


@pytest.mark.parametrize("name", FILES)
def test_row_is_that_of_the_pipeline(name: str, together: dict[str, Any], profile: Profile) -> None:
    expected = together[name]
    row = featurize_one(FILES[name], expected["uri"], profile)
    assert list(row) == FEATURES.names
    for column, value in expected.items():
        if column == "objects" and value:
            found = [(one["phrase"], one["box"], one["grounded"]) for one in row[column]]
            assert found == [(one["phrase"], one["box"], one["grounded"]) for one in value]
        elif isinstance(value, float | list) and column != "notes":
            # Models round otherwise beside other pictures.
            assert np.array(row[column]) == pytest.approx(np.array(value), abs=2e-3)
        elif column not in ("source", "input_version"):
            assert row[column] == value, column


def test_ray_is_not_started(profile: Profile) -> None:
    before = ray.is_initialized()
    featurize_one(FILES["cat-01.jpg"], "cat.jpg", profile)
    assert ray.is_initialized() == before


def test_models_are_loaded_once(profile: Profile) -> None:
    featurize_one(FILES["cat-01.jpg"], "cat.jpg", profile)
    loaded = featurizer_of(profile).encoder
    featurize_one(FILES["cat-01.jpg"], "again.jpg", profile)
    assert featurizer_of(profile).encoder is loaded


def test_file_that_cannot_be_decoded_needs_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("item.featurizing.load_captioner", None)
    missing = load_profile("mini", {"captioner.beams": 7})
    data = b"<html>404</html>"
    with pytest.raises(TypeError):
        featurize_one(FILES["cat-01.jpg"], "cat.jpg", missing)
    row = featurize_one(data, "page.jpg", missing)
    assert (row["status"], row["error_code"]) == ("rejected", ErrorCode.NOT_AN_IMAGE)
    assert row["image_id"] == image_id(data)
    assert row["image_embedding"] is None


# Reading


def test_file_is_read_from_disk_and_from_s3(
    store: Callable[[dict[str, bytes]], str], profile: Profile
) -> None:
    root = store({"a b/dog#1.jpg": b"bytes", "empty.jpg": b""})
    assert read_one(f"{root}/a b/dog#1.jpg", profile, Storage()) == b"bytes"
    assert read_one(f"{root}/empty.jpg", profile, Storage()) == b""


def test_link_is_followed_as_its_user_means_it(tmp_path: Path, profile: Profile) -> None:
    (tmp_path / "dog.jpg").write_bytes(b"bytes")
    (tmp_path / "link.jpg").symlink_to("dog.jpg")
    assert read_one(str(tmp_path / "link.jpg"), profile, Storage()) == b"bytes"


@pytest.mark.parametrize("name", ["none.jpg", "a", "dog.jpg/below"])
def test_what_is_no_file_is_refused(
    name: str, store: Callable[[dict[str, bytes]], str], profile: Profile
) -> None:
    root = store({"dog.jpg": b"bytes", "a/dog.jpg": b"bytes"})
    with pytest.raises(UsageError, match=r"no file or folder|nothing at|is not a file") as caught:
        read_one(f"{root}/{name}", profile, Storage())
    assert str(caught.value).count(". ") == 0


def test_large_file_is_refused_before_it_is_read(
    store: Callable[[dict[str, bytes]], str],
) -> None:
    small = load_profile("mini", {"decoding.max_bytes": 4})
    root = store({"dog.jpg": b"bytes"})
    with pytest.raises(UsageError, match=r"limit is 4: set profile\.decoding\.max_bytes"):
        read_one(f"{root}/dog.jpg", small, Storage())


def test_pipe_is_refused_and_not_waited_for(tmp_path: Path, profile: Profile) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(UsageError, match="neither a file nor a folder"):
        read_one(str(tmp_path / "pipe.jpg"), profile, Storage())


@pytest.mark.parametrize("url", ["http://user:secret@host/dog.jpg", "ftp://host/dog.jpg"])
def test_other_schemes_are_refused_without_their_secrets(url: str, profile: Profile) -> None:
    with pytest.raises(UsageError, match="neither a local path nor an s3:// URL") as caught:
        read_one(url, profile, Storage())
    assert "secret" not in str(caught.value)
