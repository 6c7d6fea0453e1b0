"""S3 through s3fs. Imported where an ``s3://`` address is: it takes long."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import s3fs

from pipelines.storage.configuration import Storage
from pipelines.storage.retries import count_repeated_request


class _S3(s3fs.S3FileSystem):
    """S3 whose keys are taken byte for byte, and that counts the requests it repeats.

    Those that botocore repeats are counted, if they fail in the end too. What aiohttp sends
    again because the server had closed an idle connection is not.
    """

    async def set_session(self, refresh: bool = False, kwargs: dict[str, Any] | None = None) -> Any:
        client = await super().set_session(refresh=refresh, kwargs=kwargs or {})
        name = "count-repeated-requests"
        client.meta.events.register_first("needs-retry.s3", _count_repeated, unique_id=name)
        return client

    def split_path(self, path: str) -> tuple[str, str, None]:
        """Return bucket and key; ``?versionId=`` is a part of the key as any other."""
        bucket, key = self._find_bucket_key(path.removeprefix("s3://"))
        return bucket, key, None

    async def _lsdir(self, path: str, *args: Any, prefix: str = "", **kwargs: Any) -> Any:
        bucket, key, _ = self.split_path(path)
        if key.startswith("/"):  # s3fs would look without the slash
            path, prefix = bucket, f"{key}/{prefix}"
        return await super()._lsdir(path, *args, prefix=prefix, **kwargs)


def _count_repeated(attempts: int, **_: Any) -> None:
    """Handle botocore's event after each request; `attempts` counts those of one call."""
    if attempts > 1:
        count_repeated_request()


def new_s3(storage: Storage) -> s3fs.S3FileSystem:
    """A file system of its own."""
    fs = _S3(
        anon=storage.anonymous,
        endpoint_url=storage.endpoint_url,
        client_kwargs={"region_name": storage.region} if storage.region else {},
        config_kwargs={
            "connect_timeout": storage.connect_timeout,
            "read_timeout": storage.read_timeout,
            "retries": {"mode": "standard", "total_max_attempts": storage.retries + 1},
            # Several S3-compatible servers refuse the checksums that botocore adds otherwise.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        },
        use_listings_cache=False,
        skip_instance_cache=True,
    )
    # botocore retries requests; s3fs adds one retry for a body that breaks off.
    fs.retries = 2 if storage.retries else 1
    return fs


# fsspec's own cache keys on the thread, which would open a session for each reader thread.
s3_filesystem = lru_cache(maxsize=8)(new_s3)


def has(fs: s3fs.S3FileSystem, bucket: str, key: str) -> bool:
    """Whether there is an object of that key, or some below it."""
    prefix = f"{key}/" if key else ""
    try:
        found = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)
        if found.get("KeyCount", len(found.get("Contents", ()))) or not key:
            return True
    except PermissionError:
        # A policy may allow reading one object and not listing its bucket.
        if not key:
            raise
        fs.call_s3("head_object", Bucket=bucket, Key=key)
        return True
    try:
        fs.call_s3("head_object", Bucket=bucket, Key=key)
    except FileNotFoundError:
        return False
    return True
