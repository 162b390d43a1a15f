"""Records of a chunk of FASTA as columns, by array operations over all of them at once."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.sequences.fasta import Chunk, split_entry
from embedome.sequences.header_ids import HeaderIds
from embedome.sequences.records import MAX_ID_CHARACTERS, Record, check_entry

CARRIAGE_RETURNS = re.compile(rb"\r+(?:\n|\Z)")
# Of each entry: id, space, description, sequence with line ends, ">".
SEGMENTS = 5


@dataclass(frozen=True, slots=True)
class Records:
    """The records of a chunk: n sound ones as columns, in no order, and those that cannot be used."""

    number: np.ndarray
    """int64 [n], position in the file, from 1."""
    ids: pa.StringArray
    descriptions: pa.StringArray
    sequences: pa.StringArray
    faulty: dict[int, Record]
    """By position in the file."""

    def sound(self) -> Iterator[Record]:
        """Yield the sound records one by one, in the order of the file."""
        columns = (self.ids, self.descriptions, self.sequences.cast(pa.binary()))
        records = list(map(Record, *(column.to_pylist() for column in columns)))
        return (records[row] for row in np.argsort(self.number).tolist())


def check_chunk(path: str | os.PathLike, chunk: Chunk, header_ids: HeaderIds | None = None) -> Records:
    """Check all entries of a chunk, as `records.check_entry` does with `header_ids`.

    Most are plain: a header of printable ASCII above lines of upper-case letters. The others are checked one by one.

    Raises
    ------
    UserError
        As `fasta.split_entry`.
    """
    data = CARRIAGE_RETURNS.sub(b"\n", chunk.data) if b"\r" in chunk.data else chunk.data
    starts, lines, segments = find_entries(data)
    ids, descriptions, bodies = (segments.take(pa.array(np.arange(k, len(segments), SEGMENTS))) for k in (0, 2, 3))
    sequences = join_lines(bodies, lines)
    if header_ids:
        joined = pc.binary_join_element_wise(ids, descriptions, pa.scalar(b" ", pa.binary()))
        headers = pc.if_else(pc.equal(pc.binary_length(descriptions), 0), ids, joined)
        # Those with no id are odd, and checked one by one.
        ids = header_ids.take(headers)
    odd = odd_rows(ids, descriptions, sequences)
    number = np.arange(chunk.first, chunk.first + len(ids))
    columns = [ids, descriptions, sequences]
    faulty: dict[int, Record] = {}
    if len(odd):
        plain = np.ones(len(ids), bool)
        plain[odd] = False
        sound: dict[int, Record] = {}
        for row in odd.tolist():
            text = data[starts[row] + 1 : starts[row + 1]].removesuffix(b"\n")
            record = check_entry(split_entry(path, chunk.first + row, text), header_ids)
            (faulty if record.reason else sound)[chunk.first + row] = record
        number = np.concatenate([number[plain], np.array(list(sound), np.int64)])
        checked = (
            [record.id.encode() for record in sound.values()],
            [record.description.encode() for record in sound.values()],
            [record.sequence for record in sound.values()],
        )
        columns = [
            pa.concat_arrays([column.filter(pa.array(plain)), pa.array(values, pa.binary())])
            for column, values in zip(columns, checked, strict=True)
        ]
    # Plain ones are ASCII, and the others come from text: UTF-8 need not be checked.
    ids, descriptions, sequences = (column.view(pa.string()) for column in columns)
    return Records(number, ids, pc.ascii_trim(descriptions, " "), sequences, faulty)


def find_entries(data: bytes) -> tuple[np.ndarray, np.ndarray, pa.BinaryArray]:
    """Cut text into its n entries.

    Returns
    -------
    starts : numpy.ndarray, [n + 1]
        Where each begins, and the end.
    lines : numpy.ndarray, [n]
        Line ends in each.
    segments : pyarrow.BinaryArray, [n * 5]
        Its `SEGMENTS`.
    """
    text = np.frombuffer(data, np.uint8)
    line_ends = np.flatnonzero(text == ord("\n"))
    followed = line_ends[line_ends < len(text) - 1]
    heads = np.flatnonzero(text[followed + 1] == ord(">"))
    starts = np.concatenate([[0], line_ends[heads] + 1, [len(text)]])
    # Of each entry the first line end, which may be missing in the last one.
    first_lines = np.concatenate([[0], heads + 1])
    head_ends = np.append(line_ends, len(text))[first_lines]
    lines = np.diff(first_lines, append=len(line_ends))
    spaces = np.append(np.flatnonzero(text == ord(" ")), len(text))
    id_ends = np.minimum(spaces[np.searchsorted(spaces, starts[:-1])], head_ends)
    bounds = np.stack([starts[:-1] + 1, id_ends, np.minimum(id_ends + 1, head_ends), head_ends, starts[1:]], 1)
    offsets = np.append(bounds.ravel(), len(text)).astype(np.int32)
    return starts, lines, binary_array(offsets, data)


def join_lines(bodies: pa.BinaryArray, lines: np.ndarray) -> pa.BinaryArray:
    """Take out the line ends [n] of n texts."""
    offsets = read_offsets(bodies) - np.concatenate([[0], np.cumsum(lines)])
    return binary_array(offsets.astype(np.int32), read_bytes(bodies).tobytes().replace(b"\n", b""))


def binary_array(offsets: np.ndarray, data: bytes) -> pa.BinaryArray:
    """Return texts that stand back to back in `data`, from offsets, int32 [n + 1]."""
    return pa.BinaryArray.from_buffers(pa.binary(), len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(data)])


def odd_rows(ids: pa.BinaryArray, descriptions: pa.BinaryArray, sequences: pa.BinaryArray) -> np.ndarray:
    """Return the rows that are not plain, see `check_chunk`."""
    name_lengths, lengths = np.diff(read_offsets(ids)), np.diff(read_offsets(sequences))
    odd = (name_lengths == 0) | (name_lengths > MAX_ID_CHARACTERS) | (lengths == 0)
    for column, first, last in ((ids, "!", "~"), (descriptions, " ", "~"), (sequences, "A", "Z")):
        odd[rows_beyond(column, ord(first), ord(last))] = True
    return np.flatnonzero(odd)


def rows_beyond(column: pa.BinaryArray, first: int, last: int) -> np.ndarray:
    """Return the rows with a byte below `first` or above `last`."""
    # Unsigned: what is below `first` wraps around and is large.
    places = np.flatnonzero(read_bytes(column) - np.uint8(first) > last - first)
    return np.searchsorted(read_offsets(column), places, side="right") - 1


def read_offsets(column: pa.BinaryArray | pa.StringArray) -> np.ndarray:
    """Return where each of n texts begins in `read_bytes`, int32 [n + 1]; of an array that is no slice of another."""
    return np.frombuffer(column.buffers()[1], np.int32, len(column) + 1)


def read_bytes(column: pa.BinaryArray | pa.StringArray) -> np.ndarray:
    """Return all texts back to back, uint8; of an array that is no slice of another."""
    end = read_offsets(column)[-1]
    return np.frombuffer(column.buffers()[2] or b"", np.uint8, end)


def count_letters(sequences: pa.StringArray, letters: str) -> np.ndarray:
    """Count the residues of each of n sequences that are one of the letters, int64 [n]; no sequence is empty."""
    if not len(sequences):
        return np.zeros(0, np.int64)
    table = np.zeros(256, np.int64)
    table[list(letters.encode())] = 1
    return np.add.reduceat(table[read_bytes(sequences)], read_offsets(sequences)[:-1])
