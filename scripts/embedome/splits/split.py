"""Split stage: val, test and train, the same for the same ids wherever and in whatever order they are read.

Memory: 20 to 40 bytes per record; with clusters some 45.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.catalog.rejects import write_rejects
from embedome.catalog.rows import RowNames
from embedome.catalog.table import check_catalog, count_rows, recorded_catalog
from embedome.common.errors import UserError
from embedome.common.json_files import read_json, write_json
from embedome.common.terms import REJECTED
from embedome.splits.cluster_table import Clusters, read_clusters
from embedome.splits.split_methods import SplitSettings, bionemo_splits, cluster_splits, hash_splits
from embedome.splits.split_table import DROPPED, write_splits

log = logging.getLogger(__name__)


REDUNDANT = "redundant"


def split_catalog(
    catalog: str | os.PathLike,
    filter_summary: str | os.PathLike,
    plan: SplitSettings,
    *,
    splits: str | os.PathLike,
    summary: str | os.PathLike,
    clusters: str | os.PathLike | None = None,
    rejects: str | os.PathLike | None = None,
) -> dict:
    """Assign a split to every record of the catalog.

    Parameters
    ----------
    catalog, filter_summary : path
        What the filter stage wrote.
    plan : SplitSettings
    splits : path
        Parquet file for (id, split), in the catalog's order.
    summary : path
        JSON file for the counts; also returned.
    clusters : path, optional
        What the cluster stage wrote: needed for the method ``cluster``, and with `rejects`.
    rejects : path, optional
        If given, clusters are a redundancy filter: of each only the representative and its duplicates are kept, the
        others are marked ``rejected`` in `splits` and listed in this Parquet file.

    Raises
    ------
    UserError
        Where val and test are larger than the catalog, and where the catalog is not that of the summary.
    ValueError
        Where `clusters` are needed and not given.
    """
    if not clusters and (rejects or plan.method == "cluster"):
        raise ValueError("clusters: needed for the method cluster, and with rejects")
    account = read_json(filter_summary)
    total = count_rows(catalog)
    if total != account["kept"]:
        raise UserError(
            f"{catalog}: {total:,} records, but the filter kept {account['kept']:,}; rerun the filter stage"
        )
    known = recorded_catalog(account)
    check_catalog(catalog, known, filter_summary)
    groups = read_clusters(catalog, clusters) if clusters else None
    dropped = groups.redundant if groups and rejects else np.zeros(total, bool)
    if groups and plan.method == "cluster":
        codes = cluster_splits(catalog, groups, plan, dropped)
    else:
        codes = {"hash": hash_splits, "bionemo": bionemo_splits}[plan.method](catalog, account, plan, dropped)
    codes[dropped] = REJECTED
    if groups and rejects:
        write_redundant(catalog, account["inputs"], groups, rejects)
    counts = write_splits(catalog, codes, splits)
    lost = counts.pop(DROPPED)
    rejected = {REDUNDANT: lost} if rejects else {}
    kept = account["kept"] - lost["sequences"]
    result = {
        "format": 1,
        "method": plan.method,
        "seed": plan.seed,
        "kept": kept,
        "rejected": rejected,
        "splits": counts,
        "catalog_sha256": known,
    }
    write_json(summary, result)
    log.info("%s", ", ".join(f"{name}: {split['sequences']:,} sequences" for name, split in counts.items()))
    return result


def write_redundant(
    catalog: str | os.PathLike, inputs: Sequence[Mapping[str, Any]], groups: Clusters, rejects: str | os.PathLike
) -> None:
    """List the records whose clusters have another representative, with its id."""
    redundant = groups.redundant
    names = RowNames(catalog, len(redundant), groups.representative[groups.number[redundant]])

    def details(rows: np.ndarray) -> pa.StringArray:
        of = names.of(groups.representative[groups.number[rows]])
        return pc.binary_join_element_wise("represented by ", of, "")

    write_rejects(rejects, catalog, inputs, redundant, REDUNDANT, details)
