"""Where the sequences are that are compared: the catalog of a run, or the FASTA files that were embedded."""

import os
from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from embedome.catalog.table import read_sequences
from embedome.common.errors import UserError
from embedome.sequences.digests import refget_digests
from embedome.sequences.records import read_records


class FastaSequences:
    """The sequences of FASTA files, in memory.

    Parameters
    ----------
    paths : sequence of paths

    Raises
    ------
    UserError
        Where a file is missing or cannot be read.
    """

    def __init__(self, paths: Sequence[str | os.PathLike]) -> None:
        self.name = ", ".join(map(str, paths))
        records = [(record.id, record.sequence.decode()) for record in read_records(paths) if record.reason is None]
        self.ids = pa.array([name for name, _ in records], pa.large_string())
        self.sequences = pa.array([sequence for _, sequence in records], pa.large_string())

    def read(self, ids: Sequence[str], digests: Iterable[str]) -> pa.LargeStringArray:
        """Return the sequences of some ids, whose digests are known, in the order asked for.

        Raises
        ------
        UserError
            Where the files lack one, or have another sequence under its id.
        """
        position = pc.index_in(pa.array(ids, pa.large_string()), value_set=self.ids)
        if position.null_count:
            name = ids[pc.indices_nonzero(pc.is_null(position))[0].as_py()]
            raise UserError(f"{self.name}: no record has the id {name!r}; name all FASTA files that were embedded")
        found = self.sequences.take(position)
        real = refget_digests(sequence.encode() for sequence in found.to_pylist())
        for name, one, other in zip(ids, real, digests, strict=True):
            if one != other:
                raise UserError(f"{self.name}: {name!r} has another sequence than was embedded; name other files")
        return found


SequenceSource = str | os.PathLike | FastaSequences


def read_source(source: SequenceSource, ids: Sequence[str], digests: Sequence[str]) -> pa.LargeStringArray:
    """Return the sequences of some sorted ids, in their order; a path is that of a catalog.

    Raises
    ------
    UserError
        Where one cannot be had.
    """
    return source.read(ids, digests) if isinstance(source, FastaSequences) else read_sequences(source, ids)
