"""Features of a task's proteins in files, computed once: a matrix of half floats, written block by block.

Several layers are computed in one pass, each into a folder of its own, with the bytes of a run of that layer alone. A
killed run goes on after the last block that is on disk; heads read single proteins out of the matrix, so that memory
does not grow with the task.
Shapes: n proteins, N rows (residues that were used, or one for each protein), D dimension.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import numpy as np

from embedome.common.atomic_files import sync
from embedome.common.errors import UserError
from embedome.common.json_files import json_sha256, read_json, write_json
from embedome.common.locks import hold_lock
from embedome.common.log import Progress
from embedome.common.terms import NON_FINITE
from embedome.engine.windows import LongPolicy, Sequences
from embedome.evaluation.tasks import PROTEIN, RESIDUE
from embedome.parquet.vectors import finite_rows

log = logging.getLogger(__name__)

# Of a folder of features: the matrix, rows of each protein, what they are, and how far they have come.
MATRIX, COUNTS, ABOUT, STATE, LOCK = "vectors.f16", "counts.i32", "about.json", "state.json", "lock"
HALF, INT = np.dtype(np.float16), np.dtype(np.int32)
# Residues that are embedded before they are written: 50 MB of 768 dimensions.
BLOCK_RESIDUES = 32_768
# A block's features of all layers that are computed in one pass: 34 layers of 1,280 dimensions are less.
PASS_BYTES = 3 << 30


class Block(NamedTuple):
    """Features of some proteins."""

    vectors: np.ndarray
    """float16 [N, D]"""
    counts: np.ndarray
    """int32 [n], residues of each protein that were used; none of one that has no features."""


class Maker(Protocol):
    """What computes features, of one layer or of several."""

    @property
    def level(self) -> str:
        """``residue``: of each; ``protein``: one vector."""

    @property
    def dimension(self) -> int:
        """Numbers of a vector."""

    @property
    def identities(self) -> Sequence[Mapping[str, Any]]:
        """What each layer's depend on, beside the sequences."""

    def make(self, sequences: Sequence[bytes], places: Sequence[int]) -> Iterator[Block]:
        """Compute features of the layers at some places of `identities`; yield them in that order."""


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
    sha256 : str
        Of what they depend on.
    """

    level: str
    dimension: int
    counts: np.ndarray
    begins: np.ndarray
    matrix: np.ndarray
    sha256: str = ""

    def of_protein(self, index: int) -> np.ndarray:
        """Return the vectors of a protein's residues, or its one vector, float16 [L, D] or [1, D]."""
        rows = int(self.counts[index]) if self.level == RESIDUE else 1
        begin = int(self.begins[index])
        return self.matrix[begin : begin + rows]


@dataclass(slots=True)
class ModelFeatures:
    """Features of layers of a model, by the engine.

    Parameters
    ----------
    model : str
        Model directory.
    level : str
    layers : tuple of int
        From 0, the embedding's, each once.
    dtype, device : str
    policy : LongPolicy
    identity : dict
        Of the model and all that changes its numbers, but the layer.
    dimension : int
    """

    model: str
    level: str
    layers: tuple[int, ...]
    dtype: str
    device: str
    policy: LongPolicy
    identity: Mapping[str, Any]
    dimension: int
    engine: Any = None

    @property
    def identities(self) -> list[dict[str, Any]]:
        """What each layer's depend on, beside the sequences."""
        return [{**self.identity, "layer": layer} for layer in self.layers]

    def make(self, sequences: Sequence[bytes], places: Sequence[int]) -> Iterator[Block]:
        """Embed sequences in one pass; as `Maker.make`."""
        layers = tuple(self.layers[place] for place in places)
        if self.engine is None or self.engine.layers != layers:
            self.engine = self.load(layers)
        found = self.engine.embed(Sequences.join(list(sequences)))
        for place, vectors in enumerate(found.vectors.values()):
            yield self.of_layer(found, place, vectors)

    def of_layer(self, found: Any, place: int, vectors: np.ndarray) -> Block:
        """Take a layer's features, as if it had been alone, out of what the engine found; vectors are float16 [n, D].

        The engine skips a protein with an overflow in any layer; here only those layers lose it in which it overflows.
        """
        several = len(found.vectors) > 1
        residues = found.residues and [states[:, place] if several else states for states in found.residues]
        skipped = found.skipped.copy()
        for index in np.flatnonzero(found.state == NON_FINITE):
            parts = [vectors[index : index + 1], *([residues[index]] if residues else [])]
            skipped[index] = not all(finite_rows(np.ascontiguousarray(part)).all() for part in parts)
        counts = np.where(skipped, 0, found.used).astype(INT)
        if self.level == PROTEIN:
            return Block(np.where(skipped[:, None], HALF.type(0), vectors), counts)
        kept = [states for states, count in zip(residues, counts, strict=True) if count]
        return Block(np.concatenate(kept) if kept else np.empty((0, self.dimension), HALF), counts)

    def load(self, layers: tuple[int, ...]) -> Any:
        """Load the model, up to the deepest of some layers."""
        from embedome.engine.engine import Engine
        from embedome.models.directory import load_model

        return Engine(
            load_model(self.model),
            device=self.device,
            dtype=self.dtype,
            policy=self.policy,
            layer=layers,
            per_residue=self.level == RESIDUE,
        )


def make_features(maker: Maker, sequences: Sequence[bytes], root: Path) -> list[Features]:
    """Compute features of all layers of a maker, or find them computed; a killed run goes on.

    Layers that are missing are computed in one pass over the sequences, or, of a large model, in a few.

    Parameters
    ----------
    maker : Maker
    sequences : sequence of bytes
    root : Path
        Folder of all features; each layer's get one of their own in it, named by what they depend on.

    Raises
    ------
    UserError
        Where no protein has any.
    """
    abouts = describe(maker, sequences)
    digests = list(map(json_sha256, abouts))
    folders = [root / digest[:16] for digest in digests]
    with ExitStack() as held:
        # In one order, so that no two processes wait for each other.
        for folder in sorted(folders):
            held.enter_context(hold_lock(folder / LOCK))
        for folder, about in zip(folders, abouts, strict=True):
            if not (folder / ABOUT).is_file():
                write_json(folder / ABOUT, about)
        missing = [place for place, folder in enumerate(folders) if read_state(folder)[0] < len(sequences)]
        if len(missing) < len(folders):
            log.info("%s: features of %d of %d are there", root, len(folders) - len(missing), len(folders))
        at_once = layers_at_once(maker)
        for begin in range(0, len(missing), at_once):
            fill(folders, missing[begin : begin + at_once], maker, sequences)
    return [open_features(folder, maker, digest) for folder, digest in zip(folders, digests, strict=True)]


def layers_at_once(maker: Maker) -> int:
    """Return the layers that are computed in one pass: as many as fit `PASS_BYTES`."""
    if maker.level == PROTEIN:
        return len(maker.identities)
    return max(1, PASS_BYTES // (BLOCK_RESIDUES * maker.dimension * HALF.itemsize))


def describe(maker: Maker, sequences: Sequence[bytes]) -> list[dict[str, Any]]:
    """Return what each layer's features depend on."""
    others = {
        "level": maker.level,
        "dimension": maker.dimension,
        "sequences": len(sequences),
        "sequences_sha256": json_sha256([sequence.decode() for sequence in sequences]),
        "block_residues": BLOCK_RESIDUES,
    }
    return [{**identity, **others} for identity in maker.identities]


@dataclass(slots=True)
class LayerFiles:
    """A layer's files, to which blocks are added.

    Parameters
    ----------
    folder : Path
    matrix, counts : file
        Open for writing, after the last whole block.
    done, rows : int
        Proteins and rows that are on disk.
    """

    folder: Path
    matrix: IO[bytes]
    counts: IO[bytes]
    done: int
    rows: int

    def add(self, block: Block, end: int) -> None:
        """Write the features of the proteins before `end` that are not on disk."""
        self.matrix.write(np.ascontiguousarray(block.vectors, HALF).tobytes())
        self.counts.write(np.ascontiguousarray(block.counts, INT).tobytes())
        for handle in (self.matrix, self.counts):
            handle.flush()
            os.fsync(handle.fileno())
        self.done, self.rows = end, self.rows + len(block.vectors)
        write_json(self.folder / STATE, {"sequences": self.done, "rows": self.rows})


@contextmanager
def open_layer(folder: Path, dimension: int) -> Iterator[LayerFiles]:
    """Open a layer's files; what a killed run wrote beyond the last whole block goes."""
    done, rows = read_state(folder)
    with (
        open(folder / MATRIX, "r+b" if rows else "wb") as matrix,
        open(folder / COUNTS, "r+b" if done else "wb") as counts,
    ):
        matrix.truncate(rows * dimension * HALF.itemsize)
        counts.truncate(done * INT.itemsize)
        matrix.seek(0, os.SEEK_END)
        counts.seek(0, os.SEEK_END)
        yield LayerFiles(folder, matrix, counts, done, rows)


def fill(folders: Sequence[Path], places: Sequence[int], maker: Maker, sequences: Sequence[bytes]) -> None:
    """Compute and write what is missing of the layers at some places, in one pass."""
    with ExitStack() as stack, Progress("features", "residues", sum(map(len, sequences))) as progress:
        layers = [stack.enter_context(open_layer(folders[place], maker.dimension)) for place in places]
        for begin, end in blocks(sequences):
            # A layer may be ahead: of a run that was killed, or that asked for it alone.
            if any(layer.done < end for layer in layers):
                for layer, block in zip(layers, maker.make(sequences[begin:end], places), strict=True):
                    if layer.done < end:
                        layer.add(block, end)
            progress.update(sum(map(len, sequences[begin:end])))
    for place in places:
        sync(folders[place])


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


def open_features(folder: Path, maker: Maker, digest: str) -> Features:
    """Open features that are whole, and depend on what has a digest.

    Raises
    ------
    UserError
        Where no protein has any.
    """
    counts = np.fromfile(folder / COUNTS, INT)
    rows = counts.astype(np.int64) if maker.level == RESIDUE else np.ones(len(counts), np.int64)
    if not counts.any():
        raise UserError(f"{folder}: no protein has features; all are too long for the model, or overflow half floats")
    matrix = np.memmap(folder / MATRIX, HALF, "r").reshape(-1, maker.dimension)
    return Features(maker.level, maker.dimension, counts, np.cumsum(rows) - rows, matrix, digest)
