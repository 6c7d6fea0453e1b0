"""An audit root of made-up nights, as ``jobs/nightly.py`` leaves one: real Parquet files."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from item.statistics.calibration import Abstention, Thresholds, Verdict, verdicts
from item.tables import EVIDENCE, FEATURES, REJECTS, SCORES, ErrorCode, Status

DIMENSIONS = 4
HEAD = "0123456789abcdef"
FEATURE_SET = "mini-abcdef"
THRESHOLDS = Thresholds(likely_real=0.2, likely_generated=0.9)
ERROR_RATES = {
    "measured_on": "1,000 photographs and 500 generated pictures",
    "real_rows": 1000,
    "real_flagged": 10,
    "generated_rows": 500,
    "generated_flagged": 300,
}

SCRIPT = "<script>window.pwned=1;alert(1)</script>"
IMAGE = '"><img src=x onerror="window.pwned=1"> \'and more\''
STYLE = "</style></script></svg><svg onload=window.pwned=1>"
TEMPLATE = "{{ 7 * 7 }} {% raw %} &lt;b&gt; $x^2$ \N{RIGHT-TO-LEFT OVERRIDE}gnp.exe"
FORMULA = '=HYPERLINK("https://example.org","x")'
LINK = "javascript:window.pwned=1"
HOSTILE = (SCRIPT, IMAGE, STYLE, TEMPLATE, FORMULA, LINK)

Row = dict[str, Any]


def picture(uri: str, score: float | None = 0.5, **columns: Any) -> Row:
    """A scored picture of two objects; any column of features or scores can be given."""
    box = {"x0": 20.0, "y0": 30.0, "x1": 120.0, "y1": 150.0}
    other = {"x0": 150.0, "y0": 60.0, "x1": 300.0, "y1": 220.0}
    caption = columns.get("caption", "a black cat on a red sofa")
    abstention = columns.get("abstention")
    verdict = verdicts([np.nan if score is None else score], THRESHOLDS, [abstention is not None])
    return {
        "uri": uri,
        "image_id": hashlib.sha256(uri.encode()).hexdigest(),
        "source": "photos.example",
        "status": Status.OK,
        "width": 320,
        "height": 240,
        "byte_count": 30_000,
        "format": "JPEG",
        "caption": caption,
        "objects": [
            _object("black cat", box, 0.21),
            _object("red sofa", other, 0.34),
            _object("small spoon", None, None),
        ],
        "global_similarity": 0.3,
        "local_similarity_mean": 0.275,
        "score": score,
        "verdict": verdict[0],
        "weakest_phrase": "black cat",
        "weakest_box": box,
        "weakest_similarity": 0.21,
        "explanation": f"The score of {score} is what the head says.",
    } | columns


def broken(uri: str, code: ErrorCode = ErrorCode.TRUNCATED, **columns: Any) -> Row:
    """A row without features."""
    return {
        "uri": uri,
        "source": "photos.example",
        "status": code.status,
        "error_code": code,
        "error_message": code.sentence,
        "verdict": Verdict.NOT_SCORED,
    } | columns


def strange(uri: str, score: float, **columns: Any) -> Row:
    """A picture on which the head abstains."""
    return picture(uri, score, abstention=Abstention.OUT_OF_DISTRIBUTION, **columns)


def many(night: str, number: int, seed: int = 0, **columns: Any) -> list[Row]:
    """Pictures of three sources with scores all over; the same for the same seed."""
    random = np.random.default_rng(seed)
    return [
        picture(
            f"s3://crawl/{night}/{place:05}.jpg",
            float(random.beta(0.6, 1.4)),
            source=("photos.example", "art.example", "news.example")[place % 3],
            global_similarity=float(random.normal(0.3, 0.05)),
            local_similarity_mean=float(random.normal(0.28, 0.04)),
            width=int(random.integers(300, 800)),
            height=int(random.integers(300, 800)),
            byte_count=int(random.integers(20_000, 90_000)),
            caption="a cat " + "and a dog " * int(random.integers(0, 5)),
            **columns,
        )
        for place in range(number)
    ]


def write_night(
    root: Path,
    night: str,
    rows: Sequence[Row],
    *,
    parts: int = 2,
    head_id: str = HEAD,
    manifest: Row | None = None,
    evidence: bool = True,
) -> Path:
    """Write one night below ``root``, with a manifest if one is given, and return ``root``."""
    for number in range(min(parts, len(rows))):
        mine = rows[number::parts]
        name = f"date={night}/part-{number:04}.parquet"
        said = {"head_id": head_id, "feature_set_id": FEATURE_SET, "run_id": "run"}
        said["scored_at"] = datetime(2026, 1, 1, tzinfo=UTC)
        _write(root / "features" / name, FEATURES, mine)
        _write(root / "scores" / name, SCORES, [row | said for row in mine])
    lost = [row for row in rows if row["status"] != Status.OK]
    _write(root / f"rejects/date={night}/rejects.parquet", REJECTS, _rejects(lost))
    if evidence:
        kept = [row | {"thumbnail": thumbnail()} for row in rows if row["status"] == Status.OK]
        _write(root / f"evidence/date={night}/evidence.parquet", EVIDENCE, kept)
    if manifest is not None:
        path = root / "_nights" / f"{night}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(manifest))
    return root


def thumbnail() -> bytes:
    """A small JPEG."""
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((160, 120)).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


def _object(phrase: str, box: dict[str, float] | None, similarity: float | None) -> Row:
    return {
        "phrase": phrase,
        "box": box,
        "grounding_score": 0.5,
        "grounded": box is not None,
        "similarity": similarity,
        "image_similarity": similarity,
    }


def _rejects(rows: Sequence[Row]) -> list[Row]:
    keys = dict.fromkeys((row["error_code"], row["status"], row["source"]) for row in rows)
    groups = {
        key: [row for row in rows if (row["error_code"], row["status"], row["source"]) == key]
        for key in keys
    }
    return [
        {"error_code": code, "status": status, "source": source, "rows": len(some), "share": 0.1}
        | {"reason": ErrorCode(code).sentence, "examples": [row["uri"] for row in some[:3]]}
        for (code, status, source), some in groups.items()
    ]


def _write(path: Path, schema: pa.Schema, rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([{k: row.get(k) for k in schema.names} for row in rows], schema)
    pq.write_table(table, path, compression="zstd")
