"""The demo: what it puts into its dump, what it clears, and how it shows a table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner

from item.errors import UsageError
from item.heads.head import Head
from item.mini import HEAD
from item.tables import FEATURES, ErrorCode, Status
from jobs import demo
from pipelines.score.job import scores
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("demo") / "dump"
    assert demo.make_dump(folder) == [57, 55]
    return folder


def names(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def shown(table: Table, width: int = 100) -> str:
    console = Console(width=width, color_system="truecolor", force_terminal=True)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def row(uri: str, **columns: object) -> dict[str, object]:
    ok = {
        "uri": uri,
        "source": "crawl",
        "status": Status.OK,
        "caption": "a cat on a sofa",
        "objects": [],
    }
    return ok | {"global_similarity": 0.25} | columns


def object_(phrase: str, similarity: float, grounded: bool = True) -> dict[str, object]:
    return {"phrase": phrase, "similarity": similarity, "grounded": grounded}


def read_back(audit: Path, *rows: dict[str, object]) -> pd.DataFrame:
    """Write rows as the tables of a night are written, and read them as the demo does."""
    features = pa.Table.from_pylist(list(rows), schema=FEATURES)
    tables = {"features": features, "scores": scores(features, Head.load(HEAD))}
    for name, table in tables.items():
        path = audit / name / f"date={demo.NIGHTS[0]}" / "night.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(table, path)
    return demo.read(audit)


@pytest.mark.parametrize("name", demo.PHOTOGRAPHS)
def test_photograph_is_whole_and_of_the_format_that_its_name_says(dump: Path, name: str) -> None:
    formats = {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP"}
    with Image.open(dump / f"date={demo.NIGHTS[0]}" / "crawl" / name) as photograph:
        photograph.load()
        assert photograph.format == formats[Path(name).suffix]
        assert min(photograph.size) >= 256


def test_dump_mixes_formats_and_holds_broken_files(dump: Path) -> None:
    assert {Path(name).suffix for name in demo.PHOTOGRAPHS} == {".jpg", ".png", ".webp"}
    broken = dump / f"date={demo.NIGHTS[0]}" / "downloads"
    assert {path.name for path in broken.iterdir()} == {
        *("broken-download.jpg", "not-found-page.jpg", "empty.png")
    }
    with (
        pytest.raises(OSError, match="truncated"),
        Image.open(broken / "broken-download.jpg") as cut,
    ):
        cut.load()
    with pytest.raises(OSError, match="cannot identify"):
        Image.open(broken / "not-found-page.jpg")
    assert (broken / "empty.png").stat().st_size == 0


def test_half_of_the_second_night_was_there_before(dump: Path) -> None:
    first, second = (names(dump / f"date={night}") for night in demo.NIGHTS)
    pictures = {data for data in first.values() if data}
    assert sum(data in pictures for data in second.values()) == 27
    assert len(set(first.values())) == len(first)


def test_missing_package_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "PHOTOGRAPHS", {"cat.png": ("no_such_package", "cat.png")})
    with pytest.raises(UsageError, match="make demo"):
        demo.make_dump(tmp_path / "dump")


def test_second_run_clears_what_the_first_left(tmp_path: Path) -> None:
    folder = tmp_path / "demo-output"
    demo.clear(folder)
    (folder / "features").mkdir()
    (folder / "features" / "old.parquet").touch()
    demo.clear(folder)
    assert [path.name for path in folder.iterdir()] == [demo.MARK]


def test_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "precious.txt"
    precious.touch()
    with pytest.raises(UsageError, match="did not make"):
        demo.clear(tmp_path)
    assert precious.exists()


def test_link_to_another_folder_is_not_followed(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    demo.clear(mine)
    (tmp_path / "link").symlink_to(mine)
    with pytest.raises(UsageError, match="not a folder"):
        demo.clear(tmp_path / "link")
    assert (mine / demo.MARK).exists()


def test_table_shows_caption_objects_and_similarities(tmp_path: Path) -> None:
    objects = [object_("a cat", 0.314), object_("a sofa", 0.271, grounded=False)]
    text = shown(demo.described(read_back(tmp_path, row("cat.png", objects=objects))))
    for part in ("cat.png", "a cat on a sofa", "a cat 0.31", "a sofa 0.27 not found", "0.25"):
        assert part in text


def test_shipped_head_gives_a_picture_with_features_a_verdict(tmp_path: Path) -> None:
    vectors = {
        name: np.eye(384, dtype=np.float16)[number].tolist()
        for number, name in enumerate(
            ("image_embedding", "parts_embedding", "global_misalignment", "local_misalignment")
        )
    }
    scalars = {f"local_similarity_{name}": 0.1 for name in ("min", "mean", "max", "std")}
    scalars |= {"object_count": 1, "ungrounded_fraction": 0.0, "layers": [0.0] * 256}
    rows = read_back(tmp_path, row("cat.png", **vectors, **scalars), row("no-features.png"))
    found = rows.set_index("uri")
    assert found["verdict"]["no-features.png"] == "not_scored"
    assert 0 <= found["score"]["cat.png"] <= 1
    # Nothing that it was trained on looks like a row of the unit matrix.
    assert found["abstention"]["cat.png"] == "out_of_distribution"
    text = shown(demo.described(rows), width=140)
    for part in ("uncertain", "out_of_distribution", "not_scored", "│ –"):
        assert part in text


def test_picture_without_objects_or_numbers_is_still_shown(tmp_path: Path) -> None:
    objects = [object_("a dog", float("nan")), {"phrase": "a hat", "grounded": False}]
    rows = read_back(tmp_path, row("1.png", global_similarity=None), row("2.png", objects=objects))
    text = shown(demo.described(rows))
    for part in ("none named", "a dog –", "a hat – not found"):
        assert part in text


def test_hostile_text_is_shown_and_has_no_effect(tmp_path: Path) -> None:
    hostile = "[red]x[/red] [/] [link=a]b[/link] :smile:"
    controls = "\x1b[2Jy\x1b]8;;z\x07\u202e\r"
    rows = read_back(
        tmp_path,
        row("1.png", caption=hostile, objects=[object_(hostile, 0.1)]),
        row("2.png", caption=controls),
        row(hostile, status=Status.REJECTED, error_code=ErrorCode.CORRUPT, objects=None),
    )
    described = shown(demo.described(rows), width=300)
    assert described.count(hostile) == 2
    assert "�[2Jy�]8;;z���" in described
    refused = shown(demo.refused(rows), width=300)
    assert hostile in refused
    assert "\x1b[2J" not in described and "\x1b]8" not in described + refused


def test_rejected_file_is_shown_with_its_reason_and_only_there(tmp_path: Path) -> None:
    bad = row("bad.jpg", status=Status.REJECTED, error_code=ErrorCode.EMPTY_FILE, objects=None)
    rows = read_back(tmp_path, row("good.jpg"), bad)
    described, refused = shown(demo.described(rows)), shown(demo.refused(rows))
    assert "bad.jpg" in refused and "empty_file" in refused
    assert ErrorCode.EMPTY_FILE.sentence in refused
    assert "bad.jpg" not in described and "good.jpg" not in refused


def test_tables_fit_80_columns_without_broken_names(tmp_path: Path) -> None:
    night = f"/somewhere/long/demo-output/dump/date={demo.NIGHTS[0]}"
    good = [
        row(f"{night}/crawl/{name}", caption="a man in a yellow jacket is standing", objects=[])
        for name in demo.PHOTOGRAPHS
    ]
    bad = {"status": Status.REJECTED, "error_code": ErrorCode.TRUNCATED, "objects": None}
    rows = read_back(tmp_path, *good, row(f"{night}/downloads/broken-download.jpg", **bad))
    for table, names in (
        (demo.described(rows), demo.PHOTOGRAPHS),
        (demo.refused(rows), ["downloads/broken-download.jpg"]),
    ):
        lines = Text.from_ansi(shown(table, width=80)).plain.splitlines()
        assert all(any(f"│ {name} " in line for line in lines) for name in names)
        assert {line[-1] for line in lines if line.startswith(("│", "┃"))} == {"│", "┃"}


def test_job_is_run_as_users_run_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        calls.append((command, options["env"]))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("RAY_ADDRESS", "a-cluster:6379")
    assert demo.audited(tmp_path / "dump", tmp_path / "audit") == 0
    [(command, environment)] = calls
    assert command[:2] == [sys.executable, str(REPOSITORY / "jobs" / "nightly.py")]
    assert "--set=max_error_rate=0.5" in command
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert "RAY_ADDRESS" not in environment


def test_failed_job_ends_the_demo_with_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "audited", lambda _dump, _audit: 3)
    monkeypatch.setattr(demo, "make_dump", lambda folder: folder.mkdir() or [])
    result = CliRunner().invoke(demo.app, ["--output", str(tmp_path / "out")])
    assert result.exit_code == 3


def test_demo_shows_nights_drift_report_and_the_line_that_opens_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def audited(_dump: Path, audit: Path) -> int:
        read_back(audit, row("cat.png"))
        (audit / "_nights").mkdir()
        for night in demo.NIGHTS:
            told = {"rows": {"total": 57}, "verdicts": {"uncertain": 27}, "reuse": {"reused": 28}}
            (audit / "_nights" / f"{night}.json").write_text(json.dumps(told))
        drift = audit / "reports" / demo.NIGHTS[1] / "drift.parquet"
        drift.parent.mkdir(parents=True)
        rows = {"alarm": [True, False], "sentence": ["The mix is [b]new\x1b[2J.", "Same."]}
        pd.DataFrame(rows).to_parquet(drift)
        return 0

    monkeypatch.setattr(demo, "audited", audited)
    monkeypatch.setattr(demo, "make_dump", lambda folder: folder.mkdir() or [])
    output = tmp_path / "out"
    for _ in range(2):
        result = CliRunner().invoke(demo.app, ["--output", str(output)])
        assert result.exit_code == 0, result.output
    lines = result.output.strip().splitlines()
    assert lines[-1] == f'import pandas as pd; pd.read_parquet("{output / "audit" / "scores"}")'
    assert lines[-3] == str(output / "audit" / "reports" / f"{demo.NIGHTS[1]}.html")
    assert "Drift: The mix is [b]new�[2J." in result.output and "Same." not in result.output
    for part in (*demo.NIGHTS, "57", "28", "27"):
        assert part in result.output


def test_help_fits_a_screen_and_gives_an_example() -> None:
    result = CliRunner().invoke(demo.app, ["--help"])
    assert "Example: python jobs/demo.py" in result.output
    assert len(result.output.splitlines()) <= 24
