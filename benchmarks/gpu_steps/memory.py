"""The device's memory: what a token takes, and what happens where there is too little."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from embedome.engine.device import free_memory
from embedome.engine.tolerances import tolerance
from torch import nn

from gpu_steps.batches import embed_layout
from gpu_steps.bench import MODELS, NEEDS_GPU, Bench, Row, equal_lengths, layout_of
from gpu_steps.precision import smallest_cosine

# Of what a full batch takes: so much is left free, so that batches must be halved, some of them more than once.
LEFT_FREE = 0.3


def token_bytes(encoder: nn.Module) -> int:
    """What the engine counts for a token: outputs of a layer's matrices, and eight copies of the hidden state."""
    widths = sum(module.out_features for module in encoder.layers[0].modules() if isinstance(module, nn.Linear))
    return (widths + 8 * encoder.dimension) * next(encoder.parameters()).element_size()


def memory(bench: Bench) -> Iterator[Row]:
    """The most that is allocated during a full batch, by token, beside what the engine counts."""
    if not bench.on_gpu:
        yield NEEDS_GPU
        return
    for name in (*MODELS, "prott5-xl"):
        engine = bench.engine(name)
        for length in (128, 512):
            layout = layout_of(engine, equal_lengths(engine, engine.token_budget, length))
            embed_layout(engine, layout)
            bench.wait()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            embed_layout(engine, layout)
            bench.wait()
            tokens = int(layout.token_ends[-1])
            yield {
                "what": f"{name}, {tokens:,} tokens in sequences of {length}",
                "kb_per_token": 1e-3 * (torch.cuda.max_memory_allocated() - before) / tokens,
                "counted": 1e-3 * token_bytes(engine.encoder),
                "reserved_gb": 1e-9 * torch.cuda.memory_reserved(),
            }


def exhausted(bench: Bench) -> Iterator[Row]:
    """The device's memory made smaller than a batch takes: batches are halved, and vectors are the same."""
    if not bench.on_gpu:
        yield NEEDS_GPU
        return
    total = torch.cuda.get_device_properties(0).total_memory
    for name in ("esm1nv", "ankh2-ext2"):
        engine = bench.engine(name)
        layout = layout_of(engine, equal_lengths(engine, 4 * engine.token_budget, 256) + bench.part(name, 300))
        embed = partial(embed_layout, engine, layout)
        exact = embed()["mean"]
        free_memory()
        # Beside a batch, tokens, places, rows and vectors of the part have to fit.
        room = LEFT_FREE * engine.token_budget * token_bytes(engine.encoder) + layout.tokens.nbytes
        room += len(layout.order) * (8 + 12 * engine.dimension)
        torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_reserved() + room) / total))
        try:
            with messages_of("embedome.engine.engine") as messages:
                vectors = embed()["mean"]
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        row: Row = {"what": name, "halvings": len(messages), "cosine": smallest_cosine(exact, vectors)}
        if not row["cosine"] >= tolerance(bench.dtype, engine.encoder.n_layers).cosine:
            row["broken"] = f"{name}: vectors are others where memory ran out"
        yield row | {"log": messages[:4]}


@contextmanager
def messages_of(name: str) -> Iterator[list[str]]:
    """Collect what is logged in the block."""
    found: list[str] = []
    log, handler = logging.getLogger(name), logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())
    log.addHandler(handler)
    try:
        yield found
    finally:
        log.removeHandler(handler)
