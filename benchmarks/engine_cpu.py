"""File to file on all cores of a CPU: embedome against what people run today, each a process of its own.

FASTA in, one vector per protein out, float32, random weights of full size. The variants take turns, round by round, so
that a machine whose speed drifts is the same for all; what counts are the ratios within a round. Run with

    PYTHONPATH=scripts python benchmarks/engine_cpu.py [--fasta FILE] [--residues N] [--rounds N] [--esm-cpp PYTHON]

Sequences are random with the lengths of UniRef50, or every n-th of FILE. ESM-1nv is compared with the Hugging
Face class one sequence at a time, in padded batches of 32 in input order, and sorted with a token budget; ESM-2 8M with
the steps of the extraction script of the package fair-esm, where that is installed. The peak is that of large matrix
products on all cores at once; shares of it are of the model's operations in the time from file to file.

With --esm-cpp, ESM-2 8M and 150M alone are measured beside esm-cpp, in float32 and int8. Its Python is that of an
environment of its own: python -m venv DIR && DIR/bin/pip install esm-cpp==0.2.1 "numpy<2".
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
import pyarrow.parquet as pq
import torch
from embedome.embedding.benchmark import gemm_peak
from embedome.models.create import make_untrained
from embedome.models.directory import empty_model
from embedome.models.encoders.flops import operations
from embedome.sequences.fasta import read_entries
from made_inputs import LONGEST, random_sequences
from safetensors.torch import load_file, save_file

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
    parser.add_argument("--esm-cpp", metavar="PYTHON", help="compare with esm-cpp, which this Python has")
    parser.add_argument("--proteins", type=int, default=400, help="sequences beside esm-cpp (default: 400)")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    if options.esm_cpp:
        beside_esm_cpp(options)
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


def beside_esm_cpp(options: argparse.Namespace) -> None:
    """Print medians of both in each dtype, with and without the seconds that a file of one protein takes."""
    print(f"torch {torch.__version__}, {cores()} cores, {options.rounds} rounds")
    for name in ("esm2-8m", "esm2-150m"):
        with tempfile.TemporaryDirectory() as folder:
            compare(Path(folder), name, options)


def compare(folder: Path, name: str, options: argparse.Namespace) -> None:
    """Run a model's variants in turns, each on one protein and on all."""
    make_untrained(folder / name, name, name, {}, 0)
    write_published_form(folder / name, folder / "model.safetensors")
    records = [*take(options.fasta, sys.maxsize)] if options.fasta else [*take(None, 1000 * options.proteins)]
    records = [(each, sequence[:LONGEST]) for each, sequence in records[: options.proteins]]
    files = {count: folder / f"{count}.fasta" for count in (1, len(records))}
    for count, file in files.items():
        file.write_text("".join(f">{each}\n{sequence}\n" for each, sequence in records[:count]))
    theirs = [options.esm_cpp, str(Path(__file__).with_name("run_esm_cpp.py"))]
    ours = [sys.executable, "-m", "embedome", "embed", "-m", str(folder / name), "--device", "cpu"]
    weights = {"float32": folder / "model.safetensors", "int8": folder / "model.gguf"}
    call([*theirs, "quantize", str(weights["float32"]), str(files[len(records)]), str(weights["int8"])])
    seconds: dict[tuple[str, str], list[np.ndarray]] = {}
    for number in range(options.rounds):
        for dtype in ("float32", "int8"):
            for who in (OURS, "packed", "vectors")[:: 1 if number % 2 else -1]:
                taken = []
                for count, file in files.items():
                    out = folder / f"{who}-{dtype}-{count}-{number}"
                    begin = time.perf_counter()
                    if who == OURS:
                        call([*ours, str(file), "--dtype", dtype, "-o", f"{out}.parquet"])
                    else:
                        call([*theirs, who, str(weights[dtype]), str(file), f"{out}.npz"])
                    taken.append(time.perf_counter() - begin)
                seconds.setdefault((who, dtype), []).append(np.array(taken))
    residues = sum(len(sequence) for _, sequence in records)
    print(f"\n{name}: {len(records):,} sequences, {residues:,} residues used")
    for (who, dtype), rounds in seconds.items():
        other, mine = np.array(rounds), np.array(seconds[OURS, dtype])
        start, whole = np.median(other, 0)
        label = {OURS: "embedome embed", "packed": "esm-cpp, packed, logits", "vectors": "esm-cpp, vectors"}[who]
        print(
            f"{label:24} {dtype:8} {whole:7.1f} s, one protein {start:4.1f} s   embedome is x "
            f"{np.median(other[:, 1] / mine[:, 1]):.2f}, without what one protein takes x "
            f"{np.median((other[:, 1] - other[:, 0]) / (mine[:, 1] - mine[:, 0])):.2f}"
        )
    theirs_found, ours_found = (folder / f"{who}-float32-{len(records)}-0" for who in ("vectors", OURS))
    print(f"smallest cosine of the float32 vectors of both: {smallest_cosine(theirs_found, ours_found):.5f}")


def write_published_form(model: Path, out: Path) -> None:
    """Write a model's tensors as ESM-2 was published: names that transformers has since changed, and frequencies."""
    config = json.loads((model / "config.json").read_text())
    tensors = {}
    for name, tensor in load_file(model / "model.safetensors").items():
        if "inv_freq" not in name:
            tensors[name.replace("Norm.gamma", "Norm.weight").replace("Norm.beta", "Norm.bias")] = tensor
    size = config["hidden_size"] // config["num_attention_heads"]
    for layer in range(config["num_hidden_layers"]):
        name = f"esm.encoder.layer.{layer}.attention.self.rotary_embeddings.inv_freq"
        tensors[name] = 10000.0 ** -(torch.arange(0, size, 2) / size)
    save_file(tensors, out)


def smallest_cosine(theirs: Path, ours: Path) -> float:
    """Return the smallest cosine of vectors of the same id in two files, an .npz and a Parquet file."""
    table = pq.read_table(f"{ours}.parquet", columns=["id", "embedding"])
    found = dict(zip(table["id"].to_pylist(), table["embedding"].to_pylist(), strict=True))
    with np.load(f"{theirs}.npz") as other:
        pairs = [(np.array(found[name], np.float64), other[name].astype(np.float64)) for name in other.files]
    return min(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in pairs)


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
    call([sys.executable, *command])


def call(command: list[str]) -> None:
    """Run a command with all cores."""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    subprocess.run(command, check=True, env=environment, capture_output=True)


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
