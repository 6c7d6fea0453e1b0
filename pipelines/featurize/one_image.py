"""One image by its address: its bytes, and its features without Ray."""

from __future__ import annotations

import os
from typing import Any

from botocore.exceptions import BotoCoreError

from item.errors import UsageError
from item.featurizing import featurizer_of
from item.profiles import Profile
from pipelines.storage.access import check_readable, reason
from pipelines.storage.allowed import Location
from pipelines.storage.configuration import Storage
from pipelines.storage.fetching import TooLargeError, fetch
from pipelines.storage.urls import is_s3, normalise, redact


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
    A row of a ``features`` table by column, as :func:`item.explanation.sentences.explain` takes
    it. Its status and error code say so if the file cannot be decoded.

    Raises
    ------
    UsageError
        If a model of the profile is missing.
    """
    table = featurizer_of(profile).featurize([data], [uri])
    row: dict[str, Any] = table.to_pylist()[0]
    return row
