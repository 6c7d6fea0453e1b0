"""The columns of a table of images: which are known, and their values as Python ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date as Date

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from item.errors import UsageError
from pipelines.input.files import date_in, uri_of, valid_date
from pipelines.storage.uris import canonical_uri

Columns = Mapping[str, str]
"""Where the known columns of a table are: by name, a column or a field such as ``image.bytes``."""


class ColumnNames(BaseModel):
    """What the columns of a table are called, where they have other names than here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: str | None = Field(default=None, min_length=1)
    """Whole image files; else ``bytes``, ``jpg``, ``png``, ``webp`` or ``image``."""
    uri: str | None = Field(default=None, min_length=1)
    """Where the image is; else ``uri``, ``url`` or ``URL``."""
    captions: str | None = Field(default=None, min_length=1)
    """Text or a list of texts; else ``captions``, ``caption``, ``TEXT`` or ``text``."""
    label: str | None = Field(default=None, min_length=1)
    """1 or ``generated``, 0 or ``real``."""
    generator: str | None = Field(default=None, min_length=1)
    """What made a generated image."""
    source: str | None = Field(default=None, min_length=1)
    """Where a photograph is from."""
    date: str | None = Field(default=None, min_length=1)
    """A date, or text like 2026-01-31."""


_USUAL: Mapping[str, tuple[str, ...]] = {
    "bytes": ("bytes", "jpg", "png", "webp", "image"),
    "uri": ("uri", "url", "URL"),
    "captions": ("captions", "caption", "TEXT", "text"),
    "label": ("label",),
    "generator": ("generator",),
    "source": ("source",),
    "date": ("date",),
}
"""What columns are called by this project, img2dataset, Hugging Face's datasets and LAION."""


def known_columns(schema: pa.Schema, names: ColumnNames, file: str) -> Columns:
    """Return where the known columns are, their types checked; others are not read.

    Raises
    ------
    UsageError
        If a column is missing, there twice, or of a type that does not fit.
    """
    counts = Counter(schema.names)
    found: dict[str, str] = {}
    for name, usual in _USUAL.items():
        if name == "uri" and "bytes" in found:
            usual = usual[:1]  # beside pictures, a url may be that of a page with many of them
        given = getattr(names, name)
        column = given or next((one for one in usual if one in counts), None)
        if column is None:
            continue
        first = _parts(schema, column)[0]
        if first not in counts:
            raise UsageError(
                f"{file} has no column {column!r}, which reading.columns.{name} names; its "
                f"columns are {_listed(schema)}."
            )
        if counts[first] > 1:
            raise UsageError(
                f"{file} has {counts[first]} columns named {first!r}: rename all but one."
            )
        _place(schema, name, column, found, file, chosen=given is not None)
    if not found.keys() & {"bytes", "uri"}:
        raise UsageError(
            f"A table of images needs a column 'bytes' or 'uri'; {file} has {_listed(schema)}. "
            "Say which it is with --set reading.columns.bytes=COLUMN or "
            "--set reading.columns.uri=COLUMN."
        )
    return found


def _listed(schema: pa.Schema) -> str:
    return ", ".join(repr(name)[:60] for name in schema.names[:12]) or "none"


def _place(
    schema: pa.Schema, name: str, column: str, found: dict[str, str], file: str, *, chosen: bool
) -> None:
    """Put a known column into `found`; a struct of bytes and path is what datasets writes."""
    kind = _type_of(schema, column, file)
    if name == "bytes" and pa.types.is_struct(kind):
        fields = {kind.field(place).name for place in range(kind.num_fields)}
        if "bytes" in fields:
            found["bytes"] = f"{column}.bytes"
            if "path" in fields:
                found["path"] = f"{column}.path"
            return
    fits, words = _KNOWN[name]
    if pa.types.is_null(kind) or fits(kind):
        found[name] = column
    elif chosen or (column == _USUAL[name][0] and not (name == "bytes" and _is_string(kind))):
        raise UsageError(f"Column {column!r} of {file} must be {words}; it is {kind}.")


def _parts(schema: pa.Schema, column: str) -> list[str]:
    return [column] if column in schema.names else column.split(".")


def array_at(batch: pa.RecordBatch, column: str) -> pa.Array:
    """Return a column of a batch, or a field of one."""
    first, *rest = _parts(batch.schema, column)
    array = batch.column(first)
    for part in rest:
        # Not array.field: that gives the values below a null struct too.
        array = array.flatten()[array.type.get_field_index(part)]
    return array


def _type_of(schema: pa.Schema, column: str, file: str) -> pa.DataType:
    first, *rest = _parts(schema, column)
    kind = schema.field(first).type
    for part in rest:
        if not pa.types.is_struct(kind) or kind.get_field_index(part) < 0:
            raise UsageError(f"{file} has no column {column!r}; its columns are {_listed(schema)}.")
        kind = kind.field(part).type
    while pa.types.is_dictionary(kind):
        kind = kind.value_type
    return kind


def _is_string(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _is_binary(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    )


def _is_label(kind: pa.DataType) -> bool:
    numbers = pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_floating(kind)
    return bool(numbers or _is_string(kind))


def _is_date(kind: pa.DataType) -> bool:
    return bool(_is_string(kind) or pa.types.is_date(kind) or pa.types.is_timestamp(kind))


def _is_captions(kind: pa.DataType) -> bool:
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return _is_string(kind) or bool(lists and _is_string(kind.value_type))


_KNOWN: dict[str, tuple[Callable[[pa.DataType], bool], str]] = {
    "bytes": (_is_binary, "binary"),
    "uri": (_is_string, "text"),
    "label": (_is_label, "0, 1 or null"),
    "generator": (_is_string, "text"),
    "source": (_is_string, "text"),
    "date": (_is_date, "a date or text like 2026-01-31"),
    "captions": (_is_captions, "text or a list of texts"),
}


@dataclass(frozen=True)
class Keys:
    """What names the rows of a batch."""

    uris: list[str]  # as tables show them
    targets: list[str | None]  # as they are read
    dates: list[str]
    bad_dates: int
    """Dates that are none, or are not those of the night."""


@dataclass(frozen=True)
class InputFile:
    """Where a listed file stands, and which date its rows have if they do not say.

    With ``is_night``, that is the date of all of them.
    """

    root: str
    name: str
    date: str
    is_night: bool = False

    @classmethod
    def of(cls, root: str, name: str, night: str | None, default: str) -> InputFile:
        """Return the place of a listed file, in a night or among rows with their own dates."""
        return cls(root, name, night or date_in(name) or date_in(root) or default, bool(night))

    @property
    def uri(self) -> str:
        """What names the file."""
        return uri_of(self.root, self.name)

    @property
    def folder(self) -> str:
        """What the relative URIs in it are below."""
        inner = self.name.rpartition("/")[0]
        return f"{self.root}/{inner}" if inner else self.root

    def keys(self, batch: Mapping[str, pa.Array], first_row: int) -> Keys:
        """Return the keys of a batch that begins with the file's row `first_row`."""
        count = len(next(iter(batch.values())))
        names: list[str | None] = texts(batch["uri"]) if "uri" in batch else [None] * count
        uris = [
            canonical_uri(name, self.folder) if name else f"{self.uri}#{first_row + index}"
            for index, name in enumerate(names)
        ]
        paths = texts(batch["path"]) if "path" in batch else [None] * count
        targets = [name or path for name, path in zip(names, paths, strict=True)]
        if "date" not in batch:
            return Keys(uris, targets, [self.date] * count, 0)
        given = batch["date"]
        values = texts(given) if _is_text(given) else _days(given)
        dates = [valid_date(value) for value in values]
        bad = sum(
            value is not None and (valid is None or (self.is_night and valid != self.date))
            for valid, value in zip(dates, values, strict=True)
        )
        return Keys(uris, targets, [(not self.is_night and day) or self.date for day in dates], bad)


def _is_text(array: pa.Array) -> bool:
    kind = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
    return _is_string(kind)


def _days(array: pa.Array) -> list[Date | None]:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_timestamp(array.type):
        # Through UTC days, since Python has no nanoseconds and dates are UTC.
        array = pc.floor_temporal(array.cast(pa.timestamp("us"), safe=False), unit="day")
        array = array.cast(pa.date32())
    try:
        return list(array.to_pylist())
    except (OverflowError, ValueError):  # one day beyond year 9999
        return [_day(value) for value in array]


def _day(value: pa.Scalar) -> Date | None:
    try:
        day: Date | None = value.as_py()
        return day
    except (OverflowError, ValueError):
        return None


def texts(array: pa.Array) -> list[str | None]:
    """Return strings; Parquet does not promise that its text is UTF-8."""
    try:
        return list(array.to_pylist())
    except UnicodeDecodeError:
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        return [
            None if value is None else value.decode("utf-8", "backslashreplace")
            for value in array.cast(pa.large_binary()).to_pylist()
        ]


def labels_of(array: pa.Array) -> list[object]:
    """Return labels as they are given, numbers or words."""
    return texts(array) if _is_text(array) else list(array.to_pylist())  # type: ignore[return-value]


def captions_of(array: pa.Array) -> list[list[str] | None]:
    """Return the captions of each row from a column of texts or of lists of texts."""
    if _is_text(array):
        return [None if text is None else [text] for text in texts(array)]
    lists: list[list[str] | None] = []
    for start, value in enumerate(array):
        if value is None or not value.is_valid:
            lists.append(None)
        else:
            lists.append([text for text in texts(array[start].values) if text is not None])
    return lists
