"""Accessions and header lines of synthetic UniRef50 records, in UniProt's grammar and with its oddities.

Shapes: F families, B records of a block.
"""

import math

import numpy as np

from embedome.sources.demo.families import FAMILY_NAMES, Families, Plan

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
