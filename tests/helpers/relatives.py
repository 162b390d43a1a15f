"""Small protein families for the tests of clusters and leakage, and alignments by Biopython to judge them by."""

import random
import shutil
from collections.abc import Iterator, Sequence

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
    """Records `F<family>M<member>` of random ancestors, each with some of its residues drawn anew; ids in no order."""
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


def identities(
    queries: dict[str, str], targets: dict[str, str], coverage: float = 0.8
) -> Iterator[tuple[str, str, float]]:
    """Identity of each pair whose alignment covers so much of both: identical residues by columns."""
    align = aligner()
    for query, one in queries.items():
        for target, other in targets.items():
            best = align.align(one, other)[0]
            counts = best.counts()
            columns = counts.identities + counts.mismatches + counts.gaps
            covered = [
                (ends[-1][1] - ends[0][0]) / size
                for ends, size in zip(best.aligned, (len(one), len(other)), strict=True)
            ]
            if min(covered) >= coverage:
                yield query, target, counts.identities / columns


def mmseqs(threads: int = 1, memory_mb: int | None = None) -> Mmseqs:
    """MMseqs2 on so many threads."""
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
