"""The tables that the analyse stage writes. docs/analysis.md describes each column.

Shapes: D dimensions.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from embedome.analysis.composition import LETTERS
from embedome.analysis.dataset_pass import ALL, NORM_EDGES, DatasetPass
from embedome.analysis.drift import REFERENCE, standardised_differences
from embedome.analysis.principal_components import Components

DIMENSION = pa.schema(
    [
        pa.field("split", pa.string()),
        pa.field("dimension", pa.int32()),
        pa.field("mean", pa.float64()),
        pa.field("variance", pa.float64()),
        pa.field("standardised_difference", pa.float64()),
    ]
)


def length_table(scan: DatasetPass) -> pa.Table:
    """Count rows by split and length, where there are any."""
    pieces = []
    for split, sums in scan.sums.items():
        lengths = np.flatnonzero(sums.length_counts)
        columns = {"length": lengths.astype(np.int32), "sequences": sums.length_counts[lengths]}
        pieces.append(by_split(split, columns))
    return pa.concat_tables(pieces)


def composition_table(residues: Mapping[str, np.ndarray]) -> pa.Table:
    """Count residues by split and letter."""
    letters = pa.array(LETTERS)
    pieces = [
        by_split(split, {"residue": letters, "count": counts, "share": counts / max(counts.sum(), 1)})
        for split, counts in residues.items()
    ]
    return pa.concat_tables(pieces)


def norm_table(scan: DatasetPass) -> pa.Table:
    """Count rows by split and bin of the norm, ``low <= norm < high``, where there are any."""
    edges = np.concatenate([[0.0], NORM_EDGES, [np.inf]])
    pieces = []
    for split, sums in scan.sums.items():
        bins = np.flatnonzero(sums.norm_counts)
        columns = {"low": edges[bins], "high": edges[bins + 1], "sequences": sums.norm_counts[bins]}
        pieces.append(by_split(split, columns))
    return pa.concat_tables(pieces)


def dimension_table(scan: DatasetPass) -> pa.Table:
    """List mean, variance and difference to `REFERENCE` of each dimension, by split that has rows, and of all."""
    base, pieces = scan.sums[REFERENCE].moments, [DIMENSION.empty_table()]
    for split, sums in scan.with_all().items():
        if not sums.moments.count:
            continue
        compared = split not in (REFERENCE, ALL) and base.count
        difference = standardised_differences(sums.moments, base) if compared else [None] * len(base.mean)
        columns = {
            "dimension": np.arange(len(base.mean), dtype=np.int32),
            "mean": sums.moments.mean,
            "variance": sums.moments.variance,
            "standardised_difference": pa.array(difference, pa.float64()),
        }
        pieces.append(by_split(split, columns))
    return pa.concat_tables(pieces)


def component_table(components: Components) -> pa.Table:
    """List variance, share and axis of each principal component, from 1."""
    dimension = len(components.mean)
    return pa.table(
        {
            "component": np.arange(1, dimension + 1, dtype=np.int32),
            "variance": components.variances,
            "share": components.explained,
            "axis": pa.FixedSizeListArray.from_arrays(components.axes.T.ravel(), dimension),
        }
    )


def by_split(split: str, columns: Mapping[str, Any]) -> pa.Table:
    """Make a table with the split as its first column."""
    table = pa.table(dict(columns))
    return table.add_column(0, "split", pa.array([split] * len(table), pa.string()))
