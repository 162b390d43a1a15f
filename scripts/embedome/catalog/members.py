"""The members of UniRef clusters: one row each, sorted by cluster, streamed."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from embedome.catalog.table import CATALOG, read_catalog
from embedome.common.atomic_files import atomic_path
from embedome.common.log import Progress
from embedome.parquet.external_sort import RunIndex, merge_runs, sort_order
from embedome.parquet.writer import ParquetSink
from embedome.sequences.uniref_members import MEMBER_RUN, MEMBERS

log = logging.getLogger(__name__)


MEMBERS_GROUP_ROWS = 1 << 17
STATISTICS = ["id", "member", "accession", "uniparc", "taxid", "length"]
KEPT = pa.schema([CATALOG.field(name) for name in ("id", "n_members", "record")])


def write_members(
    runs: Sequence[RunIndex], catalog: str | os.PathLike, out: str | os.PathLike, n_read: int
) -> dict[str, int]:
    """Write the members of kept clusters, sorted by cluster, and within it by their place in the file.

    Memory: that of a range of the merge, which holds all members of a cluster.

    Parameters
    ----------
    runs : sequence of RunIndex
        Sorted runs of the `MEMBER_RUN` schema.
    catalog : path
        Folder of the kept clusters.
    out : path
        Parquet file of the `MEMBERS` schema.
    n_read : int
        Members in the runs.

    Returns
    -------
    dict
        ``read``, ``kept``, ``rejected`` (of entries that were rejected, repeats too), and ``clusters_that_differ``:
        kept ones with another number of members than they say.
    """
    clusters = KeptClusters(Path(catalog))
    kept, n_differ = 0, 0
    with (
        atomic_path(out) as path,
        ParquetSink(
            path, MEMBERS, MEMBERS_GROUP_ROWS, use_dictionary=["uniref50", "uniref90"], write_statistics=STATISTICS
        ) as sink,
        Progress("members", "members", n_read) as progress,
    ):
        for batches in merge_runs(list(runs), MEMBER_RUN):
            table = batches.combine_chunks()
            order = sort_order(table)
            known = clusters.take_among(table["id"], table["id"][int(order[-1])])
            differ = other_counts(table.select(["entry"]), known)
            if differ and not n_differ:
                log.warning("%s holds another number of members than it says; others may, too", min(differ))
            n_differ += len(differ)
            for start in range(0, len(order), MEMBERS_GROUP_ROWS):
                rows = table.take(pa.array(order[start : start + MEMBERS_GROUP_ROWS]))
                members = rows.filter(pc.is_in(rows["entry"], value_set=known["record"].combine_chunks()))
                sink.write(members.select(MEMBERS.names))
                kept += len(members)
                progress.update(len(rows))
    return {"read": n_read, "kept": kept, "rejected": n_read - kept, "clusters_that_differ": n_differ}


def other_counts(entries: pa.Table, clusters: pa.Table) -> list[str]:
    """List the clusters with another number of members than they say; `entries` has the record of each member's."""
    counts = entries.group_by("entry").aggregate([("entry", "count")])
    both = clusters.join(counts, "record", "entry", join_type="left outer")
    return both.filter(pc.not_equal(both["n_members"], pc.fill_null(both["entry_count"], 0)))["id"].to_pylist()


class KeptClusters:
    """The catalog's ids, read once in their order."""

    def __init__(self, catalog: Path) -> None:
        self.tables = read_catalog(catalog, KEPT.names)
        self.rest: pa.Table | None = next(self.tables, None)

    def take_among(self, ids: pa.ChunkedArray, last: pa.StringScalar) -> pa.Table:
        """Take the kept ones of the clusters with the given ids, up to a last one, all after those taken before."""
        wanted = pc.unique(ids)
        found = [KEPT.empty_table()]
        while self.rest is not None:
            n_below = pc.sum(pc.less_equal(self.rest["id"], last)).as_py() or 0
            piece, self.rest = self.rest.slice(0, n_below), self.rest.slice(n_below)
            found.append(piece.filter(pc.is_in(piece["id"], value_set=wanted)))
            if len(self.rest):
                break
            self.rest = next(self.tables, None)
        return pa.concat_tables(found)
