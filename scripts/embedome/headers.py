"""Header grammars: what UniRef and UniProtKB say of a sequence behind its id.

References
----------
UniProt help, "FASTA headers" (https://www.uniprot.org/help/fasta-headers).
"""

import re
from typing import NamedTuple

MAX_INT32 = 2**31 - 1


class Header(NamedTuple):
    """Fields of a header; None where the grammar has no such field."""

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


# Greedy up to the last " n=" or " OS=": names may themselves contain "n=" or "=", so fields are found from the right.
UNIREF = re.compile(r"(?P<name>.*) n=(?P<members>\d+) Tax=(?P<taxon>.*?)(?: TaxID=(?P<taxid>\S*))? RepID=(?P<rep>\S+)")
UNIPROTKB = re.compile(r"(?P<name>.*) OS=(?P<taxon>.*?)(?: OX=(?P<taxid>\d+))?(?: GN=.*?)?(?: PE=\d)?(?: SV=\d+)?")


def parse_description(description: str) -> Header:
    """Parse what stands behind the id of a header line: UniRef, UniProtKB (sp, tr), or free text.

    Examples
    --------
    >>> parse_description("Ras n=3 GTPase n=12 Tax=Homo sapiens TaxID=9606 RepID=RASH_HUMAN")
    Header(name='Ras n=3 GTPase', n_members=12, taxon='Homo sapiens', taxid=9606, representative='RASH_HUMAN')
    >>> parse_description("Insulin OS=Homo sapiens OX=9606 GN=INS PE=1 SV=1")
    Header(name='Insulin', n_members=None, taxon='Homo sapiens', taxid=9606, representative=None)
    >>> parse_description("some protein")
    Header(name='some protein', n_members=None, taxon=None, taxid=None, representative=None)
    """
    text = description.rstrip()
    if " RepID=" in text and (match := UNIREF.fullmatch(text)):
        return Header(match["name"], to_int(match["members"]), match["taxon"], to_int(match["taxid"]), match["rep"])
    if " OS=" in text and (match := UNIPROTKB.fullmatch(text)):
        return Header(match["name"], None, match["taxon"], to_int(match["taxid"]))
    return Header(description)


def to_int(text: str | None) -> int | None:
    """A field as a 32-bit integer; None where it is missing or is none."""
    if not text or len(text) > 10 or not text.isascii() or not text.isdecimal():
        return None
    value = int(text)
    return value if value <= MAX_INT32 else None
