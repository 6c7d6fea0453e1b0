"""How S3-compatible storage is reached, as users configure it."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator


class Storage(BaseModel):
    """How S3-compatible storage is reached. Holds no credentials.

    Unset fields fall back to what the environment says (``AWS_ENDPOINT_URL``,
    ``AWS_REGION`` and the like).
    """

    # A rejected value may be a URL with a password in it.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    endpoint_url: str | None = None
    """Address of an S3-compatible server; ``AWS_ENDPOINT_URL`` if unset."""
    anonymous: bool = False
    """Whether a public bucket is read without credentials."""
    region: str | None = None
    """Region of the bucket; ``AWS_REGION`` if unset."""
    retries: int = Field(default=5, ge=0, le=100)
    """Further tries of a request that failed."""
    connect_timeout: float = Field(default=10.0, gt=0)
    """Seconds to wait for a connection."""
    read_timeout: float = Field(default=60.0, gt=0)
    """Seconds to wait for an answer."""

    @field_validator("endpoint_url")
    @classmethod
    def _endpoint_is_a_plain_url(cls, value: str | None) -> str | None:
        if value is None:
            return value
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("endpoint_url must look like https://host or http://host:port")
        if "@" in parts.netloc or parts.query:
            raise ValueError("endpoint_url must not hold credentials: put them in the environment")
        return value
