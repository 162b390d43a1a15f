"""How far vectors in one arithmetic are from those in another, on some random sequences."""

from collections.abc import Mapping

import numpy as np

from embedome.engine.windows import Sequences
from embedome.models.tokenizer import STANDARD


def sample_sequences(longest: int, *, structure: bool = False) -> Sequences:
    """Return the sequences to compare on, the same ones every time; none has more residues than `longest`.

    With `structure` they have structure states.
    """
    chance, residues = np.random.default_rng(0), np.frombuffer(STANDARD.encode(), np.uint8)
    lengths = np.minimum(np.arange(8, 72, 4), longest).tolist()
    sequences = [chance.choice(residues, length).tobytes() for length in lengths]
    # The letters of states are those of residues.
    states = [chance.choice(residues, length).tobytes() for length in lengths] if structure else None
    return Sequences.join(sequences, states)


def compare_vectors(exact: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> tuple[float, float]:
    """Compare pooled vectors with exact ones.

    Parameters
    ----------
    exact, found : mapping of str to numpy.ndarray, shape=(n, D)
        By name, as in `engine.Embedded`.

    Returns
    -------
    tuple of float
        The smallest cosine, and the largest difference of an element; NaN where a vector is not finite.
    """
    cosines, differences = [], []
    for name, vectors in exact.items():
        one, other = vectors.astype(np.float64), found[name].astype(np.float64)
        with np.errstate(invalid="ignore"):
            norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
            cosines.append((one * other).sum(1) / norms)
            differences.append(np.abs(one - other))
    return float(np.min(cosines)), float(np.max(differences))
