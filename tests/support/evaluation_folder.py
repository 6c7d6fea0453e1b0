"""An evaluation folder of made-up numbers, as ``jobs/evaluate.py`` writes one."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from item.images.perturb import STANDARD

OURS = "staged MLP"
PROBE = "image probe"
METHODS = {
    OURS: ("ours", 0.87),
    "LightGBM": ("ours", 0.81),
    PROBE: ("baseline", 0.86),
    "DE-FAKE": ("baseline", 0.85),
    "shortcut probe": ("control", 0.55),
    "caption-only": ("control", 0.62),
    "shuffled captions": ("control", 0.71),
    "random crops": ("ablation", 0.84),
}
GENERATORS = ("SDXL", "Midjourney", "ProGAN")
SOURCES = ("ImageNet", "COCO")
PROTOCOL = "train on one"
METRICS = (
    *("auroc", "ap", "balanced_accuracy", "real_accuracy", "generated_accuracy"),
    *("tpr_at_1_fpr", "tpr_at_5_fpr", "brier", "ece"),
)

Tables = dict[str, pd.DataFrame]


def description(generators: tuple[str, ...] = GENERATORS, **changes: Any) -> dict[str, Any]:
    """``evaluation.json``, with some of its keys changed."""
    made = [
        {"generator": name, "source": "prompts", "label": 1, "rows": 1200} for name in generators
    ]
    taken = [{"generator": None, "source": name, "label": 0, "rows": 3400} for name in SOURCES]
    return {
        "command": "python jobs/evaluate.py --features features/ --output evaluation/",
        "machine": "2 CPU cores, 8 GB",
        "finished_at": "2026-01-31T12:00:00Z",
        "code_version": "0.1.0+abc",
        "feature_set_id": "mini-1234",
        "seeds": 5,
        "resamples": 1000,
        "data": made + taken,
        "protocols": [{"name": PROTOCOL, "sentence": "Trained on SD1.5, tested on all others."}],
        "methods": [
            {"name": name, "kind": kind, "sentence": f"What {name} is."}
            for name, (kind, _) in METHODS.items()
        ],
        "notes": ["Made-up numbers."],
        "shipped": OURS,
    } | changes


def tables(generators: tuple[str, ...] = GENERATORS) -> Tables:
    """All tables, robustness included; the numbers depend on the names' places alone."""
    random = np.random.default_rng(0)
    settings = list(itertools.product([PROTOCOL], METHODS, SOURCES))

    def around(value: float, width: float = 0.012) -> dict[str, float]:
        return {"value": value, "low": value - width, "high": value + width}

    metrics = [
        {"protocol": protocol, "method": method, "subset": subset, "real_source": source}
        | {"generator": generator, "metric": metric, "generated": 480, "real": 1360}
        | around(METHODS[method][1] - 0.04 * SOURCES.index(source) - 0.005 * place)
        for protocol, method, source in settings
        for subset in ("all", "realistic")
        for place, generator in enumerate(("mean", "spread", *generators, "worst"))
        for metric in METRICS
    ]
    differences = [
        {"protocol": protocol, "method": OURS, "baseline": method, "subset": "all"}
        | {"real_source": source, "metric": metric, "difference": gap}
        | {"low": gap - 0.015, "high": gap + 0.015}
        for protocol, method, source in settings
        if method != OURS
        for metric in ("auroc", "brier")
        for gap in [METHODS[OURS][1] - METHODS[method][1]]
    ]
    curve = np.linspace(0, 1, 41)
    roc = [
        {"protocol": protocol, "method": method, "real_source": source, "generator": generator}
        | {"fpr": fpr, "tpr": fpr ** (1 / METHODS[method][1] - 1)}
        for protocol, method, source in settings
        for generator in generators
        for fpr in curve
    ]
    reliability = [
        {"protocol": protocol, "method": method, "real_source": source}
        | {"bin_low": low, "bin_high": low + 0.1, "mean_score": low + 0.05}
        | {"share_generated": (low + 0.05) ** 1.2, "rows": int(random.integers(20, 400))}
        for protocol, method, source in settings
        for low in np.round(np.arange(0, 1, 0.1), 1)
    ]
    points = [
        {"protocol": protocol, "method": method, "real_source": source, "asked_fpr": asked}
        | {"realised_fpr": real, "low": real * 0.8, "high": real * 1.2}
        | {"tpr": 0.4, "uncertain_share": 0.213, "abstained_share": 0.017}
        for protocol, method, source in settings
        for asked in (0.01, 0.05)
        for real in [asked * (1 + SOURCES.index(source))]
    ]
    robustness = [
        {"perturbation": name, "method": method, "auroc": auroc, "rows": 1840}
        | {"low": auroc - 0.01, "high": auroc + 0.01, "flip_rate": 0.01 * place}
        | {"flip_low": 0.008 * place, "flip_high": 0.012 * place}
        for place, name in enumerate(("none", *STANDARD))
        for method in (OURS, PROBE)
        for auroc in [METHODS[method][1] - 0.01 * place]
    ]
    return {
        "metrics": pd.DataFrame(metrics),
        "differences": pd.DataFrame(differences),
        "roc": pd.DataFrame(roc),
        "reliability": pd.DataFrame(reliability),
        "operating_points": pd.DataFrame(points),
        "robustness": pd.DataFrame(robustness),
    }


def without_plots(contents: Tables) -> Tables:
    """The tables, without what most plots show: a page of them is drawn quickly."""
    empty = {name: contents[name].iloc[:0] for name in ("roc", "reliability")}
    return {name: table for name, table in (contents | empty).items() if name != "robustness"}


def write_folder(folder: Path, about: dict[str, Any], contents: Tables) -> Path:
    """Write an evaluation folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text(json.dumps(about))
    for name, table in contents.items():
        table.to_parquet(folder / f"{name}.parquet")
    return folder
