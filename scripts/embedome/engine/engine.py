"""The embedding engine: sequences in, vectors out, in dense batches of sequences in groups of equal length.

No padding and no mask anywhere: a vector does not depend on what else is in the batch, beyond rounding. Tokenising and
ordering are array operations on the host (layout.py), pooling is one on the device; only finished vectors cross back.
Shapes: n sequences, D dimension.
"""

import logging
import socket
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from embedome.common.errors import UserError
from embedome.common.process import keep_freed_memory
from embedome.common.terms import EMBEDDED, FIRST, MEAN, NON_FINITE, OUT_OF_MEMORY, TOO_LONG, TRUNCATED, WINDOWED
from embedome.engine.batch_layout import BatchLayout, DeviceLayout, Group, lay_out
from embedome.engine.device import TOKEN_BUDGET, HostCopy, free_memory, is_out_of_memory, use_device
from embedome.engine.pooling import PooledVectors, ResidueStates
from embedome.engine.windows import LongPolicy, Sequences
from embedome.models.directory import Model
from embedome.models.encoders.flops import operations
from embedome.models.encoders.int8 import products_are_exact, quantise_linears
from embedome.parquet.vectors import finite_rows

log = logging.getLogger(__name__)


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


@dataclass(frozen=True, slots=True)
class Running:
    """Sequences that a device is through with, or will be soon."""

    layout: BatchLayout
    vectors: Mapping[str, HostCopy]
    """float16 [n, D] by pooling."""
    states: ResidueStates | None
    lost: Collection[int]
    """Sequences of which a piece did not fit the device's memory."""


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
        Of `terms.POOLINGS`.
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
        self.device = use_device(device)
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

    def embed(self, sequences: Sequences) -> Embedded:
        """Embed sequences of one residue or more."""
        return self.finish(self.run(lay_out(sequences, self.tokenizer, self.policy, self.max_residues)))

    @torch.inference_mode()
    def run(self, layout: BatchLayout) -> Running:
        """Run all pieces, longest first. A GPU may still be at work on the last of them afterwards."""
        row = DeviceLayout(layout, self.device)
        pooled = PooledVectors(self.poolings, layout, self.dimension, self.device)
        states = ResidueStates(layout, self.dimension) if self.per_residue else None
        lost: set[int] = set()
        begin = 0
        while begin < len(layout.order):
            end = self.batch_end(layout, begin)
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
                    self.halve_budget(layout.tokens_between(begin, end))
                    continue
                lost.add(int(layout.pieces.owner[layout.order[begin]]))
            begin = end
        return Running(layout, pooled.fetch(), states, lost)

    @torch.inference_mode()
    def finish(self, running: Running) -> Embedded:
        """Wait for what has been run, and say what became of it; in another thread too, while others are run."""
        layout = running.layout
        vectors = {name: each.wait().numpy() for name, each in running.vectors.items()}
        residues = running.states and running.states.finish()
        state, skipped = self.judge(vectors, layout.longer, running.lost, residues)
        tokens = layout.pieces.length + self.tokenizer.n_special
        work = int((self.operations[0] * tokens + self.operations[1] * tokens**2).sum())
        return Embedded(vectors, layout.used.astype(np.int32), state, skipped, work, residues)

    def batch_end(self, layout: BatchLayout, begin: int) -> int:
        """Where the batch ends that begins with a piece: within the token budget, but not before the next piece."""
        room = layout.token_ends[begin] - layout.tokens_between(begin, begin + 1) + self.token_budget
        end = max(begin + 1, int(np.searchsorted(layout.token_ends, room, side="right")))
        if self.device.type in MIXED_LENGTHS:
            return end
        return min(end, int(layout.cuts[np.searchsorted(layout.cuts, begin, side="right")]))

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
        longer: np.ndarray,
        lost: Collection[int],
        residues: list[np.ndarray] | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Say what became of each sequence: `state` and `skipped` of `Embedded`."""
        state = np.full(len(longer), EMBEDDED, "U16")
        state[longer] = {"truncate": TRUNCATED, "window": WINDOWED, "skip": TOO_LONG}[self.policy.name]
        skipped = longer & (self.policy.name == "skip")
        finite = np.all([finite_rows(each) for each in vectors.values()], axis=0)
        if residues is not None:
            finite &= np.fromiter((finite_rows(each).all() for each in residues), bool, len(residues))
        unfit = np.isin(np.arange(len(longer)), list(lost))
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
