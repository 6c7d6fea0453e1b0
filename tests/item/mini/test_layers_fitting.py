"""Principal components of what the backbone's stages see of pictures."""

import numpy as np
import torch

from item.mini import MOST_LAYERS
from item.mini.backbone import POOLED
from item.mini.layers_fitting import fit_layers
from item.mini.whole_pictures import whole_pictures


def test_columns_come_in_the_order_of_their_variance_and_have_a_mean_square_of_one():
    generator = np.random.default_rng(0)
    shades = generator.integers(1, 255, 24)
    pictures = [generator.integers(0, shade, (40, 30, 3), np.uint8) for shade in shades]
    said = []
    tensors = fit_layers([pictures[:10], pictures[10:]], said.append)
    assert said == ["10 pictures seen", "24 pictures seen"]
    assert tensors["means"].shape == (2 * POOLED,)
    assert tensors["directions"].shape == (2 * POOLED, MOST_LAYERS)
    pooled = whole_pictures().layers(pictures)
    columns = (pooled - tensors["means"]) @ tensors["directions"]
    torch.testing.assert_close(columns.mean(dim=0), torch.zeros(MOST_LAYERS), atol=1e-3, rtol=0)
    variances = columns.square().mean(dim=0)
    assert 0.9 < variances.mean() < 1.1
    assert (variances[:-1] >= variances[1:] - 1e-3 * variances[0]).all()
