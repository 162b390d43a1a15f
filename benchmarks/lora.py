"""An epoch of adapters (LoRA) and a linear head on residues: embedome's unpadded encoder beside peft on the class.

ESM-1nv's architecture, rank 16 on queries and values, AdamW, 16 proteins a step, the same proteins and labels. peft
runs Hugging Face's padded class in random order, and sorted by length. Variants take turns, step by step, in processor
seconds of one thread; the median of rounds is printed. Run with

    PYTHONPATH=scripts python benchmarks/lora.py [--hidden D] [--layers N] [--proteins N] [--rounds N]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from embedome.engine.batch_layout import DeviceLayout, lay_out
from embedome.engine.windows import LongPolicy, Sequences
from embedome.evaluation.lora import PROTBENCH, adapt
from embedome.models.create import make_untrained
from embedome.models.directory import load_model, read_config
from embedome.models.tokenizer import STANDARD
from torch import Tensor, nn
from torch.nn import functional

BATCH, CLASSES, RATE, CPU = 16, 3, 1e-3, torch.device("cpu")
Step = Callable[[Sequence[bytes], Sequence[np.ndarray]], Tensor]


def main() -> None:
    """Time an epoch of each variant."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--proteins", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    draw = np.random.default_rng(0)
    lengths = np.minimum(draw.lognormal(5.1, 0.5, options.proteins).astype(int) + 20, 254)
    letters = np.frombuffer(STANDARD.encode(), np.uint8)
    sequences = [draw.choice(letters, length).tobytes() for length in lengths]
    labels = [draw.integers(0, CLASSES, len(each)) for each in sequences]
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        sizes = {"layers": options.layers, "hidden": options.hidden, "heads": 4, "feed_forward": 4 * options.hidden}
        make_untrained(model, "model", "esm1nv", sizes, 0)
        by_length = np.argsort(lengths, kind="stable")
        variants = {
            "embedome": (own_step(model), draw.permutation(options.proteins)),
            "peft, random order": (peft_step(model), draw.permutation(options.proteins)),
            "peft, sorted": (peft_step(model), by_length),
        }
        found: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(options.rounds):
            for name, seconds in time_epoch(variants, sequences, labels).items():
                found[name].append(seconds)
    residues = int(lengths.sum())
    medians = {name: statistics.median(each) for name, each in found.items()}
    print(f"{options.proteins:,} proteins, {residues:,} residues, {options.layers} layers of {options.hidden}")
    for name, seconds in medians.items():
        print(f"{name}: {seconds:.1f} CPU s an epoch, {seconds / medians['embedome']:.2f} of embedome's")


def time_epoch(
    variants: dict[str, tuple[Step, np.ndarray]], sequences: Sequence[bytes], labels: Sequence[np.ndarray]
) -> dict[str, float]:
    """Return the processor seconds of an epoch of each variant, which take turns step by step."""
    spent = dict.fromkeys(variants, 0.0)
    for begin in range(0, len(sequences), BATCH):
        for name, (step, order) in variants.items():
            mine = order[begin : begin + BATCH]
            start = time.process_time()
            step([sequences[place] for place in mine], [labels[place] for place in mine])
            spent[name] += time.process_time() - start
    return spent


def own_step(directory: Path) -> Step:
    """Return a step of embedome's encoder with adapters."""
    model = load_model(directory)
    halves = adapt(model.encoder, read_config(directory), PROTBENCH)
    head = nn.Linear(model.encoder.dimension, CLASSES)
    optimiser = torch.optim.AdamW([*nn.ModuleList(halves.values()).parameters(), *head.parameters()], RATE)

    def step(sequences: Sequence[bytes], labels: Sequence[np.ndarray]) -> Tensor:
        layout = lay_out(Sequences.join(list(sequences)), model.tokenizer, LongPolicy(), 510)
        groups = list(DeviceLayout(layout, CPU).groups(0, len(layout.order)))
        states = model.encoder.stream([group.tokens.int() for group in groups])
        rows = torch.cat([each[:, 1:-1].reshape(-1, each.shape[-1]) for each in states])
        targets = torch.from_numpy(np.concatenate([labels[place] for place in layout.order]))
        return update(optimiser, functional.cross_entropy(head(rows), targets))

    return step


def peft_step(directory: Path) -> Step:
    """Return a step of the padded class with peft's adapters; the class's own dropout is off, as embedome's is."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    tokenizer = load_model(directory).tokenizer
    base = AutoModel.from_pretrained(directory, add_pooling_layer=False)
    for module in base.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    config = LoraConfig(
        r=PROTBENCH.rank, lora_alpha=PROTBENCH.alpha, lora_dropout=PROTBENCH.dropout, target_modules=["query", "value"]
    )
    model = get_peft_model(base, config).train()
    head = nn.Linear(base.config.hidden_size, CLASSES)
    parameters = [each for each in model.parameters() if each.requires_grad]
    optimiser = torch.optim.AdamW([*parameters, *head.parameters()], RATE)

    def step(sequences: Sequence[bytes], labels: Sequence[np.ndarray]) -> Tensor:
        longest = max(map(len, sequences))
        tokens, targets = torch.full((len(sequences), longest + 2), 3), torch.full((len(sequences), longest + 2), -100)
        for row, (sequence, label) in enumerate(zip(sequences, labels, strict=True)):
            own = torch.from_numpy(tokenizer.tokens(np.frombuffer(sequence, np.uint8)[None])[0])
            tokens[row, : len(own)], targets[row, 1 : len(own) - 1] = own, torch.from_numpy(label)
        states = model(input_ids=tokens, attention_mask=(tokens != 3).long()).last_hidden_state
        return update(optimiser, functional.cross_entropy(head(states).flatten(0, 1), targets.flatten()))

    return step


def update(optimiser: torch.optim.Optimizer, loss: Tensor) -> Tensor:
    """Make a step by the gradients of a loss."""
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.detach()


if __name__ == "__main__":
    main()
