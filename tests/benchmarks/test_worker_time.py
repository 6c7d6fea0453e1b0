"""GPU workers copy no pictures, however long their models take."""

import pytest

from benchmarks import worker_time
from item.captioning import NoCaptions


@pytest.mark.parametrize("captions", [True, False])
def test_pictures_are_not_copied_in_workers(captions, tmp_path, monkeypatch):
    monkeypatch.setattr(worker_time, "BATCH", 16)
    monkeypatch.setattr(worker_time.device_crops, "_cut", worker_time.device_crops._cut)
    profile = worker_time.public_profile(tmp_path, "thin")
    if not captions:
        profile = profile.model_copy(update={"captioner": NoCaptions(model="none")})
    found = worker_time.measured(profile, batches=1)
    copied = found["kB newly allocated"]
    assert set(copied) == set(found["ms"])
    # A picture as it is decoded takes 922 kB, the smallest that a model reads 150 kB.
    at_work = {stage: size for stage, size in copied.items() if stage in worker_time.WORKERS}
    assert len(at_work) == (3 if captions else 1)
    assert all(size < 40 for size in at_work.values()), at_work
    assert copied["decode"] > 150
