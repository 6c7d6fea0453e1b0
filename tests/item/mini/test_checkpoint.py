"""Weights files: saved in half precision, refused in one sentence when they cannot be used."""

import pytest
import torch

from item.errors import UsageError
from item.mini.checkpoint import load_weights, revision, save_weights


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "model.safetensors"


def test_weights_come_back_in_single_precision_near_what_they_were(path):
    torch.manual_seed(0)
    tensors = {"a.weight": torch.randn(5, 7), "scalar": torch.tensor(-2.7)}
    save_weights(tensors, path)
    found = load_weights("model", path)
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-6)


def test_a_transposed_tensor_can_be_saved(path):
    tensor = torch.arange(6.0).reshape(2, 3).T
    save_weights({"t": tensor}, path)
    assert load_weights("model", path)["t"].tolist() == tensor.tolist()


def test_the_file_has_two_bytes_a_number(path):
    save_weights({"t": torch.zeros(10_000)}, path)
    assert 20_000 < path.stat().st_size < 20_200


def test_a_missing_file_is_one_sentence(path):
    with pytest.raises(UsageError, match=r"^The weights 'model.safetensors' are missing: .*\.$"):
        load_weights("model", path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:0],
        lambda content: content[:4],
        lambda content: content[:-10],
        lambda content: b"\xff" * 8 + content[8:],
        lambda content: content[:8] + b"?" + content[9:],
    ],
    ids=["empty", "length cut", "data cut", "length absurd", "header broken"],
)
def test_a_damaged_file_is_one_sentence(path, damage):
    save_weights({"t": torch.zeros(100)}, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UsageError, match=r"^The weights 'model.safetensors' are damaged .*\.$"):
        load_weights("model", path)


def test_a_pickle_is_not_opened(path):
    path.parent.mkdir()
    torch.save({"t": torch.zeros(3)}, path)
    with pytest.raises(UsageError, match="damaged"):
        load_weights("model", path)


def test_the_revision_is_that_of_weights_and_vocabulary(tmp_path, monkeypatch):
    monkeypatch.setattr("item.mini.checkpoint.FOLDER", tmp_path)
    weights = tmp_path / "model.safetensors"
    save_weights({"t": torch.zeros(3)}, weights)
    first = revision("model")
    save_weights({"t": torch.ones(3)}, weights)
    second = revision("model")
    save_weights({"t": torch.zeros(3)}, weights)
    assert revision("model") == first != second
    weights.with_suffix(".json").write_text("[]")
    assert revision("model") not in (first, second)


def test_a_missing_model_has_no_revision():
    with pytest.raises(UsageError, match="missing"):
        revision("no-such-model")
