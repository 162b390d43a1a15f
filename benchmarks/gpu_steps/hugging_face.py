"""The Hugging Face class in memory, beside the engine: sorted by length, tokenised beforehand."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
import transformers
from embedome.engine.engine import Engine

from gpu_steps.batches import embed_layout
from gpu_steps.bench import Bench, Row, layout_of

COUNTS = {"esm1nv": 20_000, "esm2-650m": 3000, "ankh2-ext2": 2000}


def hugging_face(bench: Bench) -> Iterator[Row]:
    """Residues per second of both on the same sequences; neither tokenising nor the order is timed."""
    for name, full in COUNTS.items():
        sequences = bench.part(name, bench.size(full, 30))
        engine = bench.engine(name)
        count = sum(map(len, sequences))
        layout = layout_of(engine, sequences)
        embed_layout(engine, layout)
        ours = count / bench.seconds(partial(embed_layout, engine, layout))
        inputs = padded(engine, sequences, bench.size(engine.token_budget, 512))
        model, way = load(bench, name)
        pool(bench, model, inputs[:2] + inputs[-2:])
        theirs = count / bench.seconds(lambda model=model, inputs=inputs: pool(bench, model, inputs))
        del model
        yield {
            "what": f"{name}, {len(sequences):,} sequences, sorted, {way}",
            "residues_per_second": theirs,
            "embedome": ours,
            "times": ours / theirs,
        }


def padded(engine: Engine, sequences: list[bytes], budget: int) -> list[dict[str, torch.Tensor]]:
    """Padded batches of sequences sorted by length, of a number of tokens at the most, padding included."""
    left = sorted(sequences, key=len, reverse=True)
    found = []
    while left:
        width = len(left[0]) + engine.tokenizer.n_special
        count = max(1, budget // width)
        rows = [engine.tokenizer.tokens(np.frombuffer(sequence, np.uint8)[None])[0] for sequence in left[:count]]
        lengths = torch.tensor([len(row) for row in rows])
        # Which token is the padding's does not matter: what is masked is not looked at.
        tokens = torch.zeros(len(rows), width, dtype=torch.int64)
        for row, residues in zip(tokens, rows, strict=True):
            row[: len(residues)] = torch.from_numpy(residues)
        mask = torch.arange(width) < lengths[:, None]
        found.append({"input_ids": tokens, "attention_mask": mask.long()})
        left = left[count:]
    return found


def load(bench: Bench, name: str) -> tuple[torch.nn.Module, str]:
    """The class, with torch's attention where it has it; and which it is."""
    for way in ("sdpa", "eager"):
        try:
            model = transformers.AutoModel.from_pretrained(
                bench.model(name), dtype=bench.torch_dtype, attn_implementation=way
            ).eval()
        except (ValueError, ImportError):
            continue
        model = model.get_encoder() if model.config.is_encoder_decoder else model
        return model.to(bench.device), way
    raise ValueError(f"{name}: the class has neither sdpa nor eager attention")


@torch.inference_mode()
def pool(bench: Bench, model: torch.nn.Module, inputs: list[dict[str, torch.Tensor]]) -> None:
    """Mean of hidden states over all tokens of each sequence, to the host."""
    for batch in inputs:
        there = {key: value.to(bench.device) for key, value in batch.items()}
        hidden = model(**there).last_hidden_state
        mask = there["attention_mask"][:, :, None].to(hidden.dtype)
        ((hidden * mask).sum(1) / mask.sum(1)).half().cpu()
