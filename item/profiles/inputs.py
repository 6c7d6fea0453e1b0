"""What the models of a profile read of a decoded picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from item.captioning import GivenCaptions, NoCaptions, captioning_fit
from item.embedding import embedding_fits, regions_fit
from item.grounding import grounding_fit
from item.images.boxes import CropGrid, Picture
from item.images.fit import Fit
from item.profiles import Profile

PIXELS = "pixels"
"""Name of the picture as it is decoded."""
ENCODER, LAYERS, CAPTIONER, GROUNDER, CROPS = (
    f"{reader}_input" for reader in ("encoder", "layers", "captioner", "grounder", "crops")
)
PICTURE_NAMES = (PIXELS, ENCODER, LAYERS, CAPTIONER, GROUNDER, CROPS)
"""All names that a picture may have."""


@dataclass(frozen=True)
class PictureInputs:
    """Under which name each model finds the picture that it reads.

    Models that want the same share it. What none reads is not made.
    """

    fits: Mapping[str, Fit]
    """How each but ``pixels`` is made, by its name."""
    encoder: str
    """Whole pictures, for the dual encoder."""
    middle: str | None = None
    """Centre crops, for its layers; None where there are none or the encoder cuts them itself."""
    captioner: str | None = None
    """For the captioner; None without one."""
    grounder: str | None = None
    """For the grounder; None where no objects are looked for."""
    crops: str | None = None
    """From which crops are taken that the grounder has not embedded; None where it embeds all."""

    @property
    def names(self) -> tuple[str, ...]:
        """All that some model reads."""
        read = (self.captioner, self.grounder, self.encoder, self.middle, self.crops)
        return tuple(dict.fromkeys(name for name in read if name))

    def of(self, picture: Picture) -> dict[str, Picture]:
        """A decoded picture (h, w, 3) as each of the ``names``."""
        return {
            name: self.fits[name](picture) if name in self.fits else picture for name in self.names
        }


def picture_inputs(profile: Profile) -> PictureInputs:
    """What the models of a profile read, known without loading them.

    Raises
    ------
    UsageError
        If the configuration of a model is missing or damaged.
    """
    return _picture_inputs(profile.model_dump_json())


@lru_cache(maxsize=8)
def _picture_inputs(of_profile: str) -> PictureInputs:
    profile = Profile.model_validate_json(of_profile)
    names: dict[Fit, str] = {}

    def named(fit: Fit | None, name: str) -> str:
        return PIXELS if fit is None else names.setdefault(fit, name)

    whole, middle = embedding_fits(profile.clip) or (None, None)
    encoder = named(whole, ENCODER)
    has_layers = profile.clip.layers and middle is not None
    layers = named(middle, LAYERS) if has_layers else None
    captioner = grounder = crops = None
    if not isinstance(profile.captioner, GivenCaptions | NoCaptions):
        captioner = named(captioning_fit(profile.captioner), CAPTIONER)
    if not profile.embeds_only:
        grounder = named(grounding_fit(profile.grounder, profile.clip), GROUNDER)
        if not isinstance(profile.grounder, CropGrid):
            crops = named(regions_fit(profile.clip), CROPS)
    fits = {name: fit for fit, name in names.items()}
    return PictureInputs(fits, encoder, layers, captioner, grounder, crops)
