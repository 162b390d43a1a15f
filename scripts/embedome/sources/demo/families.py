"""Synthetic protein families: random ancestors, and members grown from them by mutation.

Shapes: F families, B records of a block, N residues of a block.
"""

from dataclasses import dataclass

import numpy as np

FAMILY_CHUNK = 4096
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
RESIDUES_PER_INDEL = 40  # residues drawn again per indel
ORDINARY, SHORT, LONG, DUPLICATE = range(4)

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
    rate: np.ndarray  # float64 [B], share of positions drawn again
    fragment: np.ndarray  # bool [B]
    origin: np.ndarray  # int64 [B], the record of the block whose sequence is written: itself, but for duplicates


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
    """Assign the block's share of each kind to records in random order; founders are no duplicates.

    Returns also which record is the first long one of the release, where it is in this block.
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
    """Return how many of the first `records` are of a kind, rounded to the nearest."""
    return (per_mille * records + 500) // 1000


def mutate(rng: np.random.Generator, kin: Families, plan: Plan) -> tuple[str, np.ndarray]:
    """Copy each record's window of its ancestor with changes; return them end to end, and their bounds [B + 1]."""
    owner = np.repeat(np.arange(len(plan.span)), plan.span)  # [N]
    place = np.arange(len(owner)) - np.repeat(np.cumsum(plan.span) - plan.span, plan.span)
    ancestor = plan.family[owner]
    residues = kin.residues[kin.starts[ancestor] + (plan.start[owner] + place) % kin.lengths[ancestor]]
    chosen = np.repeat(np.arange(len(owner)), draw_copies(rng, plan))  # [N], now with indels
    owner, residues = owner[chosen], residues[chosen]
    bounds = np.concatenate(([0], np.cumsum(np.bincount(owner, minlength=len(plan.span)))))
    redrawn = rng.random(len(owner), np.float32) < plan.rate[owner]
    redrawn[bounds[:-1]] = False  # a whole protein keeps its first methionine
    redrawn[1:] |= chosen[1:] == chosen[:-1]  # inserted
    places = np.flatnonzero(redrawn)
    ancestor = plan.family[owner[places]]
    residues[places] = kin.residues[
        kin.starts[ancestor] + (rng.random(len(places)) * kin.lengths[ancestor]).astype(np.int64)
    ]
    odd = np.repeat(np.flatnonzero(rng.random(len(plan.span)) < ODD_SHARE), ODD_PER_RECORD)
    places = bounds[odd] + (rng.random(len(odd)) * (bounds[odd + 1] - bounds[odd])).astype(np.int64)
    residues[places] = rng.choice(np.frombuffer(ODD_RESIDUES, np.uint8), len(odd))
    return residues.tobytes().decode("ascii"), bounds


def draw_copies(rng: np.random.Generator, plan: Plan) -> np.ndarray:
    """Draw how often each residue of the windows is copied: 0 in a deletion, more than 1 at an insertion."""
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
