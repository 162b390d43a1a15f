"""Header grammars: what UniRef and UniProtKB say of a sequence after its id.

References
----------
UniProt help, "FASTA headers" (https://www.uniprot.org/help/fasta-headers).
"""

import re
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MAX_INT32 = 2**31 - 1


class Header(NamedTuple):
    """Fields of a header; None where the grammar has no such field, or it is empty."""

    name: str
    """Cluster name (UniRef), protein name (UniProtKB), or the whole description (free headers)."""
    n_members: int | None = None
    """Members of the UniRef cluster."""
    taxon: str | None = None
    """Taxon name."""
    taxid: int | None = None
    """NCBI taxonomy identifier."""
    representative: str | None = None
    """UniProtKB entry name or UniParc id of the UniRef representative (RepID)."""


FIELDS = pa.schema(
    [
        ("name", pa.string()),
        ("n_members", pa.int32()),
        ("taxon", pa.string()),
        ("taxid", pa.int32()),
        ("representative", pa.string()),
    ]
)

# Greedy up to the last " n=" or " OS=": names may themselves contain "n=" or "=", so fields are found from the right.
# UniRef's are what stands before " RepID="; where the cluster has no name, they begin with "n=".
UNIREF = re.compile(r"(?:(?P<name>.*) )?n=(?P<members>\d*) Tax=(?P<taxon>.*?)(?: TaxID=(?P<taxid>\S*))?")
# Only where that one does not match, as "Tax=root n=3 TaxID=1" is a taxon "root n=3". Its own taxon is always empty.
UNIREF_NO_TAXON = re.compile(r"(?:(?P<name>.*) )?n=(?P<members>\d*)(?P<taxon>) TaxID=(?P<taxid>\S*)")
WORD = re.compile(r"\S+")
UNIPROTKB = re.compile(r"(?P<name>.*) OS=(?P<taxon>.*?)(?: OX=(?P<taxid>\d+))?(?: GN=.*?)?(?: PE=\d)?(?: SV=\d+)?")


def parse_description(description: str) -> Header:
    """Parse what follows the id of a header line: UniRef, UniProtKB (sp, tr), or free text.

    Of UniRef's fields the name may be missing, and one of Tax and TaxID; values of n, Tax and TaxID may be empty.

    Examples
    --------
    >>> parse_description("Ras n=3 GTPase n=12 Tax=Homo sapiens TaxID=9606 RepID=RASH_HUMAN")
    Header(name='Ras n=3 GTPase', n_members=12, taxon='Homo sapiens', taxid=9606, representative='RASH_HUMAN')
    >>> parse_description("n=1 Tax= TaxID=9606 RepID=UPI0001")
    Header(name='', n_members=1, taxon=None, taxid=9606, representative='UPI0001')
    >>> parse_description("Insulin OS=Homo sapiens OX=9606 GN=INS PE=1 SV=1")
    Header(name='Insulin', n_members=None, taxon='Homo sapiens', taxid=9606, representative=None)
    >>> parse_description("some protein")
    Header(name='some protein', n_members=None, taxon=None, taxid=None, representative=None)
    """
    text = description.rstrip()
    if " RepID=" in text:
        fields, _, last = text.rpartition(" RepID=")
        if WORD.fullmatch(last) and (match := UNIREF.fullmatch(fields) or UNIREF_NO_TAXON.fullmatch(fields)):
            taxid = to_int(match["taxid"])
            return Header(match["name"] or "", to_int(match["members"]), match["taxon"] or None, taxid, last)
    if " OS=" in text and (match := UNIPROTKB.fullmatch(text)):
        return Header(match["name"], None, match["taxon"] or None, to_int(match["taxid"]))
    return Header(description)


def parse_descriptions(descriptions: pa.StringArray) -> pa.Table:
    """Parse many descriptions, as `parse_description`: a column for each field of `Header`.

    UniRef's fields are split off from the right by array operations; what does not come out clean that way is parsed
    one by one.
    """
    found, clean = split_uniref(descriptions)
    if clean.all():
        return found
    rest = descriptions.filter(pa.array(~clean))
    headers = [parse_description(text) for text in rest.to_pylist()]
    columns = zip(*headers, strict=True)
    others = pa.table([pa.array(each, kind) for each, kind in zip(columns, FIELDS.types, strict=True)], schema=FIELDS)
    order = np.argsort(np.concatenate([np.flatnonzero(clean), np.flatnonzero(~clean)]), kind="stable")
    return pa.concat_tables([found.filter(pa.array(clean)), others]).take(order).combine_chunks()


def split_uniref(descriptions: pa.StringArray) -> tuple[pa.Table, np.ndarray]:
    """Return the fields as of UniRef headers, and which rows [n] are surely such without matching `UNIREF`.

    Where the last part is one word and the part between the last `` n=`` and `` Tax=`` is a number, that pattern can
    match in no other way. Headers with an empty field are left to it.
    """
    rest, representative, has_representative = split_right(descriptions, " RepID=")
    before, taxid, has_taxid = split_right(rest, " TaxID=")
    has_taxid &= ~holds_space(taxid)
    left, taxon, has_taxon = split_right(pc.if_else(pa.array(has_taxid), before, rest), " Tax=")
    name, members, has_members = split_right(left, " n=")
    clean = has_representative & has_taxon & has_members & to_numpy(pc.string_is_ascii(descriptions))
    clean &= to_numpy(pc.ascii_is_decimal(members)) & ~holds_space(representative)
    clean &= to_numpy(pc.not_equal(representative, "")) & to_numpy(pc.not_equal(taxon, ""))
    taxids = pc.if_else(pa.array(has_taxid), to_ints(taxid), pa.scalar(None, pa.int32()))
    return pa.table([name, to_ints(members), taxon, taxids, representative], schema=FIELDS), clean


def split_right(texts: pa.StringArray, pattern: str) -> tuple[pa.StringArray, pa.StringArray, np.ndarray]:
    """Return the text before and after the last occurrence of a pattern, and whether there is one [n]."""
    parts = pc.split_pattern(texts, pattern=pattern, max_splits=1, reverse=True)
    ends = parts.offsets.to_numpy()
    values = parts.flatten()
    return values.take(pa.array(ends[:-1])), values.take(pa.array(ends[1:] - 1)), np.diff(ends) == 2


def holds_space(texts: pa.StringArray) -> np.ndarray:
    """Return whether there is a space in each text [n]."""
    return to_numpy(pc.match_substring(texts, " "))


def to_numpy(flags: pa.BooleanArray) -> np.ndarray:
    """Return Arrow's bits as NumPy's bools."""
    return flags.to_numpy(zero_copy_only=False)


def to_ints(texts: pa.StringArray) -> pa.Int32Array:
    """Convert each text as `to_int` does."""
    number = pc.and_(pc.ascii_is_decimal(texts), pc.less_equal(pc.binary_length(texts), 10))
    values = pc.cast(pc.if_else(number, texts, pa.scalar(None, pa.string())), pa.int64())
    return pc.if_else(pc.less_equal(values, MAX_INT32), values, pa.scalar(None, pa.int64())).cast(pa.int32())


def to_int(text: str | None) -> int | None:
    """Return a field as a 32-bit integer; None where it is missing or is no such number."""
    if not text or len(text) > 10 or not text.isascii() or not text.isdecimal():
        return None
    value = int(text)
    return value if value <= MAX_INT32 else None
