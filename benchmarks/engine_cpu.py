"""Residues per second of the engine and of the Hugging Face class, on one CPU thread, in one run.

Random weights of ESM-1nv's full size, lengths as in UniRef50 (log-normal, mu 5.43, sigma 0.675, cut at 510), float32.
The variants take turns, slice by slice, so that a machine whose speed drifts is the same for all. Run with

    PYTHONPATH=scripts python benchmarks/engine_cpu.py [--sequences N] [--rounds N]
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from embedome.engine import Engine
from embedome.initialise import make_untrained
from embedome.models import load_model
from embedome.pieces import Sequences
from transformers import AutoModel, AutoTokenizer

RESIDUES = list("ACDEFGHIKLMNPQRSTVWY")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--sequences", type=int, default=96, help="sequences of a round (default: 96)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which the median counts (default: 5)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "esm1nv"
        make_untrained(directory, "esm1nv", "esm1nv", {}, 0)
        variants = make_variants(directory)
    speeds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(options.rounds + 1):
        sequences = draw(np.random.default_rng(number), options.sequences)
        residues = sum(map(len, sequences))
        for name, embed in variants.items():
            start = time.perf_counter()
            embed(sequences)
            # The first round warms up.
            if number:
                speeds[name].append(residues / (time.perf_counter() - start))
    report(speeds, options)


def make_variants(directory: Path) -> dict[str, Callable[[list[str]], object]]:
    """What is measured, by name; the first is what the others are compared with."""
    model = AutoModel.from_pretrained(directory, add_pooling_layer=False).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    engine = Engine(load_model(directory))

    @torch.inference_mode()
    def padded(sequences: list[str], size: int) -> None:
        for start in range(0, len(sequences), size):
            inputs = tokenizer(sequences[start : start + size], padding=True, return_tensors="pt")
            hidden = model(**inputs).last_hidden_state
            mask = inputs["attention_mask"][:, :, None]
            (hidden * mask).sum(1).div(mask.sum(1)).half()

    return {
        "Hugging Face, one at a time": lambda sequences: padded(sequences, 1),
        "Hugging Face, padded batches of 32 in input order": lambda sequences: padded(sequences, 32),
        "embedome": lambda sequences: engine.embed(Sequences.join([each.encode() for each in sequences])),
    }


def draw(rng: np.random.Generator, count: int) -> list[str]:
    """Random sequences."""
    lengths = np.clip(rng.lognormal(5.43, 0.675, count), 11, 510).astype(int)
    return ["".join(rng.choice(RESIDUES, length)) for length in lengths]


def report(speeds: dict[str, list[float]], options: argparse.Namespace) -> None:
    """Print medians and ratios to the first variant, taken round by round."""
    base = np.array(next(iter(speeds.values())))
    print(f"torch {torch.__version__}, 1 thread, {options.sequences} sequences a round, median of {options.rounds}")
    for name, values in speeds.items():
        ratios = np.array(values) / base
        spread = f"{ratios.min():.2f}-{ratios.max():.2f}"
        print(f"{name:52} {np.median(values):8,.0f} residues/s  x {np.median(ratios):.2f} ({spread})")


if __name__ == "__main__":
    main()
