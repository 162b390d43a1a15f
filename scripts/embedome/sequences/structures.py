"""A 3Di FASTA beside the sequences: the structure state of each residue, by id, in any order.

States are the 20 letters of Foldseek's 3Di alphabet (van Kempen et al. 2023, doi:10.1038/s41587-023-01773-0), in upper
or lower case, and ``#`` where one is not known. Here they are in upper case, with ``X`` for one that is not known.
The file is copied once to a scratch file, in which each process finds states by the hash of their id.
"""

import hashlib
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa

from embedome.common.errors import UserError
from embedome.sequences.compressed import read_blocks
from embedome.sequences.digests import hash_ids
from embedome.sequences.fasta import cut_chunks
from embedome.sequences.header_ids import HeaderIds
from embedome.sequences.records import UPPER_CASE, WHITE_SPACE

STATES = b"ACDEFGHIKLMNPQRSTVWY"
UNKNOWN, UNKNOWN_STATE = b"X", b"#"
# What becomes of a sequence without states: the run ends, or none of its states is known.
ERROR, UNKNOWN_STATES = "error", "unknown"
MISSING = (ERROR, UNKNOWN_STATES)
CHUNK_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Structures:
    """Structure states by id, in scratch files that processes share.

    Parameters
    ----------
    path : str
        The 3Di FASTA.
    scratch : Path
        Copy of its m records, ``id LF states LF`` each; beside it the index.
    records : int
    sha256 : str
        Of the FASTA as it lies there.
    missing : str
        Of `MISSING`.
    """

    path: str
    scratch: Path
    records: int
    sha256: str
    missing: str

    def of_ids(self, ids: pa.StringArray) -> list[bytes | None]:
        """Return the states of each id; None where the file has none."""
        index = open_index(self.scratch)
        return [index.record(place)[1] if place >= 0 else None for place in self.places(ids).tolist()]

    def places(self, ids: pa.StringArray) -> np.ndarray:
        """Return the place of each of n ids in the index, int64 [n]; -1 where it has none."""
        index, keys = open_index(self.scratch), hash_ids(ids, 0)
        first = np.searchsorted(index.keys, keys).tolist()
        found = (index.find(*each) for each in zip(ids.to_pylist(), keys.tolist(), first, strict=True))
        return np.fromiter(found, np.int64, len(ids))

    def fit(self, name: str, states: bytes | None, length: int, where: str) -> bytes:
        """Return the states of one sequence, one for each of its residues.

        Parameters
        ----------
        name : str
            The id.
        states : bytes or None
            What the file has.
        length : int
            Residues.
        where : str
            Names the sequence's record.

        Raises
        ------
        UserError
            Where there are more or fewer; and where there are none, unless they may be missing.
        """
        if states is None:
            if self.missing == ERROR:
                raise UserError(
                    f"{self.path}: no 3Di record has the id {name!r}, of {where}; add it, leave the sequence out, or "
                    "say that missing structures are unknown"
                )
            return UNKNOWN * length
        if len(states) != length:
            raise UserError(
                f"{self.path}: {len(states)} structure states of {name!r}, but {length} residues in {where}; expected "
                "one for each residue"
            )
        return states

    def remove(self) -> None:
        """Remove the scratch files."""
        # A file that is open keeps its room on the disk.
        open_index.cache_clear()
        for path in (self.scratch, *index_files(self.scratch)):
            path.unlink()


class Index(NamedTuple):
    """Where each id's states are."""

    text: mmap.mmap
    """The scratch file."""
    keys: np.ndarray
    """Hashes of the ids, ascending, uint64 [m]."""
    starts: np.ndarray
    """Where each record begins in the text, int64 [m]."""

    def find(self, name: str, key: int, place: int) -> int:
        """Return the place of an id, from its hash and the first place at which that may be; -1 for none."""
        wanted = name.encode()
        while place < len(self.keys) and self.keys[place] == key:
            if self.record(place)[0] == wanted:
                return place
            place += 1
        return -1

    def record(self, place: int) -> tuple[bytes, bytes]:
        """Return id and states."""
        start = int(self.starts[place])
        middle = self.text.find(b"\n", start)
        return self.text[start:middle], self.text[middle + 1 : self.text.find(b"\n", middle + 1)]


def index_structures(
    path: str | os.PathLike, missing: str, folder: Path, header_ids: HeaderIds | None = None
) -> Structures:
    """Read a 3Di FASTA, plain or compressed, into scratch files in `folder`. Memory: some 40 bytes per record.

    `header_ids` finds the ids in headers, as those of the sequences.

    Raises
    ------
    UserError
        As `fasta.read_chunks`; where a record has no id, no states, or letters that are no states, and where two have
        one id.
    """
    scratch, sha256 = folder / "structures.txt", hashlib.sha256()
    keys, sizes = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    with scratch.open("wb") as stream:
        for chunk in cut_chunks(path, read_blocks(path, sha256), CHUNK_BYTES):
            rows = list(states_of(path, chunk.first, chunk.texts(), header_ids))
            keys.append(hash_ids(pa.array([name for name, _ in rows], pa.string()), 0))
            sizes.append(np.fromiter((write_states(stream, *row) for row in rows), np.int64, len(rows)))
    every, ends = np.concatenate(keys), np.cumsum(np.concatenate(sizes))
    starts = np.concatenate([[0], ends[:-1]])
    order = np.argsort(every, kind="stable")
    for target, values in zip(index_files(scratch), (every[order], starts[order]), strict=True):
        np.save(target, values)
    check_unique(path, open_index(scratch), order)
    return Structures(str(path), scratch, len(order), sha256.hexdigest(), missing)


def states_of(
    path: str | os.PathLike, first: int, texts: list[bytes], header_ids: HeaderIds | None
) -> Iterator[tuple[str, bytes]]:
    """Yield id and states of each record, from its text without ``>``; the first is number `first` of the file."""
    entries = [text.partition(b"\n") for text in texts]
    headers = [header.rstrip(b"\r") for header, _, _ in entries]
    ids = header_ids.take(pa.array(headers, pa.binary())).to_pylist() if header_ids else map(first_word, headers)
    for number, (word, (_, _, body)) in enumerate(zip(ids, entries, strict=True), first):
        if not word:
            raise UserError(f"{path}: record {number} has no id; expected that of a sequence after its '>'")
        name = word.decode("utf-8", errors="backslashreplace")
        states = body.translate(UPPER_CASE, WHITE_SPACE)
        if not states:
            raise UserError(f"{path}: record {number}, {name!r}, has no structure states below its header")
        if odd := states.translate(None, STATES + UNKNOWN_STATE):
            raise UserError(
                f"{path}: record {number}, {name!r}: {odd[:1].decode('ascii', 'backslashreplace')!r} at "
                f"{states.index(odd[:1]) + 1} is no structure state; expected the 20 letters of 3Di, or # where it is "
                "not known"
            )
        yield name, states.replace(UNKNOWN_STATE, UNKNOWN)


def first_word(header: bytes) -> bytes:
    """Return the first word of a header; empty where there is none."""
    return next(iter(header.split(None, 1)), b"")


def write_states(stream: BinaryIO, name: str, states: bytes) -> int:
    """Write a record of the scratch file; return its bytes."""
    return stream.write(b"%s\n%s\n" % (name.encode(), states))


def check_unique(path: str | os.PathLike, index: Index, order: np.ndarray) -> None:
    """Fail where two records, of which `order` [m] has the positions in the file, have one id."""
    for place in np.flatnonzero(index.keys[1:] == index.keys[:-1]).tolist():
        name = index.record(place)[0]
        if name == index.record(place + 1)[0]:
            first, second = order[place] + 1, order[place + 1] + 1
            raise UserError(f"{path}: records {first} and {second} have the id {name.decode()!r}; remove one")


def index_files(scratch: Path) -> tuple[Path, Path]:
    """Return the files of the index beside a scratch file: hashes of ids, and where records begin."""
    return scratch.with_suffix(".keys.npy"), scratch.with_suffix(".starts.npy")


@lru_cache(maxsize=1)
def open_index(scratch: Path) -> Index:
    """Open an index, once in each process; its pages are shared."""
    keys, starts = (np.load(path, mmap_mode="r") for path in index_files(scratch))
    with scratch.open("rb") as stream:
        return Index(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ), keys, starts)
