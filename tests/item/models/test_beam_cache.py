"""What beams share stays where it is; what differs between them moves along."""

from __future__ import annotations

import torch

from item.models.beam_cache import PictureBeamsCache


def test_only_the_caption_so_far_changes_places() -> None:
    cache = PictureBeamsCache()
    beams = torch.arange(4.0).reshape(4, 1, 1, 1)
    for part in (cache.self_attention_cache, cache.cross_attention_cache):
        part.update(beams.clone(), beams.clone(), 0)
    picture = cache.cross_attention_cache.layers[0].keys
    cache.reorder_cache(torch.tensor([1, 1, 2, 0]))
    caption = cache.self_attention_cache.layers[0]
    assert caption.keys.flatten().tolist() == caption.values.flatten().tolist() == [1, 1, 2, 0]
    assert cache.cross_attention_cache.layers[0].keys is picture
    assert picture.flatten().tolist() == [0, 1, 2, 3]
