"""Predicted device time of a sequence: linear in its length for the layers, quadratic for attention."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedome.common.settings import SectionSettings
from embedome.engine.windows import NO_LIMIT, LongPolicy
from embedome.models.encoders.flops import operations

if TYPE_CHECKING:
    from embedome.models.encoders.grouped import StreamEncoder

PICOSECONDS = 1e12
# 53 days: costs are added up as 64-bit numbers of picoseconds, and must not run over.
MAX_TOTAL_PICOSECONDS = 2**62
# A guess of the floating-point operations per second that a device sustains, where nothing was measured: one CPU
# core in float32, and a data centre's GPU in bfloat16.
SUSTAINED_FLOPS = {"cpu": 5e10, "cuda": 4e14}


@dataclass(frozen=True, slots=True)
class CostModel(SectionSettings):
    """Predicted seconds of a sequence of L residues: ``linear * L + quadratic * L**2``.

    Parameters
    ----------
    linear : float
        Seconds per residue.
    quadratic : float
        Seconds per residue squared.
    longest : int, optional
        Residues above which a sequence costs no more, as it is truncated or skipped; None for no limit.
    """

    linear: float
    quadratic: float
    longest: int | None = None

    def picoseconds(self, lengths: np.ndarray) -> np.ndarray:
        """Return the cost of each length as whole picoseconds.

        Integers add up to the same on every machine. They are 1 to `MAX_TOTAL_PICOSECONDS`.

        Parameters
        ----------
        lengths : numpy.ndarray, shape=(n,)
            Residues; integers of any type.

        Returns
        -------
        numpy.ndarray, dtype=int64, shape=(n,)
        """
        # In floating point before they are compared: a catalog's lengths are of fewer bits than `longest` may need.
        used = np.minimum(lengths.astype(np.float64), self.longest or np.inf)
        costs = used * (self.linear * PICOSECONDS) + used * used * (self.quadratic * PICOSECONDS)
        return np.clip(costs, 1, MAX_TOTAL_PICOSECONDS).astype(np.int64)


def longest_costed(policy: LongPolicy, most: int | None) -> int | None:
    """Return the `longest` of a cost: None where no limit applies, as positions have no end or windows take the rest.

    Parameters
    ----------
    policy : LongPolicy
    most : int, optional
        As in `LongPolicy.longest`; see there for exceptions.
    """
    longest = policy.longest(most)
    return None if policy.name == "window" or longest == NO_LIMIT else longest


def estimate_cost(encoder: "StreamEncoder", longest: int | None, flops: float) -> CostModel:
    """Return the cost model of an encoder, from its size.

    Parameters
    ----------
    encoder : StreamEncoder
    longest : int, optional
        As in `CostModel`.
    flops : float
        Floating-point operations per second that the device sustains.
    """
    linear, quadratic = operations(encoder)
    return CostModel(linear / flops, quadratic / flops, longest)
