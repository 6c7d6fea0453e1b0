"""Dual encoders through open_clip: CLIP, SigLIP and their kin, from a repository on disk.

open_clip, timm and transformers are imported where they are needed and not above: importing
them takes seconds, and every worker imports this module's callers.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import importlib.metadata
import importlib.util
import itertools
import json
import math
import os
import pickle
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from PIL.Image import Resampling
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.functional import normalize

from item.errors import UsageError
from item.models.batching import Batches, automatic_size, device, dtype
from item.models.precision import Precision

CONFIG = "open_clip_config.json"
SAFETENSORS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "model.safetensors",
)
"""Where weights are looked for. timm's repositories have its own ``model.safetensors`` beside
open_clip's, with the image tower alone: hence the order."""
PICKLED = (
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
HUB_PREFIX = "hf-hub:"
TOKENIZER_OPTIONS = frozenset({"clean", "language", "strip_sep_token"})
"""What a repository may ask of its tokenizer. Others read files, drop words at random, or run
the repository's code."""
THIN = 16
"""From this aspect ratio on, only the part of a picture that is left after cropping is resized:
all of a 1 x 512 crop at 224 pixels would take 100 MB."""
CHARACTERS_A_TOKEN = 32
"""No text's tokens are longer on average: what lies beyond is cut before it is tokenised, since
the time that a tokenizer takes grows with the square of a word's length."""
CACHED_WORDS = 1 << 16
TEXT_STEP = 8
"""Tokens of a batch are cut to a multiple of this, so that the shapes are few."""


class Preprocessing(BaseModel):
    """How a repository wants its pictures; the keys of ``preprocess_cfg`` that open_clip reads."""

    model_config = ConfigDict(frozen=True)

    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[
        Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]
    ] = (0.26862954, 0.26130258, 0.27577711)
    interpolation: Literal["bicubic", "bilinear", "random"] = "bicubic"
    """``random`` is for training and means bicubic here, as in open_clip."""
    resize_mode: Literal["shortest", "longest", "squash"] = "shortest"
    fill_color: int = Field(default=0, ge=0, le=255)

    def fit(self, picture: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        """Resize a picture, crop or pad it, and write it to ``out``.

        The pixels are those that open_clip's own transforms give, except that a picture of
        which ``shortest`` leaves no more than a sixteenth may differ by a rounding.

        Parameters
        ----------
        picture : uint8 RGB array of shape (height, width, 3)
        out : uint8 array of shape (side, side, 3), or not square, overwritten
        """
        height, width = out.shape[:2]
        image = PIL.Image.fromarray(picture)
        rows, columns = self._resized(image.height, image.width, height, width)
        resampling = self._resampling(height == width)
        if self.resize_mode == "shortest" and max(rows / height, columns / width) >= THIN:
            out[:] = _middle(image, (rows, columns), (height, width), resampling)
            return
        resized = np.asarray(image.resize((columns, rows), resampling))
        if rows < height or columns < width:
            out[:] = self.fill_color
        top, left = max(0, (height - rows) // 2), max(0, (width - columns) // 2)
        above, before = round(max(0, rows - height) / 2), round(max(0, columns - width) / 2)
        inside = resized[above : above + height, before : before + width]
        out[top : top + rows, left : left + columns] = inside

    def _resized(self, rows: int, columns: int, height: int, width: int) -> tuple[int, int]:
        """Rows and columns before cropping and padding."""
        if self.resize_mode == "squash":
            return height, width
        if self.resize_mode == "shortest" and height == width:
            short = min(rows, columns)
            return int(height * rows / short), int(width * columns / short)
        ratios = (rows / height, columns / width)
        ratio = max(ratios) if self.resize_mode == "longest" else min(ratios)
        return max(1, round(rows / ratio)), max(1, round(columns / ratio))

    def _resampling(self, square: bool) -> Resampling:
        # open_clip forgets the interpolation where the input is not square.
        forgotten = self.resize_mode == "shortest" and not square
        bilinear = self.interpolation == "bilinear" and not forgotten
        return Resampling.BILINEAR if bilinear else Resampling.BICUBIC


class OpenClipEncoder:
    """A dual encoder of open_clip; see :class:`item.embedding.DualEncoder`.

    Pictures are resized on the CPU as the repository's ``preprocess_cfg`` says, sent as uint8
    and normalised on the device; nothing waits for the device until all batches of a call are
    on their way, so that the next batch is resized while the last one is computed. Causal
    text towers see no more tokens than the longest text of the batch has.

    Parameters
    ----------
    folder : an open_clip repository: ``open_clip_config.json``, weights and, unless the text
        tower reads CLIP's own tokens, tokenizer files
    precision : of weights and activations; embeddings are normalised in float32
    batch_size : pictures, and texts, that pass through the model at once; None finds it
    share : of the GPU that is this encoder's own
    allow_pickle : whether weights may be read from a pickle, without running its code
    compiled : whether the towers pass through torch.compile; batches are then filled up to
        ``batch_size``, so that each tower is compiled once

    Raises
    ------
    UsageError
        Something is missing in the folder, damaged, or not known to the installed open_clip.
    """

    def __init__(
        self,
        folder: Path,
        *,
        precision: Precision = "float32",
        batch_size: int | None = None,
        share: float = 1.0,
        allow_pickle: bool = False,
        compiled: bool = False,
    ) -> None:
        config = _config(folder)
        weights = _weights(folder, allow_pickle)
        self.dimensions: int = config["model_cfg"]["embed_dim"]
        self.precision = precision
        self.preprocessing = _preprocessing(folder, config)
        self.tokenizer = _tokenizer(folder, config["model_cfg"]["text_cfg"])
        self.device = device()
        model = _model(folder, config["model_cfg"])
        _load(model, weights)
        self.model = model.eval().requires_grad_(False).to(self.device, dtype(precision))
        self.model.visual.to(memory_format=torch.channels_last)
        self.compiled = compiled
        self.height, self.width = _pair(self.model.visual.image_size)
        self._causal = _causal_mask(self.model)
        self._mean, self._std = (
            255 * torch.tensor(values, device=self.device).reshape(1, 3, 1, 1)
            for values in (self.preprocessing.mean, self.preprocessing.std)
        )
        threads = min(torch.get_num_threads(), len(os.sched_getaffinity(0)))
        self._threads = ThreadPoolExecutor(threads, "resize") if threads > 1 else None
        self._images: Batches[NDArray[np.uint8], Tensor] = Batches(self._image_rows, 1)
        self._texts: Batches[Tensor, Tensor] = Batches(self._text_rows, 1)
        architecture = hashlib.sha256(json.dumps(config).encode()).hexdigest()[:24]
        name = f"{architecture} {precision}"
        self._images.size = batch_size or automatic_size(self._blank_images, f"{name} image", share)
        self._texts.size = batch_size or automatic_size(self._full_texts, f"{name} text", share)
        if compiled:
            self.model.visual.compile(dynamic=False)
            self.model.text.compile(dynamic=False)

    @property
    def halvings(self) -> int:
        """How often a batch was halved because it did not fit into memory."""
        return self._images.halvings + self._texts.halvings

    def embed_images(self, pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Pictures (h, w, 3) of any sizes -> unit rows (n, dimensions)."""
        return self._collected(self._images(pictures))

    def embed_crops(self, crops: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Parts of pictures (h, w, 3) -> unit rows (n, dimensions) in the same space."""
        return self.embed_images(crops)

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Texts, each cut where the context ends -> unit rows (n, dimensions)."""
        distinct = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        if not distinct:
            return self._collected([])
        tokens = self._tokens(list(distinct))
        longest_first = self._lengths(tokens).argsort(descending=True, stable=True)
        rows = self._collected(self._texts(tokens[longest_first]))
        rows[longest_first.numpy()] = rows.copy()
        return rows[[distinct[text] for text in texts]]

    @torch.inference_mode()
    def _image_rows(self, pictures: Sequence[NDArray[np.uint8]]) -> Sequence[Tensor]:
        count = self._images.size if self.compiled else len(pictures)
        shape = (count, self.height, self.width, 3)
        pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        run = self._threads.map if self._threads else map
        for _ in run(self.preprocessing.fit, pictures, pixels.numpy()):
            pass
        on_device = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        images = ((on_device - self._mean) / self._std).to(dtype(self.precision))
        return self._unit(self.model.encode_image(images, normalize=False), len(pictures))

    @torch.inference_mode()
    def _text_rows(self, tokens: Tensor) -> Sequence[Tensor]:
        count, context = tokens.shape
        if self.compiled:
            tokens = torch.cat([tokens, tokens[:1].expand(self._texts.size - count, -1)])
        elif self._causal is not None:
            length = int(self._lengths(tokens).max())
            context = min(context, math.ceil(length / TEXT_STEP) * TEXT_STEP)
        tokens = tokens[:, :context].contiguous()
        if self.device.type == "cuda":
            tokens = tokens.pin_memory()
        tokens = tokens.to(self.device, non_blocking=True)
        if self._causal is not None and not self.compiled:
            mask = {"attn_mask": self._causal[:context, :context]}
            features = torch.func.functional_call(self.model.text, mask, (tokens,))
        else:
            features = self.model.encode_text(tokens, normalize=False)
        return self._unit(features, count)

    def _unit(self, features: Tensor, count: int) -> Sequence[Tensor]:
        return normalize(features[:count].float(), dim=1).unbind()

    def _collected(self, rows: Sequence[Tensor]) -> NDArray[np.float32]:
        if not rows:
            return np.zeros((0, self.dimensions), np.float32)
        found = torch.stack(list(rows)).cpu().numpy()
        if not np.isfinite(found).all():
            raise UsageError(
                f"The dual encoder computes infinite values in {self.precision}: set "
                "profile.clip.precision to bfloat16 or float32."
            )
        return found

    def _tokens(self, texts: Sequence[str]) -> Tensor:
        """Texts -> tokens (n, context) on the CPU."""
        limit = CHARACTERS_A_TOKEN * self.tokenizer.context_length
        tokens = self.tokenizer(
            [" ".join(text.split())[:limit] if len(text) > limit else text for text in texts]
        )
        words = getattr(self.tokenizer, "cache", {})
        if len(words) > CACHED_WORDS:  # every new word of every caption stays there
            special = list(itertools.islice(words.items(), len(self.tokenizer.all_special_ids)))
            words.clear()
            words.update(special)
        if (highest := int(tokens.max())) >= self.model.text.vocab_size:
            raise UsageError(
                f"The tokenizer gives the token {highest}, but the text tower knows only "
                f"{self.model.text.vocab_size}: its files belong to another model."
            )
        return tokens

    def _lengths(self, tokens: Tensor) -> Tensor:
        """Tokens (n, context) -> how many of each row the text tower has to see."""
        if self._causal is None:
            return torch.full((len(tokens),), tokens.shape[1])
        if self.model.text.pool_type == "eos":
            tokens = (tokens == self.model.text.eos_id).int()
        return tokens.argmax(dim=1) + 1

    def _blank_images(self, count: int) -> Sequence[Tensor]:
        return self._image_rows([np.zeros((self.height, self.width, 3), np.uint8)] * count)

    def _full_texts(self, count: int) -> Sequence[Tensor]:
        return self._text_rows(self._tokens(["a " * self.tokenizer.context_length] * count))


def embedding_dimensions(folder: Path) -> int:
    """Length of the embeddings of the repository in ``folder``; UsageError if it is none."""
    return _config(folder)["model_cfg"]["embed_dim"]


def hub_id(source: str) -> str:
    """Where a model's files come from, once names that only open_clip knows are translated.

    Parameters
    ----------
    source : a pair such as ``ViT-L-14/openai``, ``hf-hub:org/name``, or what is no name of
        open_clip's: a hub id, a folder, an address

    Returns
    -------
    The hub id ``org/name`` of a pair or after ``hf-hub:``; any other source as it is.

    Raises
    ------
    UsageError
        The pair is not known, or its weights are not on the hub.
    """
    if source.startswith(HUB_PREFIX):
        return source.removeprefix(HUB_PREFIX)
    name, *tags = source.split("/")
    names = _architectures()
    if len(tags) > 1 or Path(source).exists():
        return source
    if name not in names:
        lower = {known.lower(): known for known in names}
        near = difflib.get_close_matches(name.lower(), lower, cutoff=0.8)
        if tags and near:
            meant = ", ".join(f"{lower[one]}/{tags[0]}" for one in near)
            raise UsageError(
                f"open_clip knows no architecture '{name}' (did you mean {meant}?); a repository "
                f"of that name is {HUB_PREFIX}{source}."
            )
        return source
    return _pair_on_hub(name, tags[0] if tags else "")


def _pair_on_hub(name: str, tag: str) -> str:
    from open_clip import get_pretrained_cfg, list_pretrained_tags_by_model

    known = list_pretrained_tags_by_model(name)
    found = get_pretrained_cfg(name, tag)
    if not found:
        if not known:
            raise UsageError(f"open_clip knows no weights of {name}: choose another architecture.")
        near = difflib.get_close_matches(tag, known, n=5) or known[:5]
        named = ", ".join(f"{name}/{one}" for one in near)
        unknown = f"no weights '{tag}'" if tag else "several weights"
        raise UsageError(
            f"open_clip knows {unknown} of {name}: set `files.source` to one of its pairs, "
            f"such as {named}."
        )
    if not found.get("hf_hub"):
        raise UsageError(
            f"The weights {name}/{tag} are not on the hub: give a folder in the layout of "
            f"open_clip's repositories, with {CONFIG}."
        )
    # "org/name/", or "org/name/file" where the weights have a name of their own.
    return "/".join(found["hf_hub"].split("/")[:2])


def _architectures() -> list[str]:
    """Names of open_clip's architectures, without importing it."""
    spec = importlib.util.find_spec("open_clip")
    folders = (spec and spec.submodule_search_locations) or []
    found = (path for folder in folders for path in Path(folder, "model_configs").glob("*.json"))
    return sorted(path.stem for path in found)


def _config(folder: Path) -> dict[str, Any]:
    """The repository's configuration, with all keys that are read without asking."""
    path = folder / CONFIG
    try:
        config = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        what = f"no {CONFIG} in the folder" if folder.is_dir() else "no folder"
        raise UsageError(
            f"There is {what} '{folder}': set `files.source` to a repository of open_clip's."
        ) from None
    except ValueError:
        raise UsageError(f"The {CONFIG} in '{folder}' is damaged: it is no JSON.") from None
    match config:
        case {"model_cfg": {"embed_dim": int(), "vision_cfg": dict(), "text_cfg": dict()}}:
            return config
    raise UsageError(
        f"The {CONFIG} in '{folder}' is not open_clip's: it has no model_cfg with embed_dim, "
        "vision_cfg and text_cfg."
    )


def _preprocessing(folder: Path, config: dict[str, Any]) -> Preprocessing:
    given = config.get("preprocess_cfg", {})
    if isinstance(given, dict):
        given = {key: value for key, value in given.items() if value is not None}
    try:
        return Preprocessing.model_validate(given)
    except ValidationError:
        raise UsageError(
            f"The preprocess_cfg of {CONFIG} in '{folder}' is not known to this version: its "
            f"resizing and colours must be among those of open_clip {_version('open_clip_torch')}."
        ) from None


def _weights(folder: Path, allow_pickle: bool) -> Path:
    """The file with the weights."""
    if safe := _preferred(folder, SAFETENSORS, ["*.safetensors"]):
        return safe
    pickled = _preferred(folder, PICKLED, ["*.bin", "*.pt", "*.pth", "*.ckpt"])
    if pickled is None:
        raise UsageError(f"There are no safetensors weights in '{folder}'.")
    if not allow_pickle:
        raise UsageError(
            f"The weights in '{folder}' are pickled, and to load them may run code of whoever "
            "made them: convert them to safetensors, or set `files.allow_pickle` to true."
        )
    return pickled


def _preferred(folder: Path, names: Sequence[str], patterns: Sequence[str]) -> Path | None:
    found = sorted(path for pattern in patterns for path in folder.glob(pattern))
    named = [folder / name for name in names if folder / name in found]
    return next(iter([*named, *found]), None)


def _tokenizer(folder: Path, text: dict[str, Any]) -> Any:
    from open_clip import get_tokenizer

    asked = text.get("tokenizer_kwargs", {})
    if not isinstance(asked, dict) or not asked.keys() <= TOKENIZER_OPTIONS:
        raise UsageError(
            f"The tokenizer_kwargs of {CONFIG} in '{folder}' may only hold "
            f"{', '.join(sorted(TOKENIZER_OPTIONS))}."
        )
    own_files = {"local_files_only": True, "trust_remote_code": False}
    try:
        return get_tokenizer(
            f"local-dir:{folder}", **(own_files if text.get("hf_tokenizer_name") else {})
        )
    except Exception as error:  # tokenizers raise nearly any type on missing or damaged files
        raise UsageError(
            f"The tokenizer in '{folder}' cannot be loaded ({_reason(error)}): the repository's "
            "tokenizer files must be there."
        ) from None


def _model(folder: Path, model_cfg: dict[str, Any]) -> nn.Module:
    """The architecture with random weights, in float32 on the CPU."""
    import open_clip
    import timm

    model_cfg = copy.deepcopy(model_cfg)
    model_cfg.pop("custom_text", None)
    vision, text = model_cfg["vision_cfg"], model_cfg["text_cfg"]
    if (name := vision.get("timm_model_name")) is not None:
        if not timm.is_model(str(name)):
            raise UsageError(
                f"The architecture '{name}' in '{folder}' is not known to timm "
                f"{_version('timm')}: install a newer one."
            )
        vision["timm_model_pretrained"] = False
    if (name := text.get("hf_model_name")) is not None:
        if not (folder / "config.json").is_file():
            raise UsageError(
                f"The text tower in '{folder}' is a {name}: copy that model's config.json there."
            )
        text |= {"hf_model_name": str(folder), "hf_model_pretrained": False}
    # Also where open_clip would take its class CLIP, whose text tower is the same but does not
    # stand by itself and always reads the whole context.
    kind = open_clip.CoCa if "multimodal_cfg" in model_cfg else open_clip.CustomTextCLIP
    try:
        return kind(**model_cfg)
    except Exception as error:  # open_clip hands configurations on unchecked
        raise UsageError(
            f"The architecture in '{folder}' is not known to open_clip "
            f"{_version('open_clip_torch')} ({_reason(error)})."
        ) from None


def _load(model: nn.Module, weights: Path) -> None:
    """Fill the model with the file's weights."""
    from open_clip import load_checkpoint

    try:
        load_checkpoint(model, str(weights), strict=True, weights_only=True)
    except pickle.UnpicklingError:
        raise UsageError(
            f"The weights '{weights}' are damaged, or hold more than tensors: convert them to "
            "safetensors."
        ) from None
    except (SafetensorError, OSError, EOFError) as error:
        raise UsageError(f"The weights '{weights}' are damaged ({_reason(error)}).") from None
    except Exception as error:  # open_clip rearranges tensors before it compares their shapes
        raise UsageError(
            f"The weights '{weights}' are not those of the architecture in {CONFIG} "
            f"({_reason(error)})."
        ) from None


def _causal_mask(model: nn.Module) -> Tensor | None:
    """The text tower's mask if what follows a text's end cannot change its embedding."""
    from open_clip import CustomTextCLIP
    from open_clip.transformer import TextTransformer

    text = model.text
    if not isinstance(model, CustomTextCLIP) or not isinstance(text, TextTransformer):
        return None
    ends = text.pool_type in ("argmax", "eos") and text.cls_emb is None and not text.output_tokens
    return text.attn_mask if ends else None


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _middle(
    image: PIL.Image.Image, resized: tuple[int, int], out: tuple[int, int], resampling: Resampling
) -> NDArray[np.uint8]:
    """What resizing to ``resized`` and cropping the middle to ``out`` gives, without the rest.

    Rows and columns, not widths and heights. Columns first, as Pillow does: the order matters
    where colours are clipped in between.
    """
    box = []
    for source, whole, part in zip((image.height, image.width), resized, out, strict=True):
        start = round((whole - part) / 2)
        box.append((start * source / whole, (start + part) * source / whole))
    (y0, y1), (x0, x1) = box
    narrow = image.resize((out[1], image.height), resampling, box=(x0, 0, x1, image.height))
    return np.asarray(narrow.resize(out[::-1], resampling, box=(0, y0, out[1], y1)))


def _version(package: str) -> str:
    return importlib.metadata.version(package)


def _reason(error: Exception) -> str:
    """The first words of an exception, fit to stand in a sentence."""
    words = " ".join(f"{error}".split()) or type(error).__name__
    return words if len(words) <= 200 else f"{words[:200]}…"
