"""The embedding engine: sequences in, vectors out, in dense batches of sequences in groups of equal length.

No padding and no mask anywhere: a vector does not depend on what else is in the batch, beyond rounding. Tokenising,
pooling and ordering are array operations on the device; only finished vectors cross to the host.
Shapes: n sequences, p pieces (a sequence, or a window of one), B pieces of a batch, L residues, D dimension.
"""

import logging
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from embedome.cost import operations
from embedome.devices import TOKEN_BUDGET, free_memory, is_out_of_memory, open_device
from embedome.encoders.int8 import products_are_exact, quantise_linears
from embedome.errors import UserError
from embedome.format import EMBEDDED, FIRST, MEAN, TRUNCATED, WINDOWED, finite_rows
from embedome.memory import keep_freed_memory
from embedome.models import Model
from embedome.pieces import LongPolicy, Pieces, Sequences, cut, residue_weights
from embedome.pooling import PooledVectors, ResidueStates

log = logging.getLogger(__name__)

TOO_LONG, NON_FINITE, OUT_OF_MEMORY = "too-long", "non-finite", "out-of-memory"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Linear layers in integers, all else in float32.
INT8 = "int8"
# Where a batch may have groups of several lengths, as parts are small: a tenth faster than one sequence at a time
# (docs/performance.md). On a GPU, whose parts fill batches of one length, it has not been measured.
MIXED_LENGTHS = {"cpu"}


@dataclass(frozen=True, slots=True)
class Embedded:
    """What became of n sequences."""

    vectors: dict[str, np.ndarray]
    """float16 [n, D] by pooling; rows of skipped sequences mean nothing."""
    used: np.ndarray
    """int32 [n], residues that went into the vector."""
    state: np.ndarray
    """str [n], ``embedded``, ``truncated`` or ``windowed``; for a skipped one the reason."""
    skipped: np.ndarray
    """bool [n]"""
    operations: int
    """Floating-point operations it took."""
    residues: list[np.ndarray] | None = None
    """n times float16 [residues used, D], where asked for; of those skipped as too long, none."""


class Group(NamedTuple):
    """Pieces of one length in a batch."""

    pieces: np.ndarray
    """int64 [B]"""
    places: Tensor
    """The same on the device."""
    tokens: Tensor
    """[B, T], special ones among them."""
    weights: Tensor | None
    """float32 [B, L], of residues in a mean."""


@dataclass(frozen=True, slots=True)
class Row:
    """All pieces, longest first, with their tokens back to back."""

    pieces: np.ndarray
    """int64 [p]"""
    places: Tensor
    """The same on the device: for each batch by itself the host would wait until the device is through with it."""
    lengths: np.ndarray
    """int64 [p], residues of each."""
    cuts: np.ndarray
    """int64 [g], where pieces of another length begin, and the end."""
    token_ends: np.ndarray
    """int64 [p], where each one's tokens end."""
    tokens: Tensor
    weights: Tensor | None
    """float32, of residues in a mean."""

    def tokens_between(self, begin: int, end: int) -> int:
        """Tokens of some pieces."""
        return int(self.token_ends[end - 1] - (self.token_ends[begin - 1] if begin else 0))

    def groups(self, begin: int, end: int) -> Iterator[Group]:
        """Some pieces, cut where the length changes."""
        inner = slice(*np.searchsorted(self.cuts, [begin + 1, end]))
        for first, last in pairwise([begin, *self.cuts[inner].tolist(), end]):
            count, stop = last - first, int(self.token_ends[last - 1])
            tokens = self.tokens[stop - self.tokens_between(first, last) : stop].view(count, -1)
            weights = None
            if self.weights is not None:
                length = int(self.lengths[first])
                # Of all pieces up to here, as many special tokens less.
                stop -= last * (tokens.shape[1] - length)
                weights = self.weights[stop - count * length : stop].view(count, length)
            yield Group(self.pieces[first:last], self.places[first:last], tokens, weights)


class Engine:
    """Embeds sequences with one model on one device.

    Parameters
    ----------
    model : Model
        Its encoder is changed: moved to the device, and cut behind the chosen layer.
    device : str
        ``cpu``, on one thread (several processes beat several threads), or ``cuda``.
    dtype : str
        ``float32``, ``bfloat16``, where the architecture admits it ``float16``, or on a CPU ``int8``; pooling is in
        float32 always.
    policy : LongPolicy
    layer : int
        Whose hidden states: 0 the embedding's, k the k-th layer's, -1 the last one's, behind the final norm; as
        `hidden_states` of a Hugging Face model.
    poolings : sequence of str
        Of `format.POOLINGS`.
    per_residue : bool
        Give the hidden states of the residues too.
    attempt : int
        Of a job that failed before: each time batches are half as large, on a GPU.

    Raises
    ------
    UserError
        Where the device is not there, the model has no such layer, first token or is not fit for the dtype, and as
        `LongPolicy.longest`.
    """

    def __init__(
        self,
        model: Model,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        policy: LongPolicy | None = None,
        layer: int = -1,
        poolings: Sequence[str] = (MEAN,),
        per_residue: bool = False,
        attempt: int = 1,
    ) -> None:
        self.policy = policy or LongPolicy()
        self.max_residues = self.policy.longest(model.max_residues)
        self.device = open_device(device)
        if self.device.type == "cpu":
            torch.set_num_threads(1)
            keep_freed_memory()
        check_dtype(model.encoder, dtype, self.device.type)
        if FIRST in poolings and not model.tokenizer.first:
            raise UserError("embed.pooling is 'first', but the model has no token before the residues")
        self.poolings, self.per_residue = tuple(poolings), per_residue
        self.tokenizer = model.tokenizer
        self.dimension: int = model.encoder.dimension
        self.dtype = DTYPES["float32" if dtype == INT8 else dtype]
        self.encoder = cut_layers(model.encoder, layer).to(self.device, self.dtype)
        self.operations = operations(self.encoder)
        if dtype == INT8:
            quantise_linears(self.encoder)
        self.token_budget = token_budget(self.encoder, self.device, attempt)
        # One byte for a token where ids are that small.
        self.table = self.tokenizer.table.astype(np.uint8 if self.tokenizer.size <= 256 else np.int32)

    @torch.inference_mode()
    def embed(self, sequences: Sequences) -> Embedded:
        """Embed sequences of one residue or more."""
        lengths = sequences.lengths
        pieces = cut(sequences, self.policy, self.max_residues)
        used = lengths if self.policy.name == "window" else np.minimum(lengths, self.max_residues)
        pooled = PooledVectors(self.poolings, pieces, self.dimension, self.device)
        states = ResidueStates(sequences, pieces, used, self.dimension) if self.per_residue else None
        lost = self.run(sequences, pieces, pooled, states)
        vectors, residues = pooled.vectors(used), states and states.finish()
        state, skipped = self.judge(vectors, lengths, lost, residues)
        tokens = pieces.length + self.tokenizer.n_special
        work = int((self.operations[0] * tokens + self.operations[1] * tokens**2).sum())
        return Embedded(vectors, used.astype(np.int32), state, skipped, work, residues)

    def run(
        self, sequences: Sequences, pieces: Pieces, pooled: PooledVectors, states: ResidueStates | None
    ) -> set[int]:
        """Run all pieces, longest first; give the sequences of which a piece does not fit the device's memory."""
        row = self.lay_out(sequences, pieces)
        lost: set[int] = set()
        begin = 0
        while begin < len(row.pieces):
            end = self.batch_end(row, begin)
            try:
                self.run_batch(list(row.groups(begin, end)), pooled, states)
                fits = True
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                fits = False
            # Outside the handler, whose exception keeps the batch's tensors alive.
            if not fits:
                free_memory()
                if end - begin > 1:
                    self.halve_budget(row.tokens_between(begin, end))
                    continue
                lost.add(int(pieces.owner[row.pieces[begin]]))
            begin = end
        return lost

    def batch_end(self, row: Row, begin: int) -> int:
        """Where the batch ends that begins with a piece: within the token budget, but not before the next piece."""
        room = row.token_ends[begin] - row.tokens_between(begin, begin + 1) + self.token_budget
        end = max(begin + 1, int(np.searchsorted(row.token_ends, room, side="right")))
        if self.device.type in MIXED_LENGTHS:
            return end
        return min(end, int(row.cuts[np.searchsorted(row.cuts, begin, side="right")]))

    def lay_out(self, sequences: Sequences, pieces: Pieces) -> Row:
        """Put pieces in the order in which they run, longest first: every batch is then a view."""
        order = np.argsort(-pieces.length, kind="stable")
        lengths = pieces.length[order]
        tokenizer, weights = self.tokenizer, residue_weights(sequences, pieces)
        return Row(
            order,
            torch.from_numpy(order).to(self.device),
            lengths,
            np.flatnonzero(np.diff(lengths, append=0)) + 1,
            np.cumsum(lengths + tokenizer.n_special),
            self.gather(self.table[sequences.residues], pieces, order, tokenizer.first, tokenizer.last),
            None if weights is None else self.gather(weights, pieces, order),
        )

    def gather(
        self, values: np.ndarray, pieces: Pieces, order: np.ndarray, first: Sequence[int] = (), last: Sequence[int] = ()
    ) -> Tensor:
        """Put what there is of each residue [R] in the order in which pieces run, back to back, on the device.

        `first` and `last` go around each piece.
        """
        view = memoryview(values)
        around = [np.array(ends, values.dtype).tobytes() for ends in (first, last)]
        starts = pieces.start[order]
        found = bytearray()
        for start, end in zip(starts.tolist(), (starts + pieces.length[order]).tolist(), strict=True):
            found += around[0]
            found += view[start:end]
            found += around[1]
        return torch.from_numpy(np.frombuffer(found, values.dtype)).to(self.device)

    def run_batch(self, groups: Sequence[Group], pooled: PooledVectors, states: ResidueStates | None) -> None:
        """Run pieces, and hand their hidden states on."""
        first, last = len(self.tokenizer.first), len(self.tokenizer.last)
        found = self.encoder.stream([group.tokens.int() for group in groups])
        arriving = []
        for group, hidden in zip(groups, found, strict=True):
            inner = hidden[:, first : hidden.shape[1] - last]
            pooled.add(group.places, hidden, inner, group.weights)
            if states:
                arriving.append(states.fetch(group.pieces, inner, group.weights))
        # Once nothing can run out of memory any more: what is done twice is added up twice.
        if states:
            states.keep(arriving)

    def halve_budget(self, tokens: int) -> None:
        """Remember that a batch of so many tokens did not fit."""
        self.token_budget = max(1, tokens // 2)
        log.warning("out of memory with %d tokens at once; going on with %d", tokens, self.token_budget)

    def judge(
        self,
        vectors: dict[str, np.ndarray],
        lengths: np.ndarray,
        lost: set[int],
        residues: list[np.ndarray] | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Say what became of each sequence: `state` and `skipped` of `Embedded`."""
        longer = lengths > self.max_residues
        state = np.full(len(lengths), EMBEDDED, "U16")
        state[longer] = {"truncate": TRUNCATED, "window": WINDOWED, "skip": TOO_LONG}[self.policy.name]
        skipped = longer & (self.policy.name == "skip")
        finite = np.all([finite_rows(each) for each in vectors.values()], axis=0)
        if residues is not None:
            finite &= np.fromiter((finite_rows(each).all() for each in residues), bool, len(residues))
        unfit = np.isin(np.arange(len(lengths)), list(lost))
        state[~finite & ~skipped] = NON_FINITE
        state[unfit] = OUT_OF_MEMORY
        return state, skipped | ~finite | unfit


def check_dtype(encoder: nn.Module | type[nn.Module], dtype: str, device: str) -> None:
    """Refuse half precision where an encoder's hidden states are known to overflow it, and integers where they would.

    Raises
    ------
    UserError
        For float16 with a T5: its residual stream goes beyond 65,504 (transformers issue 9295). For int8 on a GPU, and
        on a CPU without VNNI.
    """
    if dtype == INT8 and device != "cpu":
        raise UserError("embed.dtype is int8, which is for CPUs; use bfloat16 on a GPU")
    if dtype == INT8 and not products_are_exact():
        raise UserError(
            f"embed.dtype is int8, but {socket.gethostname()}'s processor has no VNNI, without which products of "
            "integers overflow; use bfloat16 or float32, or other nodes"
        )
    if dtype == "float16" and not getattr(encoder, "float16_safe", True):
        raise UserError("embed.dtype is float16, which T5 models overflow; use bfloat16 or float32")


def cut_layers(encoder: nn.Module, layer: int) -> nn.Module:
    """Cut an encoder behind a layer, so that its output is that layer's.

    Raises
    ------
    UserError
        Where there is no such layer.
    """
    count = encoder.n_layers
    if not -count - 1 <= layer <= count:
        raise UserError(f"embed.layer is {layer}; expected 0 (the embedding) to {count} (the last layer, -1 for short)")
    kept = layer % (count + 1)
    if kept < count:
        encoder.layers = encoder.layers[:kept]
        encoder.final_norm = nn.Identity()
    return encoder


def token_budget(encoder: nn.Module, device: torch.device, attempt: int = 1) -> int:
    """Tokens of a batch: on a CPU `TOKEN_BUDGET`; on a GPU what fits its free memory twice, a power of two, no more.

    Each attempt halves a GPU's. A CPU's is for its caches, and its jobs get more memory by attempt: there the same
    batches run, and give the same bytes, whatever was killed before.
    """
    most = TOKEN_BUDGET[device.type]
    if device.type == "cpu":
        return most
    if len(encoder.layers):
        free, _ = torch.cuda.mem_get_info(device)
        # Outputs of a layer's matrices, and about as many copies of the hidden state as a layer has operations.
        widths = sum(module.out_features for module in encoder.layers[0].modules() if isinstance(module, nn.Linear))
        token_bytes = (widths + 8 * encoder.dimension) * next(encoder.parameters()).element_size()
        most = min(most, 1 << max(0, (free // (2 * token_bytes)).bit_length() - 1))
    return max(1, most >> (attempt - 1))
