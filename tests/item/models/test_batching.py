"""Every input has its output, however little memory there is."""

import gc
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from item.models.batching import (
    AUTO_LIMIT,
    CPU_BATCH,
    HEADROOM,
    Batches,
    automatic_size,
    device,
    dtype,
    fitting_size,
    lacks_memory,
    remembered,
)

GB = 10**9


@pytest.fixture(autouse=True, scope="module")
def little_garbage():
    """Each failure collects garbage, which takes long where all of torch is looked through."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Memory:
    """A model that squares numbers, up to ``limit`` at once, and notes its batches."""

    def __init__(self, limit):
        self.limit = limit
        self.batches = []

    def __call__(self, batch):
        self.batches.append(list(batch))
        if len(batch) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return [number**2 for number in batch]


@given(rows=st.integers(0, 60), size=st.integers(1, 70), limit=st.integers(1, 70))
def test_outputs_come_in_order_and_once_whatever_fits(rows, size, limit):
    memory = Memory(limit)
    batches = Batches(memory, size)
    assert batches(range(rows)) == [number**2 for number in range(rows)]
    too_large = [batch for batch in memory.batches if len(batch) > limit]
    assert batches.halvings == len(too_large)
    done = [number for batch in memory.batches if len(batch) <= limit for number in batch]
    assert done == list(range(rows))
    assert all(len(batch) <= size for batch in memory.batches)


@given(rows=st.integers(1, 60), size=st.integers(1, 70))
def test_nothing_is_returned_if_not_even_one_fits(rows, size):
    memory = Memory(0)
    with pytest.raises(torch.OutOfMemoryError):
        Batches(memory, size)(range(rows))
    assert len(memory.batches[-1]) == 1


def test_a_halved_size_stays():
    memory = Memory(3)
    batches = Batches(memory, 16)
    batches(range(16))
    assert (batches.size, batches.halvings) == (2, 3)
    memory.batches.clear()
    batches(range(16))
    assert [len(batch) for batch in memory.batches] == [2] * 8
    assert batches.halvings == 3


def test_a_full_batch_is_as_large_as_asked():
    memory = Memory(100)
    Batches(memory, 4)(range(10))
    assert [len(batch) for batch in memory.batches] == [4, 4, 2]


def test_tensors_are_sliced_like_lists():
    batches = Batches(lambda batch: list((batch * 2).unbind()), 2)
    assert torch.stack(batches(torch.arange(5))).tolist() == [0, 2, 4, 6, 8]


def test_what_the_failed_batch_held_is_free_before_the_next():
    left = []

    class Tensor:
        def __init__(self):
            self.cycle = self

    def run(batch):
        held = Tensor()
        if len(batch) > 1:
            left.append(weakref.ref(held))
            raise torch.OutOfMemoryError
        assert all(reference() is None for reference in left)
        return batch

    gc.disable()  # the test is that Batches collects, not that Python happens to
    try:
        assert Batches(run, 4)([1, 2, 3]) == [1, 2, 3]
    finally:
        gc.enable()
    assert len(left) == 2


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    def broken(_batch):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    batches = Batches(broken, 4)
    with pytest.raises(RuntimeError, match="mat1"):
        batches(range(4))
    assert batches.halvings == 0


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: out of memory",
    ],
)
def test_libraries_beside_the_allocator_lack_memory_too(message):
    def run(batch):
        if len(batch) > 2:
            raise RuntimeError(message)
        return batch

    batches = Batches(run, 4)
    assert batches([1, 2, 3, 4]) == [1, 2, 3, 4]
    assert batches.halvings == 1
    assert lacks_memory(RuntimeError(message))


def test_a_model_that_loses_a_row_is_noticed():
    with pytest.raises(ValueError, match="3 outputs of 4 inputs"):
        Batches(lambda batch: batch[:-1], 4)([1, 2, 3, 4])


def test_a_batch_has_an_input():
    with pytest.raises(ValueError, match="0 inputs"):
        Batches(list, 0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU measures")
def test_a_cpu_has_a_fixed_batch_and_measures_nothing():
    def run(count):
        raise AssertionError(f"measured {count}")

    assert automatic_size(run, "any") == CPU_BATCH
    assert device() == torch.device("cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_measures_once_and_fills_its_share(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    counts = []

    def run(count):
        counts.append(count)
        return torch.ones(count, 2**26, device="cuda")  # 256 MiB each

    free = 0.5 * torch.cuda.get_device_properties(0).total_memory
    size = automatic_size(run, "ones", share=0.5)
    assert size * 2**28 <= HEADROOM * free < 2 * size * 2**28 or size == AUTO_LIMIT
    assert counts == [1, 1, 9]
    assert automatic_size(run, "ones", share=0.5) == size
    assert counts == [1, 1, 9]


@given(
    weights=st.integers(0, 10 * GB),
    each=st.integers(1, GB),
    memory=st.integers(0, 200 * GB),
)
def test_the_fitting_size_fits_and_its_double_does_not(weights, each, memory):
    size = fitting_size(weights + each, weights + 9 * each, memory)
    assert size in {2**power for power in range(10)}
    free = HEADROOM * (memory - weights)
    slack = 1e-6 * memory + 1
    assert size == 1 or size * each <= free + slack
    assert size == AUTO_LIMIT or 2 * size * each > free - slack


@pytest.mark.parametrize(
    ("one", "nine", "memory", "size"),
    [
        (2 * GB, 4 * GB, 80 * GB, 128),  # 1.75 GB of weights, 0.25 GB each: 250 fit
        (2 * GB, 4 * GB, 2 * GB, 1),
        (2 * GB, 4 * GB, GB, 1),
        (2 * GB, 2 * GB, 80 * GB, AUTO_LIMIT),  # inputs that take nothing
        (2 * GB, 2 * GB - 5, 80 * GB, AUTO_LIMIT),
    ],
)
def test_fitting_sizes(one, nine, memory, size):
    assert fitting_size(one, nine, memory) == size


def test_a_found_size_is_remembered(tmp_path):
    path = tmp_path / "sizes" / "digest"
    assert remembered(path, lambda: 64) == 64
    assert remembered(path, lambda: pytest.fail("found again")) == 64
    assert [file.name for file in path.parent.iterdir()] == ["digest"]


@pytest.mark.parametrize("content", ["", "many", "\0"])
def test_a_damaged_memory_is_found_again(tmp_path, content):
    path = tmp_path / "digest"
    path.write_text(content)
    assert remembered(path, lambda: 32) == 32
    assert path.read_text() == "32"


@pytest.mark.parametrize(("content", "size"), [("0", 1), ("-5", 1), ("99999", AUTO_LIMIT)])
def test_a_remembered_size_is_a_sensible_one(tmp_path, content, size):
    path = tmp_path / "digest"
    path.write_text(content)
    assert remembered(path, lambda: 32) == size


def test_no_folder_for_the_memory_is_no_failure(tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "digest"
    assert remembered(path, lambda: 8) == 8


def test_precisions_are_torch_types():
    assert [dtype(name) for name in ("float32", "bfloat16", "float16")] == [
        torch.float32,
        torch.bfloat16,
        torch.float16,
    ]
