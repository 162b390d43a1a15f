"""Stores of a few sequences."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from embedome.training.store import Store, write_store

LETTERS = "ACDEFGHIKLMNPQRSTVWY"


def store_of(folder: Path, sequences: Sequence[str], pieces: int = 3) -> Store:
    """A store of these sequences, written in some pieces."""
    cuts = np.linspace(0, len(sequences), pieces + 1).astype(int)
    arrays = [pa.array(sequences[begin:end], pa.large_string()) for begin, end in itertools.pairwise(cuts)]
    return write_store(folder, arrays, {"name": "test"})


def random_sequences(count: int, seed: int = 0, shortest: int = 20, longest: int = 90) -> list[str]:
    """Sequences of residues drawn at random, of random lengths."""
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list(LETTERS), rng.integers(shortest, longest + 1))) for _ in range(count)]
