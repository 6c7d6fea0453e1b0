"""Which columns and kinds of head do best on sources that they never saw.

    python -m benchmarks.head_columns --features features-detection/ --features features-wild/ \\
        --features features-edited/

Every source of photographs and every family of generators is left out in its turn
(:mod:`pipelines.train.unseen_sources`). AUROC is the mean over pairs of a source and a family, on
originals and on edited copies (benchmarks/edited_pictures.py) apart; the threshold is that for 1%
on a new source, and the photographs called generated are those of a source that it never saw.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import typer

from benchmarks.edited_pictures import EDITED
from item.heads.columns import Group
from item.heads.settings import Balance, HeadSettings, Kind, balanced_weights
from item.statistics.calibration import OperatingPoints, fit_platt
from item.statistics.metrics import expected_calibration_error, mean_over_pairs
from item.statistics.source_thresholds import fit_source_thresholds
from pipelines.storage.configuration import Storage
from pipelines.train.rows import read_labelled
from pipelines.train.unseen_sources import families, unseen_logits

COLUMNS = {
    "layers": (Group.LAYERS,),
    "layers, v - u": (Group.LAYERS, Group.GLOBAL_MISALIGNMENT),
    "layers, v - u, parts, similarities": (
        *(Group.LAYERS, Group.GLOBAL_MISALIGNMENT, Group.PARTS, Group.LOCAL_SIMILARITIES),
    ),
    "v - u, parts, similarities": (
        *(Group.GLOBAL_MISALIGNMENT, Group.PARTS, Group.LOCAL_SIMILARITIES),
    ),
    "residuals": (Group.GLOBAL_RESIDUAL, Group.LOCAL_RESIDUAL),
    "v, parts": (Group.IMAGE, Group.PARTS),
    "v": (Group.IMAGE,),
    "residuals, v - u, objects": (
        *(Group.GLOBAL_RESIDUAL, Group.LOCAL_RESIDUAL, Group.GLOBAL_MISALIGNMENT),
        *(Group.LOCAL_MISALIGNMENT, Group.LOCAL_SIMILARITIES),
    ),
    "file alone": (Group.SHORTCUT,),
}


def main(
    features: Annotated[list[str], typer.Option(help="Labelled features tables.")],
    kind: Annotated[Kind, typer.Option(help="Model of the heads.")] = Kind.LOGISTIC,
    folds: Annotated[int, typer.Option(help="Most parts of the sources.")] = 20,
) -> None:
    """Compare heads on unseen sources."""
    rows = read_labelled(features, Storage())
    arrays, labels = rows.arrays(np.arange(len(rows))), rows.labels
    names = families(labels, rows.generators, rows.sources)
    copies = np.array([f"/{EDITED}" in uri for uri in rows.uris])
    weights = balanced_weights(labels, names, Balance.ROOT)
    print(f"{len(rows):,} rows, {copies.sum():,} edited; {len(set(names))} sources and families")
    for title, groups in COLUMNS.items():
        settings = HeadSettings(kind=kind, groups=groups, balance=Balance.ROOT)
        logits = unseen_logits(arrays, labels, names, names, settings, folds)
        scores = fit_platt(logits, labels, weights).scores(logits)
        kept = (scores[~copies], labels[~copies], names[~copies])
        found = fit_source_thresholds(*kept, OperatingPoints())
        flagged = kept[0] > found.thresholds.likely_generated
        generators = set(kept[2][kept[1] == 1])
        recall = np.mean([flagged[kept[2] == name].mean() for name in generators])
        worst, share = max(found.real.left_out.items(), key=lambda item: item[1])
        auroc = [
            mean_over_pairs(labels[part], scores[part], names[part])
            for part in (~copies, copies)
            if part.any()
        ]
        print(
            f"{title}: AUROC {' and edited '.join(f'{value:.3f}' for value in auroc)}, "
            f"ECE {expected_calibration_error(kept[1], kept[0]):.3f}, found {recall:.1%}, "
            f"worst photographs {share:.1%} ({worst})",
            flush=True,
        )


if __name__ == "__main__":
    typer.run(main)
