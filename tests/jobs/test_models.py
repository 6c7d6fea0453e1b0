"""The models job: what a person reads before choosing a profile, and models fetched for later."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner, Result

from item.mini import MOST_LAYERS
from item.mini.backbone import POOLED
from item.profiles import Profile, load_profile, profile_names
from jobs.models import app
from pipelines.configuration import parse_settings
from tests.support.dumps import make, parquet_of
from tests.support.hub_server import HubServer
from tests.support.model_files import own_hub, tiny_model, weights
from tests.support.photographs import photographs

MEMBERS = ("captioner", "grounder", "clip")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with own_hub(monkeypatch, tmp_path) as server:
        yield server


@pytest.fixture
def settings(hub: HubServer) -> list[str]:
    """What makes the profile ``base`` name three small models of the hub."""
    found = []
    for seed, member in enumerate(MEMBERS):
        commit = hub.add(f"org/{member}", tiny_model(seed))
        found.append(f"profile.{member}.files={{source: org/{member}, revision: {commit}}}")
    return found


def arguments(settings: list[str], *others: str) -> list[str]:
    options = [part for setting in settings for part in ("--set", setting)]
    return ["fetch", "--profile", "base", *options, *others]


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def profile(settings: list[str]) -> Profile:
    values = parse_settings(settings)
    return load_profile("base", {key.removeprefix("profile."): v for key, v in values.items()})


def test_printed_options_use_the_mirror_and_keep_the_feature_set(
    hub: HubServer, settings: list[str], tmp_path: Path
) -> None:
    to = tmp_path / "my models"
    result = invoke(*arguments(settings, "--to", str(to)))
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines[:3]] == list(MEMBERS)
    assert lines[0].endswith(", 0.00 GB, files fetched: 3")
    hub.stop()
    options = shlex.split(result.stdout.partition("Use it:")[2].replace("\\\n", ""))
    assert options[:2] == ["--profile", "base"]
    assert options[2::2] == ["--set"] * 3
    copied = profile(settings + options[3::2])
    assert copied.feature_set_id() == profile(settings).feature_set_id()
    copied.check_models()


def test_command_fetches_once_and_then_only_what_is_damaged(
    hub: HubServer, settings: list[str], tmp_path: Path
) -> None:
    to = tmp_path / "models"
    result = invoke(*arguments(settings, "--to", str(to)))
    assert result.exit_code == 0, result.stderr
    assert "fetching grounder" in result.stderr
    (to / "grounder" / "model.safetensors").write_bytes(weights(seed=9))
    hub.requests.clear()
    again = invoke(*arguments(settings, "--to", str(to)))
    assert hub.files_sent() == ["model.safetensors"]
    first, second, third, *_ = again.stdout.splitlines()
    assert first.endswith(", files fetched: 0")
    assert second.endswith(", files fetched: 1")
    assert third.endswith(", files fetched: 0")


def test_profile_without_fetched_models_says_so(tmp_path: Path) -> None:
    result = invoke("fetch", "--profile", "mini", "--to", str(tmp_path / "models"))
    assert result.exit_code == 0
    assert result.stdout == "The models of the profile 'mini' come with the package.\n"
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (["--profile", "huge"], "There is no profile 'huge'"),
        (["--set", "captioner.files.source=org/none"], "the model hub has no such model"),
        (["--set", "captioner.files.revision=v9"], "has no revision 'v9'"),
        (["--set", "captioner.files.source=https://host/x"], "must be org/name, a local folder"),
        (["--set", "captioner.fils=1"], "did you mean 'files'"),
        (["--to", "file/models"], "is a file"),
    ],
)
def test_mistakes_are_refused_in_one_sentence(
    settings: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changed: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    result = invoke(*arguments(settings, "--to", "models", *changed))
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert sentence in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_help_fits_a_screen_and_gives_an_example() -> None:
    result = invoke("fetch", "--help")
    assert "Example: python jobs/models.py fetch" in result.stdout
    assert len(result.stdout.splitlines()) <= 24


def test_every_profile_is_listed_with_its_models_unbroken_at_80_columns() -> None:
    result = CliRunner(env={"COLUMNS": "80"}).invoke(app)
    assert result.exit_code == 0
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert max(map(len, lines)) <= 80
    for name in profile_names():
        assert name in lines
        profile = load_profile(name)
        for member, files in profile.model_files().items():
            about = profile.about[member]
            row = next(line for line in lines if line.split()[:2] == [member, files.source])
            assert about.licence in row
            assert row.endswith(f"{about.gigabytes:.1f} GB {about.memory_gigabytes:.1f} GB")
            assert f"@{str(files.revision)[:12]}" in lines[lines.index(row) + 1]
    assert any("nothing is downloaded" in line for line in lines)


def test_help_of_the_list_gives_an_example() -> None:
    assert "Example: python jobs/models.py" in CliRunner().invoke(app, ["--help"]).stdout


def test_layers_are_fitted_on_pictures_and_what_is_missing_is_told(tmp_path: Path) -> None:
    pictures = list(photographs(6).values())
    parquet = parquet_of({"bytes": [pictures[row % 6] for row in range(12)]})
    make(tmp_path / "in", {"a.parquet": parquet})
    folders = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    assert invoke("fit-layers", *folders).exit_code == 0
    tensors = load_file(tmp_path / "out" / "layers.safetensors")
    assert {name: tuple(value.shape) for name, value in tensors.items()} == {
        "means": (2 * POOLED,),
        "directions": (2 * POOLED, MOST_LAYERS),
    }
    refused = invoke("fit-layers", "--input", str(tmp_path / "none"), *folders[2:])
    assert refused.exit_code == 2 and "There is no Parquet in" in refused.stderr
