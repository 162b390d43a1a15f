"""The command `embedome plan`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedome.cli.answer import Answer, table_lines
from embedome.cli.bench import cost_text, is_bench
from embedome.cli.parser import Commands
from embedome.cli.pretrain import RECIPES as PRETRAIN_RECIPES

if TYPE_CHECKING:
    from embedome.embedding.cost import CostModel
    from embedome.embedding.length_histogram import Lengths
    from embedome.models.encoders.grouped import StreamEncoder

PLAN_EPILOG = """\
The cost of a sequence comes from --bench, a file of `embedome bench`. Without one it is predicted for a GPU in
bfloat16, from the kernels, bytes and operations of the model's layers and from what the GPU can do at most. Such
figures are not measured, and may be off by a fifth. The cost is printed as it goes into config.yaml.

With --pretrain: tokens, operations and device hours of a whole recipe at a share of a peak, memory and disk.
"""
# Of a GPU's peak, what training is assumed to reach.
SHARE = 0.4


def add_plan(commands: Commands) -> None:
    """Add the parser of `plan`."""
    parser = commands.add_parser(
        "plan",
        help="predict device hours, jobs and disk of a run",
        description="Predict device hours, wall-clock time, jobs and disk of a run, before anything runs.",
        epilog=PLAN_EPILOG,
        examples=(
            "embedome plan -m esm2-650m --fasta proteins.fasta --gpu A100",
            "embedome plan -m models/esm2-650m --bench bench.json --devices 8",
            "embedome plan --pretrain esm1nv --gpu H100 --devices 8",
        ),
    )
    planned = parser.add_mutually_exclusive_group(required=True)
    planned.add_argument(
        "-m",
        "--model",
        metavar="MODEL",
        help="a name of `embedome models`, or a Hugging Face model directory, which needs no weights",
    )
    planned.add_argument(
        "--pretrain", choices=PRETRAIN_RECIPES, metavar="RECIPE", help="training by a recipe of `embedome pretrain`"
    )
    device = parser.add_mutually_exclusive_group()
    device.add_argument("--bench", metavar="FILE", help="what `embedome bench` measured on the device")
    device.add_argument("--gpu", metavar="NAME", help="predict for H200 (the default), H100, A100 or L40S")
    parser.add_argument("--fused", action="store_true", help="with --gpu: with embed.fused")
    lengths = parser.add_mutually_exclusive_group()
    lengths.add_argument("--fasta", nargs="+", metavar="FILE", help="the sequences")
    lengths.add_argument("--catalog", metavar="DIR", help="the filtered sequences of a run, results/catalog")
    lengths.add_argument("--uniref50", type=int, metavar="N", help="N sequences as in UniRef50 (default: all)")
    parser.add_argument(
        "--max-residues", type=int, metavar="N", help="longer sequences are cut (default: by the model)"
    )
    parser.add_argument("--poolings", type=int, default=1, metavar="N", help="vectors of a sequence (default: 1)")
    parser.add_argument("--devices", type=int, default=1, metavar="N", help="devices that work at once (default: 1)")
    parser.add_argument("--minutes", type=float, default=30.0, metavar="M", help="length of a job, about (default: 30)")
    parser.add_argument(
        "--share",
        type=float,
        metavar="X",
        help="with --pretrain: part of the GPU's peak that is reached (default: 0.4)",
    )
    parser.add_argument(
        "--peak", type=float, metavar="T", help="with --pretrain: TFLOP/s of a device (default: the GPU's)"
    )
    parser.add_argument(
        "--shard", action="store_true", help="with --pretrain: as `embedome pretrain --shard`, on all --devices"
    )
    parser.set_defaults(run=run_plan)


def run_plan(options: argparse.Namespace) -> Answer:
    """Predict what a run takes."""
    from dataclasses import asdict

    from embedome.common.errors import UserError
    from embedome.embedding.cost import longest_costed
    from embedome.embedding.forecast import Job, make_plan
    from embedome.engine.windows import LongPolicy

    for name in ("poolings", "devices", "minutes", "share", "peak"):
        if (value := getattr(options, name)) is not None and not value > 0:
            raise UserError(f"--{name} is {value}; expected more than 0")
    if options.pretrain:
        return plan_training(options)
    if options.share or options.peak:
        raise UserError("--share and --peak are of --pretrain; without it the cost is --bench's or predicted")
    if options.shard:
        raise UserError("--shard is of --pretrain; a model that embeds is whole on each device")
    encoder, held = load_planned_encoder(options.model)
    longest = longest_costed(LongPolicy(max_residues=options.max_residues), held)
    lengths = read_lengths(options)
    if options.bench:
        cost, basis = read_cost(options, longest)
    else:
        cost, basis = predict_cost(options, encoder, longest, lengths)
    job = Job(lengths, cost, encoder.dimension, options.poolings, options.devices, options.minutes)
    plan = make_plan(job) | basis | {"cost": asdict(cost)}
    return Answer(plan, plan_lines(plan))


def plan_training(options: argparse.Namespace) -> Answer:
    """Predict what a run of a recipe takes."""
    from embedome.common.errors import UserError
    from embedome.embedding.roofline import DEFAULT_DEVICE, find_device
    from embedome.training.forecast import Devices, plan_pretraining
    from embedome.training.recipes import find_recipe

    if options.share and options.share > 1:
        raise UserError(f"--share is {options.share}; expected 1 or less")
    for name in ("bench", "fused", "max_residues"):
        if getattr(options, name):
            raise UserError(f"--{name.replace('_', '-')} is of embedding; leave it out with --pretrain")
    gpu, lengths, share = find_device(options.gpu or DEFAULT_DEVICE), read_lengths(options), options.share or SHARE
    peak = options.peak * 1e12 if options.peak else gpu.peak
    devices = Devices(options.devices, peak, share, gpu.memory, options.shard)
    plan = plan_pretraining(find_recipe(options.pretrain), lengths.length, lengths.count, devices)
    basis = f"{share:.0%} of {peak / 1e12:,.0f} TFLOP/s, assumed; nothing is measured (see training.jsonl of a run)"
    plan |= {"basis": basis}
    return Answer(plan, training_lines(plan))


def training_lines(plan: dict[str, Any]) -> list[str]:
    """Return the plan of a recipe as a table for people."""
    memory, disk = (
        ", ".join(f"{name.replace('_', ' ')} {size / 1e9:,.2f}" for name, size in plan[place].items())
        for place in ("bytes_of_device", "bytes_on_disk")
    )
    rows = [
        ("parameters", f"{plan['parameters']:,}"),
        ("sequences", f"{plan['sequences']:,} in {plan['steps']:,} steps, {plan['epochs']:,.2f} epochs"),
        ("tokens", f"{plan['tokens']:,}"),
        ("operations", f"{plan['operations']:.3g}"),
        ("rate", plan["basis"]),
        ("device hours", f"{plan['device_hours']:,.2f}"),
        ("wall-clock hours", f"{plan['wall_clock_hours']:,.2f} on {plan['devices']:,} devices"),
        ("GB of a device", f"{memory} ({plan['micro_batch_tokens']:,} tokens)"),
        ("GB on disk", disk),
    ]
    return table_lines(rows)


def read_cost(options: argparse.Namespace, longest: int | None) -> "tuple[CostModel, dict[str, Any]]":
    """Read the cost in a file of `embedome bench`, and say where it is from."""
    from dataclasses import replace

    from embedome.common.errors import UserError
    from embedome.common.inputs import check_input
    from embedome.common.json_files import read_json
    from embedome.embedding.cost import CostModel

    check_input(options.bench, "a file of `embedome bench`")
    if not is_bench(options.bench):
        raise UserError(f"{options.bench}: not a file of `embedome bench`")
    found = read_json(options.bench)
    check_same_model(options, found["model"])
    cost = replace(CostModel(**found["cost"]), longest=longest)
    return cost, {"basis": f"measured with {found['model']['name']} on {found['device']}, {found['dtype']}"}


def predict_cost(
    options: argparse.Namespace, encoder: "StreamEncoder", longest: int | None, lengths: "Lengths"
) -> "tuple[CostModel, dict[str, Any]]":
    """Predict the cost on a GPU, and say where it is from and what holds the GPU up."""
    from embedome.embedding.roofline import DEFAULT_DEVICE, find_device, predict

    device = find_device(options.gpu or DEFAULT_DEVICE)
    found = predict(encoder, device, longest, max(1, lengths.residues // lengths.sequences), fused=options.fused)
    batch, fused = found.batch, " with embed.fused" if options.fused else ""
    return found.cost, {
        "basis": f"predicted for the {device.name} in bfloat16{fused}, not measured (see `embedome bench`)",
        "bound": batch.bound,
        "share_of_device_time": {kind: seconds / batch.device for kind, seconds in batch.kinds.items() if seconds},
    }


def check_same_model(options: argparse.Namespace, measured: dict[str, Any]) -> None:
    """Refuse what was measured with another directory's model; a registered name is not checked."""
    from embedome.common.errors import UserError
    from embedome.common.json_files import file_sha256
    from embedome.models.directory import CONFIG

    path = Path(options.model) / CONFIG
    if path.is_file() and file_sha256(path) != measured["config_sha256"]:
        raise UserError(f"{options.bench}: measured with {measured['name']}, another model than {options.model}")


def load_planned_encoder(model: str) -> "tuple[StreamEncoder, int | None]":
    """Return a model's encoder, of the registry or a directory, without weights, and the residues it takes at once."""
    import torch

    from embedome.models.architectures import ARCHITECTURES
    from embedome.models.directory import empty_model
    from embedome.models.registry import REGISTRY

    if model not in REGISTRY or Path(model).is_dir():
        found = empty_model(model)
        return found.encoder, found.max_residues
    from embedome.models.create import make_config

    entry = REGISTRY[model]
    with torch.device("meta"):
        return ARCHITECTURES[entry.model_type].encoder()(make_config(model, {}, {}).to_dict()), entry.residues


def read_lengths(options: argparse.Namespace) -> "Lengths":
    """Read the sequences' lengths, from wherever the user said."""
    from embedome.common.errors import UserError
    from embedome.embedding.length_histogram import UNIREF50_SEQUENCES, catalog_lengths, fasta_lengths, uniref50_lengths

    if options.fasta:
        return fasta_lengths(options.fasta)
    if options.catalog:
        return catalog_lengths(Path(options.catalog))
    if options.uniref50 is not None and options.uniref50 < 1:
        raise UserError(f"--uniref50 is {options.uniref50}; expected 1 or more")
    return uniref50_lengths(options.uniref50 or UNIREF50_SEQUENCES)


def plan_lines(plan: dict[str, Any]) -> list[str]:
    """Return a plan as a table for people."""
    used = f"{plan['residues_used']:,} of {plan['residues']:,}"
    rows = [
        ("sequences", f"{plan['sequences']:,}"),
        ("residues used", used),
        ("cost", plan["basis"]),
        *bound_rows(plan),
        ("device hours", f"{plan['device_hours']:,.2f}"),
        ("shards", f"{plan['shards']:,} of {plan['minutes_per_shard']:,.1f} minutes"),
        ("wall-clock hours", f"{plan['wall_clock_hours']:,.2f} on {plan['devices']:,} devices"),
        ("data set", f"{plan['bytes_per_protein'] / 1e9:,.1f} GB"),
        ("per-residue embeddings", f"{plan['bytes_per_residue'] / 1e9:,.1f} GB more, where asked for"),
    ]
    return [*table_lines(rows), cost_text(plan["cost"])]


def bound_rows(plan: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the row that says what holds the GPU up, where that is predicted."""
    if "bound" not in plan:
        return []
    shares = ", ".join(f"{kind} {share:.0%}" for kind, share in plan["share_of_device_time"].items())
    return [("bound by", f"{plan['bound']} (of the GPU's time: {shares})")]
