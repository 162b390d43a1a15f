"""The embedding engine: sequences in, one vector each out, in dense batches of equal length.

No padding and no mask anywhere: a vector does not depend on what else is in the batch, beyond rounding.
Shapes: n sequences, p pieces (a sequence, or a window of one), B pieces of a batch, L residues, D dimension.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from embedome.errors import UserError
from embedome.format import EMBEDDED, TRUNCATED, WINDOWED
from embedome.models import Model

TOO_LONG, NON_FINITE = "too-long", "non-finite"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Tokens of a batch. On a CPU larger ones fall out of the caches (2-4 k measured best).
TOKEN_BUDGET = {"cpu": 4096, "cuda": 65536}
# Residues that fit a model without a longest sequence: any number.
NO_LIMIT = int(np.iinfo(np.int64).max)


@dataclass(frozen=True, slots=True)
class Sequences:
    """Sequences as one array: residues back to back.

    Parameters
    ----------
    residues : numpy.ndarray, dtype=uint8
        ASCII residues of all sequences.
    offsets : numpy.ndarray, dtype=int64, shape=(n + 1,)
        Where each sequence begins, and the end of the last.
    """

    residues: np.ndarray
    offsets: np.ndarray

    @classmethod
    def join(cls, sequences: list[bytes]) -> "Sequences":
        """Join byte strings."""
        lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
        return cls(np.frombuffer(b"".join(sequences), np.uint8), np.concatenate([[0], np.cumsum(lengths)]))

    @property
    def lengths(self) -> np.ndarray:
        """Residues of each sequence, int64 [n]."""
        return np.diff(self.offsets)


@dataclass(frozen=True, slots=True)
class Embedded:
    """What became of n sequences."""

    vectors: np.ndarray
    """float16 [n, D], mean over the residues used; rows of skipped sequences mean nothing."""
    used: np.ndarray
    """int32 [n], residues that went into the vector."""
    state: np.ndarray
    """str [n], ``embedded``, ``truncated`` or ``windowed``; for a skipped one the reason."""
    skipped: np.ndarray
    """bool [n]"""


@dataclass(frozen=True, slots=True)
class LongPolicy:
    """What to do with a long sequence.

    Parameters
    ----------
    name : str
        ``truncate``: its first residues; ``window``: overlapping windows, averaged residue by residue; ``skip``.
    overlap : int
        Residues that neighbouring windows share.
    max_residues : int, optional
        Residues beyond which a sequence is long, and of a window; None for as many as the model's positions hold,
        which is any number where positions are relative.
    """

    name: str = "truncate"
    overlap: int = 0
    max_residues: int | None = None

    def longest(self, model: Model) -> int:
        """Residues that run through the model at once.

        Raises
        ------
        UserError
            Where more are asked for than the model's positions hold, or windows overlap by their whole length.
        """
        held = NO_LIMIT if model.max_residues is None else model.max_residues
        longest = held if self.max_residues is None else self.max_residues
        if not 0 < longest <= held:
            raise UserError(f"embed.max_residues is {longest}; expected 1 to {held}, which the model's positions hold")
        if self.name == "window" and not 0 <= self.overlap < longest:
            bound = "" if longest == NO_LIMIT else f", and less than the {longest} residues of a window"
            raise UserError(f"embed.overlap is {self.overlap}; expected 0 or more{bound}")
        return longest


@dataclass(frozen=True, slots=True)
class Pieces:
    """Stretches of residues that run through the model as they are.

    `start` and `length` are residues, int64 [p]; `owner` is the index of the sequence, int64 [p].
    """

    start: np.ndarray
    length: np.ndarray
    owner: np.ndarray


class Engine:
    """Embeds sequences with one model on one device.

    Parameters
    ----------
    model : Model
    device : str
        ``cpu``, on one thread (several processes beat several threads), or ``cuda``.
    dtype : str
        ``float32`` or ``bfloat16``; pooling is in float32 always.
    policy : LongPolicy

    Raises
    ------
    UserError
        Where the device is not there, and as `LongPolicy.longest`.
    """

    def __init__(
        self, model: Model, *, device: str = "cpu", dtype: str = "float32", policy: LongPolicy | None = None
    ) -> None:
        self.policy = policy or LongPolicy()
        self.max_residues = self.policy.longest(model)
        self.device = torch.device(check_device(device))
        if self.device.type == "cpu":
            torch.set_num_threads(1)
        self.tokenizer = model.tokenizer
        self.dimension: int = model.encoder.dimension
        self.encoder = model.encoder.to(self.device, DTYPES[dtype])
        self.token_budget = TOKEN_BUDGET[self.device.type]

    @torch.inference_mode()
    def embed(self, sequences: Sequences) -> Embedded:
        """Embed sequences of one residue or more."""
        lengths = sequences.lengths
        pieces = self.cut(sequences)
        weights = self.residue_weights(sequences, pieces)
        sums = torch.zeros(len(lengths), self.dimension)
        for batch in batches(pieces, self.token_budget, self.tokenizer.n_special):
            index = pieces.start[batch][:, None] + np.arange(pieces.length[batch[0]])  # [B, L]
            pooled = self.pool(sequences.residues[index], None if weights is None else weights[index])
            sums.index_add_(0, torch.from_numpy(pieces.owner[batch]), pooled)
        used = lengths if self.policy.name == "window" else np.minimum(lengths, self.max_residues)
        with np.errstate(over="ignore", invalid="ignore"):  # `judge` tells of these
            vectors = (sums.numpy() / np.maximum(used, 1)[:, None]).astype(np.float16)
        return self.judge(vectors, lengths, used)

    def pool(self, residues: np.ndarray, weights: np.ndarray | None) -> torch.Tensor:
        """Run a batch of residues [B, L] and sum hidden states over residues, weighted; float32 [B, D]."""
        tokens = torch.from_numpy(self.tokenizer.tokens(residues)).to(self.device)
        first = len(self.tokenizer.first)
        hidden = self.encoder(tokens)[:, first : first + residues.shape[1]].float()
        if weights is None:
            return hidden.sum(1).cpu()
        return torch.einsum("bld,bl->bd", hidden, torch.from_numpy(weights).to(self.device)).cpu()

    def cut(self, sequences: Sequences) -> Pieces:
        """Cut sequences into pieces that fit the model's positions, as the policy says."""
        starts, lengths = sequences.offsets[:-1], sequences.lengths
        owners = np.arange(len(lengths))
        longer = lengths > self.max_residues
        if self.policy.name == "truncate" or not longer.any():
            return Pieces(starts, np.minimum(lengths, self.max_residues), owners)
        pieces = [Pieces(starts[~longer], lengths[~longer], owners[~longer])]
        if self.policy.name == "window":
            for owner in owners[longer]:
                windows = starts[owner] + window_starts(int(lengths[owner]), self.max_residues, self.policy.overlap)
                pieces.append(Pieces(windows, np.full(len(windows), self.max_residues), np.full(len(windows), owner)))
        return Pieces(*(np.concatenate([getattr(piece, name) for piece in pieces]) for name in Pieces.__slots__))

    def residue_weights(self, sequences: Sequences, pieces: Pieces) -> np.ndarray | None:
        """One over the number of windows that cover each residue, float32; None where no window overlaps."""
        if self.policy.name != "window" or not (sequences.lengths > self.max_residues).any():
            return None
        steps = np.zeros(len(sequences.residues) + 1, np.int32)
        np.add.at(steps, pieces.start, 1)
        np.add.at(steps, pieces.start + pieces.length, -1)
        return (1 / np.cumsum(steps[:-1])).astype(np.float32)

    def judge(self, vectors: np.ndarray, lengths: np.ndarray, used: np.ndarray) -> Embedded:
        """Say what became of each sequence."""
        longer = lengths > self.max_residues
        state = np.full(len(lengths), EMBEDDED, "U16")
        state[longer] = {"truncate": TRUNCATED, "window": WINDOWED, "skip": TOO_LONG}[self.policy.name]
        skipped = longer & (self.policy.name == "skip")
        broken = ~np.isfinite(vectors).all(1) & ~skipped
        state[broken] = NON_FINITE
        return Embedded(vectors, used.astype(np.int32), state, skipped | broken)


def check_device(device: str) -> str:
    """Check that a device is there, rather than run on another one.

    Raises
    ------
    UserError
        Says what torch sees.
    """
    if device == "cuda" and not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for the CPU only"
        raise UserError(f"a GPU was asked for, but torch {torch.__version__} ({built}) sees none on this machine")
    return device


def window_starts(length: int, window: int, overlap: int) -> np.ndarray:
    """Where the windows over a sequence begin: at a fixed stride, the last one flush with the end.

    Examples
    --------
    >>> window_starts(25, 10, 2)
    array([ 0,  8, 15])
    """
    stride = window - overlap
    count = 1 + -(-(length - window) // stride)
    return np.minimum(np.arange(count) * stride, length - window)


def batches(pieces: Pieces, token_budget: int, n_special: int) -> Iterator[np.ndarray]:
    """Yield indices of pieces of one length, as many as fit the token budget, at least one."""
    order = np.argsort(pieces.length, kind="stable")
    ends = np.flatnonzero(np.diff(pieces.length[order])) + 1
    for group in np.split(order, ends) if len(order) else []:
        size = max(1, token_budget // int(pieces.length[group[0]] + n_special))
        for start in range(0, len(group), size):
            yield group[start : start + size]
