"""Features of a task's proteins in files, computed once: a matrix of half floats, written block by block.

A killed run goes on after the last block that is on disk; heads read single proteins out of the matrix, so that memory
does not grow with the task.
Shapes: n proteins, N rows (residues that were used, or one for each protein), D dimension.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from embedome.common.atomic_files import sync
from embedome.common.errors import UserError
from embedome.common.json_files import json_sha256, read_json, write_json
from embedome.common.locks import try_lock
from embedome.common.log import Progress
from embedome.engine.windows import LongPolicy, Sequences
from embedome.evaluation.tasks import PROTEIN, RESIDUE

log = logging.getLogger(__name__)

# Of a folder of features: the matrix, rows of each protein, what they are, and how far they have come.
MATRIX, COUNTS, ABOUT, STATE, LOCK = "vectors.f16", "counts.i32", "about.json", "state.json", "lock"
HALF, INT = np.dtype(np.float16), np.dtype(np.int32)
# Residues that are embedded before they are written: 50 MB of 768 dimensions.
BLOCK_RESIDUES = 32_768


class Maker(Protocol):
    """What computes features."""

    @property
    def level(self) -> str:
        """``residue``: of each; ``protein``: one vector."""

    @property
    def dimension(self) -> int:
        """Numbers of a vector."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What they depend on, beside the sequences."""

    def make(self, sequences: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Compute features.

        Returns
        -------
        numpy.ndarray, dtype=float16, shape=(N, D)
        numpy.ndarray, dtype=int32, shape=(n,)
            Residues of each that were used; none of a protein that has no features.
        """


@dataclass(frozen=True, slots=True)
class Features:
    """Features that are on disk.

    Parameters
    ----------
    level : str
    dimension : int
    counts : numpy.ndarray, dtype=int32, shape=(n,)
        Residues of each protein that were used; 0 where it has no features.
    begins : numpy.ndarray, dtype=int64, shape=(n,)
        The row of each protein's first vector.
    matrix : numpy.ndarray, dtype=float16, shape=(N, D)
        Mapped from the file.
    """

    level: str
    dimension: int
    counts: np.ndarray
    begins: np.ndarray
    matrix: np.ndarray

    def of_protein(self, index: int) -> np.ndarray:
        """Return the vectors of a protein's residues, or its one vector, float16 [L, D] or [1, D]."""
        rows = int(self.counts[index]) if self.level == RESIDUE else 1
        begin = int(self.begins[index])
        return self.matrix[begin : begin + rows]


@dataclass(slots=True)
class ModelFeatures:
    """Features of a layer of a model, by the engine.

    Parameters
    ----------
    model : str
        Model directory.
    level : str
    layer : int
        As in `engine.Engine`.
    dtype, device : str
    policy : LongPolicy
    identity : dict
        Of the model and all that changes its numbers.
    dimension : int
    """

    model: str
    level: str
    layer: int
    dtype: str
    device: str
    policy: LongPolicy
    identity: Mapping[str, Any]
    dimension: int
    engine: Any = None

    def make(self, sequences: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Embed sequences; as `Maker.make`."""
        if self.engine is None:
            self.engine = self.load()
        found = self.engine.embed(Sequences.join(list(sequences)))
        counts = np.where(found.skipped, 0, found.used).astype(INT)
        if self.level == PROTEIN:
            [vectors] = found.vectors.values()
            return np.where(found.skipped[:, None], HALF.type(0), vectors), counts
        kept = [states for states, count in zip(found.residues, counts, strict=True) if count]
        return np.concatenate(kept) if kept else np.empty((0, self.dimension), HALF), counts

    def load(self) -> Any:
        """Load the model."""
        from embedome.engine.engine import Engine
        from embedome.models.directory import load_model

        return Engine(
            load_model(self.model),
            device=self.device,
            dtype=self.dtype,
            policy=self.policy,
            layer=self.layer,
            per_residue=self.level == RESIDUE,
        )


def make_features(maker: Maker, sequences: Sequence[bytes], root: Path) -> Features:
    """Compute features, or find them computed; a killed run goes on.

    Parameters
    ----------
    maker : Maker
    sequences : sequence of bytes
    root : Path
        Folder of all features; these get one of their own in it, named by what they depend on.

    Raises
    ------
    UserError
        Where another process computes the same ones, or no protein has any.
    """
    about = describe(maker, sequences)
    folder = root / json_sha256(about)[:16]
    with try_lock(folder / LOCK) as is_held:
        if not is_held:
            raise UserError(f"{folder}: another process is computing these features; wait for it, then run again")
        if not (folder / ABOUT).is_file():
            write_json(folder / ABOUT, about)
        fill(folder, maker, sequences)
    return open_features(folder, maker.level, maker.dimension)


def describe(maker: Maker, sequences: Sequence[bytes]) -> dict[str, Any]:
    """Return what features depend on."""
    return {
        **maker.identity,
        "level": maker.level,
        "dimension": maker.dimension,
        "sequences": len(sequences),
        "sequences_sha256": json_sha256([sequence.decode() for sequence in sequences]),
        "block_residues": BLOCK_RESIDUES,
    }


def fill(folder: Path, maker: Maker, sequences: Sequence[bytes]) -> None:
    """Compute and write what is missing."""
    done, rows = read_state(folder)
    if done == len(sequences):
        log.info("%s: features are there", folder)
        return
    with (
        open(folder / MATRIX, "r+b" if rows else "wb") as matrix,
        open(folder / COUNTS, "r+b" if done else "wb") as counts,
        Progress("features", "residues", sum(map(len, sequences))) as progress,
    ):
        progress.update(sum(map(len, sequences[:done])))
        # What a killed run wrote beyond the last whole block goes.
        matrix.truncate(rows * maker.dimension * HALF.itemsize)
        counts.truncate(done * INT.itemsize)
        matrix.seek(0, os.SEEK_END)
        counts.seek(0, os.SEEK_END)
        for begin, end in blocks(sequences):
            if end <= done:
                continue
            vectors, used = maker.make(sequences[begin:end])
            matrix.write(np.ascontiguousarray(vectors, HALF).tobytes())
            counts.write(np.ascontiguousarray(used, INT).tobytes())
            rows += len(vectors)
            for handle in (matrix, counts):
                handle.flush()
                os.fsync(handle.fileno())
            write_json(folder / STATE, {"sequences": end, "rows": rows})
            progress.update(sum(map(len, sequences[begin:end])))
    sync(folder)


def blocks(sequences: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """Yield where blocks of sequences begin and end, the same ones in each run."""
    begin = residues = 0
    for index, sequence in enumerate(sequences, 1):
        residues += len(sequence)
        if residues >= BLOCK_RESIDUES or index == len(sequences):
            yield begin, index
            begin, residues = index, 0


def read_state(folder: Path) -> tuple[int, int]:
    """Return the sequences and rows that are on disk."""
    path = folder / STATE
    if not path.is_file():
        return 0, 0
    state = read_json(path)
    return state["sequences"], state["rows"]


def open_features(folder: Path, level: str, dimension: int) -> Features:
    """Open features that are whole.

    Raises
    ------
    UserError
        Where no protein has any.
    """
    counts = np.fromfile(folder / COUNTS, INT)
    rows = counts.astype(np.int64) if level == RESIDUE else np.ones(len(counts), np.int64)
    if not counts.any():
        raise UserError(f"{folder}: no protein has features; all are too long for the model, or overflow half floats")
    matrix = np.memmap(folder / MATRIX, HALF, "r").reshape(-1, dimension)
    return Features(level, dimension, counts, np.cumsum(rows) - rows, matrix)
