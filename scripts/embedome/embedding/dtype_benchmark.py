"""Which arithmetic is the fastest on a device, of those in which a model's vectors stay within the stated tolerance."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embedome.common.errors import UserError
from embedome.embedding.benchmark import bench
from embedome.embedding.deviation import compare_vectors, sample_sequences
from embedome.embedding.length_histogram import Lengths
from embedome.engine.device import free_memory, use_device
from embedome.engine.engine import INT8, Engine, check_dtype
from embedome.engine.tolerances import tolerance
from embedome.models.directory import empty_model, load_model

# What others are compared with comes first.
CANDIDATES = {"cpu": ("float32", "bfloat16", INT8), "cuda": ("float32", "bfloat16", "float16")}


@dataclass(frozen=True, slots=True)
class MeasuredDtype:
    """What was measured in one arithmetic.

    Parameters
    ----------
    dtype : str
    found : dict
        Of `benchmark.bench`.
    token_budget : int
        Of the engine.
    cosine : float
        The smallest of a pooled vector with the one in float32 on this device.
    bound : float
        The least that it may be, as docs/models.md states it, for as many layers as the model has.
    """

    dtype: str
    found: dict[str, Any]
    token_budget: int
    cosine: float
    bound: float

    @property
    def speed(self) -> float:
        """Residues per second, over the distribution of lengths."""
        return self.found["distribution"]["residues_per_second"]

    @property
    def within(self) -> bool:
        """Whether the vectors are within the tolerance; those that are not finite are not."""
        return self.cosine >= self.bound


def bench_dtypes(
    model: str | os.PathLike, device: str, lengths: Lengths, seconds: float, fused: bool = False
) -> tuple[list[MeasuredDtype], dict[str, str]]:
    """Measure a model in each arithmetic of `CANDIDATES`, one after the other; one copy of it is in memory at a time.

    Parameters
    ----------
    model : path
        Model directory.
    device : str
        ``cpu`` or ``cuda``.
    lengths : Lengths
    seconds : float
        About how long to measure each.
    fused : bool
        As in `engine.Engine`.

    Returns
    -------
    list of MeasuredDtype
        float32 first.
    dict of str to str
        Dtypes that the model or the device does not take, and why.

    Raises
    ------
    UserError
        As `directory.load_model` and `engine.Engine`.
    """
    encoder, place = empty_model(model).encoder, use_device(device)
    measured: list[MeasuredDtype] = []
    refused: dict[str, str] = {}
    exact: Mapping[str, np.ndarray] = {}
    for dtype in CANDIDATES[device]:
        try:
            check_dtype(encoder, dtype, place)
        except UserError as error:
            refused[dtype] = str(error)
            continue
        engine = Engine(load_model(model), device=device, dtype=dtype, fused=fused)
        vectors = engine.embed(sample_sequences(engine.max_residues)).vectors
        exact = exact or vectors
        cosine, _ = compare_vectors(exact, vectors)
        bound = tolerance(dtype, encoder.n_layers).cosine
        measured.append(MeasuredDtype(dtype, bench(engine, lengths, seconds), engine.token_budget, cosine, bound))
        del engine
        free_memory()
    return measured, refused


def find_fastest(measured: Sequence[MeasuredDtype]) -> MeasuredDtype:
    """Return the fastest arithmetic whose vectors are within the tolerance.

    Raises
    ------
    UserError
        Where there is none: vectors in float32 are not finite.
    """
    within = [each for each in measured if each.within]
    if not within:
        raise UserError("in no dtype are the model's vectors within the tolerance; are its weights damaged?")
    return max(within, key=lambda each: each.speed)
