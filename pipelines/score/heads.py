"""A head's folder, on disk or S3."""

from __future__ import annotations

import posixpath

from item.heads.head import Head
from pipelines.storage.access import filesystem
from pipelines.storage.configuration import Storage
from pipelines.storage.urls import is_s3, redact


def load_head(url: str, storage: Storage) -> Head:
    """A head from a local folder or an ``s3://`` prefix; errors as :meth:`Head.load`."""
    fs, path = filesystem(url, storage)
    where = redact(url) if is_s3(url) else path
    return Head.read(lambda name: fs.cat_file(posixpath.join(path, name)), where)
