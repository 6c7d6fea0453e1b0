"""The models job: what a person reads before choosing a profile."""

from __future__ import annotations

from typer.testing import CliRunner

from item.profiles import load_profile, profile_names
from jobs.models import app


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


def test_help_gives_an_example() -> None:
    assert "Example: python jobs/models.py" in CliRunner().invoke(app, ["--help"]).stdout
