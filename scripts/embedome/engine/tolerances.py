"""How far vectors may be from those of the Hugging Face class in float32, as docs/models.md states it.

benchmarks/parity.py holds models of full width to it, tests/unit/engine/test_precision.py small ones, and
`embedome bench` the model at hand.
"""

import math
from typing import NamedTuple


class Deviation(NamedTuple):
    """How far vectors are off, before they are rounded to float16."""

    cosine: float
    """The smallest of a pooled vector with the exact one."""
    residues: float
    """The largest difference of an element of a residue's vector. After the final norm elements are about 1."""

    def within(self, bound: "Deviation") -> bool:
        """Whether neither number is beyond that of a tolerance; NaN is."""
        return self.cosine >= bound.cosine and self.residues <= bound.residues


TOLERANCES = {
    "float32": Deviation(0.9999999, 1e-5),
    "bfloat16": Deviation(0.9997, 0.25),
    "float16": Deviation(0.99999, 0.03),
    "int8": Deviation(0.998, 0.6),
}
# Of this many layers. Rounding errors of deeper models add up as random steps do.
LAYERS = 12


def tolerance(dtype: str, layers: int) -> Deviation:
    """How far vectors of a model with a number of layers may be off."""
    cosine, residues = TOLERANCES[dtype]
    depth = max(1.0, layers / LAYERS)
    return Deviation(1 - (1 - cosine) * depth, residues * math.sqrt(depth))
