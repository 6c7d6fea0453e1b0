"""Training on one worker or many: Ray Data shards, Ray Train loops, checkpoints."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs
import ray
import ray.train
import torch
from fsspec.implementations.local import LocalFileSystem
from lightgbm.callback import CallbackEnv
from numpy.typing import NDArray
from ray.data import Dataset
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, LoggingConfig, RunConfig
from ray.train.collective import broadcast_from_rank_zero
from ray.train.lightgbm import LightGBMTrainer, get_network_params
from ray.train.torch import TorchTrainer, get_device, prepare_model

from item.heads.boosting import BoostingModel, column_sets, columns_of, grow
from item.heads.columns import Statistics, features, local_columns
from item.heads.fitted import Model
from item.heads.fitting import Batch, Epoch, Measure, Training, tensors_of
from item.heads.settings import HeadSettings, Kind
from pipelines.storage.access import filesystem
from pipelines.storage.configuration import Storage
from pipelines.train.rows import Fragment, Indices, LabelledRows, fragment_arrays

ROWS_IN_BLOCK = 8192
BATCHES_SHUFFLED = 8
"""Rows are shuffled once for good and, in every epoch, within so many batches."""
ROUNDS_BETWEEN_CHECKPOINTS = 50
STATE = "training.pt"
LARGEST = 3e4
"""Standardised features are kept in float16, as the tables keep theirs; this fits."""


@dataclass(frozen=True)
class Workers:
    """How many train, with what, and where they keep their checkpoints."""

    number: int
    cpus: float
    gpu: bool
    max_failures: int
    name: str
    """Of the training; one that was killed goes on under the same name."""
    checkpoints: str
    """Folder or ``s3://`` prefix that every worker reaches."""
    storage: Storage

    def scaling(self) -> ray.train.ScalingConfig:
        """The workers, for Ray Train."""
        return ray.train.ScalingConfig(
            num_workers=self.number,
            use_gpu=self.gpu,
            resources_per_worker={"CPU": self.cpus, **({"GPU": 1} if self.gpu else {})},
        )

    def running(self) -> RunConfig:
        """Checkpoints and failures, for Ray Train."""
        fs, path = filesystem(self.checkpoints, self.storage)
        local = isinstance(fs, LocalFileSystem)
        return RunConfig(
            name=self.name,
            storage_path=path,
            storage_filesystem=None
            if local
            else pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs)),
            failure_config=FailureConfig(max_failures=self.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            logging_config=LoggingConfig(log_level="ERROR"),
        )


@dataclass(frozen=True, eq=False)
class Trained:
    """What the workers leave."""

    model: Model
    history: tuple[Epoch, ...]
    """Epochs of an MLP."""
    starts: int
    """How often the workers began or went on."""
    rows_per_second: tuple[float, ...]
    """Of all workers together, in each epoch of an MLP."""


def training_dataset(
    rows: LabelledRows,
    chosen: Indices,
    weights: NDArray[np.float32],
    settings: HeadSettings,
    statistics: Statistics,
) -> Dataset:
    """Standardised features, labels and weights of rows, shuffled, in memory or spilled to disk.

    Parameters
    ----------
    chosen : (m,) rows to train on, in order
    weights : (m,) theirs
    """
    weight_of = np.zeros(len(rows), np.float32)
    weight_of[chosen] = weights
    tasks: list[dict[str, Any]] = [
        {
            "fragment": number,
            "places": places,
            "labels": rows.labels[members].astype(np.float32),
            "weights": weight_of[members],
        }
        for number, places, members in rows.by_fragment(chosen)
    ]
    ends = np.cumsum([len(task["places"]) for task in tasks])
    blocks = np.split(np.arange(len(tasks)), np.flatnonzero(np.diff(ends // ROWS_IN_BLOCK)) + 1)
    standardise = _Standardise(rows.fragments, rows.storage, settings, statistics)
    return (
        ray.data.from_arrow([pa.Table.from_pylist([tasks[n] for n in block]) for block in blocks])
        .map_batches(standardise, batch_size=None, batch_format="pyarrow", num_cpus=0.5)
        .random_shuffle(seed=settings.seed)
        .materialize()
    )


class _Standardise:
    """Reads rows of fragments and makes a head's columns of them."""

    def __init__(
        self,
        fragments: tuple[Fragment, ...],
        storage: Storage,
        settings: HeadSettings,
        statistics: Statistics,
    ) -> None:
        self.fragments = ray.put(fragments)
        self.storage = storage
        self.groups = settings.groups
        self.statistics = ray.put(statistics)
        self.__name__ = "Standardise"

    def __call__(self, tasks: pa.Table) -> dict[str, NDArray]:
        fragments, statistics = ray.get([self.fragments, self.statistics])
        columns, labels, weights = [], [], []
        for task in tasks.to_pylist():
            fragment, places = fragments[task["fragment"]], np.array(task["places"])
            arrays = fragment_arrays(fragment, places, self.storage)
            standardised = features(arrays, self.groups, statistics)
            columns.append(np.clip(standardised, -LARGEST, LARGEST).astype(np.float16))
            labels.append(np.float32(task["labels"]))
            weights.append(np.float32(task["weights"]))
        return {
            "features": np.concatenate(columns),
            "label": np.concatenate(labels),
            "weight": np.concatenate(weights),
        }


def train(
    data: Dataset,
    validation: tuple[NDArray, NDArray, NDArray],
    settings: HeadSettings,
    lengths: tuple[int, int],
    workers: Workers,
    bulletin: Any,
) -> Trained:
    """Train an MLP or boosted trees in Ray Train.

    One worker does the same from the same seed if Ray was started to preserve order
    (:func:`pipelines.runtime.start.start_ray`).

    Parameters
    ----------
    data : from :func:`training_dataset`
    validation : columns, labels and weights of the rows that end the training
    lengths : of the embeddings and of the layers
    bulletin : handle of a :class:`pipelines.train.progress.Bulletin`
    """
    # A report of an epoch waits until Ray Train looks, by itself every two seconds.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
    local = local_columns(settings.groups, *lengths)
    config = {
        "settings": settings,
        "local": local,
        "validation": ray.put(validation),
        "bulletin": bulletin,
    }
    common: dict[str, Any] = {
        "train_loop_config": config,
        "scaling_config": workers.scaling(),
        "run_config": workers.running(),
        "datasets": {"train": data},
    }
    if settings.kind == Kind.LIGHTGBM:
        result = LightGBMTrainer(boosting_loop, **common).fit()
        state = _loaded(result.checkpoint)
        model = BoostingModel(state["texts"]["whole"], state["texts"].get("global"), local)
        return Trained(model, (), state["starts"], ())
    result = TorchTrainer(hierarchy_loop, **common).fit()
    state = _loaded(result.checkpoint)
    training = Training(settings, local)
    training.load(state)
    return Trained(
        training.model(), tuple(training.history), state["starts"], tuple(state["speeds"])
    )


def hierarchy_loop(config: dict[str, Any]) -> None:
    """What each worker of an MLP does; a replacement continues after the last epoch."""
    settings: HeadSettings = config["settings"]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    training = Training(settings, config["local"], prepare_model, get_device())
    speeds: list[float] = []
    if (checkpoint := ray.train.get_checkpoint()) is not None:
        state = _loaded(checkpoint)
        training.load(state)
        speeds = state["speeds"]
    validation = tensors_of(ray.get(config["validation"]))
    size = max(settings.batch_size // world, 1)
    while training.stage is not None:
        seed = training.epoch_seed(rank)
        torch.manual_seed(seed)
        started, row_counts = time.perf_counter(), list[int]()
        loss = training.learn(batches(size, seed, row_counts))
        speeds.append(sum(row_counts) * world / (time.perf_counter() - started))
        # One worker judges for all, so that all go on, or end, together.
        judged = {"learned": loss, **asdict(training.measure(validation))} if rank == 0 else None
        judged = broadcast_from_rank_zero(judged)
        epoch = training.conclude(judged.pop("learned"), Measure(**judged))
        _report({**training.state(), "speeds": speeds}, judged, rank)
        if rank == 0:
            config["bulletin"].write.remote(_sentence(epoch, speeds[-1]))


def batches(size: int, seed: int, row_counts: list[int]) -> Iterator[Batch]:
    """This worker's share of the training rows, in an order that the seed decides.

    Parameters
    ----------
    size : rows of a batch
    row_counts : the number of rows of each batch is appended to it
    """
    shard = ray.train.get_dataset_shard("train")
    for batch in shard.iter_torch_batches(
        batch_size=size,
        dtypes=torch.float32,
        local_shuffle_buffer_size=size * BATCHES_SHUFFLED,
        local_shuffle_seed=seed,
    ):
        row_counts.append(len(batch["label"]))
        yield batch["features"], batch["label"], batch["weight"]


def boosting_loop(config: dict[str, Any]) -> None:
    """What each worker of boosted trees does: first the global model, then the whole one."""
    settings: HeadSettings = config["settings"]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    state: dict[str, Any] = {"starts": 0, "texts": {}, "growing": None}
    if (checkpoint := ray.train.get_checkpoint()) is not None:
        state = _loaded(checkpoint)
    state["starts"] += 1
    rows, validation = _shard(), ray.get(config["validation"])
    network: dict[str, Any] = {}
    if world > 1:
        network = {"tree_learner": "data_parallel", "pre_partition": True, **get_network_params()}

    def checkpoint_trees(name: str, env: CallbackEnv) -> None:
        if (env.iteration + 1) % ROUNDS_BETWEEN_CHECKPOINTS == 0:
            state["growing"] = env.model.model_to_string()
            auroc = float(env.evaluation_result_list[0][2])  # type: ignore[index]
            _report(state, {"auroc": auroc}, rank)
            if rank == 0:
                config["bulletin"].write.remote(
                    f"{name} model, round {env.iteration + 1}: validation AUROC {auroc:.4f}"
                )

    for name, chosen in zip(("global", "whole"), column_sets(config["local"]), strict=True):
        if name in state["texts"] or not chosen.any():
            continue
        state["texts"][name] = grow(
            columns_of(rows, chosen),
            settings,
            columns_of(validation, chosen),
            network,
            state["growing"],
            (partial(checkpoint_trees, name),),
        )
        state["growing"] = None
        _report(state, {}, rank)


def _shard() -> tuple[NDArray, NDArray, NDArray]:
    """All of this worker's rows at once, as LightGBM wants them."""
    shard = ray.train.get_dataset_shard("train")
    parts = list(shard.iter_batches(batch_size=None, batch_format="numpy"))
    columns, labels, weights = (
        np.concatenate([part[name] for part in parts]).astype(np.float32)
        for name in ("features", "label", "weight")
    )
    return columns, labels, weights


def _report(state: dict[str, Any], metrics: dict[str, float], rank: int) -> None:
    """Tell Ray Train how far the training is; the first worker adds the checkpoint."""
    if rank > 0:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.save(state, Path(folder, STATE))
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))


def _loaded(checkpoint: Checkpoint) -> dict[str, Any]:
    """A checkpoint's tensors and plain values; nothing else is unpickled."""
    with checkpoint.as_directory() as folder:
        return torch.load(Path(folder, STATE), weights_only=True, map_location="cpu")


def _sentence(epoch: Epoch, rows_a_second: float) -> str:
    quality = f"validation AUROC {epoch.measure.auroc:.4f}, " if epoch.measure else ""
    return (
        f"{epoch.stage} stage, epoch {epoch.number}: loss {epoch.loss:.4f}, {quality}"
        f"{rows_a_second:,.0f} rows/s"
    )
