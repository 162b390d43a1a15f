"""Small protein families for the tests of clusters and leakage, and alignments by Biopython to judge them by."""

import itertools
import random
import shutil
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pytest
from Bio import Align
from Bio.Align import substitution_matrices
from embedome.splits import mmseqs as program
from embedome.splits.mmseqs import Mmseqs

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
needs_mmseqs = pytest.mark.skipif(not shutil.which("mmseqs"), reason="MMseqs2 is not installed")


def families(
    count: int, members: int, changed: tuple[float, float], length: int = 120, seed: int = 1
) -> list[tuple[str, str]]:
    """Records `F<family>M<member>` of random ancestors, each with some of its residues drawn again; ids in no order."""
    chance = random.Random(seed)
    records = []
    for family in range(count):
        ancestor = chance.choices(AMINO_ACIDS, k=length)
        for member in range(members):
            rate = chance.uniform(*changed)
            sequence = [chance.choice(AMINO_ACIDS) if chance.random() < rate else letter for letter in ancestor]
            name = f"{chance.getrandbits(24):06x}_F{family}M{member}"
            records.append((name, "".join(sequence)))
    chance.shuffle(records)
    return records


def repetitive_families(count: int, seed: int = 1) -> list[tuple[str, str]]:
    """Records of families that repeat or have few letters, and of ordinary ones.

    Of each kind a number of families: tandem repeats, one letter, a few letters, repeats beside an ordinary stretch,
    and ordinary ones of 30 to 300 residues; named by kind, ids in no order.
    """
    chance = random.Random(seed)

    def residues(least: int, most: int, letters: Sequence[str] = AMINO_ACIDS) -> str:
        return "".join(chance.choices(letters, k=chance.randint(least, most)))

    def repeats(least: int, most: int) -> str:
        return (residues(2, 12) * most)[: chance.randint(least, most)]

    ancestors = {
        "repeats": lambda: repeats(40, 90),
        "few": lambda: residues(30, 120, chance.sample(AMINO_ACIDS, chance.randint(2, 4))),
        "mixed": lambda: residues(30, 80) + repeats(40, 100) + residues(0, 40),
        "short": lambda: residues(30, 60),
        "ordinary": lambda: residues(60, 300),
    }
    records = []
    for kind, ancestor in ancestors.items():
        for _ in range(count):
            first, rate = ancestor(), chance.choice([0.02, 0.1, 0.2, 0.3])
            records += [(kind, changed(chance, first, rate)) for _ in range(4)]
    records += [("letter", letter * chance.randint(20, 60)) for letter in AMINO_ACIDS[:count] for _ in range(3)]
    chance.shuffle(records)
    return [(f"{number:05d}_{kind}", sequence) for number, (kind, sequence) in enumerate(records)]


def changed(chance: random.Random, sequence: str, rate: float) -> str:
    """A sequence with some residues drawn again, and a few of them lost or doubled."""
    copies = {True: (0, 2), False: (1,)}
    return "".join(
        chance.choice(AMINO_ACIDS) if chance.random() < rate else letter * chance.choice(copies[chance.random() < 0.01])
        for letter in sequence
    )


def family(name: str) -> str:
    """The family of an id."""
    return name.split("_F")[1].split("M")[0]


def aligner() -> Align.PairwiseAligner:
    """Local alignment with MMseqs2's scores (BLOSUM62, 11 to open a gap, 1 to extend it)."""
    return Align.PairwiseAligner(
        mode="local",
        substitution_matrix=substitution_matrices.load("BLOSUM62"),
        open_gap_score=-11,
        extend_gap_score=-1,
    )


class Pair(NamedTuple):
    """The best local alignment of two sequences."""

    query: str
    target: str
    identity: float
    """Identical residues by columns."""
    coverage: float
    target_coverage: float
    score: float


def align_all(queries: dict[str, str], targets: dict[str, str]) -> Iterator[Pair]:
    """Align each pair; of equally good alignments the first."""
    align = aligner()
    for (query, one), (target, other) in itertools.product(queries.items(), targets.items()):
        found = align.align(one, other)
        if found.score <= 0:
            continue
        counts = found[0].counts()
        covered = [
            (ends[-1][1] - ends[0][0]) / size
            for ends, size in zip(found[0].aligned, (len(one), len(other)), strict=True)
        ]
        columns = counts.identities + counts.mismatches + counts.gaps
        yield Pair(query, target, counts.identities / columns, *covered, found.score)


def covers(pair: Pair, coverage: float, mode: int) -> bool:
    """Whether an alignment covers so much, by MMseqs2's coverage mode."""
    asked = {0: (pair.coverage, pair.target_coverage), 1: (pair.target_coverage,), 2: (pair.coverage,)}
    return min(asked[mode]) >= coverage


def identities(
    queries: dict[str, str], targets: dict[str, str], coverage: float = 0.8
) -> Iterator[tuple[str, str, float]]:
    """Identity of each pair whose alignment covers so much of both."""
    return (pair[:3] for pair in align_all(queries, targets) if covers(pair, coverage, 0))


def mmseqs(threads: int = 1, memory_mb: int | None = None) -> Mmseqs:
    """MMseqs2 on a number of threads."""
    return Mmseqs(threads, memory_mb)


def record_commands(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The arguments that each module of MMseqs2 is given from now on, the last time that it is run."""
    commands: dict[str, list[str]] = {}
    real = program.run_guarded

    def recorded(command: Sequence[str], output: int) -> int:
        commands[command[1]] = list(command[2:])
        return real(command, output)

    monkeypatch.setattr(program, "run_guarded", recorded)
    return commands


def value_of(arguments: list[str], option: str) -> str | None:
    """What an option is given, if it is there."""
    return arguments[arguments.index(option) + 1] if option in arguments else None
