"""What an embedding is: the settings that change its numbers, and how a shard is cut into parts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from embedome.common.settings import SectionSettings, from_section
from embedome.common.terms import MEAN
from embedome.embedding.cost import CostModel
from embedome.engine.windows import LongPolicy


@dataclass(frozen=True, slots=True)
class EmbedSettings(SectionSettings):
    """What changes the numbers of an embedding, beside the model.

    Parameters
    ----------
    dtype : str
        ``float32``, ``bfloat16``, ``float16`` or ``int8``.
    long_sequences : str
        ``truncate``, ``window`` or ``skip``.
    overlap : int
        Residues that neighbouring windows share.
    max_residues : int, optional
        Residues beyond which a sequence is long; None for as many as the model's positions hold.
    features : str
        ``encoder`` or ``decoder``: which half of an encoder-decoder.
    layer : int or tuple of int
        As in `engine.Engine`.
    pooling : tuple of str
        Of `terms.POOLINGS`; one vector each, of each layer.
    per_residue : bool
        Write per-residue embeddings too; of one layer only.
    fused : bool
        As in `engine.Engine`.
    structure : bool
        Read structure states, too.
    """

    dtype: str = "float32"
    long_sequences: str = "truncate"
    overlap: int = 0
    max_residues: int | None = None
    features: str = "encoder"
    layer: int | tuple[int, ...] = -1
    pooling: tuple[str, ...] = (MEAN,)
    per_residue: bool = False
    fused: bool = False
    structure: bool = False

    @classmethod
    def from_config(cls, section: Mapping[str, Any]) -> "EmbedSettings":
        """Take the settings from the section ``embed``; whether there are structure states, the source says."""
        return from_section(cls, section, structure=False)

    @property
    def policy(self) -> LongPolicy:
        """What to do with long sequences."""
        return LongPolicy(self.long_sequences, self.overlap, self.max_residues)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers as they are named, one or several."""
        return (self.layer,) if isinstance(self.layer, int) else self.layer


@dataclass(frozen=True, slots=True)
class PartLimits:
    """How much a part holds at most; from configuration alone, so that every run cuts the same parts.

    Parameters
    ----------
    sequences : int
    seconds : float
        Predicted by `cost`.
    cost : CostModel
    """

    sequences: int
    seconds: float
    cost: CostModel

    @classmethod
    def from_config(cls, embed: Mapping[str, Any], cost: Mapping[str, Any]) -> "PartLimits":
        """Take the limits of the configuration's sections ``embed`` and ``cost``."""
        return cls(embed["part_sequences"], embed["part_seconds"], CostModel.from_config(cost))
