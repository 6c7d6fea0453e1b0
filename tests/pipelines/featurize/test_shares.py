"""What a profile asks of a cluster is refused, or made smaller, before any work."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from item.errors import UsageError
from item.profiles import load_profile
from pipelines.featurize.shares import FEWEST_ROWS, check_shares, pools, row_bytes, with_room

ONE_GPU = {"CPU": 8.0, "GPU": 1.0}


def test_a_cluster_without_the_gpus_of_a_profile_is_refused():
    base = load_profile("base")
    with pytest.raises(UsageError, match="caption") as refused:
        check_shares(base, {"CPU": 8.0})
    for word in ("objects", "embed", "profile.resources.caption.gpus=0", "wait_for_gpus"):
        assert word in str(refused.value)
    check_shares(base, ONE_GPU)
    check_shares(load_profile("mini"), {"CPU": 2.0})
    with pytest.raises(UsageError) as refused:
        check_shares(load_profile("base", {"captioner": {"model": "none"}}), {"CPU": 8.0})
    assert "embed" in str(refused.value) and "caption" not in str(refused.value)
    # What runs in the workers of another stage takes that one's resources.
    check_shares(load_profile("mini", {"resources.embed.gpus": 1}), {"CPU": 2.0})


def test_shares_that_are_more_than_the_gpus_together_are_refused():
    greedy = load_profile("base", {"resources.embed.gpus": 0.5})
    with pytest.raises(UsageError, match=r"1\.25 GPUs together and the cluster has 1,"):
        check_shares(greedy, ONE_GPU)
    with pytest.raises(UsageError, match=r"2\.5 GPUs together"):
        check_shares(greedy, {"CPU": 32.0, "GPU": 2.0})


def test_workers_that_leave_no_cpu_to_decode_are_refused():
    every = {f"resources.{key}.cpus": 2.5 for key in ("caption", "objects", "embed")}
    with pytest.raises(UsageError, match=r"hold 7\.5 of the cluster's 8 CPUs") as refused:
        check_shares(load_profile("base", every), ONE_GPU)
    assert "leaves no 1 to decode" in str(refused.value)
    assert "profile.resources.objects.cpus" in str(refused.value)
    check_shares(load_profile("base", every), {"CPU": 16.0, "GPU": 1.0})


@pytest.mark.parametrize(("cpus", "gpus"), [(8, 1), (16, 1), (64, 8), (192, 8)])
@pytest.mark.parametrize("name", ["base", "large"])
def test_shipped_profiles_fit_usual_machines(name, cpus, gpus):
    check_shares(load_profile(name), {"CPU": float(cpus), "GPU": float(gpus)})


@pytest.mark.parametrize("cpus", [1, 2, 4, 96])
def test_mini_fits_every_machine(cpus):
    check_shares(load_profile("mini"), {"CPU": float(cpus)})


@given(st.floats(1e6, 1e11), st.integers(1, 64))
def test_batches_fit_the_room_between_stages_or_are_refused(store, cpus):
    mini, cluster = load_profile("mini"), {"CPU": float(cpus)}
    # Read and decode, work, misalign, write: each holds a batch a worker and one more.
    batches = 4 * (cpus + 1)
    try:
        fitting = with_room(mini, cluster, store)
    except UsageError as refused:
        assert "object_store_gb" in str(refused)
        assert store < batches * FEWEST_ROWS * row_bytes(mini)
        return
    for (key, old), (_, new) in zip(mini.resources, fitting.resources, strict=True):
        assert FEWEST_ROWS <= new.batch_size <= old.batch_size
        assert key == "misalign" or batches * new.batch_size * row_bytes(mini) <= store
    assert fitting.model_copy(update={"resources": mini.resources}) == mini
    if store > batches * 32 * row_bytes(mini):
        assert fitting == mini


def test_smaller_batches_are_told(capsys):
    mini = load_profile("mini")
    fitting = with_room(mini, {"CPU": 2.0}, 1e8)
    assert fitting.resources.caption.batch_size == int(1e8 / (4 * 3 * row_bytes(mini)))
    told = capsys.readouterr().err
    assert "raise object_store_gb" in told and str(fitting.resources.caption.batch_size) in told
    with_room(mini, {"CPU": 2.0}, 2e9)
    assert capsys.readouterr().err == ""


def test_only_pictures_that_models_read_take_room():
    mini = load_profile("mini")
    assert row_bytes(mini) == 3 * (256**2 + 224**2)
    assert row_bytes(load_profile("mini", {"clip.layers": 0})) == 3 * 256**2
    assert list(pools(load_profile("mini", {"captioner": {"model": "given"}}))) == [
        *("decode", "phrases", "misalign")
    ]
