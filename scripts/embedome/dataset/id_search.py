"""Rows by id, or by the accession in an id of UniProtKB or UniRef."""

import bisect
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from embedome.common.errors import UserError, quote_value
from embedome.common.parallel import available_cores, map_in_order
from embedome.parquet.id_lookup import find_in_files
from embedome.parquet.row_file import RowFile
from embedome.parquet.scan import threads_ahead
from embedome.sequences.accessions import find_accessions, list_beginnings

log = logging.getLogger(__name__)

# In one message.
NAMED = 3


def list_ids(ids: Any) -> list[str]:
    """Return ids as a list of texts: of any sequence, an Arrow array, or an array of NumPy or pandas.

    Raises
    ------
    UserError
        Where they are one text, or hold something else.
    """
    if isinstance(ids, str | bytes):
        raise UserError(f"ids are one text, {quote_value(ids)}; expected a list of ids: [{quote_value(ids)}]")
    try:
        names = ids.to_pylist() if hasattr(ids, "to_pylist") else ids.tolist() if hasattr(ids, "tolist") else list(ids)
        names = [name.as_py() if isinstance(name, pa.Scalar) else name for name in names]
    except TypeError:
        raise UserError(f"ids are {quote_value(ids)}; expected a list of texts") from None
    for name in names:
        if not isinstance(name, str):
            raise UserError(f"an id is {quote_value(name)}; expected a text, as in the FASTA header")
    return [str(name) for name in names]


@dataclass(frozen=True, slots=True)
class IdSearch:
    """Where ids are looked up.

    Parameters
    ----------
    name : path
        What messages call the data set.
    folder : path
    files : list of dict
        Entries of the manifest; rows of a file are sorted by id.
    skipped : pyarrow.Table, optional
    """

    name: Path
    folder: Path
    files: list[dict[str, Any]]
    skipped: pa.Table | None

    def rows(self, ids: Sequence[str], schema: pa.Schema) -> pa.Table:
        """Return the rows of some ids, in the order asked for; `schema` has the columns to read, the id among them.

        An id that no row has is taken for an accession.

        Raises
        ------
        UserError
            Where it is none either, or that of several ids.
        """
        table = self.find(ids, schema)
        position = pc.index_in(pa.array(ids, pa.string()), value_set=table["id"])
        if position.null_count:
            absent = dict.fromkeys(ids[row] for row in pc.indices_nonzero(pc.is_null(position)).to_pylist())
            known = self.resolve(list(absent))
            table = pa.concat_tables([table, self.find(set(known.values()) - {*table["id"].to_pylist()}, schema)])
            names = pa.array([known.get(name, name) for name in ids], pa.string())
            position = pc.index_in(names, value_set=table["id"])
        return table.take(position)

    def find(self, ids: Iterable[str], schema: pa.Schema) -> pa.Table:
        """Return the rows that have one of the ids, in no order."""
        return find_in_files(self.folder, self.files, sorted(set(ids)), schema, available_cores())

    def resolve(self, accessions: Sequence[str]) -> dict[str, str]:
        """Return the id of each accession.

        Raises
        ------
        UserError
            As `rows`.
        """
        found = self.ids_of(accessions)
        for accession in accessions:
            ids = found.get(accession, [])
            if len(ids) > 1:
                shown = ", ".join(map(repr, ids[:NAMED])) + (", …" if len(ids) > NAMED else "")
                raise UserError(f"{self.name}: {accession!r} is the accession of {len(ids)} ids, {shown}; name one")
            if not ids:
                raise self.missing(accession)
        pairs = "; ".join(f"{name!r} is {found[name][0]!r}" for name in accessions[:NAMED])
        more = "; …" if len(accessions) > NAMED else ""
        log.info("%s: %d taken as accessions: %s%s", self.name, len(accessions), pairs, more)
        return {accession: found[accession][0] for accession in accessions}

    def ids_of(self, accessions: Sequence[str]) -> dict[str, list[str]]:
        """Return the ids, sorted, that hold each accession; of row groups that may hold one the ids are read."""
        wanted = pa.array(accessions, pa.string())
        beginnings = sorted(start for accession in accessions for start in list_beginnings(accession))
        paths = [self.folder / file["file"] for file in self.files if file["rows"] and may_begin(beginnings, file)]
        found = defaultdict(list)
        with threads_ahead(available_cores()) as pool:
            work = partial(find_ids, wanted=wanted, beginnings=beginnings)
            for pairs in map_in_order(pool, work, paths, 2 * available_cores()):
                for accession, name in pairs:
                    found[accession].append(name)
        return {accession: sorted(names) for accession, names in found.items()}

    def missing(self, name: str) -> UserError:
        """Return the error for an id that has no row."""
        if self.skipped is not None:
            is_it = pc.equal(self.skipped["id"], name)
            by_accession = pc.equal(find_accessions(self.skipped["id"].combine_chunks()), name)
            hits = self.skipped.filter(pc.or_(is_it, pc.fill_null(by_accession, False))).to_pylist()
            if hits:
                what = repr(name) if hits[0]["id"] == name else f"{name!r} ({hits[0]['id']})"
                return UserError(f"{self.name}: {what} has no vector, it was skipped ({hits[0]['reason']})")
        return UserError(f"{self.name}: no row has the id {name!r}, nor one of UniProtKB or UniRef with that accession")


def find_ids(path: Path, wanted: pa.Array, beginnings: Sequence[str]) -> list[tuple[str, str]]:
    """Return the accessions among the wanted ones that ids of a file hold, each with the id."""
    file = RowFile(path)
    found: list[tuple[str, str]] = []
    for group in range(len(file.starts) - 1):
        ends = file.chunk(group, "id").statistics
        if ends is None or not ends.has_min_max or may_begin(beginnings, {"first_id": ends.min, "last_id": ends.max}):
            ids = file.read(group, ["id"])["id"].combine_chunks()
            accessions = find_accessions(ids)
            hits = pc.is_in(accessions, value_set=wanted)
            found += zip(accessions.filter(hits).to_pylist(), ids.filter(hits).to_pylist(), strict=True)
    return found


def may_begin(beginnings: Sequence[str], ends: Mapping[str, Any]) -> bool:
    """Return whether an id from ``first_id`` to ``last_id`` may begin with one of the sorted texts."""
    first, last = ends["first_id"], ends["last_id"]
    place = bisect.bisect_left(beginnings, first)
    return (place < len(beginnings) and beginnings[place] <= last) or (
        place > 0 and first.startswith(beginnings[place - 1])
    )
