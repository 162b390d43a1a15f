"""Small tasks in the forms in which the real ones are published."""

import random
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from embedome.evaluation.examples import ExampleSet, Labelling, Row, make_examples
from embedome.evaluation.features import Features

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
COUNTS = {"train": 30, "val": 8, "test": 10}
# What FLIP says of a record's split.
FIELDS = {
    "train": "SET=train VALIDATION=False",
    "val": "SET=train VALIDATION=True",
    "test": "SET=test VALIDATION=False",
}
STRUCTURE = {**dict.fromkeys("AELM", "H"), **dict.fromkeys("VIYF", "E")}


def proteins(counts: Mapping[str, int] = COUNTS, longest: int = 30) -> list[tuple[str, str, str]]:
    """Proteins as (id, split, sequence)."""
    draw = random.Random(1)
    found = []
    for split, count in counts.items():
        for number in range(count):
            length = draw.randint(12, longest)
            found.append((f"{split}{number}", split, "".join(draw.choices(AMINO_ACIDS, k=length))))
    return found


def structure(sequence: str) -> str:
    """A class of each residue, by its kind."""
    return "".join(STRUCTURE.get(letter, "C") for letter in sequence)


def write_flip_pairs(folder: Path, counts: Mapping[str, int] = COUNTS, longest: int = 30) -> Path:
    """FLIP's secondary structure: sequences, labels and mask, each a FASTA file; the first residue does not count."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"sequences": "", "sampled": "", "mask": ""}
    for name, split, sequence in proteins(counts, longest):
        texts["sequences"] += f">{name}\n{sequence}\n"
        texts["sampled"] += f">{name} {FIELDS[split]}\n{structure(sequence)}\n"
        texts["mask"] += f">{name}\n0{'1' * (len(sequence) - 1)}\n"
    for name, text in texts.items():
        (folder / f"{name}.fasta").write_text(text)
    return folder


def write_own_residues(fasta: Path, table: Path, counts: Mapping[str, int] = COUNTS) -> None:
    """A task of one's own: a class of each residue."""
    made = proteins(counts)
    fasta.write_text("".join(f">{name}\n{sequence}\n" for name, _, sequence in made))
    rows = [f"{name}\t{split}\t{structure(sequence)}" for name, split, sequence in made]
    table.write_text("\n".join(["id\tsplit\tresidue_classes", *rows, ""]))


def write_flip_values(path: Path, counts: Mapping[str, int] = COUNTS) -> Path:
    """FLIP's GB1: one FASTA file, the value in the header: the share of tryptophan and leucine."""
    text = ""
    for name, split, sequence in proteins(counts):
        value = sum(sequence.count(letter) for letter in "WL") / len(sequence)
        text += f">{name} TARGET={value:.4f} {FIELDS[split]}\n{sequence}\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def write_zip(path: Path, files: Mapping[str, str]) -> Path:
    """An archive as a Mac makes it."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(f"splits/{name}", text)
            archive.writestr(f"__MACOSX/splits/._{name}", "no text")
    return path


def example_set(labelling: Labelling, seed: int = 0, counts: Mapping[str, int] = COUNTS) -> ExampleSet:
    """Examples whose labels depend on the residues, with a mask."""
    draw = np.random.default_rng(seed)
    rows = []
    for name, split, sequence in proteins(counts):
        target = {
            ("residue", "classes"): structure(sequence),
            ("residue", "labels"): ";".join(
                ("a" if each in "AELM" else "") + ("b" if each in "MVIYF" else "") for each in sequence
            ),
            ("residue", "numbers"): ";".join(str(AMINO_ACIDS.index(each) / 10 - 1) for each in sequence),
            ("protein", "classes"): "xyz"[min(2, sequence.count("W"))],
            ("protein", "labels"): ";".join(name for name, letter in (("p", "W"), ("q", "H")) if letter in sequence),
            ("protein", "numbers"): f"{sequence.count('W') / len(sequence) + 0.5:.4f}",
        }[labelling.level, labelling.kind]
        length = len(sequence) if labelling.level == "residue" else 1
        mask = "1" * length if length == 1 else "".join(draw.choice(["0", "1"], length, p=[0.2, 0.8]))
        rows.append(Row(name, sequence.encode(), split, target, f"made: {name}", mask))
    return make_examples(rows, labelling)


def random_features(examples: ExampleSet, level: str, dimension: int = 8, longest: int = 10**6) -> Features:
    """Features that say what each residue is, through a random table; of proteins their mean."""
    table = np.random.default_rng(0).normal(size=(256, dimension)).astype(np.float16)
    counts = np.minimum(examples.lengths, longest).astype(np.int32)
    parts = [
        table[np.frombuffer(each[:count], np.uint8)] for each, count in zip(examples.sequences, counts, strict=True)
    ]
    if level == "protein":
        parts = [part.mean(0, dtype=np.float32, keepdims=True).astype(np.float16) for part in parts]
    rows = np.array([len(part) for part in parts])
    return Features(level, dimension, counts, np.cumsum(rows) - rows, np.concatenate(parts))
