"""Pictures featurized in one process: every file has its row, in order, and Ray is not needed."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from item.featurizing import Featurizer
from item.images.decode import image_id
from item.profiles import load_profile
from item.tables import FEATURES, ErrorCode
from tests.support.odd_files import ODD_FILES
from tests.support.photographs import photographs

GOOD = list(photographs(3).values())
BROKEN = b"<html>404</html>"

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def featurizer() -> Featurizer:
    return Featurizer(load_profile("mini"))


def test_every_file_has_its_row_in_order(featurizer: Featurizer) -> None:
    files = [GOOD[0], BROKEN, GOOD[1], b"", ODD_FILES["jpeg cut in half"][0]]
    table = featurizer.featurize(files, ["a", "b", "c", "d", "e"])
    assert table.schema == FEATURES
    assert table["uri"].to_pylist() == ["a", "b", "c", "d", "e"]
    assert table["image_id"].to_pylist() == [image_id(data) for data in files]
    codes = [None, ErrorCode.NOT_AN_IMAGE, None, ErrorCode.EMPTY_FILE, ErrorCode.TRUNCATED]
    assert table["error_code"].to_pylist() == codes
    for column in ("caption", "image_embedding", "global_similarity", "objects"):
        there = [value is not None for value in table[column].to_pylist()]
        assert there == [code is None for code in codes], column


def test_rows_need_no_names_and_there_may_be_none(featurizer: Featurizer) -> None:
    assert featurizer.featurize([BROKEN])["uri"].to_pylist() == [None]
    nothing = featurizer.featurize([])
    assert len(nothing) == 0
    assert nothing.schema == FEATURES


def test_as_many_names_as_pictures(featurizer: Featurizer) -> None:
    with pytest.raises(ValueError, match="1 pictures but 2 uris"):
        featurizer.featurize([BROKEN], ["a", "b"])


def test_pictures_of_other_batches_change_nothing_but_roundings() -> None:
    small = Featurizer(load_profile("mini", {"resources.embed.batch_size": 1}))
    large = Featurizer(load_profile("mini"))
    one_by_one, together = small.featurize(GOOD), large.featurize(GOOD)
    assert one_by_one["caption"].equals(together["caption"])
    for column in ("image_embedding", "local_misalignment"):
        found, expected = (np.array(table[column].to_pylist()) for table in (one_by_one, together))
        np.testing.assert_allclose(found, expected, atol=2e-3)


def test_given_captions_are_taken_and_missing_ones_told() -> None:
    given = Featurizer(load_profile("mini", {"captioner": {"model": "given"}}))
    table = given.featurize(GOOD, captions=[[" ", "a cat\n on a mat"], [], ["a cup of coffee"]])
    assert table["caption"].to_pylist() == ["a cat on a mat", None, "a cup of coffee"]
    assert table["error_code"].to_pylist() == [None, ErrorCode.NO_CAPTION, None]
    assert given.featurize(GOOD[:1])["error_code"].to_pylist() == [ErrorCode.NO_CAPTION]


def test_profile_without_captions_embeds_pictures_only() -> None:
    embedding = Featurizer(load_profile("mini", {"captioner": {"model": "none"}}))
    table = embedding.featurize([GOOD[0], BROKEN])
    for name in ("image_embedding", "layers"):
        assert [row is not None for row in table[name].to_pylist()] == [True, False]
    assert table["caption"].null_count == table["objects"].null_count == 2


@pytest.mark.parametrize("columns", [0, 5, 256])
def test_layers_are_as_long_as_the_profile_says(columns: int) -> None:
    changes = {"captioner": {"model": "none"}, "clip.layers": columns}
    table = Featurizer(load_profile("mini", changes)).featurize(GOOD)
    assert [len(row or ()) for row in table["layers"].to_pylist()] == [columns] * len(GOOD)


def test_file_that_cannot_be_decoded_needs_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("item.featurizing.load_captioner", None)
    monkeypatch.setattr("item.featurizing.load_dual_encoder", None)
    table = Featurizer(load_profile("mini")).featurize([BROKEN])
    assert table["status"].to_pylist() == ["rejected"]


def test_ray_is_not_imported() -> None:
    program = (
        "import sys; from item.featurizing import Featurizer; from item.profiles import "
        "load_profile; Featurizer(load_profile('mini')).featurize([b'']); "
        "assert not {'ray', 'pipelines'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
