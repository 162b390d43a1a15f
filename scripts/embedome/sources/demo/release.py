"""A demo release in UniProt's own layout: synthetic protein families whose truth is known."""

import gzip
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from embedome.common.atomic_files import atomic_path
from embedome.common.errors import UserError
from embedome.common.log import Progress
from embedome.sources.demo.families import grow_ancestors, mutate, plan_block
from embedome.sources.demo.headers import FORMS, make_accessions, make_headers

FASTA = "uniref50.fasta.gz"
NOTE = "uniref50.release_note"
METALINK = "RELEASE.metalink"
TRUTH = "families.tsv.gz"

# UniProt names its releases YYYY_NN and has none before 2003: neither can be taken for one of its own.
VERSION = "embedome-demo-1"
DATE = "01-Jan-2000"
LICENCE = ("Apache License 2.0", "https://www.apache.org/licenses/LICENSE-2.0")

MAX_SEQUENCES = 100_000_000  # the rarest form of accession, 6 % of the records, has 14 M numbers
MAX_FAMILIES = 1_000_000  # ancestors are kept in memory, about 0.3 kB each
BLOCK = 2048
LINE = 60
LEVEL = 1


def write_release(directory: str | Path, *, sequences: int, families: int, seed: int) -> None:
    """Write a synthetic UniRef50 release, its metalink and the true family of each record.

    Stands in for the folder uniref/uniref50 of UniProt's FTP site where there is no network, and for tests that
    need a truth. The same arguments write the same bytes with the same versions of NumPy and zlib. Memory is about
    0.3 kB per family and some tens of MB, whatever the number of sequences.

    Parameters
    ----------
    directory : path
        Created where missing. Receives ``uniref50.fasta.gz``, ``families.tsv.gz`` (columns id and family, in
        the order of the FASTA), ``uniref50.release_note`` and, last, ``RELEASE.metalink``.
    sequences : int
        Number of records, 1 to 100,000,000.
    families : int
        Number of families, 1 to 1,000,000 and at most `sequences`; each has at least one record.
    seed : int
        0 or more.

    Raises
    ------
    UserError
        Where an argument is out of its range; names the configuration key.

    Notes
    -----
    An ancestor has a log-normal length (mu 5.43, sigma 0.675 in log residues, as UniRef50) and residues drawn from
    the family's own composition, Dirichlet around that of Swiss-Prot. A member draws 5-45 % of its positions again
    from the ancestor's residues, so that it keeps the composition, and has insertions and deletions of 1-5
    residues. Family sizes follow Zipf and Mandelbrot's law. Of 1000 records, 2 are long (2,000-6,000 residues,
    tandem repeats of their ancestor), 10 are short (11-19 residues), and 5 repeat another record's sequence under
    their own id; about 20 hold X, B, Z, U or O, and 50 are fragments.

    References
    ----------
    UniProtKB/Swiss-Prot release statistics, amino acid composition.
    UniProt help pages, "FASTA headers" and "Accession numbers".
    """
    check_arguments(sequences, families, seed)
    directory = Path(directory)
    write_records(directory, sequences, families, seed)
    with atomic_path(directory / NOTE) as temporary:
        temporary.write_text(release_note(sequences), encoding="utf-8")
    # The metalink vouches for the other files: it comes last.
    entries = "".join(metalink_entry(directory / name) for name in (FASTA, NOTE))
    with atomic_path(directory / METALINK) as temporary:
        temporary.write_text(metalink(entries), encoding="utf-8")


def check_arguments(sequences: int, families: int, seed: int) -> None:
    """Refuse sizes that make no sense, by the name of their configuration key."""
    if not 1 <= sequences <= MAX_SEQUENCES:
        raise UserError(f"demo.sequences is {sequences!r}; expected 1 to {MAX_SEQUENCES:,}")
    if not 1 <= families <= MAX_FAMILIES:
        raise UserError(f"demo.families is {families!r}; expected 1 to {MAX_FAMILIES:,}")
    if families > sequences:
        raise UserError(
            f"demo.families is {families!r}; expected at most demo.sequences ({sequences:,}), a record per family"
        )
    if seed < 0:
        raise UserError(f"demo.seed is {seed!r}; expected 0 or more")


def write_records(directory: Path, sequences: int, families: int, seed: int) -> None:
    """Write the FASTA and the table of families, block by block."""
    kin = grow_ancestors(families, np.random.default_rng([seed, 0]))
    used = [0] * len(FORMS)
    shifts = np.random.default_rng([seed, 1]).integers(0, 2**32, len(FORMS)).tolist()
    blocks = -(-sequences // BLOCK)
    with (
        gzip_stream(directory / FASTA) as fasta,
        gzip_stream(directory / TRUTH) as truth,
        Progress("demo", "sequences", sequences) as progress,
    ):
        truth.write(b"id\tfamily\n")
        for block in range(blocks):
            # Blocks of equal size: none is so small that its duplicates find no record to repeat.
            first, end = sequences * block // blocks, sequences * (block + 1) // blocks
            rng = np.random.default_rng([seed, 2, block])
            plan = plan_block(rng, kin, first, end, sequences)
            text, bounds = mutate(rng, kin, plan)
            accessions = make_accessions(rng, end - first, used, shifts)
            headers = make_headers(rng, kin, plan, accessions)
            fasta.write("".join(fasta_records(headers, text, bounds, plan.origin)).encode("ascii"))
            numbers = plan.family[plan.origin].tolist()
            rows = (f"UniRef50_{acc}\tF{number:06d}\n" for acc, number in zip(accessions, numbers, strict=True))
            truth.write("".join(rows).encode("ascii"))
            progress.update(end - first)


def fasta_records(headers: list[str], text: str, bounds: np.ndarray, origin: np.ndarray) -> Iterator[str]:
    """Yield a block's records as FASTA, each with its origin's sequence on lines of 60."""
    for header, start, end in zip(headers, bounds[origin].tolist(), bounds[origin + 1].tolist(), strict=True):
        yield header
        for line in range(start, end, LINE):
            yield text[line : min(line + LINE, end)] + "\n"


@contextmanager
def gzip_stream(path: Path) -> Iterator[gzip.GzipFile]:
    """Open a gzip file to be published when the block ends; its header names no file and no time."""
    with (
        atomic_path(path) as temporary,
        open(temporary, "wb") as raw,
        gzip.GzipFile(filename="", mode="wb", compresslevel=LEVEL, fileobj=raw, mtime=0) as stream,
    ):
        yield stream


def release_note(sequences: int) -> str:
    """Return the text of the release note, in the form of UniRef's."""
    indent = " " * 22
    return (
        f"{' ' * 18}UniProt Reference Clusters - UniRef50\n\n"
        f"{indent}Release: {VERSION}, {DATE}\n"
        f"{indent}Number of clusters: {sequences:,}\n"
        f"{indent}Number of sequences: {sequences:,}\n\n"
        " Synthetic demo data made by embedome in UniProt's file formats. It holds no sequence of UniProt;\n"
        " accessions, names and taxa are drawn at random and mean nothing.\n"
        f" Distributed under the {LICENCE[0]}, see {LICENCE[1]}.\n\n"
    )


def metalink_entry(path: Path) -> str:
    """Return the metalink's element for one file: its name, size and MD5."""
    with open(path, "rb") as handle:
        digest = hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return f"""\
    <file name="{path.name}">
      <size>{path.stat().st_size}</size>
      <verification>
        <hash type="md5">{digest}</hash>
      </verification>
      <resources>
        <url type="file" preference="100">{path.name}</url>
      </resources>
    </file>
"""


def metalink(entries: str) -> str:
    """Return the text of RELEASE.metalink (Metalink 3.0), with the elements of UniProt's."""
    return f"""\
<metalink xmlns="http://www.metalinker.org/" version="3.0">
  <publisher>
    <name>embedome demo, not UniProt</name>
    <url>{LICENCE[1]}</url>
  </publisher>
  <license>
    <name>{LICENCE[0]}</name>
    <url>{LICENCE[1]}</url>
  </license>
  <description>Synthetic UniRef50</description>
  <version>{VERSION}</version>
  <files>
{entries}  </files>
</metalink>
"""
