"""Small pictures of a night's most telling rows, kept while the originals can still be read."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyarrow as pa

from item.explanation.pictures import thumbnail
from item.images.decode import Decoding, image_id
from item.images.errors import ImageError
from item.tables import EVIDENCE, SCHEMA_VERSION, encoded
from pipelines.input import reading
from pipelines.input.plan import InputPlan
from pipelines.input.reading import Reading
from pipelines.storage.configuration import Storage
from pipelines.tables.published import PublishedTable
from pipelines.tables.row_keys import RowKeys, identities

NAME = "evidence.parquet"


def keep(
    root: str,
    night: str,
    pictures: pd.DataFrame,
    plan: InputPlan,
    storage: Storage,
    decoding: Decoding,
) -> int:
    """Read some pictures of a night again and put their thumbnails into its evidence.

    A picture that cannot be read any more, or is another one now, is left out, and the report
    says so.

    Parameters
    ----------
    root : of the evidence table
    night : date of the partition
    pictures : ``uri`` and ``image_id`` of each
    plan : of the night's input
    storage : how S3 is reached
    decoding : bounds of the decoder

    Returns
    -------
    How many pictures are kept.
    """
    uris = pictures["uri"].tolist()
    ids = dict(zip(uris, pictures["image_id"], strict=True))
    rows: list[dict[str, Any]] = []
    if uris:
        wanted = RowKeys(identities([night] * len(uris), uris, [0] * len(uris)))
        reads = [Reading(plan, wanted=wanted)]
        images = reading.read(reads, storage, max_bytes=decoding.max_bytes)
        small = images.map_batches(
            Thumbnails(decoding), batch_size=16, batch_format="pyarrow", num_cpus=0.25
        )
        rows = [row for row in small.iter_rows() if row["image_id"] == ids[row["uri"]]]
    rows.sort(key=lambda row: row["uri"])
    schema = EVIDENCE.with_metadata(
        encoded({"table": "evidence", "schema_version": SCHEMA_VERSION})
    )
    table = pa.Table.from_pylist(rows, schema=EVIDENCE)
    PublishedTable(root, storage).replace(night, [table], schema, {}, NAME)
    return len(rows)


class Thumbnails:
    """Rows of images to rows of evidence, one for each picture that can be decoded."""

    def __init__(self, decoding: Decoding) -> None:
        self.decoding = decoding
        self.__name__ = "Thumbnails"

    def __call__(self, images: pa.Table) -> pa.Table:
        rows = []
        for uri, data in zip(images["uri"].to_pylist(), images["bytes"].to_pylist(), strict=True):
            if data is None:
                continue
            try:
                picture = thumbnail(data, self.decoding)
            except ImageError:
                continue
            rows.append({"image_id": image_id(data), "uri": uri, "thumbnail": picture})
        return pa.Table.from_pylist(rows, schema=EVIDENCE)
