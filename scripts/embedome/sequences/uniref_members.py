"""The table of cluster members: its schema, and filling it column by column."""

from typing import Any
from xml.etree.ElementTree import Element

import pyarrow as pa

from embedome.sequences.headers import to_int

SECONDARY = "secondary_accessions"

MEMBERS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("member", pa.string(), nullable=False),
        pa.field("accession", pa.string()),
        pa.field(SECONDARY, pa.list_(pa.field("element", pa.string(), nullable=False)), nullable=False),
        pa.field("uniparc", pa.string()),
        pa.field("uniref100", pa.string()),
        pa.field("uniref90", pa.string()),
        pa.field("uniref50", pa.string()),
        pa.field("taxid", pa.int32()),
        pa.field("length", pa.int32()),
        pa.field("is_representative", pa.bool_(), nullable=False),
        pa.field("is_seed", pa.bool_(), nullable=False),
    ]
)
# The record of a member is its place among all members of a file, its entry that which it stands in, from 1.
PLACES = [pa.field(name, pa.int64(), nullable=False) for name in ("record", "entry")]
MEMBER_RUN = pa.schema([*MEMBERS, *PLACES])
PROPERTIES = {"uniparc": "UniParc ID", **{f"uniref{level}": f"UniRef{level} ID" for level in (100, 90, 50)}}


class MemberColumns:
    """Members of a chunk, column by column."""

    def __init__(self) -> None:
        self.columns: dict[str, list[Any]] = {name: [] for name in [*MEMBERS.names, "entry"]}

    def add(self, cluster: str, entry: int, reference: Element, is_representative: bool) -> None:
        """Add a member, by its ``dbReference``. Of properties that are given more than once the first one counts."""
        name = reference.get("id")
        accessions: list[str] = []
        known: dict[str | None, str | None] = {}
        for each in reference:
            kind = each.get("type")
            if kind == "UniProtKB accession":
                accessions.append(each.get("value", ""))
            else:
                known.setdefault(kind, each.get("value"))
        if reference.get("type") == "UniParc ID":
            known["UniParc ID"] = name
        columns = self.columns
        columns["id"].append(cluster)
        columns["member"].append(name)
        columns["accession"].append(accessions[0] if accessions else None)
        columns[SECONDARY].append(accessions[1:])
        for column, kind in PROPERTIES.items():
            columns[column].append(known.get(kind))
        columns["taxid"].append(to_int(known.get("NCBI taxonomy")))
        columns["length"].append(to_int(known.get("length")))
        columns["is_representative"].append(is_representative)
        columns["is_seed"].append(known.get("isSeed") == "true")
        columns["entry"].append(entry)

    def table(self, offset: int) -> pa.Table:
        """Return rows of the `MEMBER_RUN` schema, numbered from an offset on."""
        columns = {**self.columns, "record": range(offset, offset + len(self.columns["id"]))}
        return pa.table([pa.array(columns[field.name], field.type) for field in MEMBER_RUN], schema=MEMBER_RUN)
