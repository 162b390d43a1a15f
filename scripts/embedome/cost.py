"""Predicted device time of a sequence: linear in its length for the layers, quadratic for attention."""

from dataclasses import dataclass

import numpy as np

PICOSECONDS = 1e12


@dataclass(frozen=True, slots=True)
class CostModel:
    """Predicted seconds of a sequence of L residues: ``linear * L + quadratic * L**2``.

    Parameters
    ----------
    linear : float
        Seconds per residue.
    quadratic : float
        Seconds per residue squared.
    longest : int, optional
        Residues above which a sequence costs no more, as it is truncated or skipped.
    """

    linear: float
    quadratic: float
    longest: int | None = None

    def picoseconds(self, lengths: np.ndarray) -> np.ndarray:
        """Cost of each length as whole picoseconds.

        Integers add up to the same on every machine, and 10^18 of them, ten days, fit in 64 bits.

        Parameters
        ----------
        lengths : numpy.ndarray, shape=(n,)
            Residues.

        Returns
        -------
        numpy.ndarray, dtype=int64, shape=(n,)
        """
        used = np.minimum(lengths, self.longest) if self.longest else lengths
        used = used.astype(np.float64)
        return (used * (self.linear * PICOSECONDS) + used * used * (self.quadratic * PICOSECONDS)).astype(np.int64)
