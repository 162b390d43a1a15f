"""A demo release in UniProt's own layout: synthetic protein families whose truth is known.

Shape legend: F families, B records of a block, N residues of a block.
"""

import gzip
import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from embedome.errors import UserError
from embedome.files import atomic_path
from embedome.log import Progress

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
FAMILY_CHUNK = 4096
LINE = 60
LEVEL = 1

# Percent of residues, UniProtKB/Swiss-Prot release statistics, rounded to 0.1.
BACKGROUND = {
    "A": 8.3, "R": 5.5, "N": 4.1, "D": 5.5, "C": 1.4, "Q": 3.9, "E": 6.7, "G": 7.1, "H": 2.3, "I": 5.9,
    "L": 9.7, "K": 5.8, "M": 2.4, "F": 3.9, "P": 4.7, "S": 6.6, "T": 5.4, "W": 1.1, "Y": 2.9, "V": 6.9,
}  # fmt: skip
COMPOSITION_CONCENTRATION = 100.0  # Dirichlet: a residue of 8 % has a standard deviation of 2.7 % between families
LENGTH_MU, LENGTH_SIGMA = 5.43, 0.675  # log-normal fit to the lengths of UniRef50
ANCESTOR_AA = (25, 1900)  # members stay below 2,000: beyond are the long records, whose share is set
SHORT_AA = (11, 20)  # UniRef's shortest is 11; half open, as are the next two
LONG_AA = (2100, 5900)
LONGEST_AA = (5500, 5900)
ORDINARY_AA = 25  # no window is shorter, so that indels leave at least 20
SHORT_PER_MILLE, LONG_PER_MILLE, DUPLICATE_PER_MILLE = 10, 2, 5
FRAGMENT_SHARE, ODD_SHARE = 0.05, 0.02
ODD_RESIDUES = b"XXXXXBZUO"
ODD_PER_RECORD = 3
MUTATION_RATE = (0.05, 0.45)
INDEL_AA = 5
RESIDUES_PER_INDEL = 40  # one indel for so many redrawn residues
ORDINARY, SHORT, LONG, DUPLICATE = range(4)

DIGITS, LETTERS = "0123456789", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
HEX, BOTH = DIGITS + "ABCDEF", LETTERS + DIGITS
SWISS = ("OPQ", DIGITS, BOTH, BOTH, BOTH, DIGITS)
# Share of records, characters per place, suffix. UniProtKB's grammar; the ten-character ones start A0A as UniProt's do.
FORMS = (
    (0.70, ("A", "0", "A", BOTH, BOTH, DIGITS, LETTERS, BOTH, BOTH, DIGITS), ""),
    (0.06, ("ABCDEFGHIJKLMNRSTUVWXYZ", DIGITS, LETTERS, BOTH, BOTH, DIGITS), ""),
    (0.06, SWISS, ""),
    (0.17, ("U", "P", "I", "0", "0", *[HEX] * 8), ""),
    # Counted apart from the accessions of the same form: an isoform's canonical record is as a rule in the release too.
    (0.01, SWISS, "-2"),
)

FAMILY_NAMES = (
    "ABC transporter domain-containing protein",
    "Glutamate--tRNA ligase",
    "Histidine kinase",
    "Beta-ketoacyl-[acyl-carrier-protein] synthase III",
    "Cytochrome P450",
    "NAD(P)H-quinone oxidoreductase subunit 2, chloroplastic",
    "Zinc finger C2H2-type domain-containing protein",
    "5'-nucleotidase",
    "DNA polymerase III subunit gamma/tau",
    "Na(+)/H(+) antiporter NhaA",
    "Ribosomal protein L7/L12",
    "3',5'-cyclic-nucleotide phosphodiesterase",
    "AAA+ ATPase",
    "tRNA (guanine-N(7)-)-methyltransferase",
    "LysR family transcriptional regulator",
    "[Protein-PII] uridylyltransferase",
    "Ankyrin repeat protein",
    "Peptidylprolyl isomerase",
    "Methyl-accepting chemotaxis protein",
    "2,3-bisphosphoglycerate-dependent phosphoglycerate mutase",
    "Tail fiber protein",
    "F-box domain-containing protein",
    "RNA-directed DNA polymerase",
    "Serine/threonine-protein kinase",
)
PLAIN_NAME, PLAIN_SHARE = "Uncharacterized protein", 0.3
# Names that a parser reading from the left gets wrong, and characters that need quoting elsewhere.
ODD_NAMES = (
    "Related to URE2 = nitrogen catabolite repression regulator",
    "Repeat protein n=6 copies",
    "Transcriptional activator Tax=1 n=2 TaxID=0 RepID=none",
    "WGS project CABT00000000 data, contig 2.21",
    "Chromosome 1 SCAF14573, whole genome shotgun sequence",
    "(pine wood nematode) hypothetical protein",
    'Similar to "cytochrome b5" & <unknown>',
    "Alpha-(1->3)-arabinofuranosyltransferase",
    "LOW QUALITY PROTEIN: titin-like; isoform X43",
    "Str. FM013 | contig\\4, 100% identical*",
)
ODD_NAME_SHARE = 0.03

# Name and identifier in NCBI Taxonomy, organism code of UniProtKB entry names.
TAXA = (
    ("root", 1, "9ZZZZ"),
    ("cellular organisms", 131567, "9BACT"),
    ("Bacteria", 2, "9BACT"),
    ("Eukaryota", 2759, "9EUKA"),
    ("Archaea", 2157, "9ARCH"),
    ("Vertebrata", 7742, "DANRE"),
    ("Mammalia", 40674, "MOUSE"),
    ("Streptomyces", 1883, "9ACTN"),
    ("uncultured bacterium", 77133, "9BACT"),
    ("marine sediment metagenome", 412755, "9ZZZZ"),
    ("Homo sapiens", 9606, "HUMAN"),
    ("Arabidopsis thaliana", 3702, "ARATH"),
    ("Drosophila melanogaster", 7227, "DROME"),
    ("Caenorhabditis elegans", 6239, "CAEEL"),
    ("Escherichia coli (strain K12)", 83333, "ECOLI"),
    ("Saccharomyces cerevisiae (strain ATCC 204508 / S288c)", 559292, "YEAST"),
    ("Influenza A virus (strain A/Puerto Rico/8/1934 H1N1)", 211044, "I34A1"),
    ("'Nostoc azollae' 0708", 551115, "NOSA0"),
    ("[Clostridium] symbiosum", 1512, "CLOSY"),
    ("Salmonella enterica subsp. enterica serovar 4,[5],12:i:-", 440524, "SALET"),
    ("Streptomyces avermitilis MA-4680 = NBRC 14893", 227882, "STRAW"),
    ("Escherichia coli DSM 30083 = JCM 1649 = ATCC 11775", 866789, "ECOLX"),
)


@dataclass(frozen=True, slots=True)
class Families:
    """Ancestors of all families, end to end, and how often each family is drawn."""

    residues: np.ndarray  # uint8 ASCII, one flat array
    starts: np.ndarray  # int64 [F], into residues
    lengths: np.ndarray  # int64 [F]
    names: np.ndarray  # int64 [F], into FAMILY_NAMES
    cumulative: np.ndarray  # float64 [F], cumulative share of the records


@dataclass(frozen=True, slots=True)
class Plan:
    """What each record of a block is: the window of its family's ancestor it is copied from, and how changed."""

    family: np.ndarray  # int64 [B]
    start: np.ndarray  # int64 [B], residue of the ancestor
    span: np.ndarray  # int64 [B], residues; beyond the ancestor's end it starts again, as in a repeat protein
    rate: np.ndarray  # float64 [B], share of positions drawn anew
    fragment: np.ndarray  # bool [B]
    origin: np.ndarray  # int64 [B], the record of the block whose sequence is written: itself, but for duplicates


def write_release(directory: str | Path, *, sequences: int, families: int, seed: int) -> None:
    """Write a synthetic UniRef50 release, its metalink and the true family of each record.

    Stands in for the folder uniref/uniref50 of UniProt's FTP site where there is no network, and for tests that
    need a truth. The same arguments give the same bytes with the same versions of NumPy and zlib. Memory is about
    0.3 kB per family and some tens of MB, whatever the number of sequences.

    Parameters
    ----------
    directory : path
        Made where missing. Gets ``uniref50.fasta.gz``, ``families.tsv.gz`` (columns id and family, in the order
        of the FASTA), ``uniref50.release_note`` and, last, ``RELEASE.metalink``.
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
    the family's own composition, Dirichlet around that of Swiss-Prot. A member draws 5-45 % of its positions anew
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


def grow_ancestors(families: int, rng: np.random.Generator) -> Families:
    """Draw length, composition and residues of each family's ancestor."""
    lengths = np.clip(rng.lognormal(LENGTH_MU, LENGTH_SIGMA, families).astype(np.int64), *ANCESTOR_AA)
    starts = np.cumsum(lengths) - lengths
    residues = np.empty(lengths.sum(), np.uint8)
    for first in range(0, families, FAMILY_CHUNK):
        chunk = lengths[first : first + FAMILY_CHUNK]
        residues[starts[first] : starts[first] + chunk.sum()] = draw_residues(rng, chunk)
    residues[starts] = ord("M")
    weights = 1 / (np.arange(families) + 3.0)
    names = rng.integers(0, len(FAMILY_NAMES), families)
    return Families(residues, starts, lengths, names, np.cumsum(weights) / weights.sum())


def draw_residues(rng: np.random.Generator, lengths: np.ndarray) -> np.ndarray:
    """Draw sequences of the given lengths, end to end, each from a composition of its own."""
    letters = np.frombuffer("".join(BACKGROUND).encode(), np.uint8)
    background = np.array(list(BACKGROUND.values()))
    composition = rng.dirichlet(COMPOSITION_CONCENTRATION * background / background.sum(), len(lengths))  # [F, 20]
    owner = np.repeat(np.arange(len(lengths)), lengths)  # [N]
    # Family k's cumulative composition lies between k and k + 1: one sorted search serves all families.
    steps = (np.cumsum(composition, axis=1) + np.arange(len(lengths))[:, None]).ravel()
    found = np.searchsorted(steps, owner + rng.random(len(owner)), side="right") - len(letters) * owner
    return letters[np.clip(found, 0, len(letters) - 1)]


def plan_block(rng: np.random.Generator, kin: Families, first: int, end: int, sequences: int) -> Plan:
    """Draw what the records `first` to `end` are."""
    count, families = end - first, len(kin.lengths)
    family = np.minimum(np.searchsorted(kin.cumulative, rng.random(count), side="right"), families - 1)
    order = rng.permutation(count)
    founders = range(families * first // sequences, families * end // sequences)
    family[order[: len(founders)]] = founders
    kind, first_long = draw_kinds(order, len(founders), first, end)
    ancestor = kin.lengths[family]
    fragment = (kind == SHORT) | ((kind == ORDINARY) & (rng.random(count) < FRAGMENT_SHARE))
    cut = np.maximum(ORDINARY_AA, (ancestor * rng.uniform(0.3, 0.9, count)).astype(np.int64))
    span = np.where(fragment, cut, ancestor)
    span = np.where(kind == SHORT, rng.integers(*SHORT_AA, count), span)
    span = np.where(kind == LONG, rng.integers(*LONG_AA, count), span)
    if first_long is not None:
        span[first_long] = rng.integers(*LONGEST_AA)
    start = (rng.random(count) * (np.maximum(ancestor - span, 0) + 1)).astype(np.int64)
    origin = np.arange(count)
    copies = np.flatnonzero(kind == DUPLICATE)
    origin[copies] = rng.choice(np.flatnonzero(kind == ORDINARY), len(copies))
    return Plan(family, start, span, rng.uniform(*MUTATION_RATE, count), fragment, origin)


def draw_kinds(order: np.ndarray, founders: int, first: int, end: int) -> tuple[np.ndarray, int | None]:
    """Give the block's share of each kind to records in random order; founders are no duplicates.

    Also returns which record is the first long one of the release, where it is in this block.
    """
    kind = np.full(len(order), ORDINARY)
    duplicates = min(quota(DUPLICATE_PER_MILLE, end) - quota(DUPLICATE_PER_MILLE, first), len(order) - founders)
    shorts = quota(SHORT_PER_MILLE, end) - quota(SHORT_PER_MILLE, first)
    longs = quota(LONG_PER_MILLE, end) - quota(LONG_PER_MILLE, first)
    backwards = order[::-1]
    kind[backwards[:duplicates]] = DUPLICATE
    kind[backwards[duplicates : duplicates + shorts]] = SHORT
    long_records = backwards[duplicates + shorts : duplicates + shorts + longs]
    kind[long_records] = LONG
    return kind, int(long_records[0]) if longs and not quota(LONG_PER_MILLE, first) else None


def quota(per_mille: int, records: int) -> int:
    """How many of the first `records` are of a kind, rounded to the nearest."""
    return (per_mille * records + 500) // 1000


def mutate(rng: np.random.Generator, kin: Families, plan: Plan) -> tuple[str, np.ndarray]:
    """Copy each record's window of its ancestor with changes; the sequences end to end, and their bounds [B + 1]."""
    owner = np.repeat(np.arange(len(plan.span)), plan.span)  # [N]
    place = np.arange(len(owner)) - np.repeat(np.cumsum(plan.span) - plan.span, plan.span)
    ancestor = plan.family[owner]
    residues = kin.residues[kin.starts[ancestor] + (plan.start[owner] + place) % kin.lengths[ancestor]]
    chosen = np.repeat(np.arange(len(owner)), draw_copies(rng, plan))  # [N], now with indels
    owner, residues = owner[chosen], residues[chosen]
    bounds = np.concatenate(([0], np.cumsum(np.bincount(owner, minlength=len(plan.span)))))
    anew = rng.random(len(owner), np.float32) < plan.rate[owner]
    anew[bounds[:-1]] = False  # a whole protein keeps its first methionine
    anew[1:] |= chosen[1:] == chosen[:-1]  # inserted
    places = np.flatnonzero(anew)
    ancestor = plan.family[owner[places]]
    residues[places] = kin.residues[
        kin.starts[ancestor] + (rng.random(len(places)) * kin.lengths[ancestor]).astype(np.int64)
    ]
    odd = np.repeat(np.flatnonzero(rng.random(len(plan.span)) < ODD_SHARE), ODD_PER_RECORD)
    places = bounds[odd] + (rng.random(len(odd)) * (bounds[odd + 1] - bounds[odd])).astype(np.int64)
    residues[places] = rng.choice(np.frombuffer(ODD_RESIDUES, np.uint8), len(odd))
    return residues.tobytes().decode("ascii"), bounds


def draw_copies(rng: np.random.Generator, plan: Plan) -> np.ndarray:
    """How often each residue of the windows is copied: 0 in a deletion, more than 1 at an insertion."""
    copies = np.ones(plan.span.sum(), np.int64)
    starts = np.cumsum(plan.span) - plan.span
    # At most one indel of 5 residues in 25: no record loses more than a fifth, and a short one loses nothing.
    events = np.minimum(rng.poisson(plan.rate * plan.span / RESIDUES_PER_INDEL), plan.span // ORDINARY_AA)
    owner = np.repeat(np.arange(len(plan.span)), events)
    room = plan.span[owner] - INDEL_AA - 1
    places = starts[owner] + 1 + (rng.random(len(owner)) * room).astype(np.int64)
    sizes = rng.integers(1, INDEL_AA + 1, len(owner))
    deleted = rng.random(len(owner)) < 0.5
    np.add.at(copies, places[~deleted], sizes[~deleted])
    for step in range(INDEL_AA):
        copies[places[deleted & (sizes > step)] + step] = 0
    return copies


def make_accessions(rng: np.random.Generator, count: int, used: list[int], shifts: list[int]) -> list[str]:
    """Make accessions that no other record has; `used` counts those made of each form and is updated."""
    shares = np.cumsum([share for share, _, _ in FORMS[:-1]])
    form = np.searchsorted(shares, rng.random(count), side="right")
    accessions = np.empty(count, object)
    for k, (_, alphabets, suffix) in enumerate(FORMS):
        members = np.flatnonzero(form == k)
        # An isoform and its canonical record share the shift of their common form.
        shift = shifts[next(j for j, (_, same, _) in enumerate(FORMS) if same == alphabets)]
        numbers = scatter(np.arange(used[k], used[k] + len(members)), math.prod(map(len, alphabets)), shift)
        accessions[members] = [word + suffix for word in spell(numbers, alphabets)]
        used[k] += len(members)
    return accessions.tolist()


def scatter(counter: np.ndarray, size: int, shift: int) -> np.ndarray:
    """Map 0..size-1 onto itself one to one, so that neighbours end up far apart."""
    factor = int(size * 0.6180339887)
    while math.gcd(factor, size) > 1:
        factor += 1
    return (counter * factor + shift) % size


def spell(numbers: np.ndarray, alphabets: tuple[str, ...]) -> list[str]:
    """Write numbers with the characters each place allows."""
    characters = np.empty((len(numbers), len(alphabets)), "U1")
    for place in reversed(range(len(alphabets))):
        numbers, digit = np.divmod(numbers, len(alphabets[place]))
        characters[:, place] = np.array(list(alphabets[place]))[digit]
    return characters.view(f"U{len(alphabets)}").ravel().tolist()


def make_headers(rng: np.random.Generator, kin: Families, plan: Plan, accessions: list[str]) -> list[str]:
    """Compose the header lines of a block."""
    count = len(accessions)
    taxa = rng.integers(0, len(TAXA), count).tolist()
    # Most clusters have one member, a few have thousands.
    members = np.minimum((1 - rng.random(count)) ** (-1 / 1.1), 20_000).astype(np.int64).tolist()
    kind = rng.random(count).tolist()
    odd = rng.integers(0, len(ODD_NAMES), count).tolist()
    usual = kin.names[plan.family[plan.origin]].tolist()
    fragment = plan.fragment[plan.origin].tolist()
    headers = []
    for k, acc in enumerate(accessions):
        if kind[k] < ODD_NAME_SHARE:
            name = ODD_NAMES[odd[k]]
        else:
            name = PLAIN_NAME if kind[k] < ODD_NAME_SHARE + PLAIN_SHARE else FAMILY_NAMES[usual[k]]
        isoform = acc.partition("-")[2]
        name = f"{f'Isoform {isoform} of ' if isoform else ''}{name}{' (Fragment)' if fragment[k] else ''}"
        taxon, taxid, code = TAXA[taxa[k]]
        # As in UniRef: isoforms and UniParc records have no entry name and stand for themselves.
        entry = acc if isoform or acc.startswith("UPI") else f"{acc}_{code}"
        headers.append(f">UniRef50_{acc} {name} n={members[k]} Tax={taxon} TaxID={taxid} RepID={entry}\n")
    return headers


def fasta_records(headers: list[str], text: str, bounds: np.ndarray, origin: np.ndarray) -> Iterator[str]:
    """Yield a block's records as FASTA, each with its origin's sequence on lines of 60."""
    for header, start, end in zip(headers, bounds[origin].tolist(), bounds[origin + 1].tolist(), strict=True):
        yield header
        for line in range(start, end, LINE):
            yield text[line : min(line + LINE, end)] + "\n"


@contextmanager
def gzip_stream(path: Path) -> Iterator[BinaryIO]:
    """Open a gzip file to be published when the block ends; its header names no file and no time."""
    with (
        atomic_path(path) as temporary,
        open(temporary, "wb") as raw,
        gzip.GzipFile(filename="", mode="wb", compresslevel=LEVEL, fileobj=raw, mtime=0) as stream,
    ):
        yield stream


def release_note(sequences: int) -> str:
    """Text of the release note, in the form of UniRef's."""
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
    """The metalink's element for one file: its name, size and MD5."""
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
    """Text of RELEASE.metalink (Metalink 3.0), with the elements of UniProt's."""
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
