"""One image through the stages of featurizing, in this process and without Ray's cluster."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

import pyarrow as pa
from botocore.exceptions import BotoCoreError

from item.errors import UsageError
from item.profiles import Profile
from item.tables import IMAGES, Status
from pipelines.featurize.steps import stages
from pipelines.input.rows import InputRow
from pipelines.runtime.stages import Stage, run_stage
from pipelines.storage.access import Storage, check_readable, reason
from pipelines.storage.allowed import Location
from pipelines.storage.fetching import TooLargeError, fetch
from pipelines.storage.urls import is_s3, normalise, redact
from pipelines.tables.features import as_features


def read_one(url: str, profile: Profile, storage: Storage) -> bytes:
    """The bytes of one file.

    Parameters
    ----------
    url : a local path, ``file://`` or ``s3://bucket/key``
    profile : whose ``decoding.max_bytes`` is not exceeded
    storage : how S3 is reached

    Raises
    ------
    UsageError
        If there is no file, if it is too large, or if it cannot be read.
    """
    check_readable(url, storage)
    path = normalise(url)
    if is_s3(path):
        location = Location("s3", path[len("s3://") :])
    else:
        location = Location("local", os.path.realpath(path))
    where = redact(url)
    try:
        return fetch(location, storage, profile.decoding.max_bytes)
    except TooLargeError as error:
        sentence = str(error).removesuffix(".")
        raise UsageError(f"{sentence}: set profile.decoding.max_bytes to read {where}.") from None
    except (FileNotFoundError, IsADirectoryError):
        raise UsageError(f"{where} is not a file: name one image.") from None
    except (OSError, BotoCoreError) as error:
        raise UsageError(f"{where} could not be read ({reason(error)}).") from None


def featurize_one(data: bytes, uri: str, profile: Profile) -> dict[str, Any]:
    """Features of one image, the same as a featurize job gives it.

    The first image loads the profile's models, which takes seconds; those of the last profile
    stay loaded.

    Parameters
    ----------
    data : the file, of any content
    uri : what the row is called; nothing is read from it
    profile : which models

    Returns
    -------
    A row of a ``features`` table by column, as :func:`item.explain.sentences.explain` takes it. Its
    status and error code say so if the file cannot be decoded.

    Raises
    ------
    UsageError
        If a model of the profile is missing.
    """
    table = pa.Table.from_pylist([InputRow(uri, date="", bytes=data).as_dict()], schema=IMAGES)
    for stage in _method(profile.model_dump_json()):
        if table["status"][0].as_py() == Status.OK:
            _set_up(stage)
        table = run_stage(stage, table)
    row: dict[str, Any] = as_features(table, profile.dimensions).to_pylist()[0]
    return row


@lru_cache(maxsize=1)
def _method(profile: str) -> list[Stage]:
    """Stages of a profile, given as JSON."""
    return stages(Profile.model_validate_json(profile))


@lru_cache(maxsize=8)
def _set_up(stage: Stage) -> None:
    """Load a stage's models once; a file that cannot be decoded needs none of them."""
    stage.set_up()
