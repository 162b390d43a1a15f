"""Small FASTA files, and the filter stage run on them."""

import random
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import duckdb
import pytest
from embedome.catalog.criteria import Criteria
from embedome.catalog.filter import filter_records

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
# Insulin, ubiquitin and a repeat of ubiquitin under another id.
THREE_PROTEINS = [
    ("sp|P01308|INS_HUMAN Insulin OS=Homo sapiens OX=9606 GN=INS PE=1 SV=1", "MALWMRLLPLLALLALWGPDPAAAFVNQHLCGSHLVEAL"),
    (
        "UniRef50_P0CG48 Ubiquitin n=7 Tax=Homo sapiens TaxID=9606 RepID=UBC_HUMAN",
        "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEG",
    ),
    (
        "UniRef50_P0CG47 Ubiquitin n=3 Tax=Mus musculus TaxID=10090 RepID=UBB_MOUSE",
        "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEG",
    ),
]


def write_fasta(path: Path, records: Iterable[tuple[str, str]], width: int = 60) -> Path:
    """Write (header, sequence) records."""
    lines = []
    for header, sequence in records:
        lines += [f">{header}", *(sequence[start : start + width] for start in range(0, len(sequence), width))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def random_proteins(count: int, seed: int = 0, length: int = 60) -> list[tuple[str, str]]:
    """Records with ids in no order; every tenth sequence is that of an earlier record."""
    chance = random.Random(seed)
    records: list[tuple[str, str]] = []
    for number in range(count):
        name = f"UniRef50_{chance.getrandbits(40):010X}"
        sequence = "".join(chance.choices(AMINO_ACIDS, k=chance.randint(1, 2 * length)))
        if number % 10 == 9:
            sequence = records[chance.randrange(number)][1]
        taxid = chance.randint(1, 10**6)
        records.append((f"{name} Protein n={number + 1} Tax=Taxon {taxid} TaxID={taxid} RepID=X{number}", sequence))
    return records


class Filtered(NamedTuple):
    """What the filter stage wrote."""

    catalog: Path
    rejects: Path
    summary: Path
    members: Path
    account: dict

    def rows(self, columns: str = "*") -> list[tuple]:
        """The catalog's rows in file order, as DuckDB reads them."""
        return duckdb.sql(f"SELECT {columns} FROM read_parquet('{self.catalog}/*.parquet')").fetchall()

    def rejected(self, columns: str = "*") -> list[tuple]:
        """The rejected rows, as DuckDB reads them."""
        return duckdb.sql(f"SELECT {columns} FROM read_parquet('{self.rejects}')").fetchall()

    def member_rows(self, columns: str = "*") -> list[tuple]:
        """The members' rows in file order, as DuckDB reads them."""
        return duckdb.sql(f"SELECT {columns} FROM read_parquet('{self.members}')").fetchall()


def run_filter(folder: Path, *fasta: Path, workers: int = 1, **limits: int) -> Filtered:
    """Run the filter stage with its outputs in a folder."""
    paths = {"catalog": folder / "catalog", "rejects": folder / "rejects.parquet", "summary": folder / "filter.json"}
    paths["members"] = folder / "members.parquet"
    return Filtered(**paths, account=filter_records(fasta, Criteria(**limits), **paths, workers=workers))


def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make catalogs of 64 rows a file and 16 a row group, so that few records make many of both."""
    for target, value in (
        ("catalog.filter.CATALOG_GROUP_ROWS", 16),
        ("catalog.filter.CATALOG_FILE_GROUPS", 4),
        ("splits.split_table.CATALOG_GROUP_ROWS", 16),
        ("splits.split_table.GROUP_ROWS", 128),
    ):
        monkeypatch.setattr(f"embedome.{target}", value)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too, with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
