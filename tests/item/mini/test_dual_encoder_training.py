"""Training of the dual encoder: losses fall, the loss and the recall are right."""

import numpy as np
import pytest
import torch

from item.mini import dual_encoder_training
from item.mini.dual_encoder_training import (
    DualEncoderRecipe,
    best_region,
    info_nce,
    retrieval,
    train_dual_encoder,
)
from item.mini.photographs import Photographs


def test_training_the_dual_encoder_lowers_its_loss(photographs, losses):
    recipe = DualEncoderRecipe(epochs=6, batch=8, phrase_batch=4, dropout=0.0)
    space, names = train_dual_encoder(photographs, recipe, losses)
    assert len(losses) == recipe.epochs
    assert losses[-1] < 0.8 * losses[0]
    assert names.shape == (1000, 384)
    assert not space.training


def test_info_nce_of_perfect_matches_is_near_zero():
    assert info_nce(100.0 * torch.eye(5)).item() == pytest.approx(0, abs=1e-6)


def test_info_nce_of_no_knowledge_is_the_logarithm_of_the_choices():
    assert info_nce(torch.zeros(8, 8)).item() == pytest.approx(np.log(8), rel=1e-5)


def test_info_nce_treats_rows_and_columns_alike():
    logits = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(info_nce(logits), info_nce(logits.T))


def test_the_best_region_counts_most():
    texts = torch.eye(4)[:2]
    regions = torch.stack([torch.eye(4), torch.eye(4)[[2, 3, 2, 3]]])
    similarity = best_region(texts, regions)
    assert similarity.shape == (2, 2)
    assert (similarity[:, 0] > 0.99).all() and (similarity[:, 1] == 0).all()


class Shelf:
    """A space that puts the n-th image and every caption "n" at place n, or captions beside."""

    def __init__(self, beside=0):
        self.beside = beside

    def images(self, maps, _names):
        return torch.eye(64)[maps[:, 0, 0, 0].long()]

    def texts(self, states, _mask):
        return torch.eye(64)[states[:, 0, 0].long() + self.beside]


class Numbers:
    """A text backbone that reads numbers."""

    def __call__(self, texts):
        states = torch.tensor([[[float(text)]] for text in texts])
        return states, torch.ones(len(texts), 1, dtype=torch.bool)


@pytest.mark.parametrize(("beside", "found"), [(0, 1.0), (30, 0.0)])
def test_retrieval_on_perfect_and_on_useless_embeddings(monkeypatch, beside, found):
    monkeypatch.setattr(dual_encoder_training, "TextBackbone", Numbers)
    maps = np.zeros((12, 8, 8, 320), np.float16)
    maps[:, 0, 0, 0] = np.arange(12)
    numbered = Photographs(
        [maps], [torch.zeros(12, 1000)], [[str(n)] * 2 for n in range(12)], [[]] * 12
    )
    recalls = retrieval(Shelf(beside), torch.zeros(1000, 384), numbered)
    assert recalls["image_to_text_r1"] == pytest.approx(found, abs=0.1)
    assert recalls["text_to_image_r1"] == pytest.approx(found, abs=0.1)
    assert set(recalls) == {
        f"{way}_r{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)
    }
