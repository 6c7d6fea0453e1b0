"""Reads Parquet files with one library and prints their rows as JSON, run by tests.

python read_with.py LIBRARY FILE …        LIBRARY is pyarrow, pandas, duckdb or polars
"""

import datetime
import json
import math
import sys


def rows_of(library, path):
    """The rows of a file as dictionaries, by a library that has to be there."""
    if library == "pyarrow":
        import pyarrow.parquet

        return pyarrow.parquet.read_table(path, partitioning=None).to_pylist()
    if library == "pandas":
        import pandas

        return pandas.read_parquet(path, engine="pyarrow").astype(object).to_dict("records")
    if library == "duckdb":
        import duckdb

        found = duckdb.execute("SELECT * FROM read_parquet(?, hive_partitioning=false)", [path])
        names = [column[0] for column in found.description]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]
    import polars

    return polars.read_parquet(path, hive_partitioning=False).rows(named=True)


def plain(value):
    """A value as JSON has it, the same for the same value in every library."""
    if value is None or value is getattr(sys.modules.get("pandas"), "NaT", None):
        return None
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, (str, bool)):
        return str(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime.datetime):
        return round(value.timestamp() * 1000)
    if hasattr(value, "__len__"):
        return [plain(one) for one in value]
    number = float(value)
    return None if math.isnan(number) else number


def main(library, *paths):
    """Print a JSON object: the rows of each file."""
    found = {path: [plain(row) for row in rows_of(library, path)] for path in paths}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
