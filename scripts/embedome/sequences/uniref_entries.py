"""Records and members of UniRef clusters, from chunks of UniRef XML."""

import os
import re
from collections.abc import Iterator
from typing import NamedTuple
from xml.etree.ElementTree import Element

import numpy as np
import pyarrow as pa

from embedome.common.errors import UserError
from embedome.sequences.fasta import SHOWN_BYTES, Chunk
from embedome.sequences.headers import Header, to_int
from embedome.sequences.record_columns import Records, check_chunk
from embedome.sequences.records import WHITE_SPACE, printable
from embedome.sequences.sequence_lines import strange_line
from embedome.sequences.uniref_members import MemberColumns
from embedome.sequences.uniref_xml import LOCAL, XmlChunk, parse_chunk

# What the names of clusters begin with, in XML but not in FASTA headers.
CLUSTER = "Cluster:"


class ParsedEntries(NamedTuple):
    """What a chunk holds."""

    records: Records
    faults: dict[int, tuple[str, str]]
    """Reason and detail of records that must be dropped, by row."""
    members: pa.Table
    """Rows of the `uniref_members.MEMBER_RUN` schema."""


def check_clusters(path: str | os.PathLike, chunk: XmlChunk) -> ParsedEntries:
    """Return records and members of the entries of a chunk.

    A cluster's record is what UniRef's FASTA file has of it: the representative's sequence under a header. It is
    checked as such. Where the sequence is not as long as the entry says, the record must be dropped.

    Raises
    ------
    UserError
        As `uniref_xml.parse_chunk`, and where an entry is not as the schema has it; names the file and the entry.
    """
    found = Found()
    for number, entry in enumerate(parse_chunk(path, chunk), chunk.first - chunk.continued):
        try:
            found.add(entry, number, begins=number >= chunk.first)
        except SchemaError as error:
            raise UserError(f"{path}: entry {number}: {error}; expected UniRef XML as UniProt writes it") from None
    records = found.records(path, chunk.first)
    wrong = [(row, number) for row, number in enumerate(records.number.tolist()) if number in found.wrong_lengths]
    return ParsedEntries(
        records,
        {row: ("wrong-length", found.wrong_lengths[number]) for row, number in wrong},
        found.members.table(chunk.offset),
    )


class SchemaError(Exception):
    """An entry is not as the schema has it."""


class Found:
    """What has been found in the entries of a chunk."""

    def __init__(self) -> None:
        self.texts: list[bytes] = []  # of FASTA entries
        self.wrong_lengths: dict[int, str] = {}
        self.members = MemberColumns()

    def add(self, entry: Element, number: int, begins: bool) -> None:
        """Add an entry: its members, and where it begins here its record."""
        cluster = entry.get("id", "")
        if re.search(r"\s", cluster):
            raise SchemaError(f"its id {cluster!r} holds white space")
        check_no_text(entry)
        representative = None
        for element in entry:
            kind = LOCAL[element.tag]
            if kind in ("representativeMember", "member"):
                check_no_text(element)
                member = reference(element)
                self.members.add(cluster, number, member, kind != "member")
                if kind != "member":
                    representative = element, member
        if begins:
            self.add_record(entry, cluster, number, representative)

    def add_record(
        self, entry: Element, cluster: str, number: int, representative: tuple[Element, Element] | None
    ) -> None:
        """Add what the FASTA file has of an entry."""
        if not representative:
            raise SchemaError("it has no representativeMember")
        properties = dict(reversed([(each.get("type"), each.get("value", "")) for each in children(entry, "property")]))
        name = next((printable(each.text or "").strip() for each in children(entry, "name")), "")
        header = Header(
            name.removeprefix(CLUSTER).strip(),
            to_int(properties.get("member count")),
            printable(properties.get("common taxon", "")).strip(),
            to_int(properties.get("common taxon ID")),
            one_word(representative[1].get("id", "")),
        )
        sequence = self.sequence(representative[0], number)
        # A missing id must not be taken from what follows it.
        line = f">{cluster} {description(header)}" if cluster else ">"
        # A sequence that begins as a header does gets a space before it, and is found faulty.
        self.texts.append(line.encode() + b"\n" + (b" " if sequence.startswith(b">") else b"") + sequence)

    def sequence(self, representative: Element, number: int) -> bytes:
        """Return the sequence of a representative member, empty where there is none."""
        for element in children(representative, "sequence"):
            text = (element.text or "").encode()
            sequence = text.translate(None, WHITE_SPACE)
            if b">" in sequence:
                raise SchemaError("its sequence holds a '>'")
            if strange := strange_line(text):
                raise SchemaError(f"line {strange[0]} of its sequence is no residues, {strange[1][:SHOWN_BYTES]!r}")
            length = element.get("length", "")
            if sequence and length != str(len(sequence)):
                self.wrong_lengths[number] = f"{len(sequence)} residues; its entry says {length or 'nothing'}"
            return sequence
        return b""

    def records(self, path: str | os.PathLike, first: int) -> Records:
        """Check the records and return them."""
        if self.texts:
            return check_chunk(path, Chunk(first, len(self.texts), b"\n".join(self.texts)))
        none = pa.array([], pa.string())
        return Records(np.zeros(0, np.int64), none, none, none, {})


def check_no_text(parent: Element) -> None:
    """Refuse text between elements: it appears where a writer broke off, in place of what is missing."""
    for text in (parent.text, *(element.tail for element in parent)):
        if text and not text.isspace():
            raise SchemaError(f"between its elements stands {' '.join(text.split())[:SHOWN_BYTES]!r}")


def children(parent: Element, name: str) -> Iterator[Element]:
    """Yield the elements of a name directly below another."""
    return (element for element in parent if LOCAL[element.tag] == name)


def reference(member: Element) -> Element:
    """Return the dbReference of a member."""
    found = next(iter(children(member, "dbReference")), None)
    if found is None or not found.get("id"):
        raise SchemaError("a member has no dbReference with an id")
    return found


def one_word(name: str) -> str:
    """Return the name of a representative, which in a header must be one word."""
    if " " in name or not name.isprintable():
        raise SchemaError(f"the id {name!r} of its representative holds white space, or what does not print")
    return name


def description(header: Header) -> str:
    """Return the header of UniRef's FASTA file, after the id; the value of what is not known is left empty.

    `headers.parse_description` finds the same fields in it, as all keys are present: only of a taxon that itself holds
    something like `` n=3 Tax=`` it takes that for the fields. So the catalog's are taken from it, as everywhere else.

    Examples
    --------
    >>> description(Header("Ubiquitin", 7, "Homo sapiens", 9606, "UBC_HUMAN"))
    'Ubiquitin n=7 Tax=Homo sapiens TaxID=9606 RepID=UBC_HUMAN'
    >>> description(Header("Ubiquitin", 7, None, None, "UBC_HUMAN"))
    'Ubiquitin n=7 Tax= TaxID= RepID=UBC_HUMAN'
    """
    parts = {
        "n": header.n_members,
        "Tax": header.taxon,
        "TaxID": header.taxid,
        "RepID": header.representative,
    }
    fields = [f"{key}={'' if value is None else value}" for key, value in parts.items()]
    return " ".join([header.name, *fields]).strip()
