"""Training steps of the founding recipes at full width: tokens per second, share of the peak, memory.

The loop's own micro-batches, passes and updates, of random sequences with the lengths of UniRef50.
"""

import time
from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa
import torch
from embedome.training.memory import BYTES, token_bytes, values_of
from embedome.training.ranks import Ranks
from embedome.training.recipes import Phase, Recipe, find_recipe
from embedome.training.run import Pretraining
from embedome.training.settings import PretrainSettings
from embedome.training.store import Store, write_store
from embedome.training.trainer import Micro, Trainer
from embedome.training.training_log import TrainingLog
from made_inputs import random_sequences
from torch import Tensor

from gpu_steps.bench import SMALL, Bench, Row

RECIPES = ("esm1nv", "prott5nv", "ankh2-ext2")
# Timed steps, and tokens of each; the first step of a run is not timed.
STEPS, TOKENS, SMALL_TOKENS = 3, 1 << 16, 1 << 11
RESIDUES = 510
# Weights, gradients and two averages of Adam; Adafactor's averages take no memory to speak of.
COPIES = {"ankh2-ext2": 2}


def training(bench: Bench) -> Iterator[Row]:
    """Each recipe on one device, and Ankh2-ext2 with its layers computed again in the backward pass, too."""
    texts = [text.decode() for text in random_sequences(bench.size(20_000, 200), RESIDUES)]
    store = write_store(bench.folder / "store", [pa.array(texts, pa.large_string())], {"name": "benchmark"})
    for name in RECIPES:
        yield measure(bench, store, name, again=False)
    yield measure(bench, store, RECIPES[-1], again=True)


def measure(bench: Bench, store: Store, name: str, *, again: bool) -> Row:
    """Train some steps of a recipe."""
    run = make_run(bench, store, name, again)
    trainer = Trainer(run.model, run.recipe, run.batches, run.validation, run.run, run.ranks, run.budget)
    if bench.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    micros: list[Micro] = []
    sums: list[Tensor] = []
    begin = 0.0
    with TrainingLog(run.run, run.recipe.steps, writes=False) as trainer.log:
        for micro in trainer.micro_batches():
            if micro.step == 1 and micro.number == 0:
                bench.wait()
                micros, begin = [], time.perf_counter()
            elif micro.step > STEPS:
                break
            micros.append(micro)
            sums.append(trainer.run_micro(run.model, micro))
            if micro.is_last:
                trainer.finish_step(torch.stack(sums).sum(0))
                sums = []
    bench.wait()
    rate = sum(micro.tokens for micro in micros) / (time.perf_counter() - begin)
    row: Row = {
        "what": f"{name}{', layers computed again' if again else ''}",
        "tokens_per_second": rate,
        "peak_share": rate * trainer.peak_share(micros[0]),
        "tokens_of_a_micro_batch": max(micro.tokens for micro in micros),
    }
    if bench.on_gpu:
        kept = COPIES.get(name, 4) * BYTES * values_of(run.model)
        row["gb"] = 1e-9 * torch.cuda.max_memory_allocated()
        row["counted"] = 1e-9 * (kept + row["tokens_of_a_micro_batch"] * token_bytes(run.model, int(again)))
    return row


def make_run(bench: Bench, store: Store, name: str, again: bool) -> Pretraining:
    """Return a run of a recipe with steps that a device has done in seconds."""
    recipe, settings = shorten(find_recipe(name), bench), PretrainSettings(recipe=name, name=name, shard=again)
    folder, ranks = bench.folder / "training", Ranks(0, 1, bench.device)
    folder.mkdir(exist_ok=True)
    with bench.device:  # draws a billion weights in no time, and a core in half a minute
        return Pretraining(recipe, settings, store, store, folder, ranks)


def shorten(recipe: Recipe, bench: Bench) -> Recipe:
    """Return a recipe with a few small steps, none of which is validated."""
    steps = STEPS + 2
    phase = Phase(steps, tokens=bench.size(TOKENS, SMALL_TOKENS))
    return replace(recipe, phases=(phase,), every=steps + 1, sizes=SMALL if bench.small else recipe.sizes)
