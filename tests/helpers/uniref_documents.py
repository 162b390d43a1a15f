"""UniRef XML written by hand, as UniProt's FTP site has it."""

from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr


class Member(NamedTuple):
    """A member of a cluster; without accessions one of UniParc's."""

    id: str
    accessions: tuple[str, ...] = ()
    uniparc: str | None = None
    uniref90: str | None = None
    taxid: int | None = None
    length: int | None = None
    seed: bool = False

    def xml(self) -> str:
        kind = "UniProtKB ID" if self.accessions else "UniParc ID"
        properties = [("UniProtKB accession", each) for each in self.accessions]
        if self.accessions:
            properties.append(("UniParc ID", self.uniparc))
        properties += [
            ("UniRef90 ID", self.uniref90),
            ("NCBI taxonomy", self.taxid),
            ("length", self.length),
            ("isSeed", "true" if self.seed else None),
            ("source organism", 'Mus "musculus" <x> & Co'),
        ]
        return reference(kind, self.id, [(key, value) for key, value in properties if value is not None])

    def row(self, cluster: str, is_representative: bool) -> tuple:
        """The row that is expected, without the columns that no member here has."""
        uniparc = self.uniparc if self.accessions else self.id
        accession = self.accessions[0] if self.accessions else None
        known = (self.uniref90, self.taxid, self.length)
        return (cluster, self.id, accession, list(self.accessions[1:]), uniparc, *known, is_representative, self.seed)


MEMBER_COLUMNS = (
    "id, member, accession, secondary_accessions, uniparc, uniref90, taxid, length, is_representative, is_seed"
)


class Cluster(NamedTuple):
    id: str
    name: str
    taxon: str
    taxid: int
    sequence: str
    members: tuple[Member, ...]

    def fasta(self) -> tuple[str, str]:
        n, representative = len(self.members), self.members[0].id
        header = f"{self.id} {self.name} n={n} Tax={self.taxon} TaxID={self.taxid} RepID={representative}"
        return header, self.sequence

    def xml(self, width: int = 60) -> str:
        lines = "\n".join(self.sequence[start : start + width] for start in range(0, len(self.sequence), width))
        return entry(self, f'<sequence length="{len(self.sequence)}" checksum="0">\n{lines}\n</sequence>')


def reference(kind: str, name: str, properties: Sequence[tuple[str, object]]) -> str:
    lines = [f'<property type="{key}" value={quoteattr(str(value))}/>' for key, value in properties]
    return f'<dbReference type="{kind}" id={quoteattr(name)}>\n' + "\n".join(lines) + "\n</dbReference>"


def entry(cluster: Cluster, sequence: str) -> str:
    count = len(cluster.members)
    parts = [
        f'<entry id={quoteattr(cluster.id)} updated="2024-05-29">\n<name>Cluster: {escape(cluster.name)}</name>',
        f'<property type="member count" value="{count}"/>',
        f'<property type="common taxon" value={quoteattr(cluster.taxon)}/>',
        f'<property type="common taxon ID" value="{cluster.taxid}"/>',
        '<property type="GO Molecular Function" value="GO:0048306"/>',
        f"<representativeMember>\n{cluster.members[0].xml()}\n{sequence}\n</representativeMember>",
        *(f"<member>\n{member.xml()}\n</member>" for member in cluster.members[1:]),
        "</entry>",
    ]
    return "\n".join(parts)


HEAD = """<?xml version="1.0" encoding="{encoding}" ?>
<{root} xmlns="http://uniprot.org/uniref"
 xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
 xsi:schemaLocation="http://uniprot.org/uniref http://www.uniprot.org/support/docs/uniref.xsd"
 releaseDate="2024-11-27" version="2024_06">
"""


def document(*entries: str, root: str = "UniRef50", encoding: str = "ISO-8859-1") -> bytes:
    """A file as UniProt's FTP site has it."""
    text = HEAD.format(root=root, encoding=encoding) + "\n".join(entries) + f"\n</{root}>\n"
    return text.encode(encoding, "xmlcharrefreplace")


def one(identifier: str = "UniRef50_A", sequence: str = "MKV", members: int = 2, **fields: object) -> Cluster:
    """A small cluster."""
    names = [f"{identifier}_{k}" for k in range(members)]
    rows = tuple(Member(name, (f"P{k}", f"Q{k}"), f"UPI{k}", None, 9606, 3) for k, name in enumerate(names))
    fields = {"name": "Some protein", "taxon": "Homo", "taxid": 9605} | fields
    return Cluster(id=identifier, sequence=sequence, members=rows, **fields)
