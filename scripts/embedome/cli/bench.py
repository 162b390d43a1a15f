"""The command `embedome bench`."""

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedome.cli.answer import Answer
from embedome.cli.options import add_engine_options, choose_device
from embedome.cli.parser import Commands

if TYPE_CHECKING:
    from embedome.embedding.dtype_benchmark import MeasuredDtype
    from embedome.embedding.length_histogram import Lengths


def add_bench(commands: Commands) -> None:
    """Add the parser of `bench`."""
    parser = commands.add_parser(
        "bench",
        help="measure how fast this machine embeds with a model in each dtype, and the cost of a sequence",
        description="Measure the peak of the device at a large matrix product, and the engine by length of sequence: "
        "in each dtype that model and device take, or in the one of --dtype. Of several the fastest is named whose "
        "vectors are within the tolerance of docs/models.md. The cost it prints goes into config.yaml; with --out the "
        "result of that dtype is kept for `embedome plan`.",
        examples=(
            "embedome bench -m models/esm2-650m -o bench.json",
            "embedome bench -m models/esm2-650m --fasta proteins.fasta --dtype bfloat16",
        ),
    )
    add_engine_options(parser, "each, to name the fastest")
    parser.add_argument("-o", "--out", metavar="FILE", help="JSON file for the result")
    parser.add_argument(
        "--seconds", type=float, default=30.0, metavar="S", help="how long to measure, each dtype (default: 30)"
    )
    parser.add_argument("--fasta", nargs="+", metavar="FILE", help="take lengths from here (default: as in UniRef50)")
    parser.set_defaults(run=run_bench)


def run_bench(options: argparse.Namespace) -> Answer:
    """Measure, and give the result."""
    from embedome.common.errors import UserError
    from embedome.common.json_files import write_json
    from embedome.common.outputs import check_output
    from embedome.embedding.length_histogram import fasta_lengths, uniref50_lengths

    if not options.seconds > 0:
        raise UserError(f"--seconds is {options.seconds:g}; expected more than 0")
    if options.out:
        check_output(options.out, options.fasta or (), is_bench)
    lengths = fasta_lengths(options.fasta) if options.fasta else uniref50_lengths()
    compared, result = bench_all(options, lengths) if options.dtype == "auto" else ([], bench_one(options, lengths))
    if options.out:
        write_json(options.out, result)
    return Answer(result, [*compared, *bench_lines(result)])


def bench_one(options: argparse.Namespace, lengths: "Lengths") -> dict[str, Any]:
    """Measure the dtype that was named; return the result."""
    from embedome.embedding.benchmark import bench
    from embedome.engine.engine import Engine
    from embedome.models.directory import load_model

    device = choose_device(options)
    engine = Engine(load_model(options.model), device=device, dtype=options.dtype, fused=options.fused)
    found = bench(engine, lengths, options.seconds)
    return about_run(options, device) | {"dtype": options.dtype, "token_budget": engine.token_budget} | found


def bench_all(options: argparse.Namespace, lengths: "Lengths") -> tuple[list[str], dict[str, Any]]:
    """Measure each dtype; return lines on how they compare, and the result of the fastest within the tolerance."""
    from embedome.embedding.dtype_benchmark import bench_dtypes, find_fastest

    device = choose_device(options)
    about = about_run(options, device)
    measured, refused = bench_dtypes(options.model, device, lengths, options.seconds, options.fused)
    fastest = find_fastest(measured)
    lines = [
        f"{about['model']['name']} on {about['device']}, torch {about['torch']}",
        *comparison_lines(measured, refused),
        f"the fastest within the tolerance: {fastest.dtype}",
        "",
    ]
    dtypes = {
        each.dtype: {
            "residues_per_second": each.speed,
            "min_cosine": each.cosine if math.isfinite(each.cosine) else None,
            "tolerance": each.bound,
        }
        for each in measured
    }
    chosen = {"dtype": fastest.dtype, "token_budget": fastest.token_budget, "dtypes": dtypes}
    return lines, about | chosen | fastest.found


def about_run(options: argparse.Namespace, device: str) -> dict[str, Any]:
    """Return what a result is of: the model, the device and torch."""
    import torch

    from embedome.engine.device import use_device
    from embedome.models.directory import model_identity

    name = torch.cuda.get_device_name(use_device(device)) if device == "cuda" else "cpu, one thread"
    return {"model": model_identity(options.model), "device": name, "torch": torch.__version__}


def comparison_lines(measured: "Sequence[MeasuredDtype]", refused: Mapping[str, str]) -> list[str]:
    """Return the dtypes as a table: speed, the same beside float32, the smallest cosine, and the least that it may be.

    Those that were not measured follow, with the reason.
    """
    rows = [f"{'dtype':>14}  {'residues/s':>12}  {'beside float32':>14}  {'smallest cosine':>15}  {'tolerance':>11}"]
    for each in measured:
        rows.append(
            f"{each.dtype:>14}  {each.speed:12,.0f}  {each.speed / measured[0].speed:13.2f}x  {each.cosine:15.7f}  "
            f"{each.bound:11.7f}{'' if each.within else '  not within it'}"
        )
    return [*rows, *(f"{dtype:>14}  not measured: {reason}" for dtype, reason in refused.items())]


def is_bench(path: str | Path) -> bool:
    """Return whether a JSON file is one of `embedome bench`."""
    from embedome.common.json_files import read_json

    found = read_json(path)
    return isinstance(found, dict) and {"cost", "model"} <= found.keys()


def bench_lines(result: Mapping[str, Any]) -> list[str]:
    """Return the result of a dtype: a table, and the cost as in config.yaml."""
    return [
        f"{result['model']['name']} on {result['device']}, {result['dtype']}, torch {result['torch']}",
        f"large matrix product: {result['gemm_peak_flop_per_second'] / 1e9:,.1f} GFLOP/s",
        f"{'residues':>14}  {'ms/sequence':>12}  {'residues/s':>12}  {'of the peak':>11}",
        *(
            f"{length:>14}  {1e3 * row['seconds_per_sequence']:12,.3f}  {row['residues_per_second']:12,.0f}  "
            f"{row['fraction_of_gemm_peak']:11.0%}"
            for length, row in [*result["by_length"].items(), ("distribution", result["distribution"])]
        ),
        cost_text(result["cost"]),
    ]


def cost_text(cost: Mapping[str, Any]) -> str:
    """Return a cost as in config.yaml."""
    longest = "null" if cost["longest"] is None else cost["longest"]
    return f"cost:\n  linear: {cost['linear']:.3e}\n  quadratic: {cost['quadratic']:.3e}\n  longest: {longest}"
