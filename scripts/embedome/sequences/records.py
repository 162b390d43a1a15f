"""What one sequence record is: its id, its sequence, its digest, and whether it can be used at all."""

import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pyarrow as pa

from embedome.sequences.fasta import FastaEntry, read_entries
from embedome.sequences.header_ids import HeaderIds

MAX_ID_CHARACTERS = 1000
UPPER_CASE = bytes(range(256)).upper()
WHITE_SPACE = b" \t\r\n\x0b\x0c"
# All 26 letters are IUPAC amino-acid codes: the 20, U and O, and the ambiguous B, J, X, Z.
RESIDUES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"
STOP = b"*"
# For which a record cannot be used, whatever a user wants to keep.
FAULTS = frozenset({"no-id", "invalid-id", "empty-sequence", "invalid-residue"})


class Record(NamedTuple):
    """A checked record; with a `reason`, one that cannot be used."""

    id: str
    description: str
    sequence: bytes
    reason: str | None = None
    detail: str | None = None
    structure: bytes | None = None
    """Where it is read, the state of each residue, as in `structures`."""

    @property
    def content(self) -> bytes:
        """What a model may read: residues in upper case, then structure states in lower case, if there are any."""
        return self.sequence if self.structure is None else self.sequence + self.structure.lower()


def check_entry(entry: FastaEntry, ids: HeaderIds | None = None) -> Record:
    """Check and normalise a FASTA entry.

    The id is the first word of the header, or what `ids` finds in it, kept as it is. The description follows the first
    word in any case. The sequence is upper-cased, white space and one
    stop sign (``*``) at its end are taken off.

    Returns
    -------
    Record
        With a reason where the record cannot be used: ``no-id``, ``invalid-id`` (not UTF-8, control characters,
        more than 1,000 characters), ``empty-sequence``, ``invalid-residue`` (anything but a letter: gaps, inner
        stop signs, digits; the detail names the first one and its position).
    """
    words = entry.header.split(None, 1)
    name = words[0] if words else b""
    if ids and words:
        # Without one it is as if there were no word.
        name = ids.take(pa.array([entry.header]))[0].as_py()
    description = decode(words[1].rstrip()).strip(" ") if len(words) > 1 else ""
    sequence = entry.body.translate(UPPER_CASE, WHITE_SPACE).removesuffix(STOP)
    text = name.decode("utf-8", errors="backslashreplace")
    if fault := id_fault(name, text) or sequence_fault(sequence):
        return Record(text, description, sequence, *fault)
    return Record(text, description, sequence)


def read_records(paths: Iterable[str | os.PathLike]) -> Iterator[Record]:
    """Check and yield the entries of FASTA files, in order, faulty ones too.

    Raises
    ------
    UserError
        As `fasta.read_entries`.
    """
    for path in paths:
        yield from map(check_entry, read_entries(path))


def decode(text: bytes) -> str:
    """Decode a description: UTF-8, or Latin-1 in old files; control characters become spaces."""
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError:
        decoded = text.decode("latin-1")
    return printable(decoded)


def printable(text: str) -> str:
    """Replace control characters and others that do not print by spaces."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " for c in text)


def id_fault(name: bytes, text: str) -> tuple[str, str] | None:
    """Return reason and detail for which an id cannot be used, if any."""
    if not name:
        return "no-id", "the header holds no word"
    if len(text) > MAX_ID_CHARACTERS:
        return "invalid-id", f"{len(text)} characters; at most {MAX_ID_CHARACTERS}"
    if name.isascii():
        return None if text.isprintable() else ("invalid-id", "control characters")
    try:
        name.decode("utf-8")
    except UnicodeDecodeError:
        return "invalid-id", "not UTF-8"
    return None if text.isprintable() else ("invalid-id", "characters that do not print")


def sequence_fault(sequence: bytes) -> tuple[str, str] | None:
    """Return reason and detail for which a sequence cannot be used, if any."""
    if not sequence:
        return "empty-sequence", "the header has no sequence below it"
    # RESIDUES are all the upper-case letters, so that the fast test will do for sound sequences.
    if not sequence.isalpha():
        odd = sequence.translate(None, RESIDUES)
        return "invalid-residue", f"{odd[:1].decode('ascii', 'backslashreplace')!r} at {sequence.index(odd[:1]) + 1}"
    return None
