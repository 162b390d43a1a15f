"""UniRef XML, cut into chunks of whole entries.

The text is cut at the end tags of entries, which costs little, and each chunk is parsed by itself (`uniref_entries`),
where there are several in a process of its own. An entry that is longer than a chunk is cut at the end tags of members,
so that memory does not grow with a cluster. Cutting trusts the text to be laid out as UniProt writes it; where it is
not (an end tag in a comment, say) the chunks are not well-formed or their entries do not add up, and the run stops.

The parser of a chunk is given the root's start tag and the entries, but nothing that stands before them. So it sees
no document type, whose entities could grow without end or name other files: a reference to any entity but XML's
own five is an error. The parser of the beginning refuses a document type that declares anything, and fetches none.

References
----------
Schema: https://ftp.uniprot.org/pub/databases/uniprot/uniref/uniref50/uniref.xsd.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple
from xml.etree import ElementTree
from xml.parsers import expat

from embedome.common.errors import UserError
from embedome.sequences.fasta import MAX_ENTRY_BYTES, SHOWN_BYTES

ROOTS = ("UniRef", "UniRef50", "UniRef90", "UniRef100")
# What expat reads by itself, of encodings in which markup is ASCII; UniProt's files are in the second.
ENCODINGS = ("UTF-8", "ISO-8859-1", "US-ASCII")
PROLOG_BYTES = 1 << 20
# An entry that is longer is cut.
PIECE_BYTES = 8 << 20
START_TAG = rb"""(?:[^<>"']|"[^"<]*"|'[^'<]*')*>"""


class XmlChunk(NamedTuple):
    """Entries as they stand in the file, with what makes them a document."""

    first: int
    """Position in the file, from 1, of the first entry that begins here."""
    n_entries: int
    """Number of entries that begin here."""
    data: bytes
    before: bytes
    """The XML declaration, the root's start tag, and that of an entry that goes on here."""
    after: bytes
    """The end tags of an entry that goes on in the next chunk, and of the root."""
    continued: bool
    """Whether the first entry began in an earlier chunk, which has its record."""
    offset: int
    """Where the data begin in the uncompressed file, some constant apart."""


@dataclass(frozen=True, slots=True)
class Prolog:
    """What stands before the first entry."""

    before: bytes
    """XML declaration and the root's start tag."""
    root: bytes
    """The root's name, with its prefix."""
    prefix: bytes
    """Namespace prefix of all elements, with the colon; mostly empty."""

    @property
    def entry_end(self) -> bytes:
        return b"</%sentry>" % self.prefix


def read_xml_chunks(path: str | os.PathLike, blocks: Iterable[bytes], size: int) -> Iterator[XmlChunk]:
    """Yield UniRef XML in chunks of `size` bytes or a little more, of whole entries where these are not too long.

    Raises
    ------
    UserError
        As `read_prolog`, and where some 64 MiB of text hold no end of a member or an entry.
    """
    blocks = iter(blocks)
    prolog, text = read_prolog(path, blocks)
    cutter = Cutter(path, prolog)
    held, n_held = [text], len(text)
    for block in blocks:
        held.append(block)
        n_held += len(block)
        # A boundary between two blocks is passed over: the next one is as good.
        if n_held >= size and (prolog.entry_end in block or n_held >= PIECE_BYTES):
            data = b"".join(held)
            if cut := cutter.place(data):
                yield cutter.chunk(data[:cut])
                data = data[cut:]
            held, n_held = [data], len(data)
    yield cutter.last(b"".join(held))


class Cutter:
    """Makes chunks of text that begins where the last one ended."""

    def __init__(self, path: str | os.PathLike, prolog: Prolog) -> None:
        self.path, self.prolog = path, prolog
        self.first, self.offset = 1, 0
        self.entry_tag = b""  # start tag of the entry that is cut, if one is
        self.member_ends = [b"</%s%s>" % (prolog.prefix, name) for name in (b"member", b"representativeMember")]
        self.entry_start = re.compile(rb"<%sentry(?=[\s>])" % re.escape(prolog.prefix) + START_TAG)

    def place(self, data: bytes) -> int:
        """Return where to cut: after the last entry, or in a long one after the last member; 0 for not yet."""
        end = data.rfind(self.prolog.entry_end)
        if end >= 0:
            return end + len(self.prolog.entry_end)
        end, tag = max((data.rfind(tag), tag) for tag in self.member_ends)
        if end >= 0 and len(data) >= PIECE_BYTES:
            return end + len(tag)
        if len(data) > MAX_ENTRY_BYTES:
            raise UserError(
                f"{self.path}: entry {self.first} has {MAX_ENTRY_BYTES >> 20} MiB without the end of a member; "
                "is this UniRef XML?"
            )
        return 0

    def chunk(self, data: bytes) -> XmlChunk:
        """Make a chunk of text that was cut by `place`."""
        before, continued = self.prolog.before + self.entry_tag, bool(self.entry_tag)
        ends = data.count(self.prolog.entry_end)
        after = b"</%s>" % self.prolog.root
        if not data.endswith(self.prolog.entry_end):
            after = self.prolog.entry_end + after
            if not continued or ends:
                self.entry_tag = self.open_entry(data)
                count = ends + 1 - continued
            else:
                count = 0
        else:
            self.entry_tag, count = b"", ends - continued
        return self.advance(XmlChunk(self.first, count, data, before, after, continued, self.offset))

    def last(self, data: bytes) -> XmlChunk:
        """Make the chunk at the end of the file, with the root's end tag."""
        continued = bool(self.entry_tag)
        count = data.count(self.prolog.entry_end) - continued
        before = self.prolog.before + self.entry_tag
        return self.advance(XmlChunk(self.first, max(0, count), data, before, b"", continued, self.offset))

    def advance(self, chunk: XmlChunk) -> XmlChunk:
        self.first += chunk.n_entries
        self.offset += len(chunk.data)
        return chunk

    def open_entry(self, data: bytes) -> bytes:
        """Return the start tag of the entry that text ends in."""
        start = data.rfind(b"<%sentry" % self.prolog.prefix)
        tag = self.entry_start.match(data, start) if start >= 0 else None
        if not tag:
            raise UserError(
                f"{self.path}: entry {self.first} has no start tag that can be read; copy the file again, or "
                "write it as UniProt does"
            )
        return tag[0]


def read_prolog(path: str | os.PathLike, blocks: Iterator[bytes]) -> tuple[Prolog, bytes]:
    """Read up to the root's start tag; return that, and the text after it as far as it has been read.

    Raises
    ------
    UserError
        Where the text is not well-formed, declares entities, is in an encoding other than `ENCODINGS`, or has a
        root element that is not one of `ROOTS`.
    """
    text = b""
    for block in blocks:
        text += block
        beginning = Beginning(path)
        if beginning.parse(text):
            return beginning.prolog(text)
        if len(text) > PROLOG_BYTES:
            break
    raise UserError(f"{path}: no XML element begins in the first MiB; expected UniRef XML")


class Beginning:
    """Parses a document up to the start tag of its root."""

    class RootFoundError(Exception):
        """Ends the parsing."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path, self.encoding = path, "UTF-8"
        self.root, self.start = "", -1
        self.parser = expat.ParserCreate()
        self.parser.XmlDeclHandler = self.declaration
        self.parser.StartDoctypeDeclHandler = self.document_type
        self.parser.StartElementHandler = self.element

    def parse(self, text: bytes) -> bool:
        """Return whether the text holds the root's start tag."""
        try:
            self.parser.Parse(text, False)
        except self.RootFoundError:
            return True
        except expat.ExpatError as error:
            raise UserError(f"{self.path}: not well-formed XML ({error}); expected FASTA or UniRef XML") from None
        return False

    def declaration(self, version: str, encoding: str | None, standalone: int) -> None:
        """Note the encoding."""
        self.encoding = (encoding or self.encoding).upper()
        if self.encoding not in ENCODINGS:
            raise UserError(f"{self.path}: XML in {encoding!r}; expected one of {', '.join(ENCODINGS)}")

    def document_type(self, name: str, system: str | None, public: str | None, has_declarations: bool) -> None:
        """Refuse declarations; a document type that is elsewhere is not fetched."""
        if has_declarations:
            raise UserError(
                f"{self.path}: the document type declares elements or entities, which embedome does not read; "
                "expected UniRef XML as UniProt writes it"
            )

    def element(self, name: str, attributes: dict[str, str]) -> None:
        """Stop at the root."""
        self.root, self.start = name, self.parser.CurrentByteIndex
        raise self.RootFoundError

    def prolog(self, text: bytes) -> tuple[Prolog, bytes]:
        """Return what was found, and the text after it."""
        prefix, colon, name = self.root.rpartition(":")
        match = re.compile(rb"<" + START_TAG).match(text, self.start)
        assert match, "expat has found a start tag there"
        tag = match[0]
        if name not in ROOTS or tag.endswith(b"/>"):
            what = "holds no entry" if name in ROOTS else f"is {ascii(self.root)[:40]}"
            raise UserError(f"{self.path}: the root element {what}; expected one of {', '.join(ROOTS)}, with entries")
        before = b'<?xml version="1.0" encoding="%s"?>' % self.encoding.encode() + tag
        return Prolog(before, self.root.encode(), (prefix + colon).encode()), text[self.start + len(tag) :]


class LocalNames(dict[str, str]):
    """Names of elements without their namespace."""

    def __missing__(self, tag: str) -> str:
        self[tag] = tag.rpartition("}")[2]
        return self[tag]


LOCAL = LocalNames()


def parse_chunk(path: str | os.PathLike, chunk: XmlChunk) -> list[ElementTree.Element]:
    """Parse the entries of a chunk.

    Raises
    ------
    UserError
        Where the text is not well-formed, where it holds another number of entries than end in it, and where there is
        text between them; names the file and the entry.
    """
    parser = ElementTree.XMLParser()
    try:
        for text in (chunk.before, chunk.data, chunk.after):
            parser.feed(text)
        root = parser.close()
    except ElementTree.ParseError as error:
        raise UserError(
            f"{path}: entry {entry_at(chunk, *error.position)}: not well-formed XML "
            f"({expat.ErrorString(error.code)}); download or copy the file again"
        ) from None
    stray = "".join([root.text or "", *(element.tail or "" for element in root)]).strip()
    if stray:
        raise UserError(
            f"{path}: from entry {chunk.first} on, {stray[:SHOWN_BYTES]!r} stands between entries; is the file whole? "
            "Download it again"
        )
    entries = [element for element in root if LOCAL[element.tag] == "entry"]
    expected = chunk.n_entries + chunk.continued
    if len(entries) != expected:
        raise UserError(
            f"{path}: from entry {chunk.first} on, {len(entries)} entries are where {expected} end; copy "
            "the file again, or write it as UniProt does"
        )
    return entries


def entry_at(chunk: XmlChunk, line: int, column: int) -> int:
    """Return the number of the entry at a position in a chunk's document."""
    # A carriage return ends a line, too (XML 1.0, section 2.11).
    lines = re.split(rb"\r\n|\r|\n", chunk.before + chunk.data + chunk.after)
    before = [*lines[: line - 1], *(each[:column] for each in lines[line - 1 : line])]
    ends = re.findall(rb"</(?:[^<>:\s]+:)?entry\s*>", b"\n".join(before))
    return chunk.first - chunk.continued + len(ends)
