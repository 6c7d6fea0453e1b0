"""Photographs to train on: maps are computed once, subsets keep what belongs together."""

import numpy as np
import torch

from item.mini.photographs import VIEWS, cache_maps, grid_cover


def test_views_are_cached_once(tmp_path):
    pictures = [np.full((100 + row, 150, 3), 40 * row, np.uint8) for row in range(3)]
    said = []
    cache_maps(pictures, tmp_path, said.append)
    assert len(said) == len(VIEWS)
    for view in VIEWS:
        assert np.load(tmp_path / f"{view}.npy").shape == (3, 8, 8, 320)
    assert not list(tmp_path.glob("*.partial.npy"))
    cache_maps(pictures, tmp_path, said.append)
    assert len(said) == len(VIEWS)


def test_a_subset_takes_the_same_rows_everywhere(photographs):
    rows = np.array([5, 1])
    some = photographs.subset(rows)
    assert len(some) == 2
    assert some.captions == [photographs.captions[5], photographs.captions[1]]
    assert some.phrases == [photographs.phrases[5], photographs.phrases[1]]
    torch.testing.assert_close(some.maps([0, 1], [1, 0]), photographs.maps([5, 1], [1, 0]))
    torch.testing.assert_close(
        some.class_logits([0, 1], [1, 0]), photographs.class_logits([5, 1], [1, 0])
    )


def test_the_grid_covers_every_cell():
    cover = grid_cover()
    assert cover.shape == (13, 64)
    assert (cover.sum(dim=0) > 0).all() and cover.max() == 1
    assert cover.sum(dim=1)[4:].tolist() == [16.0] * 9


def test_maps_have_channels_first(photographs):
    maps = photographs.maps([2], [1])
    assert maps.shape == (1, 320, 8, 8)
    assert maps[0, 17, 3, 4] == photographs.views[1][2, 3, 4, 17]
