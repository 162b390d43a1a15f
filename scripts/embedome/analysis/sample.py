"""The sampled sequences of a data set: where they lie, and what they share with their neighbours.

Shapes: k sampled sequences.
"""

import csv
import gzip
import logging
import os
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from embedome.analysis.nearest_neighbours import agreement, find_nearest, mean_cosine, unit_vectors
from embedome.analysis.principal_components import Components
from embedome.analysis.umap import no_map, umap_points
from embedome.common.json_files import round_digits
from embedome.parquet.vectors import vector_matrix

log = logging.getLogger(__name__)


# Vectors of at least this cosine are near duplicates.
NEAR_COSINE = 0.999
QUANTILES = (0, 0.25, 0.5, 0.75, 1)


class Sampled:
    """The sampled sequences and what is known of each: k of them, by rank.

    Parameters
    ----------
    sample : pyarrow.Table
        `DatasetPass.sample`.
    components : Components
    families : path, optional
    """

    def __init__(self, sample: pa.Table, components: Components, families: str | os.PathLike | None) -> None:
        self.ids = sample["id"].to_pylist()
        self.splits, self.lengths, self.taxa = sample["split"], sample["length"], sample["taxid"]
        self.vectors = vector_matrix(sample["embedding"])
        self.families = read_families(families, self.ids) if families else None
        self.points = components.project(self.vectors)
        self.nearest, self.cosines = np.zeros(0, np.int64), np.zeros(0, np.float32)
        self.map = np.zeros((0, 2), np.float32)

    def compare(self, count: int) -> dict[str, Any] | None:
        """Find the nearest of each of the first `count`, and say what they share; None of fewer than two."""
        units = unit_vectors(self.vectors[:count])
        if len(units) < 2:
            return None
        log.info("nearest neighbours of %s sequences", f"{len(units):,}")
        indices, cosines = find_nearest(units, 1)
        self.nearest, self.cosines = indices[:, 0], cosines[:, 0]
        kind = "taxon" if self.families is None else "family"
        labels = [taxon and str(taxon) for taxon in self.taxa.to_pylist()] if self.families is None else self.families
        same = agreement(labels[:count], self.nearest)
        return {
            "sequences": len(units),
            "mean_cosine": round_digits(mean_cosine(units)),
            "nearest_cosine_quantiles": [round_digits(value) for value in np.quantile(self.cosines, QUANTILES)],
            "near_cosine": NEAR_COSINE,
            "near_duplicates": int((self.cosines >= NEAR_COSINE).sum()),
            f"same_{kind}": same and {name: round_digits(value) for name, value in asdict(same).items()},
        }

    def draw_map(self, count: int) -> dict[str, Any]:
        """Make the map of the first `count`; without one, say why."""
        start = self.points[:count]
        reason = no_map(len(start), count, start)
        if reason is None:
            log.info("map of %s sequences", f"{len(start):,}")
            self.map = umap_points(unit_vectors(self.vectors[:count]), start)
        return {"sequences": len(self.map), "reason": reason}

    def table(self) -> pa.Table:
        """Return a row for each; null where it was not compared or is not on the map."""
        count = len(self.ids)
        names = np.array(self.ids, object)

        def padded(values: np.ndarray, kind: pa.DataType) -> pa.Array:
            return pa.array([*values.tolist(), *[None] * (count - len(values))], kind)

        return pa.table(
            {
                "id": pa.array(self.ids, pa.string()),
                "split": self.splits,
                "length": self.lengths,
                "norm": np.linalg.norm(self.vectors.astype(np.float64), axis=1).astype(np.float32),
                "taxid": self.taxa,
                "family": pa.array(self.families or [None] * count, pa.string()),
                "pc1": self.points[:, 0],
                "pc2": self.points[:, 1],
                "nearest": padded(names[self.nearest], pa.string()),
                "cosine": padded(self.cosines, pa.float32()),
                "umap1": padded(self.map[:, 0], pa.float32()),
                "umap2": padded(self.map[:, 1], pa.float32()),
            }
        )


def read_families(path: str | os.PathLike, ids: list[str]) -> list[str | None]:
    """Read the family of each id from a table with the columns id and family; None where it has none."""
    wanted = set(ids)
    with gzip.open(path, "rt", encoding="utf-8", newline="") as handle:
        found = {row["id"]: row["family"] for row in csv.DictReader(handle, delimiter="\t") if row["id"] in wanted}
    return [found.get(name) for name in ids]
