"""Training steps of ESM-1nv's architecture: embedome's loop beside the Hugging Face class, padded.

The same sequences, masks, optimiser (AdamW) and clipping; variants take turns, and medians of rounds are printed, in
processor seconds of one thread. Hugging Face's class runs in random order and sorted by length, and in
transformers.Trainer, where accelerate is installed. Run with

    PYTHONPATH=scripts python benchmarks/pretraining.py [--hidden D] [--layers N] [--sequences N] [--rounds N] [--keep]
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from embedome.common.process import keep_freed_memory
from embedome.models.create import make_config, random_model
from embedome.models.registry import find_entry
from embedome.training import batches as batches_module
from embedome.training.alphabet import Alphabet
from embedome.training.batches import Batches, Rows
from embedome.training.device_batch import to_device
from embedome.training.model_files import new_model
from embedome.training.objectives import IGNORED
from embedome.training.optimisers import make_optimisers, set_rate
from embedome.training.recipes import RECIPES, Phase
from embedome.training.store import Store, write_store
from made_inputs import random_sequences
from torch import Tensor, nn

BATCH, RATE, CPU = 16, 1e-3, torch.device("cpu")
RECIPE = RECIPES["esm1nv"]
# Tokens of the longest sequence, as ESM-1nv has it.
POSITIONS = 512


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--layers", type=int, default=3, help="default: 3")
    parser.add_argument("--hidden", type=int, default=128, help="model dimension (default: 128)")
    parser.add_argument("--sequences", type=int, default=64, help="of an epoch, in steps of 16 (default: 64)")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument(
        "--keep", action="store_true", help="keep freed memory, as `embedome pretrain` does: in all variants"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.keep:
        keep_freed_memory()
    sizes = {"layers": options.layers, "hidden": options.hidden, "heads": max(1, options.hidden // 32)}
    sizes["feed_forward"] = 4 * options.hidden
    config = make_config("esm1nv", sizes, {"seed": 0})
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    with tempfile.TemporaryDirectory() as name:
        texts = [text.decode()[:510] for text in random_sequences(options.sequences)]
        store = write_store(Path(name) / "store", [pa.array(texts, pa.large_string())], {"name": "benchmark"})
        variants = make_variants(store, config, Path(name))
        seconds: dict[str, list[float]] = {variant: [] for variant in variants}
        for _ in range(options.rounds + 1):
            for variant, run in variants.items():
                begin = time.process_time()
                run()
                seconds[variant].append(time.process_time() - begin)
        tokens = int(np.minimum(store.lengths(np.arange(len(store))), 510).sum()) + 2 * len(store)
    # The first round warms up.
    medians = {variant: statistics.median(found[1:]) for variant, found in seconds.items()}
    slowest = medians["Hugging Face, random order"]
    for variant, median in medians.items():
        line = {"variant": variant, "tokens_per_cpu_s": round(tokens / median), "ratio": round(slowest / median, 2)}
        print(json.dumps({**vars(options), **line}))


def make_variants(store: Store, config: object, folder: Path) -> dict[str, Callable[[], None]]:
    """What is measured: an epoch each."""
    ours = Batches(store, RECIPE.objective, Alphabet.of_model("esm1nv"), phases(store), 510, 0)
    variants = {
        "embedome": lambda: train_ours(new_model("esm1nv", config, 0.0), ours, together=4096),
        "embedome, lengths not together": lambda: train_ours(new_model("esm1nv", config, 0.0), ours, together=1),
        "Hugging Face, sorted by length": lambda: train_class(reference(config), padded(ours, is_sorted=True)),
        "Hugging Face, random order": lambda: train_class(reference(config), padded(ours, is_sorted=False)),
    }
    if find_spec("accelerate"):
        variants["transformers.Trainer, random order"] = lambda: train_by_trainer(reference(config), ours, folder)
    else:
        print("transformers.Trainer is left out, as accelerate is not installed: pip install -e .[benchmark]")
    return variants


def phases(store: Store) -> tuple[Phase]:
    """An epoch."""
    return (Phase(len(store) // BATCH, sequences=BATCH),)


def reference(config: object) -> nn.Module:
    """The Hugging Face class with the same weights."""
    return random_model(find_entry("esm1nv"), config).train()


def train_ours(model: nn.Module, ours: Batches, together: int) -> None:
    """An epoch of embedome's modules."""
    batches_module.SORTED_ROWS, ours.known = together, None
    optimisers = make_optimisers(model, RECIPE.optimiser)
    set_rate(optimisers, RATE)
    for step in range(ours.phases[-1].end):
        scores = model(to_device(ours.groups(ours.rows(step)), CPU))
        (scores.loss / scores.labels).backward()
        update(model, optimisers)


def train_class(model: nn.Module, steps: Iterator[tuple[Tensor, Tensor]]) -> None:
    """An epoch of the Hugging Face class."""
    optimisers = make_optimisers(model, RECIPE.optimiser)
    set_rate(optimisers, RATE)
    for tokens, labels in steps:
        model(tokens, attention_mask=(tokens != 3).long(), labels=labels).loss.backward()
        update(model, optimisers)


def update(model: nn.Module, optimisers: Sequence[torch.optim.Optimizer]) -> None:
    """Clip, update, and set gradients to nothing."""
    nn.utils.clip_grad_norm_(model.parameters(), RECIPE.clip)
    for optimiser in optimisers:
        optimiser.step()
        optimiser.zero_grad()


def padded(ours: Batches, *, is_sorted: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Token ids and labels of each step [16, T], padded to its longest sequence."""
    rows = ours.look_up_rows(np.arange(len(ours.store)), None)
    if is_sorted:
        rows = rows.take(np.argsort(rows.tokens, kind="stable"))
    for begin in range(0, len(rows) - BATCH + 1, BATCH):
        yield pad(ours, rows.take(slice(begin, begin + BATCH)))


def pad(ours: Batches, rows: Rows) -> tuple[Tensor, Tensor]:
    """Sequences padded to one length; their order within a step does not matter."""
    rows = rows.take(np.argsort(rows.tokens, kind="stable"))
    longest, found = int(rows.tokens.max()), ([], [])
    for group in ours.groups(rows):
        for part, array, value in zip(found, (group.tokens, group.labels), (3, IGNORED), strict=True):
            part.append(np.pad(array, ((0, 0), (0, longest - array.shape[1])), constant_values=value))
    tokens, labels = (torch.from_numpy(np.concatenate(part)) for part in found)
    return tokens, labels


def train_by_trainer(model: nn.Module, ours: Batches, folder: Path) -> None:
    """An epoch by transformers.Trainer, whose collator pads."""
    from transformers import Trainer, TrainingArguments

    rows = ours.look_up_rows(np.arange(len(ours.store)), None)
    examples = []
    for number in range(len(rows)):
        tokens, labels = pad(ours, rows.take(slice(number, number + 1)))
        examples.append({"input_ids": tokens[0], "labels": labels[0]})

    def collate(chosen: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        tokens = nn.utils.rnn.pad_sequence([each["input_ids"] for each in chosen], True, 3)
        labels = nn.utils.rnn.pad_sequence([each["labels"] for each in chosen], True, IGNORED)
        return {"input_ids": tokens, "attention_mask": (tokens != 3).long(), "labels": labels}

    settings = TrainingArguments(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        learning_rate=RATE,
        max_grad_norm=RECIPE.clip,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    Trainer(model, settings, train_dataset=examples, data_collator=collate).train()


if __name__ == "__main__":
    main()
