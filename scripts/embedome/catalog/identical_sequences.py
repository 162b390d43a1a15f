"""Sequences that occur more than once, and the smallest id of each."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.sequences.digests import DIGEST_CHARACTERS
from embedome.sequences.record_columns import read_bytes, read_offsets

# Where the 8 characters end that are `digest_prefix`.
PREFIX_END = 11


class RepeatedDigests:
    """Finds, in rows that come in id order, the smallest id with the same sequence.

    Memory: 44 bytes and the id for each of r sequences.

    Parameters
    ----------
    prefixes : numpy.ndarray, dtype=uint64, shape=(r,)
        Sorted digest prefixes that occur more than once; only rows with one of them are looked at.
    """

    def __init__(self, prefixes: np.ndarray) -> None:
        self.prefixes = prefixes
        # Of the first row with each prefix: the rest of its digest, empty until it has come, and its id.
        self.rest = np.zeros(len(prefixes), f"S{DIGEST_CHARACTERS - PREFIX_END}")
        self.id_start = np.zeros(len(prefixes), np.int64)
        self.id_bytes = np.zeros(len(prefixes), np.int32)
        self.ids = bytearray()
        # Of sequences that share their prefix with another one: of 60 million some 6.
        self.others: dict[bytes, str] = {}

    def canonical_ids(self, table: pa.Table) -> pa.Array:
        """Return the id that each row of a table with ``id``, ``digest`` and ``digest_prefix`` duplicates, or null."""
        rows, place = self.candidates(table["digest_prefix"].to_numpy())
        found = pa.nulls(len(table), pa.string())
        if not len(rows):
            return found
        names = table["id"].combine_chunks().take(pa.array(rows))
        rest = strip_prefixes(table["digest"].combine_chunks().take(pa.array(rows)))
        begun = self.begin(place, rest, names)
        repeats = np.flatnonzero(~begun)
        values = [self.canonical(place[each], bytes(rest[each]), names[each]) for each in repeats.tolist()]
        mask = np.zeros(len(table), bool)
        mask[rows[repeats]] = True
        return pc.replace_with_mask(found, pa.array(mask), pa.array(values, pa.string()))

    def candidates(self, prefixes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows whose prefix is one of the repeated ones, and which one: int64 [k] each."""
        if not len(self.prefixes):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        place = np.minimum(np.searchsorted(self.prefixes, prefixes), len(self.prefixes) - 1)
        rows = np.flatnonzero(self.prefixes[place] == prefixes)
        return rows, place[rows]

    def begin(self, place: np.ndarray, rest: np.ndarray, names: pa.StringArray) -> np.ndarray:
        """Note the rows [k] that are the first with their prefix; return which these are, bool [k]."""
        new = np.flatnonzero(self.rest[place] == b"")
        first = new[np.unique(place[new], return_index=True)[1]]
        texts = names.take(pa.array(first))
        offsets = read_offsets(texts)
        self.rest[place[first]] = rest[first]
        self.id_start[place[first]] = len(self.ids) + offsets[:-1]
        self.id_bytes[place[first]] = np.diff(offsets)
        self.ids += read_bytes(texts).tobytes()
        begun = np.zeros(len(place), bool)
        begun[first] = True
        return begun

    def canonical(self, place: int, rest: bytes, name: pa.StringScalar) -> str | None:
        """Return the id that a row duplicates, if any; the row is not the first with its prefix."""
        if self.rest[place] == rest:
            start = self.id_start[place]
            return self.ids[start : start + self.id_bytes[place]].decode()
        own = name.as_py()
        first = self.others.setdefault(b"%d %s" % (place, rest), own)
        return first if first != own else None


def strip_prefixes(digests: pa.StringArray) -> np.ndarray:
    """Return the characters after the prefix of each of k digests, bytes [k]."""
    characters = read_bytes(digests).reshape(-1, DIGEST_CHARACTERS)[:, PREFIX_END:]
    return np.ascontiguousarray(characters).view(f"S{DIGEST_CHARACTERS - PREFIX_END}").ravel()
