"""Which proteins of a data set a table of labels names: by id, or by the accession in an id."""

import bisect
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.annotation.labels import LabelTable
from embedome.annotation.ontology import ImpliedLabels
from embedome.annotation.reference_set import ranges
from embedome.common.errors import UserError
from embedome.common.log import Progress
from embedome.dataset.dataset import Dataset
from embedome.sequences.accessions import find_accessions

log = logging.getLogger(__name__)

# In one message.
NAMED = 3


@dataclass(frozen=True, slots=True)
class Matches:
    """The proteins that have labels, and how the table's ids were found.

    Attributes
    ----------
    rows : pyarrow.Table
        n proteins sorted by id: ``id``, ``digest``, and whether it is ``held_out``.
    offsets, codes : numpy.ndarray, dtype=int64
        The labels of row i are ``codes[offsets[i]:offsets[i + 1]]``, ascending positions in the table's names.
    by_accession, ambiguous, same_protein : int
        Ids of the table that were found as accessions; those that are accessions of several proteins, and so count for
        none; and those that are another name of a protein which the table has already.
    lost : pyarrow.Array
        Ids of the table that are in no row and are not ambiguous.
    """

    rows: pa.Table
    offsets: np.ndarray
    codes: np.ndarray
    by_accession: int
    ambiguous: int
    same_protein: int
    lost: pa.Array


def match_labels(data: Dataset, table: LabelTable, hold_out: Sequence[str]) -> Matches:
    """Find the proteins of a data set that a table names.

    An id of the table that is the id of a protein stands for this one; any other for the protein with this accession,
    where there is one and no other. Memory: the table's, and ids and digests of what is found.

    Raises
    ------
    UserError
        Where the data set has no row.
    """
    pairs = find_pairs(data, table, hold_out)
    number, exact = pairs["number"].to_numpy(), pairs["exact"].to_numpy(zero_copy_only=False)
    named = np.unique(number[exact])
    taken = exact | ~np.isin(number, named)
    found, counts = np.unique(number[taken & ~exact], return_counts=True)
    warn_of_ambiguous(table, pairs, found[counts > 1])
    taken &= exact | ~np.isin(number, found[counts > 1])
    pairs, number = pairs.filter(pa.array(taken)), number[taken]
    firsts = np.flatnonzero(pc.not_equal(pairs["id"], previous(pairs["id"])).to_numpy(zero_copy_only=False))
    owner = np.repeat(np.arange(len(firsts)), np.diff(firsts, append=len(pairs)))
    starts, ends = table.offsets[number], table.offsets[number + 1]
    width = max(1, len(table.names))
    keys = np.unique(np.repeat(owner, ends - starts) * width + table.codes[ranges(starts, ends)])
    absent = np.ones(len(table.ids), bool)
    absent[number] = absent[found] = False
    return Matches(
        rows=pairs.take(pa.array(firsts)).select(["id", "digest", "held_out"]),
        offsets=np.searchsorted(keys // width, np.arange(len(firsts) + 1)),
        codes=keys % width,
        by_accession=int((counts == 1).sum()),
        ambiguous=int((counts > 1).sum()),
        same_protein=len(pairs) - len(firsts),
        lost=table.ids.filter(pa.array(absent)),
    )


def imply(matches: Matches, implied: ImpliedLabels) -> Matches:
    """Return the proteins with all that their labels imply; those that are left without any are gone."""
    offsets, codes = implied.propagate(matches.offsets, matches.codes)
    kept = np.diff(offsets) > 0
    rows = matches.rows.filter(pa.array(kept))
    return replace(matches, rows=rows, offsets=offsets[np.append(True, kept)], codes=codes)


def find_pairs(data: Dataset, table: LabelTable, hold_out: Sequence[str]) -> pa.Table:
    """Return proteins and numbers of the table's ids, sorted by the protein's id; `exact` is whether they are equal."""
    pieces = []
    with Progress("find annotated", "rows", len(data)) as progress:
        for split in data.splits:
            for rows in data.tables(["id", "digest"], split):
                ids = rows["id"].combine_chunks()
                for exact, names in ((True, ids), (False, find_accessions(ids))):
                    number = positions(names, table.ids)
                    held_out = pa.array([split in hold_out] * len(rows), pa.bool_())
                    kind = pa.array([exact] * len(rows), pa.bool_())
                    columns = [*rows.columns, number, kind, held_out]
                    each = pa.table(columns, names=["id", "digest", "number", "exact", "held_out"])
                    pieces.append(each.filter(number.is_valid()))
                progress.update(len(rows))
    if not pieces:
        raise UserError("the data set has no row: all its sequences were skipped; there is nothing to annotate")
    return pa.concat_tables(pieces).combine_chunks().sort_by([("id", "ascending"), ("number", "ascending")])


def positions(names: pa.StringArray, among: pa.LargeStringArray) -> pa.Int64Array:
    """Return the position of each name among sorted ones, null where it is not among them.

    Only those between the first and the last name are looked at: rows of a data set come in order.
    """
    ends = pc.min_max(names)
    if not ends["min"].is_valid:
        return pa.nulls(len(names), pa.int64())
    start = bisect.bisect_left(among, ends["min"].as_py(), key=as_text)
    stop = bisect.bisect_right(among, ends["max"].as_py(), lo=start, key=as_text)
    found = pc.index_in(names.cast(pa.large_string()), value_set=among.slice(start, stop - start), skip_nulls=True)
    return pc.add(found.cast(pa.int64()), start)


def as_text(value: pa.Scalar) -> str:
    """Return an Arrow value as Python's."""
    return value.as_py()


def previous(column: pa.ChunkedArray) -> pa.Array:
    """Return the value before each; before the first an empty text, which is no id."""
    values = column.combine_chunks()
    return pa.concat_arrays([pa.array([""], values.type), values])[: len(values)]


def warn_of_ambiguous(table: LabelTable, pairs: pa.Table, numbers: np.ndarray) -> None:
    """Name ids of the table that are the accession of several proteins."""
    if not len(numbers):
        return
    shown = []
    for number in numbers[:NAMED].tolist():
        ids = pairs.filter(pc.equal(pairs["number"], number))["id"].to_pylist()
        shown.append(f"{table.ids[number].as_py()!r} ({', '.join(ids[:NAMED])}{', …' if len(ids) > NAMED else ''})")
    more = ", …" if len(numbers) > NAMED else ""
    log.warning(
        "%s of the table's ids are accessions of several proteins and count for none: %s%s; name them by their ids",
        f"{len(numbers):,}", ", ".join(shown), more,
    )  # fmt: skip
