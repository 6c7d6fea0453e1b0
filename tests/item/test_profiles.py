"""Profiles by name and from files, their refusals, and the identity of a feature set."""

import pytest
import yaml

from item.errors import UsageError
from item.mini import checkpoint
from item.profiles import FOLDER, Profile, Resources, load_profile, profile_names, profile_of

WEIGHTS = ("captioner", "dual_encoder", "layers")


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A folder of weights files, enough for their digests."""
    monkeypatch.setattr(checkpoint, "FOLDER", tmp_path)
    for name in WEIGHTS:
        (tmp_path / f"{name}.safetensors").write_bytes(name.encode())
    return tmp_path


@pytest.mark.parametrize("name", profile_names())
def test_shipped_profiles_are_valid_and_named_after_their_file(name):
    assert load_profile(name).name == name


def test_the_default_is_among_the_shipped_profiles():
    assert "mini" in profile_names()


def test_profiles_are_frozen():
    profile = load_profile("mini")
    with pytest.raises(ValueError, match="frozen"):
        profile.name = "other"


@pytest.mark.parametrize("name", ["mimi", "", "mini.yaml", "../profiles/mini", "no/such.yaml", "/"])
def test_unknown_profiles_are_refused_with_the_known_ones(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=f"There is no profile '{name}': choose one of .*mini"):
        load_profile(name)


# Another model by one key


@pytest.mark.parametrize("name", profile_names())
@pytest.mark.parametrize("model", ["given", "none"])
def test_another_captioner_drops_the_keys_of_the_one_before(name, model):
    profile = load_profile(name, {"captioner.model": model})
    assert profile.captioner.model_dump() == {"model": model}
    rest = {"captioner", "resources"}
    assert profile.model_dump(exclude=rest) == load_profile(name).model_dump(exclude=rest)


def test_keys_that_both_models_declare_alike_are_kept():
    profile = load_profile("base", {"captioner.model": "mini"})
    assert profile.captioner.model_dump() == {"model": "mini", "beams": 3}
    own = {"grounder.model": "custom", "grounder.load": "a:B", "grounder.revision": "1"}
    assert load_profile("base", own).grounder.fallback == load_profile("base").grounder.fallback


@pytest.mark.parametrize("model", ["crop_grid", None])
def test_a_key_that_means_something_else_to_the_new_model_is_asked_for(model):
    with pytest.raises(UsageError, match=r"'grounder\.threshold' of the profile is missing"):
        load_profile("base", {"grounder.model": model})
    grid = load_profile("base", {"grounder.model": model, "grounder.threshold": 0.2}).grounder
    assert (grid.threshold, grid.min_side) == (0.2, 32)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"captioner.model": "given", "captioner.beams": 3}, r"Unknown key 'captioner\.beams'"),
        ({"captioner.beams": 3, "captioner.model": "given"}, r"Unknown key 'captioner\.beams'"),
        ({"captioner.model": "givn"}, "'givn' is not known, allowed are mini"),
        ({"captioner.model": "transformers"}, r"'captioner\.files' of the profile is missing"),
        ({"name.model": "given"}, "'name' is not a section"),
        ({"decoding.model": "given"}, r"Unknown key 'decoding\.model'"),
        ({"no.such.model": "given"}, "Unknown key 'no'"),
    ],
)
def test_keys_that_were_typed_are_judged(overrides, sentence):
    with pytest.raises(UsageError, match=sentence):
        load_profile("mini", overrides)


def test_naming_the_model_that_is_there_changes_nothing(tmp_path):
    for key, model in (("captioner", "mini"), ("clip", "mini"), ("grounder", "crop_grid")):
        assert load_profile("mini", {f"{key}.model": model}) == load_profile("mini")
    values = yaml.safe_load((FOLDER / "mini.yaml").read_text())
    values["captioner"]["beems"] = 7
    path = tmp_path / "mine.yml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(UsageError, match="did you mean 'beams'"):
        load_profile(str(path), {"captioner.model": "mini"})


def test_a_profile_that_is_written_out_takes_another_model_too():
    written = load_profile("base").model_dump(mode="json")
    profile = profile_of(written, {"clip.model": "mini", "captioner.model": "given"})
    assert (profile.clip.model_dump(), profile.captions_given) == (
        {"model": "mini", "layers": 256},
        True,
    )
    assert written == load_profile("base").model_dump(mode="json")


def test_a_profile_may_be_the_users_own_file(tmp_path):
    values = yaml.safe_load((FOLDER / "mini.yaml").read_text())
    values["name"] = "mine"
    values["captioner"]["beams"] = 7
    path = tmp_path / "mine.yml"
    path.write_text(yaml.safe_dump(values))
    profile = load_profile(str(path))
    assert profile == load_profile("mini", {"name": "mine", "captioner.beams": 7})


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"name: [", "is not YAML"),
        (b"name: caf\xe9", "is not YAML"),
        (b"- mini", "must be a mapping"),
        (b"", "must be a mapping"),
        (b"name: mine", "The key 'decoding' of the profile is missing"),
    ],
)
def test_files_that_are_no_profile_are_refused(tmp_path, content, sentence):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=sentence):
        load_profile(str(path))


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("captioner.beam", 3, r"'captioner\.beam' .*did you mean 'beams'\?.*: allowed are beams"),
        ("captionr.beams", 3, "did you mean 'captioner'"),
        ("resources.caption.batchsize", 3, "did you mean 'batch_size'"),
        ("captioner.beams", 17, "'captioner.beams' .* less than or equal to 16"),
        ("captioner.beams", 0, "'captioner.beams' .* greater than or equal to 1"),
        (
            "captioner.model",
            "blip9",
            r"'captioner\.model' .*'blip9' is not known, allowed are mini, transformers, custom",
        ),
        ("grounder.threshold", 1.5, "'grounder.threshold' .* less than or equal to 1"),
        ("resources.embed.cpus", 0, "'resources.embed.cpus' .* greater than 0"),
        ("decoding.max_side", "big", "'decoding.max_side' .* valid integer"),
        ("name", "No Good", "'name' .* should match pattern"),
    ],
)
def test_wrong_overrides_are_refused_with_what_is_allowed(key, value, sentence):
    with pytest.raises(UsageError, match=sentence):
        load_profile("mini", {key: value})


def test_resources_default_to_no_gpu_and_free_tasks():
    resources = Resources(cpus=1, batch_size=8)
    assert resources.gpus == 0
    assert resources.workers_per_cpu is None


# The feature set


SHAPING = {
    "decoding.max_side": 256,
    "decoding.max_pixels": 1000,
    "decoding.max_bytes": 1000,
    "captioner.beams": 5,
    "phrases.max_phrases": 3,
    "phrases.version": "3.8.1",
    "phrases.dropped_lemmas": ["photo"],
    "grounder.scales": [0.5],
    "grounder.overlap": 0.25,
    "grounder.min_side": 16,
    "grounder.threshold": 0.3,
    "grounder.prompt": "{phrase}",
}


@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize(("key", "value"), SHAPING.items())
def test_what_shapes_features_changes_the_feature_set(key, value):
    changed = load_profile("mini", {key: value})
    assert changed.feature_set_id() != load_profile("mini").feature_set_id()


@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize("stage", ["decode", "caption", "objects", "embed", "misalign"])
@pytest.mark.parametrize(
    ("key", "value"), [("cpus", 2), ("gpus", 1), ("workers_per_cpu", 3), ("batch_size", 7)]
)
def test_resources_do_not_change_the_feature_set(stage, key, value):
    changed = load_profile("mini", {f"resources.{stage}.{key}": value})
    assert changed != load_profile("mini")
    assert changed.feature_set_id() == load_profile("mini").feature_set_id()


@pytest.mark.parametrize("name", WEIGHTS)
def test_other_weights_change_the_feature_set(weights, name):
    before = load_profile("mini").feature_set_id()
    (weights / f"{name}.safetensors").write_bytes(b"retrained")
    assert load_profile("mini").feature_set_id() != before


@pytest.mark.usefixtures("weights")
def test_layers_are_part_of_the_feature_set():
    fewer = load_profile("mini", {"clip.layers": 64})
    none = load_profile("mini", {"clip.layers": 0})
    assert len({one.feature_set_id() for one in (load_profile("mini"), fewer, none)}) == 3


def test_profile_without_layers_does_not_depend_on_them(weights):
    none = load_profile("mini", {"clip.layers": 0})
    (weights / "layers.safetensors").write_bytes(b"fitted again")
    assert load_profile("mini", {"clip.layers": 0}).feature_set_id() == none.feature_set_id()


def test_every_section_of_a_profile_is_covered_above():
    covered = {key.split(".")[0] for key in SHAPING}
    assert covered | {"name", "clip", "resources", "about"} == set(Profile.model_fields)


@pytest.mark.usefixtures("weights")
def test_feature_set_id_starts_with_the_profiles_name():
    assert load_profile("mini").feature_set_id().startswith("mini-")


# Models


@pytest.mark.usefixtures("weights")
def test_revisions_name_every_model():
    revisions = load_profile("mini").revisions()
    assert set(revisions) == {"captioner", "clip", "phrases", "grounder"}
    assert revisions["captioner"] != revisions["clip"]


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_missing_model_is_one_sentence(weights, name):
    (weights / f"{name}.safetensors").unlink()
    with pytest.raises(UsageError, match=f"'{name}.safetensors' are missing"):
        load_profile("mini").check_models()


@pytest.mark.usefixtures("weights")
def test_models_that_are_there_pass():
    load_profile("mini").check_models()


@pytest.mark.usefixtures("weights")
def test_a_phrase_pipeline_of_another_version_is_refused():
    with pytest.raises(UsageError):
        load_profile("mini", {"phrases.version": "1.0.0"}).check_models()


# Public and custom models

PUBLIC = {
    "captioner": {"model": "transformers", "files": {"source": "org/captioner"}},
    "grounder": {
        "model": "transformers",
        "files": {"source": "org/detector"},
        "threshold": 0.1,
        "fallback": {"threshold": 0.2},
    },
    "clip": {"model": "open_clip", "files": {"source": "org/clip"}, "dimensions": 8},
}


@pytest.mark.parametrize(
    ("member", "key", "value", "sentence"),
    [
        ("captioner", "beam", 2, r"Unknown key 'captioner\.beam' .*did you mean 'beams'"),
        ("captioner", "max_tokens", 2, "'captioner' .* min_tokens is above max_tokens"),
        ("captioner", "precision", "fp8", r"'captioner\.precision' .* 'float32', 'bfloat16'"),
        ("captioner", "files.sauce", "x", r"'captioner\.files\.sauce' .*did you mean 'source'"),
        ("grounder", "fallback.scale", 1, r"'grounder\.fallback\.scale' .*did you mean 'scales'"),
        ("grounder", "threshold", 2, r"'grounder\.threshold' .* less than or equal to 1"),
        ("clip", "dimensions", 0, r"'clip\.dimensions' .* greater than or equal to 1"),
    ],
)
def test_wrong_keys_of_public_models_are_refused(member, key, value, sentence):
    with pytest.raises(UsageError, match=sentence):
        load_profile("mini", PUBLIC | {f"{member}.{key}": value})


def test_a_missing_key_of_a_member_is_named():
    with pytest.raises(UsageError, match=r"The key 'clip\.dimensions' of the profile is missing"):
        load_profile("mini", {"clip": {"model": "open_clip", "files": {"source": "org/clip"}}})


@pytest.mark.parametrize("name", ["base", "large"])
def test_production_profiles_name_pinned_models_and_what_they_cost(name):
    profile = load_profile(name)
    files = profile.model_files()
    assert set(files) == {"captioner", "grounder", "clip"} == set(profile.about)
    assert all(len(one.revision) == 40 and not one.allow_pickle for one in files.values())
    assert profile.resources.caption.gpus + profile.resources.objects.gpus < 1
    shares = [profile.resources.caption, profile.resources.objects, profile.resources.embed]
    assert sum(one.gpus for one in shares) == pytest.approx(1.0)


def test_a_pair_of_open_clip_is_the_repository_it_means():
    assert load_profile("base").model_files()["clip"].source == (
        "timm/vit_large_patch14_clip_224.openai"
    )


def test_packaged_models_have_no_files():
    assert load_profile("mini").model_files() == {}


@pytest.mark.usefixtures("weights")
def test_captions_from_the_input_and_none_at_all_are_other_feature_sets():
    given = load_profile("mini", {"captioner": {"model": "given"}})
    none = load_profile("mini", {"captioner": {"model": "none"}})
    assert given.captions_given and not given.embeds_only
    assert none.embeds_only and not none.captions_given
    assert list(none.revisions()) == ["clip"]
    ids = {profile.feature_set_id() for profile in (given, none, load_profile("mini"))}
    assert len(ids) == 3
    for profile in (given, none):
        profile.check_models()
