"""Where a value of the configuration comes from, and what is refused."""

import datetime
from pathlib import Path

import pytest
import yaml

from item.errors import UsageError
from item.profiles import load_profile
from pipelines.configuration import parse_settings
from pipelines.featurize.configuration import FeaturizeConfiguration, resolve

OPTIONS = {"input": "dump", "output": "features"}


@pytest.fixture
def file(tmp_path):
    """Writes a configuration file and returns its path."""

    def write(content):
        path = tmp_path / "job.yaml"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(yaml.safe_dump(content))
        return str(path)

    return write


# Precedence


def test_defaults_hold_where_nothing_is_said():
    found = resolve(None, OPTIONS, {})
    assert found == FeaturizeConfiguration(**OPTIONS, profile=load_profile("mini"))
    assert found.rows_per_part == 1024


def test_the_file_replaces_defaults(file):
    found = resolve(file({**OPTIONS, "rows_per_part": 7, "storage": {"retries": 1}}), {}, {})
    assert found.input == (str(Path.cwd() / "dump"),)
    assert (found.rows_per_part, found.storage.retries) == (7, 1)


def test_options_replace_the_file(file):
    path = file({**OPTIONS, "rows_per_part": 7})
    found = resolve(path, {"input": "other", "output": None, "profile": None}, {})
    here = Path.cwd()
    assert (found.input, found.output) == ((str(here / "other"),), str(here / "features"))
    assert found.rows_per_part == 7


def test_set_replaces_everything(file):
    path = file({**OPTIONS, "rows_per_part": 7, "storage": {"retries": 1, "read_timeout": 3}})
    settings = {"rows_per_part": 8, "storage.retries": 2, "input": "third"}
    found = resolve(path, {"input": "other"}, settings)
    assert (found.input, found.rows_per_part) == ((str(Path.cwd() / "third"),), 8)
    assert (found.storage.retries, found.storage.read_timeout) == (2, 3)


def test_set_reaches_into_a_profile_that_is_named(file):
    settings = {"profile.captioner.beams": 5}
    for found in (
        resolve(None, OPTIONS, settings),
        resolve(None, {**OPTIONS, "profile": "mini"}, settings),
        resolve(file({**OPTIONS, "profile": "mini"}), {}, settings),
        resolve(None, OPTIONS, {**settings, "profile": "mini"}),
    ):
        assert found.profile == load_profile("mini", {"captioner.beams": 5})


def test_set_reaches_into_a_profile_that_is_written_out(file):
    written = load_profile("mini", {"captioner.beams": 5}).model_dump(mode="json")
    path = file({**OPTIONS, "profile": written})
    found = resolve(path, {}, {"profile.phrases.max_phrases": 2})
    assert found.profile == load_profile("mini", {"captioner.beams": 5, "phrases.max_phrases": 2})


def test_perturbation_is_none_unless_one_is_named():
    assert resolve(None, OPTIONS, {}).perturbation == "none"
    found = resolve(None, {**OPTIONS, "perturbation": "resize-0.5+jpeg-75"}, {})
    assert found.perturbation == "resize-0.5+jpeg-75"


# Round trip


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"profile.captioner.beams": 5, "max_error_rate": 0.5},
        {"perturbation": "crop-0.8+noise-5"},
        {"reading.date": datetime.date(2026, 2, 3), "reading.uri_roots": ["s3://b/é", "/x: y"]},
        {"storage.endpoint_url": "http://localhost:9000", "input": "- odd: 'name' #1"},
        {"profile.decoding.formats": ["PNG"], "profile.grounder.scales": [0.1, 0.3333333333]},
    ],
)
def test_the_resolved_configuration_written_and_read_again_is_equal(tmp_path, settings):
    first = resolve(None, OPTIONS, settings)
    path = tmp_path / "resolved.yaml"
    path.write_text(first.as_yaml(), encoding="utf-8")
    assert resolve(str(path), {}, {}) == first


# Refusals


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"rows_per_prt": 3},
            r"^Unknown key 'rows_per_prt' in the configuration .*'rows_per_part'",
        ),
        ({"storage.retrys": 3}, r"^Unknown key 'storage\.retrys' .*did you mean 'retries'"),
        ({"profile.captioner.beam": 3}, r"^Unknown key 'captioner\.beam' in the profile"),
        ({"max_error_rate": 1.5}, "'max_error_rate' .* less than or equal to 1"),
        ({"rows_per_part": 0}, "'rows_per_part' .* greater than or equal to 1"),
        ({"reading.kind": "video"}, "'reading.kind' .* should be 'auto', 'images'"),
        (
            {"perturbation": "jpeg-74"},
            "'perturbation' .* no perturbation step 'jpeg-74': .*jpeg-75",
        ),
        ({"perturbation": None}, "'perturbation' .* valid string"),
        (
            {"perturbation": "webp-80", "profile.decoding.formats": ["PNG"]},
            r"'webp-80' writes WEBP, which profile\.decoding\.formats leaves out",
        ),
        ({"input": ()}, "'input' .* at least 1 item"),
        ({"input": ""}, "'input.0' .* empty"),
        ({"input": 5}, "'input' .* valid tuple"),
        ({"output": ""}, "'output' .* at least 1 character"),
        ({"input.date": 5}, "'input.date' cannot be set"),
        ({"profile": "maxi"}, "There is no profile 'maxi'"),
        ({"profile": None}, "The profile must be a mapping"),
        ({"profile": None, "profile.name": "x"}, "'name' cannot be set"),
        ({"profile": 3, "profile.name": "x"}, "'name' cannot be set"),
    ],
)
def test_wrong_settings_are_refused_in_a_sentence(settings, sentence):
    with pytest.raises(UsageError, match=sentence):
        resolve(None, OPTIONS, settings)


def test_missing_input_and_output_are_named_together():
    with pytest.raises(UsageError, match=r"'input' .* missing\. .*'output' .* missing\."):
        resolve(None, {"input": None, "output": None}, {})


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"input: [", "is not YAML"),
        (b"input: caf\xe9", "is not YAML"),
        (b"\x00\x01", "is not YAML"),
        (b"- input", "must be a mapping"),
        (b"", "must be a mapping"),
    ],
)
def test_files_that_are_no_configuration_are_refused(file, content, sentence):
    path = file(content)
    with pytest.raises(UsageError, match=sentence) as refusal:
        resolve(path, OPTIONS, {})
    assert path in str(refusal.value)


def test_a_missing_file_is_named(tmp_path):
    path = str(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match=r"none\.yaml cannot be read: No such file"):
        resolve(path, OPTIONS, {})


# --set


@pytest.mark.parametrize(
    ("setting", "key", "value"),
    [
        ("a.b=3", "a.b", 3),
        ("a=0.5", "a", 0.5),
        ("a=[1, 2]", "a", [1, 2]),
        ("a=null", "a", None),
        ("a=", "a", None),
        ("a=x=y", "a", "x=y"),
        ("a=s3://bucket/key", "a", "s3://bucket/key"),
        ("a=true", "a", True),
    ],
)
def test_values_are_read_as_yaml(setting, key, value):
    assert parse_settings([setting]) == {key: value}


def test_the_last_of_equal_keys_wins():
    assert parse_settings(["a=1", "b=2", "a=3"]) == {"a": 3, "b": 2}


@pytest.mark.parametrize("setting", ["beams", "=3", ""])
def test_settings_without_key_and_value_are_refused(setting):
    with pytest.raises(UsageError, match="Write --set key=value"):
        parse_settings([setting])


def test_values_that_are_not_yaml_are_refused():
    with pytest.raises(UsageError, match="value of '--set a' is not readable"):
        parse_settings(["a=[1"])
