"""Random sequences that the benchmarks have in common."""

import numpy as np
from embedome.lengths import uniref50_lengths

RESIDUES = np.frombuffer(b"ACDEFGHIKLMNPQRSTVWY", np.uint8)
# Residues that ESM-1nv and ProtT5nv take: 512 positions without the special tokens.
LONGEST = 510


def random_sequences(count: int) -> list[bytes]:
    """Sequences with the lengths of UniRef50, cut; the same at each call."""
    rng = np.random.default_rng(0)
    lengths = np.minimum(uniref50_lengths().sample(rng, count), LONGEST)
    text = rng.choice(RESIDUES, lengths.sum()).tobytes()
    ends = np.cumsum(lengths).tolist()
    return [text[end - length : end] for end, length in zip(ends, lengths.tolist(), strict=True)]
