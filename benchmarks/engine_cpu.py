"""File to file on all cores of a CPU: embedome against what people run today, each a process of its own.

FASTA in, one vector per protein out, float32, random weights of full size. The variants take turns, round by round, so
that a machine whose speed drifts is the same for all; what counts are the ratios within a round. Run with

    PYTHONPATH=scripts python benchmarks/engine_cpu.py [--fasta FILE] [--residues N] [--rounds N]

Sequences are random with the lengths of UniRef50, or every n-th of FILE. ESM-1nv is compared with the Hugging
Face class one sequence at a time, in padded batches of 32 in input order, and sorted with a token budget; ESM-2 8M with
the steps of the extraction script of the package fair-esm, where that is installed. The peak is that of large matrix
products on all cores at once; shares of it are of the model's operations in the time from file to file.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from embedome.embedding.benchmark import gemm_peak
from embedome.models.create import make_untrained
from embedome.models.directory import empty_model
from embedome.models.encoders.flops import operations
from embedome.sequences.fasta import read_entries
from made_inputs import LONGEST, random_sequences

TOKEN_BUDGET = 2048
PEAK_SECONDS = 2.0
SPECIAL_TOKENS = 2
OURS = "embedome"
ESM1NV = {
    "single": "Hugging Face, one at a time",
    "padded": "Hugging Face, padded batches of 32 in input order",
    "sorted": f"Hugging Face, sorted, budget of {TOKEN_BUDGET} tokens",
    OURS: "embedome embed",
}
ESM2 = {"fair-esm": "fair-esm's extraction, budget of 4096 tokens", OURS: "embedome embed"}


def main() -> None:
    """Measure and print two tables; or, as a child, embed once."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--fasta", help="where sequences come from (default: random ones)")
    parser.add_argument("--residues", type=int, default=60_000, help="residues of ESM-1nv's input (default: 60,000)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the median counts (default: 3)")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    print(f"torch {torch.__version__}, {cores()} cores, float32, {options.rounds} rounds, processes' start included")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table(folder, "esm1nv", ESM1NV, options.residues, options)
        if importlib.util.find_spec("esm"):
            table(folder, "esm2-8m", ESM2, 4 * options.residues, options)
        else:
            print("esm2-8m: not measured, the package fair-esm is not installed")


def table(folder: Path, model: str, variants: dict[str, str], residues: int, options: argparse.Namespace) -> None:
    """Run a model's variants in turns and print medians."""
    make_untrained(folder / model, model, model, {}, 0)
    fasta = folder / f"{model}.fasta"
    records = dict(take(options.fasta, residues))
    fasta.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in records.items()))
    lengths = np.array([min(len(sequence), LONGEST) for sequence in records.values()])
    linear, quadratic = operations(empty_model(folder / model).encoder)
    work = (linear * (lengths + SPECIAL_TOKENS) + quadratic * (lengths + SPECIAL_TOKENS) ** 2).sum()
    peaks = []
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(options.rounds):
        peaks.append(machine_peak())
        names = list(variants)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            begin = time.perf_counter()
            run(name, folder / model, fasta, folder / f"{model}-{name}-{number}")
            seconds[name].append(time.perf_counter() - begin)
    used, peak = lengths.sum(), np.median(peaks)
    print(f"\n{model}: {len(records):,} sequences, {used:,} residues used, peak {peak / 1e9:,.0f} GFLOP/s")
    ours = np.array(seconds[OURS])
    for name, label in variants.items():
        values = np.array(seconds[name])
        ratios = values / ours
        middle = np.median(values)
        print(
            f"{label:52} {middle:7.1f} s {used / middle:8,.0f} residues/s {work / middle / peak:4.0%} of the peak"
            f"   embedome is x {np.median(ratios):.2f} ({ratios.min():.2f}-{ratios.max():.2f})"
        )


def machine_peak() -> float:
    """Floating-point operations per second of large matrix products, one thread on each core, all at once."""
    with ProcessPoolExecutor(cores(), get_context("spawn")) as pool:
        return sum(pool.map(core_peak, range(cores())))


def core_peak(_: int) -> float:
    """What one core contributes to it."""
    torch.set_num_threads(1)
    return gemm_peak(torch.device("cpu"), torch.float32, PEAK_SECONDS)


def take(fasta: str | None, residues: int) -> Iterator[tuple[str, str]]:
    """Records of a number of residues in all."""
    if fasta:
        entries = [entry.body.replace(b"\n", b"").decode() for entry in read_entries(fasta)]
        order: Iterable[str] = (entries[index] for index in np.random.default_rng(0).permutation(len(entries)))
    else:
        order = (sequence.decode() for sequence in random_sequences(residues // 100))
    total = 0
    for number, sequence in enumerate(order):
        if total >= residues:
            return
        total += min(len(sequence), LONGEST)
        yield f"P{number:06d}", sequence


def run(variant: str, model: Path, fasta: Path, out: Path) -> None:
    """Embed a file in a process of its own."""
    if variant == OURS:
        command = ["-m", "embedome", "embed", str(fasta), "-m", str(model), "-o", f"{out}.parquet", "--device", "cpu"]
    else:
        command = [__file__, "--child", variant, str(model), str(fasta), str(out)]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    subprocess.run([sys.executable, *command], check=True, env=environment, capture_output=True)


def child(variant: str, model: str, fasta: str, out: str) -> None:
    """What a script of today does, with all cores as threads."""
    torch.set_num_threads(cores())
    (fair_esm if variant == "fair-esm" else hugging_face)(variant, model, fasta, Path(out))


@torch.inference_mode()
def hugging_face(variant: str, directory: str, fasta: str, out: Path) -> None:
    """The Hugging Face class, mean over residues, one .npz."""
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(directory, add_pooling_layer=False).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    found = {}
    for batch in batches(variant, dict(read(fasta))):
        inputs = tokenizer([sequence for _, sequence in batch], padding=True, return_tensors="pt")
        hidden = model(**inputs).last_hidden_state
        for (name, sequence), states in zip(batch, hidden, strict=True):
            found[name] = states[1 : 1 + len(sequence)].mean(0).half().numpy()
    np.savez(out, **found)


def batches(variant: str, sequences: dict[str, str], budget: int = TOKEN_BUDGET) -> Iterator[list[tuple[str, str]]]:
    """Sequences in batches, as a variant makes them; `budget` tokens, padding included, of sorted ones."""
    items = list(sequences.items())
    if variant == "sorted":
        items.sort(key=lambda item: -len(item[1]))
    batch: list[tuple[str, str]] = []
    for item in items:
        full = {
            "single": len(batch) == 1,
            "padded": len(batch) == 32,
            "sorted": (len(batch) + 1) * (2 + max(len(item[1]), *(len(s) for _, s in batch), 0)) > budget,
        }[variant]
        if batch and full:
            yield batch
            batch = []
        batch.append(item)
    yield batch


@torch.inference_mode()
def fair_esm(_: str, directory: str, fasta: str, out: Path) -> None:
    """The steps of fair-esm's extraction script: batches by size, one file per protein with its mean."""
    import esm

    config = json.loads((Path(directory) / "config.json").read_text())
    model = esm.ESM2(config["num_hidden_layers"], config["hidden_size"], config["num_attention_heads"]).eval()
    data = esm.FastaBatchedDataset.from_file(fasta)
    loader = torch.utils.data.DataLoader(
        data,
        collate_fn=model.alphabet.get_batch_converter(1022),
        batch_sampler=data.get_batch_indices(4096, extra_toks_per_seq=1),
    )
    out.mkdir()
    last = config["num_hidden_layers"]
    for names, sequences, tokens in loader:
        states = model(tokens, repr_layers=[last])["representations"][last]
        for name, sequence, state in zip(names, sequences, states, strict=True):
            mean = state[1 : 1 + min(len(sequence), 1022)].mean(0).clone()
            torch.save({"label": name, "mean_representations": {last: mean}}, out / f"{name}.pt")


def read(fasta: str) -> Iterator[tuple[str, str]]:
    """Names and sequences of a file of one line per sequence, cut as ESM-1nv takes them."""
    lines = Path(fasta).read_text().splitlines()
    return ((head[1:], sequence[:LONGEST]) for head, sequence in zip(lines[::2], lines[1::2], strict=True))


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    main()
