"""Where the sequences are that are compared: the catalog of a run, or the FASTA files that were embedded."""

import os
from collections.abc import Sequence

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
        sequences = [record.sequence for record in read_records(paths) if record.reason is None]
        # Not by id: which part of the header that is was chosen when they were embedded.
        self.digests = pa.array(refget_digests(sequences), pa.large_string())
        self.sequences = pa.array([sequence.decode() for sequence in sequences], pa.large_string())

    def read(self, ids: Sequence[str], digests: Sequence[str]) -> pa.LargeStringArray:
        """Return the sequences of some ids, which have these digests, in the order asked for.

        Raises
        ------
        UserError
            Where the files lack one.
        """
        position = pc.index_in(pa.array(digests, pa.large_string()), value_set=self.digests)
        if position.null_count:
            name = ids[pc.indices_nonzero(pc.is_null(position))[0].as_py()]
            raise UserError(f"{self.name}: no record has the sequence of {name!r}; name all files that were embedded")
        return self.sequences.take(position)


SequenceSource = str | os.PathLike | FastaSequences


def read_source(source: SequenceSource, ids: Sequence[str], digests: Sequence[str]) -> pa.LargeStringArray:
    """Return the sequences of some sorted ids, in their order; a path is that of a catalog.

    Raises
    ------
    UserError
        Where one cannot be had.
    """
    return source.read(ids, digests) if isinstance(source, FastaSequences) else read_sequences(source, ids)
