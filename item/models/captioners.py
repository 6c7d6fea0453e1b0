"""Captioners that transformers knows: BLIP, BLIP-2 and Florence-2."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from item.errors import UsageError
from item.images.boxes import Picture
from item.images.fit import is_fitted
from item.models.files.contents import check_contents
from item.models.precision import Precision
from item.models.processor_fit import fit_of
from item.models.transformers_notices import cannot_be_loaded, quiet

# torch and transformers are imported where they are used: whoever asks for a folder's family
# needs neither, and they take seconds.
if TYPE_CHECKING:
    from torch import Tensor


class Family(NamedTuple):
    """What one kind of captioner needs; the repository's own files say the rest."""

    model: str
    """The class in transformers."""
    processor: str
    """The class in transformers that resizes pictures and decodes tokens."""
    prompt: str | None = None
    """The processor's text for a plain caption."""
    cross_attention: bool = True
    """Whether the decoder looks at the picture by attention of its own kind; where it does not,
    the picture stands before the caption, in the same keys and values."""


FAMILIES = {
    "blip": Family("BlipForConditionalGeneration", "BlipProcessor"),
    "blip-2": Family("Blip2ForConditionalGeneration", "Blip2Processor", cross_attention=False),
    "florence2": Family(
        "Florence2ForConditionalGeneration", "Florence2Processor", prompt="<CAPTION>"
    ),
}
"""By the ``model_type`` in a repository's ``config.json``."""

LENGTH_PENALTY = 1.0
"""A caption scores its log-probability, divided by tokens ** LENGTH_PENALTY."""
KEPT_OF_REPOSITORY = (
    *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
    *("forced_bos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens"),
    *("no_repeat_ngram_size", "repetition_penalty", "early_stopping"),
)
"""What a repository may say about the search; sampling, time limits and the like are not."""
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model")
FITTING_THREADS = 4


def captioner_family(folder: Path) -> str:
    """Which of FAMILIES lies in ``folder``; UsageError if none does. Loads nothing."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
        model_type, needs_code = config["model_type"], "auto_map" in config
    except OSError:
        raise UsageError(f"There is no captioner in '{folder}': it has no config.json.") from None
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"The config.json in '{folder}' names no model_type.") from None
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise UsageError(
            f"The model in '{folder}' is of type {model_type!r}, not one of the captioners that "
            f"are supported: {', '.join(FAMILIES)}."
        )
    if needs_code:
        raise UsageError(
            f"The captioner in '{folder}' brings code of its own, which is never run: use a "
            "repository converted for transformers, such as florence-community/Florence-2-base."
        )
    return model_type


class TransformersCaptioner:
    """Captions by beam search; see :class:`item.captioning.Captioner`.

    Pictures are fitted on the CPU, ahead of the model and with the repository's own settings,
    unless they come fitted, and normalised on the device, so that captions equal those of the
    library's own processor and ``generate``. Several threads may call at once: the pictures of one
    call are fitted while those of another are captioned. Nothing is ever sampled, whatever the
    repository's files say.

    Parameters
    ----------
    folder : the repository: config, weights, processor and tokenizer of one of FAMILIES
    beams : width of the beam search
    min_tokens, max_tokens : length of a caption in tokens
    precision : of weights and activations. In ``bfloat16`` and ``float16``, rounding depends on
        how many pictures pass through the model at once, and may decide between captions that
        are equally probable.
    batch_size : pictures that pass through the model at once; None finds how many fit
    share : of the GPU that belongs to this process
    allow_pickle : whether weights that are not safetensors may be read

    Raises
    ------
    UsageError
        The folder is missing, incomplete or damaged, or holds another kind of model.
    """

    def __init__(
        self,
        folder: Path,
        *,
        beams: int = 3,
        min_tokens: int = 5,
        max_tokens: int = 60,
        precision: Precision = "float32",
        batch_size: int | None = None,
        share: float = 1.0,
        allow_pickle: bool = False,
    ) -> None:
        from item.models.batching import Batches, automatic_size, device, dtype

        self._family = FAMILIES[captioner_family(folder)]
        self._dtype = dtype(precision)
        self._processor, model = _loaded(folder, self._family, self._dtype, allow_pickle)
        self._images = self._processor.image_processor
        self._fit = fit_of(self._images, folder)
        self._lock = threading.Lock()
        self._model = model.eval().requires_grad_(False).to(device())
        _search_by_beams(self._model, beams, min_tokens, max_tokens)
        self._prompt = self._prompted()
        self._fitting = ThreadPoolExecutor(FITTING_THREADS, "fit")
        if batch_size is None:
            config = (folder / "config.json").read_text()
            name = json.dumps([config, precision, beams, max_tokens, self._images.size.height])
            batch_size = automatic_size(lambda n: self._longest(n, max_tokens), name, share)
        self._batches = Batches(self._captions, batch_size)

    @property
    def halvings(self) -> int:
        """How often a batch did not fit into memory."""
        return self._batches.halvings

    def caption(self, pictures: Sequence[NDArray[np.uint8]]) -> list[str]:
        """Pictures (h, w, 3) -> one sentence each, without special tokens or line breaks."""
        # All are queued at once: while the model reads a batch, the next one is fitted.
        fitting = [
            picture if is_fitted(self._fit, picture) else self._fitting.submit(self._fit, picture)
            for picture in pictures
        ]
        with self._lock:
            return self._batches(fitting)

    def _captions(self, fitting: Sequence[Picture | Future[Picture]]) -> list[str]:
        import torch

        shape = (len(fitting), self._fit.height, self._fit.width, 3)
        on_gpu = self._model.device.type == "cuda"
        pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=on_gpu)
        pictures = (one.result() if isinstance(one, Future) else one for one in fitting)
        np.stack(list(pictures), out=pixels.numpy())
        tokens = self._tokens(pixels.permute(0, 3, 1, 2))
        texts = self._processor.batch_decode(tokens, skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]

    def _tokens(self, resized: Tensor, **search: Any) -> Tensor:
        """uint8 (n, 3, height, width) -> token indices (n, length)."""
        import torch

        with torch.inference_mode():
            pixels = self._pixels(resized).to(self._dtype)
            prompt = {name: ids.repeat(len(pixels), 1) for name, ids in self._prompt.items()}
            if self._family.cross_attention:
                from item.models.beam_cache import PictureBeamsCache

                search["past_key_values"] = PictureBeamsCache()
            return self._model.generate(pixel_values=pixels, **prompt, **search)

    def _pixels(self, resized: Tensor) -> Tensor:
        """uint8 (n, 3, height, width) -> what the repository's processor gives, float32."""
        target = self._model.device
        images = self._images
        return images.rescale_and_normalize(
            resized.to(target, non_blocking=True),
            images.do_rescale,
            images.rescale_factor,
            images.do_normalize,
            tuple(images.image_mean),
            tuple(images.image_std),
        )

    def _prompted(self) -> dict[str, Tensor]:
        """The model's textual inputs, which are those of any picture."""
        if self._family.prompt is None:
            return {}
        nothing = np.zeros((8, 8, 3), np.uint8)
        inputs = self._processor(images=nothing, text=self._family.prompt, return_tensors="pt")
        inputs.pop("pixel_values")
        return {name: ids.to(self._model.device) for name, ids in inputs.items()}

    def _longest(self, count: int, tokens: int) -> Tensor:
        """What takes most memory: captions that go on to the end."""
        import torch

        size = self._images.size
        nothing = torch.zeros(count, 3, size.height, size.width, dtype=torch.uint8)
        return self._tokens(nothing, min_new_tokens=tokens)


def _loaded(folder: Path, family: Family, dtype: Any, allow_pickle: bool) -> tuple[Any, Any]:
    """Processor and model, on the CPU."""
    import transformers

    sizes = {file.name: file.stat().st_size for file in folder.iterdir() if file.is_file()}
    check_contents(f"'{folder}'", sizes, None, allow_pickle)
    for what, names in (("processor", PROCESSORS), ("tokenizer", VOCABULARIES)):
        # Without a vocabulary, transformers makes an empty one and says nothing.
        if not any(name in sizes for name in names):
            raise UsageError(f"There is no {what} in '{folder}': no {' or '.join(names)}.")
    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        with quiet():
            processor = getattr(transformers, family.processor).from_pretrained(folder, **local)
            model, report = getattr(transformers, family.model).from_pretrained(
                folder,
                dtype=dtype,
                use_safetensors=any(name.endswith(".safetensors") for name in sizes),
                weights_only=True,
                ignore_mismatched_sizes=True,  # so that they are reported, as missing ones are
                output_loading_info=True,
                **local,
            )
    except Exception as error:  # damaged files make parsers and constructors raise anything
        raise cannot_be_loaded("captioner", folder, error) from error
    # Buffers may be missing: the model computes them.
    learned = dict(model.named_parameters(remove_duplicate=False))
    wrong = [name for name in report["missing_keys"] if name in learned]
    wrong += [name for name, *_ in report["mismatched_keys"]]
    if wrong:
        raise UsageError(
            f"The weights in '{folder}' are not those of its config.json: {len(wrong)} tensors "
            f"are missing or of another shape, such as {min(wrong)}."
        )
    return processor, model


def _search_by_beams(model: Any, beams: int, min_tokens: int, max_tokens: int) -> None:
    """Replace what model and parts would do when asked to generate."""
    from transformers import GenerationConfig, GenerationMixin

    for part in model.modules():
        if isinstance(part, GenerationMixin):
            given = part.generation_config
            part.generation_config = GenerationConfig(
                **{name: getattr(given, name) for name in KEPT_OF_REPOSITORY},
                do_sample=False,
                num_beams=beams,
                length_penalty=LENGTH_PENALTY,
                min_new_tokens=min_tokens,
                max_new_tokens=max_tokens,
            )
