"""Error codes, their sentences and the schemas."""

import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from item.tables import FEATURES, IMAGES, ErrorCode, Status


@pytest.mark.parametrize("code", ErrorCode)
def test_every_error_code_has_one_sentence(code):
    assert code.sentence[0].isupper()
    assert code.sentence.endswith(".")
    assert code.sentence.count(".") == 1


def test_no_two_error_codes_share_a_sentence():
    assert len({code.sentence for code in ErrorCode}) == len(ErrorCode)


def test_only_reasons_that_may_pass_are_failures():
    failed = {code for code in ErrorCode if code.status is Status.FAILED}
    assert failed == {ErrorCode.URI_UNREADABLE}
    assert all(code.status is Status.REJECTED for code in set(ErrorCode) - failed)


def test_codes_are_plain_strings_to_arrow():
    column = pa.array([Status.OK, ErrorCode.TRUNCATED], pa.string())
    assert column.to_pylist() == ["ok", "truncated"]


@pytest.mark.parametrize("schema", [IMAGES, FEATURES])
def test_columns_are_named_once(schema):
    assert len(set(schema.names)) == len(schema.names)


def test_features_carry_the_keys_and_reasons_of_the_images():
    for name in ("uri", "source", "status", "error_code", "error_message", "label", "generator"):
        assert FEATURES.field(name).type == IMAGES.field(name).type


def test_pandas_reads_a_features_file_with_objects_and_embeddings():
    box = {"x0": 0.0, "y0": 1.0, "x1": 2.0, "y1": 3.0}
    table = pa.Table.from_pylist(
        [
            {
                "uri": "a.png",
                "objects": [{"phrase": "cat", "box": box, "grounded": True}],
                "image_embedding": np.arange(4, dtype=np.float16),
            },
            {"uri": "b.png", "error_code": "truncated"},
        ],
        schema=FEATURES,
    )
    file = io.BytesIO()
    pq.write_table(table, file)
    frame = pd.read_parquet(file)
    assert frame["image_embedding"][0].dtype == np.float16
    assert frame["image_embedding"][0].tolist() == [0, 1, 2, 3]
    assert frame["objects"][0][0]["box"] == box
    assert frame["image_embedding"][1] is None
