"""Entries and members per second, and memory, of the filter on UniRef XML, beside the filter on FASTA and iterparse.

Clusters are made up: sizes of 1 to 40 members, six on average as UniRef50 has, and one of many where asked for. The
standard library's iterparse only counts members; the filter on FASTA reads the same clusters' representatives. Run with

    PYTHONPATH=scripts python benchmarks/uniref_xml.py [--entries N] [--giant MEMBERS]
"""

import argparse
import gzip
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from embedome.catalog.criteria import Criteria
from embedome.catalog.filter import filter_records
from filter import measure

HEAD = '<?xml version="1.0" encoding="ISO-8859-1" ?>\n<UniRef50 xmlns="http://uniprot.org/uniref" version="made_up">\n'
MEMBER = """<{tag}>
<dbReference type="UniProtKB ID" id="A{n}_MOUSE">
<property type="UniProtKB accession" value="A{n}"/>
<property type="UniParc ID" value="UPI{n:010X}"/>
<property type="UniRef100 ID" value="UniRef100_A{n}"/>
<property type="UniRef90 ID" value="UniRef90_A{n}"/>
<property type="protein name" value="Pheromone receptor"/>
<property type="source organism" value="Mus musculus (Mouse)"/>
<property type="NCBI taxonomy" value="10090"/>
<property type="length" value="{length}"/>
</dbReference>{sequence}
</{tag}>
"""


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--entries", type=int, default=50_000, help="clusters")
    parser.add_argument("--giant", type=int, default=0, help="members of one more cluster")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        xml, fasta = Path(name) / "uniref50.xml.gz", Path(name) / "uniref50.fasta.gz"
        n_members = write_release(xml, fasta, options.entries, options.giant)
        works = {
            "iterparse": (iterparse, xml),
            "filter, XML": (filter_file, xml),
            "filter, FASTA": (filter_file, fasta),
        }
        print(f"{options.entries:,} clusters, {n_members:,} members, {os.cpu_count()} cores")
        print(f"{'':14} {'clusters/s':>11} {'members/s':>11} {'peak memory':>12}")
        for label, (work, path) in works.items():
            seconds, peak_mb = measure(work, path)
            clusters, members = options.entries / seconds, n_members / seconds
            print(f"{label:14} {clusters:>11,.0f} {members:>11,.0f} {peak_mb:>9,.0f} MB")


def write_release(xml: Path, fasta: Path, entries: int, giant: int) -> int:
    """Write the same clusters in both forms; gives the number of members."""
    chance, total = random.Random(0), 0
    sizes = [min(40, int(chance.paretovariate(0.8))) for _ in range(entries)] + [giant] * bool(giant)
    with gzip.open(xml, "wt", 1) as one, gzip.open(fasta, "wt", 1) as other:
        one.write(HEAD)
        for size in sizes:
            sequence = "".join(chance.choices("ACDEFGHIKLMNPQRSTVWY", k=chance.randint(50, 500)))
            for text in entry_text(total, size, sequence):
                one.write(text)
            header = f"UniRef50_A{total} Pheromone receptor n={size} Tax=Muroidea TaxID=337687 RepID=A{total}_MOUSE"
            other.write(f">{header}\n{sequence}\n")
            total += size
        one.write("</UniRef50>\n")
    return total


def entry_text(first: int, size: int, sequence: str) -> Iterator[str]:
    """The XML of a cluster whose members are numbered from `first` on."""
    yield f'<entry id="UniRef50_A{first}" updated="2024-05-29">\n<name>Cluster: Pheromone receptor</name>\n'
    yield f'<property type="member count" value="{size}"/>\n<property type="common taxon" value="Muroidea"/>\n'
    yield '<property type="common taxon ID" value="337687"/>\n'
    text = f'\n<sequence length="{len(sequence)}" checksum="0">{sequence}</sequence>'
    yield MEMBER.format(tag="representativeMember", n=first, length=len(sequence), sequence=text)
    for number in range(first + 1, first + size):
        yield MEMBER.format(tag="member", n=number, length=len(sequence), sequence="")
    yield "</entry>\n"


def iterparse(xml: Path) -> None:
    """Count members, one entry in memory."""
    count = 0
    with gzip.open(xml) as handle:
        for _, element in ElementTree.iterparse(handle):
            count += element.tag.endswith("ember")
            if element.tag.endswith("}entry"):
                element.clear()


def filter_file(path: Path) -> None:
    """Filter into a catalog, with members."""
    out = path.parent / path.name.replace(".", "-")
    names = {"catalog": "catalog", "rejects": "rejects.parquet", "summary": "filter.json", "members": "members.parquet"}
    outputs = {key: out / name for key, name in names.items()}
    filter_records([path], Criteria(20), **outputs, workers=os.cpu_count() or 1)


if __name__ == "__main__":
    main()
