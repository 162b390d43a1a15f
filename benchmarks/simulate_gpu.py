"""A simulation, not a measurement: the share of a GPU's peak that runs are predicted to reach, file to file.

It runs no model and needs no GPU. Lengths are drawn as in UniRef50; a part is laid out and cut into batches by the
engine's own code; kernels, bytes and operations are counted on the encoders as they are (models/encoders/passes.py);
seconds are those of the roofline (embedding/roofline.py) with its assumptions, which are printed. Shards, filter and
parts are the presets'; for models without one, UniRef50 in shards of half an hour.

    python benchmarks/simulate_gpu.py
    python benchmarks/simulate_gpu.py --gpu A100 --models esm1nv
    python benchmarks/simulate_gpu.py --cpu       # the same model of seconds beside the engine, measured on this CPU
"""

import argparse
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from embedome.cli.plan import load_planned_encoder
from embedome.embedding import roofline
from embedome.embedding.benchmark import measure
from embedome.embedding.cost import CostModel
from embedome.embedding.length_histogram import MU, SIGMA, Lengths, uniref50_lengths
from embedome.embedding.roofline import DEFAULT_DEVICE, Device, batch_seconds, computing_seconds, find_device
from embedome.engine.batch_layout import BatchLayout, lay_out
from embedome.engine.device import TOKEN_BUDGET
from embedome.engine.engine import Engine
from embedome.engine.windows import LongPolicy, Sequences
from embedome.models.architectures import ARCHITECTURES
from embedome.models.directory import Model
from embedome.models.encoders.flops import operations
from embedome.models.encoders.passes import PRODUCT, Kernel, PassCounter
from embedome.models.registry import REGISTRY
from embedome.models.tokenizer import STANDARD, ResidueTokenizer
from torch import nn

PRESETS = Path(__file__).parents[1] / "presets"
# Seconds of each job for Python, torch and the CUDA context; the least and the most. Weights are read beside them.
START = (10.0, 20.0)
WEIGHT_BYTES_PER_SECOND = 1e9
# Measured on two CPU cores: residues read and laid out, and bytes of float16 vectors fetched and written, per second.
READ, WRITTEN = 16e6, 75e6
# Of a part's batches, sorted by size, as many are predicted, each for its neighbours.
SAMPLED = 32
# UniRef50 whole, in shards of half an hour, for a model without a preset.
OTHER = {
    "filter": {"min_length": 1, "max_length": None},
    "split": {"val": 0, "test": 0},
    "embed": {"part_sequences": 100_000, "part_seconds": 600},
}
OTHER_MINUTES, OTHER_LONGEST = 30, {"esm2-650m": 1022, "esm2-3b": 1022, "prott5-xl": 4096}


@dataclass(frozen=True)
class Run:
    """What is simulated: a model with a preset, on a GPU."""

    name: str
    config: Mapping[str, Any]
    device: Device

    @cached_property
    def encoder(self) -> nn.Module:
        """Without weights."""
        return load_planned_encoder(self.name)[0]

    @cached_property
    def counters(self) -> dict[bool, PassCounter]:
        """Of its kernels, without and with `embed.fused`."""
        return {fused: PassCounter(self.encoder, fused=fused) for fused in (False, True)}

    @property
    def longest(self) -> int:
        """Residues at which sequences are cut."""
        return self.config["cost"]["longest"]

    @cached_property
    def lengths(self) -> Lengths:
        """Of UniRef50, those that the filter keeps."""
        return kept(uniref50_lengths(), self.config["filter"])

    def splits(self) -> dict[str, tuple[int, int]]:
        """Sequences that are embedded, and shards, of each split."""
        drawn, total = self.config["split"], uniref50_lengths().sequences
        share = self.lengths.sequences / total
        sizes = {name: int(drawn[name] * share) for name in ("val", "test")}
        sizes["train"] = self.lengths.sequences - sum(sizes.values())
        return {name: (size, self.config["shard"][name]) for name, size in sizes.items() if size}


def kept(lengths: Lengths, criteria: Mapping[str, Any]) -> Lengths:
    """The lengths that a preset's filter keeps."""
    rows = lengths.length >= criteria["min_length"]
    if criteria["max_length"] is not None:
        rows &= lengths.length <= criteria["max_length"]
    return Lengths(lengths.length[rows], lengths.count[rows])


@dataclass(frozen=True, slots=True)
class Part:
    """A part, simulated; seconds."""

    sequences: int
    residues: int
    operations: int
    device: float
    kinds: Mapping[str, float]
    waiting: float
    """Of the device, for the host."""
    batches: int
    tokens: int
    read: float
    written: float


def config_of(name: str, device: Device) -> dict[str, Any]:
    """A model's preset, or what takes its place."""
    path = PRESETS / f"{name}.yaml"
    if path.is_file():
        return yaml.safe_load(path.read_text())
    encoder, _ = load_planned_encoder(name)
    lengths = uniref50_lengths()
    cost = roofline.predict(encoder, device, OTHER_LONGEST[name], 286).cost
    seconds = float((cost.picoseconds(lengths.length) * 1e-12 * lengths.count).sum())
    shards = {"val": 1, "test": 1, "train": math.ceil(seconds / 60 / OTHER_MINUTES)}
    values = {"linear": cost.linear, "quadratic": cost.quadratic, "longest": cost.longest}
    return {**OTHER, "cost": values, "shard": shards}


def draw_part(run: Run, sequences: int, rng: np.random.Generator) -> np.ndarray:
    """Lengths of a part of at most a number of sequences, as many as the preset's limits let into one."""
    limits = run.config["embed"]
    lengths = run.lengths.sample(rng, min(sequences, limits["part_sequences"]))
    ends = CostModel(**run.config["cost"]).picoseconds(lengths).cumsum()
    return lengths[: max(1, int(np.searchsorted(ends, limits["part_seconds"] * 1e12, side="right")))]


def batches_of(run: Run, lengths: np.ndarray) -> tuple[BatchLayout, list[list[tuple[int, int]]]]:
    """A part as the engine lays it out, and the groups of its batches, B sequences of L tokens each."""
    architecture = ARCHITECTURES[REGISTRY[run.name].model_type]
    tokens = {"A": 0, "<unk>": 1, **{each: 2 for each in (architecture.first, architecture.last) if each}}
    tokenizer = ResidueTokenizer(tokens, "<unk>", architecture.first, architecture.last)
    engine = SimulatedEngine(run.encoder, tokenizer)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    sequences = Sequences(np.full(offsets[-1], ord("A"), np.uint8), offsets)
    layout = lay_out(sequences, tokenizer, LongPolicy(max_residues=run.longest), run.longest)
    found, begin = [], 0
    while begin < len(layout.order):
        end = engine.batch_end(layout, begin, TOKEN_BUDGET["cuda"])
        sizes, counts = np.unique(layout.lengths[begin:end] + tokenizer.n_special, return_counts=True)
        found.append(list(zip(counts.tolist(), sizes.tolist(), strict=True)))
        begin = end
    return layout, found


class SimulatedEngine(Engine):
    """What cuts a layout into batches, on a GPU that is not there."""

    def __init__(self, encoder: nn.Module, tokenizer: ResidueTokenizer) -> None:
        self.encoder, self.tokenizer, self.device = encoder, tokenizer, torch.device("cuda")


def simulate_part(run: Run, lengths: np.ndarray) -> dict[bool, Part]:
    """Predict what a part takes, without and with fused kernels."""
    layout, batches = batches_of(run, lengths)
    batches.sort(key=lambda shapes: (total_tokens(shapes), shapes))
    strata = np.array_split(np.arange(len(batches)), min(SAMPLED, len(batches)))
    shown = [batches[stratum[len(stratum) // 2]] for stratum in strata]
    linear, quadratic = operations(run.encoder)
    done = sum(count * (linear * size + quadratic * size * size) for shapes in batches for count, size in shapes)
    found = {}
    for fused, counter in run.counters.items():
        predicted = [batch_seconds(counter.count(shapes), run.device) for shapes in shown]
        seconds = [(len(stratum), each) for stratum, each in zip(strata, predicted, strict=True)]
        found[fused] = Part(
            sequences=len(lengths),
            residues=int(layout.used.sum()),
            operations=done,
            device=sum(number * each.total for number, each in seconds),
            kinds={kind: sum(number * each.kinds[kind] for number, each in seconds) for kind in seconds[0][1].kinds},
            waiting=sum(number * (each.total - each.device) for number, each in seconds),
            batches=len(batches),
            tokens=int(layout.token_ends[-1]),
            read=int(lengths.sum()) / READ,
            written=2 * len(lengths) * run.encoder.dimension / WRITTEN,
        )
    return found


def total_tokens(shapes: list[tuple[int, int]]) -> int:
    """Tokens of a batch."""
    return sum(count * size for count, size in shapes)


def shard_seconds(run: Run, sequences: int, part: Part, start: float) -> float:
    """Seconds of a job: its start, the first part read, all parts, the last one written.

    Reading and writing go on beside the device; where one takes longer, the device waits.
    """
    weights = 4 * REGISTRY[run.name].parameters / WEIGHT_BYTES_PER_SECOND
    within = sequences / part.sequences * max(part.device, part.read, part.written)
    return start + weights + part.read + within + part.written


def simulate(run: Run, rng: np.random.Generator) -> dict[bool, dict[str, Any]]:
    """Predict a whole run, without and with fused kernels: parts, and all jobs of all splits."""
    full = simulate_part(run, draw_part(run, 1 << 40, rng))
    splits = {}
    for name, (size, shards) in run.splits().items():
        sequences = size // shards
        small = sequences < full[False].sequences
        splits[name] = shards, sequences, simulate_part(run, draw_part(run, sequences, rng)) if small else full
    return {fused: add_up(run, full[fused], splits, fused) for fused in full}


def add_up(run: Run, part: Part, splits: Mapping[str, Any], fused: bool) -> dict[str, Any]:
    """Add up the jobs of all splits."""
    totals, work, minutes = [0.0, 0.0], 0.0, {}
    for name, (shards, sequences, parts) in splits.items():
        each = parts[fused]
        work += shards * sequences / each.sequences * each.operations
        seconds = [shard_seconds(run, sequences, each, start) for start in START]
        totals = [total + shards * second for total, second in zip(totals, seconds, strict=True)]
        minutes[name] = sum(seconds) / 2 / 60
    peak = run.device.products
    return {
        "part": part,
        "inside": part.operations / part.device / peak,
        "file_to_file": sorted(work / total / peak for total in totals),
        "minutes": minutes,
        "hours": sum(totals) / 2 / 3600,
    }


def print_assumptions(device: Device) -> None:
    """Print what the simulation takes for granted."""
    blocks = " and ".join(map(str, roofline.ATTENTION_BLOCK.values()))
    shares = ", ".join(f"{kind} {share:.0%}" for kind, share in roofline.ATTENTION_SHARE.items())
    print(
        f"""SIMULATION. Nothing here was measured on a GPU; levels may be off by a fifth.
{device.name}: products up to {device.products / 1e12:,.0f} TFLOP/s ({device.products / device.peak:.0%} of the data \
sheet's), passes over memory {device.passes / 1e12:.2f} TB/s ({device.passes / device.bandwidth:.0%})
lengths: log-normal ({MU}, {SIGMA}), filtered and cut as the preset says
products: tiles of {roofline.TILE[0]} x {roofline.TILE[1]}, whole waves on {device.processors} processors, \
K / (K + {roofline.FILLING}) of the peak
attention, of the products' peak: {shares}; in blocks of {blocks} tokens
a kernel: at least {roofline.SHORTEST_KERNEL * 1e6:.0f} us and {roofline.GAP * 1e6:.0f} us until the next; on the host \
{roofline.HOST_KERNEL * 1e6:.0f} us to start it, and {roofline.HOST_BATCH * 1e3:.1f} ms a batch
a job: {START[0]:.0f} to {START[1]:.0f} s of start, weights at {WEIGHT_BYTES_PER_SECOND / 1e9:.0f} GB/s; reading \
{READ / 1e6:.0f} M residues/s and writing {WRITTEN / 1e6:.0f} MB/s, beside the device but for the first and last part
a part: {SAMPLED} of its batches, sorted by size, stand for all; a shard is as many parts like the first one as it holds
fused: with embed.fused, as the compiler and cuBLASLt are taken to do it
shares of the peak are of {device.products / 1e12:,.0f} TFLOP/s"""
    )


def print_run(name: str, fused: bool, found: Mapping[str, Any]) -> None:
    """Print a row."""
    part = found["part"]
    low, high = found["file_to_file"]
    kinds = "/".join(f"{seconds / part.device:.0%}" for seconds in part.kinds.values() if seconds)
    minutes = ", ".join(f"{split} {each:.1f}" for split, each in found["minutes"].items())
    print(
        f"{name:<11} {'yes' if fused else 'no':<5} {part.sequences:>9,} {part.tokens / part.batches:>12,.0f} "
        f"{part.residues / part.device / 1e6:>7.3f} {found['inside']:>7.1%} {low:>7.1%} - {high:<6.1%} "
        f"{kinds:<12} {part.waiting / part.device:>6.1%} {found['hours']:>6.2f}  {minutes}",
        flush=True,
    )


def compare_cpu(name: str, sizes: Mapping[str, int]) -> None:
    """Print predicted and measured seconds side by side, on one core of this machine, in float32."""
    from embedome.models.create import make_config

    torch.set_num_threads(1)
    config = make_config(name, sizes, {}).to_dict()
    encoder = ARCHITECTURES[config["model_type"]].encoder()(config)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_(0, 0.02)
    encoder.settle()
    tokens = {"<unk>": 0, "<s>": 1, "</s>": 2, **dict.fromkeys(STANDARD, 5)}
    engine = Engine(Model(encoder.eval(), ResidueTokenizer(tokens, "<unk>", "<s>", "</s>")))
    core = measured_core(TOKEN_BUDGET["cpu"], sizes["hidden"], sizes["feed_forward"])
    print(
        f"SIMULATION beside the engine on one core: {core.products / 1e9:.0f} GFLOP/s of an endless product, "
        f"{core.passes / 1e9:.0f} GB/s of a batch's passes"
    )
    counter = PassCounter(encoder, torch.float32)
    rng = np.random.default_rng(0)
    print(f"{'residues':>8} {'predicted s':>12} {'measured s':>11} {'ratio':>6}")
    for length in (64, 128, 256, 510):
        count = TOKEN_BUDGET["cpu"] // (length + 2)
        predicted = batch_seconds(counter.count([(count, length + 2)]), core)
        measured = min(measure(engine, np.full(count, length), rng).seconds for _ in range(3))
        print(f"{length:>8} {predicted.total:>12.3f} {measured:>11.3f} {predicted.total / measured:>6.2f}")


def measured_core(tokens: int, hidden: int, feed_forward: int) -> Device:
    """Return this core as a device, by one pass and one product of a batch's size.

    Both are measured at that size, as a batch of a CPU stays in its caches. What is then compared is the rest of the
    model: which kernels there are, how many, their bytes and operations.
    """
    core = replace(find_device(DEFAULT_DEVICE), name="a core", processors=1)
    states, weights = torch.ones(tokens, hidden), torch.ones(feed_forward, hidden)
    result = torch.empty_like(states)
    passed = best_seconds(lambda: torch.add(states, 1.0, out=result))
    product = Kernel(PRODUCT, 2 * tokens * feed_forward * hidden, 0, (tokens, feed_forward, hidden))
    multiplied = best_seconds(lambda: torch.nn.functional.linear(states, weights))
    return replace(
        core,
        passes=2 * states.nbytes / passed,
        products=core.products * computing_seconds(product, core) / multiplied,
    )


def best_seconds(call: Callable[[], object], rounds: int = 20) -> float:
    """Return the shortest of some rounds."""
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def main() -> None:
    """Print the assumptions and a row for each model, as it is and with fused kernels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", default=DEFAULT_DEVICE, metavar="NAME")
    parser.add_argument("--models", nargs="+", default=["esm1nv", "prott5nv", "esm2-650m", "ankh2-ext2"])
    parser.add_argument("--cpu", action="store_true", help="compare with the engine on this CPU instead")
    options = parser.parse_args()
    if options.cpu:
        compare_cpu("esm1nv", {"layers": 2, "hidden": 256, "heads": 4, "feed_forward": 1024})
        return
    device = find_device(options.gpu)
    print_assumptions(device)
    print(
        "model       fused sequences tokens/batch  Mres/s inside  file to file    prod/att/mem  waits  hours  "
        "minutes of a shard"
    )
    for name in options.models:
        run = Run(name, config_of(name, device), device)
        for fused, found in simulate(run, np.random.default_rng(0)).items():
            print_run(name, fused, found)


if __name__ == "__main__":
    main()
