"""How many inputs pass through a model at once, on whatever device there is."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import torch

from item.models.precision import Precision

T = TypeVar("T")
R = TypeVar("R")

AUTO_LIMIT = 512
"""Beyond this many inputs no model gains speed."""
HEADROOM = 0.8
"""Share of the memory that a batch may fill: the allocator keeps blocks of other sizes."""
CPU_BATCH = 16
CACHE = "item-batch-sizes"
LIBRARIES_WITHOUT_MEMORY = (
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
)
"""How a lack of memory reads where it is not torch's allocator that lacks it."""


def device() -> torch.device:
    """The GPU that this process was given, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def dtype(precision: Precision) -> torch.dtype:
    """The torch type of a profile's ``precision``."""
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    return kinds[precision]


class Batches(Generic[T, R]):
    """Runs a model on many inputs, a batch at a time, and survives a lack of memory.

    Parameters
    ----------
    run : from a batch of inputs to as many outputs
    size : inputs in a batch

    Attributes
    ----------
    size : halved, for good, each time that a batch did not fit
    halvings : how often that was
    """

    def __init__(self, run: Callable[[Sequence[T]], Sequence[R]], size: int) -> None:
        if size < 1:
            raise ValueError(f"a batch of {size} inputs")
        self.run = run
        self.size = size
        self.halvings = 0

    def __call__(self, rows: Sequence[T]) -> list[R]:
        """Outputs of ``rows`` in order; torch.OutOfMemoryError if not even one fits."""
        found: list[R] = []
        while len(found) < len(rows):
            batch = rows[len(found) : len(found) + self.size]
            try:
                outputs = self.run(batch)
            except RuntimeError as error:
                if len(batch) == 1 or not lacks_memory(error):
                    raise
                self.size = (len(batch) + 1) // 2
                self.halvings += 1
            else:
                if len(outputs) != len(batch):
                    raise ValueError(f"{len(outputs)} outputs of {len(batch)} inputs")
                found += outputs
                continue
            # After the except clause: the exception's frames hold the batch's tensors.
            gc.collect()
            torch.cuda.empty_cache()
        return found


def lacks_memory(error: RuntimeError) -> bool:
    """Whether a smaller batch might have succeeded."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        sign in str(error) for sign in LIBRARIES_WITHOUT_MEMORY
    )


def automatic_size(run: Callable[[int], object], name: str, share: float = 1.0) -> int:
    """The largest power of two of inputs that fits, found once a node.

    The peak memory of one and of nine inputs gives the bytes of each further one; the GPU's
    memory, times ``share``, gives their number. Other processes of the node read the answer
    from a file in the temporary folder.

    Parameters
    ----------
    run : passes a number of inputs of the usual size through the model
    name : of model, revision and precision: what the answer depends on
    share : of the GPU that belongs to this process, 0 to 1

    Returns
    -------
    A power of two from 1 to 512; 16 on a CPU, where memory does not set the speed.
    """
    if not torch.cuda.is_available():
        return CPU_BATCH
    gpu = torch.cuda.get_device_properties(0)
    key = json.dumps([name, gpu.name, gpu.total_memory, share, torch.__version__])
    digest = hashlib.sha256(key.encode()).hexdigest()[:24]

    def measured() -> int:
        run(1)  # what is loaded once, such as kernels and their work space, is no input's memory
        return fitting_size(_peak_bytes(run, 1), _peak_bytes(run, 9), share * gpu.total_memory)

    try:
        return remembered(Path(tempfile.gettempdir(), f"{CACHE}-{os.getuid()}", digest), measured)
    except RuntimeError as error:
        if not lacks_memory(error):
            raise
        return 1


def fitting_size(one: int, nine: int, memory: float) -> int:
    """The largest power of two of inputs that fits, 1 to 512.

    Parameters
    ----------
    one, nine : peak bytes, weights included, of a batch of so many inputs
    memory : bytes that there are
    """
    each = max(1.0, (nine - one) / 8)
    fit = int(HEADROOM * (memory - (one - each)) / each)
    return min(AUTO_LIMIT, 1 << (max(1, fit).bit_length() - 1))


def remembered(path: Path, find: Callable[[], int]) -> int:
    """What ``find`` returned when it was called first, on this node, from the file ``path``.

    Without a folder to write to it is found again each time.
    """
    try:
        return max(1, min(AUTO_LIMIT, int(path.read_text())))
    except (OSError, ValueError):
        found = find()
    written = path.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        written.write_text(str(found))
        written.replace(path)
    return found


def _peak_bytes(run: Callable[[int], object], count: int) -> int:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    run(count)
    return torch.cuda.max_memory_allocated()
