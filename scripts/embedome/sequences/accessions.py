"""Accessions within ids: UniProtKB's (sp|P12345|NAME) and UniRef's (UniRef50_P12345).

References
----------
UniProt help, "FASTA headers" (https://www.uniprot.org/help/fasta-headers).
"""

import re

import pyarrow as pa
import pyarrow.compute as pc

UNIPROTKB = ("sp|", "tr|")
UNIREF = ("UniRef100_", "UniRef90_", "UniRef50_")
FORM = r"^(?:(?:sp|tr)\|(?P<uniprotkb>[^|]+)\|[^|]*|UniRef(?:100|90|50)_(?P<uniref>[^|]+))$"
PATTERN = re.compile(FORM)


def find_accession(name: str) -> str | None:
    """Return the accession in an id of UniProtKB or UniRef; None in any other id.

    Examples
    --------
    >>> find_accession("sp|P12345|AATM_RABIT"), find_accession("UniRef50_P12345-2"), find_accession("P12345")
    ('P12345', 'P12345-2', None)
    """
    match = PATTERN.match(name)
    return match and (match["uniprotkb"] or match["uniref"])


def find_accessions(names: pa.Array) -> pa.StringArray:
    """Return the accession in each id, null where it has none; as `find_accession`."""
    found = pc.extract_regex(names.cast(pa.string()), FORM)
    first, second = (pc.struct_field(found, name) for name in ("uniprotkb", "uniref"))
    return pc.if_else(pc.not_equal(first, ""), first, second)


def list_beginnings(accession: str) -> list[str]:
    """Return how the ids begin that may hold an accession."""
    return [f"{prefix}{accession}|" for prefix in UNIPROTKB] + [f"{prefix}{accession}" for prefix in UNIREF]
