"""The embedding engine: sequences in, vectors out, in dense batches of sequences in groups of equal length.

No padding and no mask anywhere: a vector does not depend on what else is in the batch, beyond rounding. Tokenising and
ordering are array operations on the host (batch_layout.py), pooling is one on the device; only finished vectors cross
back.
Shapes: n sequences, D dimension.
"""

import logging
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from embedome.common.errors import UserError, first_line
from embedome.common.process import keep_freed_memory
from embedome.common.terms import EMBEDDED, FIRST, MEAN, NON_FINITE, OUT_OF_MEMORY, TOO_LONG, TRUNCATED, WINDOWED
from embedome.engine.batch_layout import BatchLayout, DeviceLayout, Group, lay_out
from embedome.engine.device import (
    TOKEN_BUDGET,
    HostCopy,
    computes_bfloat16,
    free_memory,
    is_out_of_memory,
    unused_memory,
    use_device,
)
from embedome.engine.encoder_pass import EncoderPass
from embedome.engine.pooling import Fetched, PooledVectors, ResidueStates
from embedome.engine.windows import LongPolicy, Sequences
from embedome.models.directory import Model
from embedome.models.encoders.flops import operations
from embedome.models.encoders.fused import fuse_passes
from embedome.models.encoders.grouped import StreamEncoder
from embedome.models.encoders.int8 import products_are_exact, quantise_linears
from embedome.parquet.vectors import finite_rows

log = logging.getLogger(__name__)


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Linear layers in integers, all else in float32.
INT8 = "int8"
# Tokens of one length that are a batch by themselves. Fewer are run together with those of other lengths: a GPU would
# wait for the host at every layer, and a CPU's products, whose batches are never that large, would be too small.
LONE_GROUP_TOKENS = 8192
# Of a batch of several lengths, what its groups may hold beside their tokens, such as T5's biases.
GROUP_BYTES = 1 << 30
# What fused passes are tried on, and the least cosine of hidden states with those before, in bfloat16 too.
FEW_TOKENS, LEAST_COSINE = 32, 0.99
# Pieces of a batch: kernels of attention number them along a dimension of the grid, which CUDA limits to this.
MOST_PIECES = 65535


@dataclass(frozen=True, slots=True)
class Embedded:
    """What became of n sequences."""

    vectors: dict[str, np.ndarray]
    """float16 [n, D] by name, see `terms.vector_names`; rows of skipped sequences mean nothing."""
    used: np.ndarray
    """int32 [n], residues that went into the vector."""
    state: np.ndarray
    """str [n], ``embedded``, ``truncated`` or ``windowed``; for a skipped one the reason."""
    skipped: np.ndarray
    """bool [n]"""
    operations: int
    """Floating-point operations it took."""
    residues: list[np.ndarray] | None = None
    """n times float16 [residues used, D], where asked for, of several layers [residues used, layers, D]; of those
    skipped as too long, none."""


@dataclass(frozen=True, slots=True)
class Running:
    """Sequences that a device has run, or will have soon."""

    layout: BatchLayout
    vectors: Mapping[str, HostCopy]
    """float16 [n, D] by name."""
    states: ResidueStates | None
    lost: Collection[int]
    """Sequences of which a window did not fit the device's memory."""


class Engine:
    """Embeds sequences with one model on one device.

    Parameters
    ----------
    model : Model
        Its encoder is changed: moved to the device, and cut after the deepest of the chosen layers.
    device : str
        ``cpu``, on one thread (several processes beat several threads), or ``cuda``.
    dtype : str
        ``float32``, ``bfloat16``, where the architecture admits it ``float16``, or on a CPU ``int8``; pooling is in
        float32 always.
    policy : LongPolicy
    layer : int or sequence of int
        Whose hidden states: 0 the embedding's, k the k-th layer's, -1 the last one's, after the final norm; as
        `hidden_states` of a Hugging Face model. Of several layers, one pass takes them all.
    poolings : sequence of str
        Of `terms.POOLINGS`.
    per_residue : bool
        Return the hidden states of the residues too.
    fused : bool
        On a GPU, pass over hidden states less often, see `models.encoders.fused`.
    attempt : int
        Of a job that failed before: each time batches are half as large, on a GPU.

    Raises
    ------
    UserError
        Where the device is missing, the model has no first token, or is not fit for the dtype; and as
        `LongPolicy.longest` and `encoder_pass.number_layers`.
    """

    def __init__(
        self,
        model: Model,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        policy: LongPolicy | None = None,
        layer: int | Sequence[int] = -1,
        poolings: Sequence[str] = (MEAN,),
        per_residue: bool = False,
        fused: bool = False,
        attempt: int = 1,
    ) -> None:
        self.policy = policy or LongPolicy()
        self.max_residues = self.policy.longest(model.max_residues)
        self.device = use_device(device)
        if self.device.type == "cpu":
            torch.set_num_threads(1)
            keep_freed_memory()
        check_dtype(model.encoder, dtype, self.device)
        if FIRST in poolings and not model.tokenizer.first:
            raise UserError("embed.pooling is 'first', but the model has no token before the residues")
        self.poolings, self.per_residue = tuple(poolings), per_residue
        self.tokenizer = model.tokenizer
        self.dimension = model.encoder.dimension
        self.dtype = DTYPES["float32" if dtype == INT8 else dtype]
        self.encoder_pass = EncoderPass(model.encoder, [layer] if isinstance(layer, int) else layer)
        self.layers = self.encoder_pass.layers
        self.encoder = self.encoder_pass.encoder.to(self.device, self.dtype)
        self.operations = operations(self.encoder)
        if dtype == INT8:
            quantise_linears(self.encoder)
        self.token_budget = token_budget(self.encoder, self.device, attempt, len(self.layers) if per_residue else 1)
        if fused:
            self.fuse()

    @torch.inference_mode()
    def fuse(self) -> None:
        """Fuse the encoder's passes, and compare its hidden states of a few tokens before and after.

        Raises
        ------
        UserError
            On a CPU, and where torch cannot compile, or what it compiles computes other hidden states.
        """
        if self.device.type != "cuda":
            raise UserError("embed.fused is true, which is for GPUs; set it to false")
        tokens = torch.full((2, FEW_TOKENS), int(self.tokenizer.table[ord("A")]), dtype=torch.int32, device=self.device)
        before = self.encoder(tokens)
        fuse_passes(self.encoder)
        try:
            after = self.encoder(tokens)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise UserError(
                f"embed.fused is true, but torch cannot compile on {socket.gethostname()} ({first_line(error)}); "
                "install a C compiler, or set it to false"
            ) from None
        check_close(before, after)

    def embed(self, sequences: Sequences) -> Embedded:
        """Embed sequences of one residue or more."""
        return self.finish(self.run(lay_out(sequences, self.tokenizer, self.policy, self.max_residues)))

    @torch.inference_mode()
    def run(self, layout: BatchLayout, reach: Callable[[float], None] = lambda fraction: None) -> Running:
        """Run all windows, longest first. A GPU may still be at work on the last of them afterwards.

        After each batch `reach` is called with the fraction of tokens that have been run.
        """
        row = DeviceLayout(layout, self.device)
        pooled = PooledVectors(self.layers, self.poolings, layout, self.dimension, self.device)
        states = ResidueStates(layout, self.dimension, self.layers) if self.per_residue else None
        lost: set[int] = set()
        budget, begin = self.token_budget, 0
        while begin < len(layout.order):
            end = self.batch_end(layout, begin, budget)
            try:
                arriving, fits = self.run_batch(list(row.groups(begin, end)), pooled, states), True
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                arriving, fits = [], False
            # Outside the handler, whose exception keeps the batch's tensors alive.
            if fits:
                # Only after the whole batch has succeeded: a retried one would otherwise be added up twice.
                if states is not None:
                    states.keep(arriving)
            else:
                free_memory()
                if end - begin > 1:
                    # For the rest of these sequences: the next ones may be shorter.
                    tokens = layout.tokens_between(begin, end)
                    budget = max(1, tokens // 2)
                    log.warning("out of memory with %d tokens at once; going on with %d", tokens, budget)
                    continue
                lost.add(int(layout.windows.owner[layout.order[begin]]))
            begin = end
            reach(layout.tokens_between(0, end) / layout.tokens_between(0, len(layout.order)))
        return Running(layout, pooled.fetch(), states, lost)

    @torch.inference_mode()
    def finish(self, running: Running) -> Embedded:
        """Wait for what has been run, and say what became of it; in another thread too, while others are run."""
        layout = running.layout
        vectors = {name: each.wait().numpy() for name, each in running.vectors.items()}
        residues = None if running.states is None else running.states.finish()
        state, skipped = self.classify(vectors, layout.longer, running.lost, residues)
        tokens = layout.windows.length + self.tokenizer.n_special
        work = int((self.operations[0] * tokens + self.operations[1] * tokens**2).sum())
        return Embedded(vectors, layout.used.astype(np.int32), state, skipped, work, residues)

    def batch_end(self, layout: BatchLayout, begin: int, budget: int) -> int:
        """Return where the batch ends that begins with a window: within the token budget, but not before the next one.

        A large group is alone. A small one takes others with it, as long as what they hold by group is bounded.
        """
        room = layout.token_ends[begin] - layout.tokens_between(begin, begin + 1) + budget
        end = max(begin + 1, int(np.searchsorted(layout.token_ends, room, side="right")))
        end = min(end, begin + MOST_PIECES)
        cut = int(np.searchsorted(layout.cuts, begin, side="right"))
        group_end, held = int(layout.cuts[cut]), self.group_bytes(layout, begin)
        if layout.tokens_between(begin, min(end, group_end)) >= LONE_GROUP_TOKENS:
            return min(end, group_end)
        while group_end < end and (held := held + self.group_bytes(layout, group_end)) <= GROUP_BYTES:
            cut += 1
            group_end = int(layout.cuts[cut])
        return min(end, group_end)

    def group_bytes(self, layout: BatchLayout, window: int) -> int:
        """Return the bytes that the group of a window holds beside its tokens."""
        return self.encoder.group_bytes(int(layout.lengths[window]) + self.tokenizer.n_special)

    def run_batch(self, groups: Sequence[Group], pooled: PooledVectors, states: ResidueStates | None) -> list[Fetched]:
        """Run windows, and pool their hidden states; return those of residues, where asked for, as they are fetched."""
        first, last = len(self.tokenizer.first), len(self.tokenizer.last)
        fetched: list[Fetched] = []

        def take(layer: int, found: list[Tensor]) -> None:
            residues = [hidden[:, first : hidden.shape[1] - last] for hidden in found]
            for group, hidden, inner in zip(groups, found, residues, strict=True):
                pooled.add(layer, group.places, hidden, inner, group.weights)
            if states is not None:
                fetched.append(states.fetch(layer, groups, residues))

        self.encoder_pass.run([group.tokens.int() for group in groups], take)
        return fetched

    def classify(
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
            rows = (each.reshape(-1, self.dimension) for each in residues)
            finite &= np.fromiter((finite_rows(each).all() for each in rows), bool, len(residues))
        unfit = np.isin(np.arange(len(longer)), list(lost))
        state[~finite & ~skipped] = NON_FINITE
        state[unfit] = OUT_OF_MEMORY
        return state, skipped | ~finite | unfit


def check_dtype(encoder: StreamEncoder | type[StreamEncoder], dtype: str, device: torch.device) -> None:
    """Refuse half precision where an encoder's hidden states are known to overflow it, and integers where they would.

    Raises
    ------
    UserError
        For float16 with a T5: its residual stream goes beyond 65,504 (transformers issue 9295). For bfloat16 on a GPU
        that lacks it. For int8 on a GPU, and on a CPU without VNNI.
    """
    narrow = encoder.float16_safe
    if dtype == "bfloat16" and device.type == "cuda" and not computes_bfloat16(device):
        raise UserError(
            f"embed.dtype is bfloat16, which {torch.cuda.get_device_name(device)} has not (compute capability below "
            f"8.0); use {'float16 or float32' if narrow else 'float32'}, or another GPU"
        )
    if dtype == INT8 and not encoder.int8_safe:
        raise UserError("embed.dtype is int8, which is for embedome's own encoders; use bfloat16 or float32")
    if dtype == INT8 and device.type != "cpu":
        raise UserError("embed.dtype is int8, which is for CPUs; use bfloat16 on a GPU")
    if dtype == INT8 and not products_are_exact():
        raise UserError(
            f"embed.dtype is int8, but {socket.gethostname()}'s processor has no VNNI, without which products of "
            "integers overflow; use bfloat16 or float32, or other nodes"
        )
    if dtype == "float16" and not narrow:
        raise UserError("embed.dtype is float16, which T5 models overflow; use bfloat16 or float32")


def check_close(before: Tensor, after: Tensor) -> None:
    """Refuse fused passes whose hidden states [B, L, D] differ from those before, beyond rounding.

    Raises
    ------
    UserError
    """
    cosine = torch.cosine_similarity(before.float(), after.float(), -1).min().item()
    if not cosine > LEAST_COSINE:
        raise UserError(
            f"embed.fused is true, but on {socket.gethostname()} its hidden states are others (cosine {cosine:.4f}); "
            "set it to false, and report it"
        )


def token_budget(encoder: StreamEncoder, device: torch.device, attempt: int = 1, held: int = 1) -> int:
    """Return the tokens of a batch: on a CPU `TOKEN_BUDGET`; on a GPU what fits its free memory twice, a power of two.

    Each attempt halves a GPU's. A CPU's is for its caches, and its jobs get more memory by attempt: there the same
    batches run, and make the same bytes, whatever was killed before. `held` is the number of layers whose states are
    on the device at once.
    """
    most = TOKEN_BUDGET[device.type]
    if device.type == "cpu":
        return most
    if len(encoder.layers):
        # Outputs of a layer's matrices, and about as many copies of the hidden state as a layer has operations.
        widths = sum(module.out_features for module in encoder.layers[0].modules() if isinstance(module, nn.Linear))
        token_bytes = (widths + (7 + held) * encoder.dimension) * next(encoder.parameters()).element_size()
        fitting = unused_memory(device) // (2 * token_bytes)
        most = min(most, 1 << max(0, fitting.bit_length() - 1))
    return max(1, most >> (attempt - 1))
