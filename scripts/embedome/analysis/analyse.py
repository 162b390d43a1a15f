"""Analyse stage: numbers about a data set, for the report and for reading. docs/analysis.md defines each.

Shapes: D dimensions, k sampled sequences.
"""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedome.analysis.composition import check_sequences, count_residues
from embedome.analysis.dataset_pass import ALL, DatasetPass, SplitSums, count_equal, count_shared, scan_dataset
from embedome.analysis.drift import REFERENCE, frechet_distance, length_distances, standardised_differences
from embedome.analysis.principal_components import Components, Moments
from embedome.analysis.sample import QUANTILES, Sampled
from embedome.analysis.tables import component_table, composition_table, dimension_table, length_table, norm_table
from embedome.common.atomic_files import atomic_path
from embedome.common.dask_workers import DaskWorkers
from embedome.common.json_files import round_digits, write_json
from embedome.common.settings import SectionSettings
from embedome.common.terms import SPLITS
from embedome.dataset.open import open_dataset
from embedome.parquet.vectors import vector_matrix

log = logging.getLogger(__name__)


# Of the variance: how many axes have that share.
SHARES = (0.5, 0.9, 0.99)

STATISTICS = "statistics.json"
LENGTHS, COMPOSITION, NORMS = "lengths.parquet", "composition.parquet", "norms.parquet"
DIMENSIONS, COMPONENTS, SAMPLE = "dimensions.parquet", "components.parquet", "sample.parquet"


@dataclass(frozen=True, slots=True)
class Samples(SectionSettings):
    """How many distinct sequences are sampled for what; each is the beginning of the largest.

    Parameters
    ----------
    sample_sequences : int
        For nearest neighbours and near duplicates: all pairs of them are compared.
    pca_sequences, umap_sequences : int
        Drawn on principal axes, and on the map.
    """

    sample_sequences: int = 20_000
    pca_sequences: int = 2000
    umap_sequences: int = 1000

    @property
    def largest(self) -> int:
        """Sequences sampled at all."""
        return max(self.sample_sequences, self.pca_sequences, self.umap_sequences)


def analyse_dataset(
    dataset: str | os.PathLike,
    catalog: str | os.PathLike,
    splits: str | os.PathLike,
    folder: str | os.PathLike,
    *,
    samples: Samples,
    families: str | os.PathLike | None = None,
    workers: DaskWorkers | None = None,
) -> dict[str, Any]:
    """Write `STATISTICS` and the tables beside it.

    Every vector is read once. The numbers are the same to the last byte on any number of workers.

    Parameters
    ----------
    dataset : path
        Folder of the merged data set.
    catalog, splits : path
        What the filter and split stages wrote, for the residues.
    folder : path
        Where the files go.
    samples : Samples
    families : path, optional
        ``families.tsv.gz`` of a demo release: whether neighbours share the family is counted then, and otherwise
        whether they share the taxon.
    workers : DaskWorkers, optional
        What reads the vectors; one thread of this process if not given.

    Returns
    -------
    dict
        What is in `STATISTICS`.

    Raises
    ------
    UserError
        Where a file is missing or damaged, or the data set is not of the catalog.
    """
    from threadpoolctl import threadpool_limits

    folder, data = Path(folder), open_dataset(dataset)
    sequences, residues = count_residues(catalog, splits)
    check_sequences(data, sequences)
    # A matrix product's last bits may depend on the number of threads: each task has one, and tasks run side by side.
    with threadpool_limits(1):
        scan = scan_dataset(data, samples.largest, workers or DaskWorkers())
        log.info("principal components of %d dimensions", data.dimension)
        sums = scan.with_all()
        components = Components(sums[ALL].moments)
        sample = Sampled(scan.sample, components, families)
        found = {
            **data.describe(),
            "kept": {
                split: {"sequences": sequences[split], "residues": int(residues[split].sum())} for split in SPLITS
            },
            "lengths": {split: length_summary(each) for split, each in sums.items()},
            "norms": {split: norm_summary(each) for split, each in sums.items()},
            "components": component_summary(components),
            "equal_vectors": equal_vectors(scan),
            "sample": {"sequences": len(sample.ids)},
            "neighbours": sample.compare(samples.sample_sequences),
            "umap": sample.draw_map(samples.umap_sequences),
            "drift": drift_summary(scan),
        }
    write_parquet(folder / LENGTHS, length_table(scan))
    write_parquet(folder / COMPOSITION, composition_table(residues))
    write_parquet(folder / NORMS, norm_table(scan))
    write_parquet(folder / DIMENSIONS, dimension_table(scan))
    write_parquet(folder / COMPONENTS, component_table(components))
    write_parquet(folder / SAMPLE, sample.table())
    write_json(folder / STATISTICS, found)
    return found


def length_summary(sums: SplitSums) -> dict[str, Any] | None:
    """Return the residues of the rows, and lengths at `QUANTILES`; None without a row."""
    ends = np.cumsum(sums.length_counts)
    if not len(ends):
        return None
    ranks = np.maximum(np.ceil(np.array(QUANTILES) * ends[-1]), 1)
    total = int(sums.length_counts @ np.arange(len(ends)))
    return {
        "residues": total,
        "mean": round_digits(total / int(ends[-1])),
        "quantiles": np.searchsorted(ends, ranks).tolist(),
    }


def norm_summary(sums: SplitSums) -> dict[str, float] | None:
    """Return mean, standard deviation, smallest and largest of the vectors' norms; None without a row."""
    if not sums.norms.count:
        return None
    low, high = sums.norm_range
    values = {"mean": sums.norms.mean[0], "deviation": sums.norms.variance[0] ** 0.5, "min": low, "max": high}
    return {name: round_digits(value) for name, value in values.items()}


def component_summary(components: Components) -> dict[str, Any]:
    """Return how the variance lies along the principal axes."""
    return {
        "variance": round_digits(components.variances.sum()),
        "effective_rank": round_digits(components.effective_rank),
        "explained": [round(float(share), 6) for share in components.explained[:10]],
        "needed": {f"{share:.0%}": components.count_axes(share) for share in SHARES},
    }


def equal_vectors(scan: DatasetPass) -> dict[str, Any]:
    """Count different sequences whose vectors are equal, by the vectors' hashes."""
    hashes = np.concatenate(list(scan.hashes.values()))
    hashes.sort()
    vectors, sequences = count_equal(hashes)
    others = {split: count_shared(scan.hashes[split], scan.hashes[REFERENCE]) for split in SPLITS if split != REFERENCE}
    return {"distinct_sequences": len(hashes), "vectors": vectors, "sequences": sequences, f"in_{REFERENCE}": others}


def drift_summary(scan: DatasetPass) -> dict[str, Any]:
    """Return how far each split is from `REFERENCE`; None for one that has no row, or where that has none.

    Few vectors seem far from many even where all are drawn alike. So the same Fréchet distance is computed for as many
    vectors of `REFERENCE` itself, or for all that are in the sample where these are fewer.
    """
    base = scan.sums[REFERENCE]
    found: dict[str, dict[str, Any] | None] = {}
    drawn = scan.sample.filter(pa.array(np.array(scan.sample["split"].to_pylist(), object) == REFERENCE))
    for split in (name for name in SPLITS if name != REFERENCE):
        sums = scan.sums[split]
        found[split] = None
        if not sums.moments.count or not base.moments.count:
            continue
        sizes = np.abs(standardised_differences(sums.moments, base.moments))
        finite = sizes[np.isfinite(sizes)]
        wasserstein, kolmogorov = length_distances(sums.length_counts, base.length_counts)
        alike = vector_matrix(drawn["embedding"][: sums.moments.count])
        found[split] = {
            "rows": sums.moments.count,
            "standardised_difference": {
                "mean": round_digits(finite.mean()) if len(finite) else None,
                "max": round_digits(finite.max()) if len(finite) else None,
                "infinite": int(len(sizes) - len(finite)),
            },
            "frechet": round_digits(frechet_distance(sums.moments, base.moments)),
            "frechet_of_sample": {
                "sequences": len(alike),
                "frechet": round_digits(frechet_distance(Moments.of(alike), base.moments)) if len(alike) else None,
            },
            "length_wasserstein": round_digits(wasserstein),
            "length_kolmogorov_smirnov": round_digits(kolmogorov),
        }
    return found


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a table atomically."""
    with atomic_path(path) as temporary:
        pq.write_table(table.combine_chunks(), temporary, compression="zstd")
