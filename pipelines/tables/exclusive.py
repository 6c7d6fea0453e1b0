"""Files that are created only where there is none, on a disk and on S3."""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from item.errors import UsageError
from pipelines.storage.access import reason
from pipelines.storage.atomic import write_atomically


def link_in_place(path: str, content: bytes) -> None:
    """Create a whole local file unless there is one."""
    target = Path(path)
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    write_atomically(LocalFileSystem(), str(aside), content)
    try:
        os.link(aside, target)
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise UsageError(not_exclusive(str(target.parent))) from None
        raise
    finally:
        aside.unlink(missing_ok=True)


def put_if_absent(fs: AbstractFileSystem, path: str, content: bytes) -> bool:
    """Create an S3 object unless there is one; whether the storage says that it did."""
    bucket, _, key = path.partition("/")
    try:
        fs.call_s3("put_object", Bucket=bucket, Key=key, Body=content, IfNoneMatch="*")
    except OSError as error:
        match reason(error):
            case "PreconditionFailed" | "412" | "ConditionalRequestConflict" | "409":
                return False
            case "NotImplemented" | "501":
                raise UsageError(not_exclusive(f"s3://{bucket}")) from None
        raise
    return True


def not_exclusive(where: str) -> str:
    """What to tell a user whose storage cannot do it."""
    return (
        f"The storage at {where} cannot create a file only if there is none (conditional "
        "writes on S3, hard links on a disk), which keeps two runs apart: make sure in "
        "another way that only one runs at a time, and set exclusive_lease to false."
    )
