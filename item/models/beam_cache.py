"""Keys and values of a beam search over pictures."""

from __future__ import annotations

import torch
from transformers.cache_utils import DynamicCache, EncoderDecoderCache


class PictureBeamsCache(EncoderDecoderCache):
    """A cache whose cross-attention stays where it is when beams change places.

    Beams change places only among those of one picture, and these attend to the same picture:
    the library copies equal keys and values at every step, a quarter of the search's time on a
    GPU (docs/performance.md, "On a GPU").
    """

    def __init__(self) -> None:
        super().__init__(DynamicCache(), DynamicCache())

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Put the keys and values of the caption so far in the order of the beams."""
        self.self_attention_cache.reorder_cache(beam_idx)
