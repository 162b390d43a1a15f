"""Cluster stage: which distinct sequences are alike, by MMseqs2; groups for splits, or a stricter redundancy filter.

Memory of this process: some 40 bytes per record; of MMseqs2: its limit.
"""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.catalog.rows import RowNames, canonical_rows, is_canonical, row_type
from embedome.catalog.table import check_catalog, read_catalog, recorded_catalog
from embedome.common.atomic_files import atomic_path, scratch_directory
from embedome.common.errors import UserError
from embedome.common.json_files import read_json, write_json
from embedome.common.settings import SectionSettings
from embedome.parquet.writer import ParquetSink
from embedome.splits.cluster_table import CLUSTERS
from embedome.splits.mmseqs import PLAIN_SCORES, Mmseqs, NoWordsError, index_bytes, read_table
from embedome.splits.split_table import GROUP_ROWS

log = logging.getLogger(__name__)

# Words are taken from repeats too, and scores not corrected for composition: so repetitive sequences have relatives.
REPEATS_COUNT = ("--mask", "0", *PLAIN_SCORES)
MEMBERS = {"representative": pa.int64(), "member": pa.int64()}

# Below this identity linclust hardly pairs more sequences than at it: it compares only sequences that share a word, and
# finds few such pairs. Of 10,500 proteins it made the same 10,502 clusters at 0.5 and at 0.3.
LINCLUST_IDENTITY = 0.5
# CPU seconds per sequence. Low: 164 s for 1.5 M random sequences, which are hardly ever aligned (version 14). High:
# 1.6 G sequences in 10 h on 28 cores (Steinegger and Söding 2018, doi:10.1038/s41467-018-04964-5).
LINCLUST_S = (1.1e-4, 6.3e-4)
# It holds 21 words of each sequence, of 16 bytes.
LINCLUST_BYTES = 21 * 16
# CPU seconds per sequence, for some 10,000 proteins (49 s for 10,500, version 14); with more of them it grows faster.
CLUSTER_S = 4.7e-3


@dataclass(frozen=True, slots=True)
class ClusterSettings(SectionSettings):
    """How to cluster.

    Parameters
    ----------
    method : str
        ``linclust`` or ``cluster``, modules of MMseqs2.
    identity : float
        Smallest fraction of identical residues of an alignment's columns between a member and its representative.
    coverage : float
        Smallest fraction of residues in the alignment.
    coverage_mode : int
        MMseqs2's --cov-mode: 0 of both sequences, 1 of the target, 2 of the query.
    """

    method: str
    identity: float
    coverage: float
    coverage_mode: int

    @property
    def arguments(self) -> list[str]:
        """The options of MMseqs2."""
        options = {"--min-seq-id": self.identity, "-c": self.coverage, "--cov-mode": self.coverage_mode}
        return [*(text for option, value in options.items() for text in (option, str(value))), *REPEATS_COUNT]


def cluster_catalog(
    catalog: str | os.PathLike,
    filter_summary: str | os.PathLike,
    plan: ClusterSettings,
    *,
    clusters: str | os.PathLike,
    summary: str | os.PathLike,
    mmseqs: Mmseqs,
) -> dict:
    """Cluster the distinct sequences of the catalog.

    They go to MMseqs2 in the order of their ids, so that clusters depend neither on the order of the input nor
    on the number of threads.

    Parameters
    ----------
    catalog, filter_summary : path
        What the filter stage wrote.
    plan : ClusterSettings
    clusters : path
        Parquet file, a row for each canonical id in the catalog's order: id, representative, and number of the
        cluster, counted from 0 in the order of their smallest ids.
    summary : path
        JSON file with version, settings and sizes of clusters; also returned.
    mmseqs : Mmseqs

    Raises
    ------
    UserError
        Where MMseqs2 fails, and where the catalog is not that of the summary.
    """
    account = read_json(filter_summary)
    check_catalog(catalog, recorded_catalog(account), filter_summary)
    distinct = is_canonical(canonical_rows(catalog))
    if distinct.sum() != account["kept"] - account["duplicates"]:
        raise UserError(f"{catalog}: its records are not those of {filter_summary}; rerun the filter stage")
    warn_of_identity(plan)
    log.info("%s", forecast(plan.method, int(distinct.sum()), account["residues"], mmseqs.threads))
    version = mmseqs.version
    with scratch_directory(clusters) as folder:
        module, table = run_clustering(catalog, distinct, plan, folder, mmseqs)
        representative = read_members(table, distinct)
    numbers = cluster_numbers(representative, distinct)
    write_clusters(catalog, clusters, representative, numbers, distinct)
    sizes = np.bincount(numbers[distinct])
    result: dict[str, Any] = {
        "format": 1,
        "program": "MMseqs2",
        "version": version,
        "module": module,
        "arguments": plan.arguments,
        "identity": plan.identity,
        "coverage": plan.coverage,
        "coverage_mode": plan.coverage_mode,
        "sequences": int(distinct.sum()),
        "clusters": len(sizes),
        "largest": int(sizes.max()),
        "sizes": size_histogram(sizes),
    }
    write_json(summary, result)
    log.info("%s sequences in %s clusters", f"{result['sequences']:,}", f"{len(sizes):,}")
    return result


def warn_of_identity(plan: ClusterSettings) -> None:
    """Warn where linclust is asked for an identity below which it finds next to no pairs."""
    if plan.method == "linclust" and plan.identity < LINCLUST_IDENTITY:
        log.warning(
            "cluster.identity is %s: linclust finds next to no pairs below %s, its clusters will be about those of %s; "
            "take cluster.method: cluster, which takes far longer, or drop what leaks (leakage.drop_above)",
            plan.identity,
            LINCLUST_IDENTITY,
            LINCLUST_IDENTITY,
        )


def forecast(method: str, sequences: int, residues: int, threads: int) -> str:
    """Say what clustering will take, in words."""
    if method == "linclust":
        low, high = (sequences * each / threads / 3600 for each in LINCLUST_S)
        gb = (sequences * LINCLUST_BYTES + residues) / 1e9
        time = f"{low:.2f} to {high:.2f} hours"
    else:
        gb = index_bytes(residues) / 1e9
        time = f"more than {sequences * CLUSTER_S / threads / 3600:.2f} hours, as it grows faster than their number,"
    return (
        f"clustering {sequences:,} sequences: {time} on {threads} threads and {gb:.1f} GB are expected; "
        "with less memory it works in pieces"
    )


def run_clustering(
    catalog: str | os.PathLike, distinct: np.ndarray, plan: ClusterSettings, folder: Path, mmseqs: Mmseqs
) -> tuple[str, Path]:
    """Run MMseqs2; return the module that made the clusters, and its table of representatives and members, by row."""
    database, table = folder / "sequences", folder / "clusters.tsv"
    threads = ["--threads", str(mmseqs.threads)]

    def run(module: str) -> Path:
        result = folder / module
        mmseqs.run(
            module, database, result, folder / f"{module}.work", *plan.arguments, *threads, *mmseqs.memory_limit,
            "--remove-tmp-files", "1",
        )  # fmt: skip
        return result

    mmseqs.make_database(catalog, distinct, database)
    module = plan.method
    try:
        result = run(module)
    except NoWordsError:
        log.warning("no sequence has a word by which more could be found than by linclust: its clusters are taken")
        module = "linclust"
        result = run(module)
    mmseqs.run("createtsv", database, database, result, table, *threads)
    return module, table


def read_members(table: Path, distinct: np.ndarray) -> np.ndarray:
    """Return the row of the representative of each row, -1 for duplicates; dtype=`row_type`, shape (n,)."""
    representative = np.full(len(distinct), -1, row_type(len(distinct)))
    count = 0
    for batch in read_table(table, MEMBERS):
        representative[batch["member"].to_numpy()] = batch["representative"].to_numpy()
        count += len(batch)
    if count != distinct.sum() or ((representative >= 0) != distinct).any():
        raise RuntimeError(f"MMseqs2 returned {count:,} members of clusters for {distinct.sum():,} sequences")
    return representative


def cluster_numbers(representative: np.ndarray, distinct: np.ndarray) -> np.ndarray:
    """Return the number of the cluster of each row, in the order in which clusters first appear, -1 for duplicates."""
    mine = representative[distinct]
    first = np.full_like(representative, -1)
    first[mine[::-1]] = np.flatnonzero(distinct)[::-1]  # of rows that write to one place the last one stays
    begins = np.zeros(len(distinct), bool)
    begins[first[first >= 0]] = True
    numbers = np.full_like(representative, -1)
    numbers[distinct] = (np.cumsum(begins, dtype=first.dtype) - 1)[first[mine]]
    return numbers


def write_clusters(
    catalog: str | os.PathLike,
    clusters: str | os.PathLike,
    representative: np.ndarray,
    numbers: np.ndarray,
    distinct: np.ndarray,
) -> None:
    """Write the table of clusters."""
    rows = np.arange(len(distinct), dtype=representative.dtype)
    names = RowNames(catalog, len(rows), representative[distinct & (representative != rows)])
    start = 0
    with atomic_path(clusters) as path, ParquetSink(path, CLUSTERS, GROUP_ROWS) as sink:
        for table in read_catalog(catalog, ["id"]):
            end = start + len(table)
            mine = rows[start:end][distinct[start:end]]
            ids = table["id"].take(pa.array(mine - start)).combine_chunks()
            apart = representative[mine] != mine
            found = names.of(representative[mine[apart]])
            columns = [ids, pc.replace_with_mask(ids, pa.array(apart), found), pa.array(numbers[mine].astype(np.int64))]
            sink.write(pa.Table.from_arrays(columns, schema=CLUSTERS))
            start = end


def size_histogram(sizes: np.ndarray) -> list[dict[str, int]]:
    """Count clusters of 1, of 2 to 3, of 4 to 7, … members, and the sequences in them."""
    powers = np.frexp(sizes)[1] - 1  # 2^power <= size < 2^(power + 1), exactly
    return [
        {
            "from": 2**power,
            "to": 2 ** (power + 1) - 1,
            "clusters": int((powers == power).sum()),
            "sequences": int(sizes[powers == power].sum()),
        }
        for power in range(int(powers.max()) + 1)
    ]
