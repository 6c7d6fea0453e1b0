"""The images of a robustness report: which belong together, and which a head has seen."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pandas as pd

from item.heads.head import Head
from pipelines.evaluate.robustness.configuration import RobustnessConfiguration
from pipelines.train.metadata import metadata_column

ORIGIN = ["label", "generator", "source"]


def image_clusters(uris: Collection[str], configuration: RobustnessConfiguration) -> list[str]:
    """The cluster of each image: its group by the metadata, else the image itself."""
    metadata, column = configuration.metadata, configuration.group_column
    if metadata is None or column is None or not len(uris):
        return list(uris)
    groups = metadata_column(list(uris), metadata, column, configuration.storage).to_pylist()
    return [
        f"image {uri}" if group is None else f"group {group}"
        for uri, group in zip(uris, groups, strict=True)
    ]


def seen_in_training(heads: Mapping[str, Head], rows: pd.DataFrame) -> list[str]:
    """A sentence for each head that was trained on a generator or source of the rows."""
    here = _origins(rows)
    sentences = []
    for name, head in heads.items():
        sources = head.description.training_sources
        trained = pd.DataFrame([source.model_dump() for source in sources], columns=ORIGIN)
        if known := here & _origins(trained):
            origins = ", ".join(sorted(origin for _, origin in known))
            sentences.append(
                f"The head '{name}' was trained on {origins}: its figures are better here than on "
                "on others."
            )
    return sentences


def _origins(rows: pd.DataFrame) -> set[tuple[int, str]]:
    """Label and name of what rows come from: a generator, else a source."""
    generator, source = rows["generator"].fillna(""), rows["source"].fillna("")
    names = generator.where(generator != "", source)
    return {(int(label), name) for label, name in zip(rows["label"], names, strict=True) if name}
