"""The commands `embedome pretrain` and `embedome average`."""

import argparse
from pathlib import Path
from typing import Any

from embedome.cli.answer import Answer
from embedome.cli.options import DEVICES, FASTA_HELP, choose_device
from embedome.cli.parser import Commands

RECIPES = ("esm1nv", "esm1nv-1024", "esm1nv-legacy", "prott5nv", "ankh2-ext2", "demo", "laptop")
SIZES = {
    "layers": "layers",
    "decoder_layers": "layers of the decoder",
    "hidden": "model dimension",
    "heads": "attention heads",
    "feed_forward": "dimension of the feed-forward layer",
    "positions": "tokens of the longest sequence",
}
EPILOG = """\
DIR/model is the model directory, which `embedome embed -m` takes; beside it are the data as they are trained on, the
checkpoints, training.jsonl and summary.json. Run again after a crash: it goes on from the last checkpoint, to the same
bytes. See docs/pretraining.md.
"""


def add_pretrain(commands: Commands) -> None:
    """Add the parsers of `pretrain` and `average`."""
    parser = commands.add_parser(
        "pretrain",
        help="train a model on FASTA files, by the recipe of a founding model",
        description="Train ESM-1nv, ProtT5nv or Ankh2 on protein sequences, from the beginning or from another model.",
        epilog=EPILOG,
        examples=(
            "embedome pretrain proteins.fasta -o run",
            "embedome pretrain proteins.fasta --val held-out.fasta --recipe esm1nv --ranks 8 -o run",
        ),
    )
    parser.add_argument("fasta", metavar="FASTA", nargs="+", help=FASTA_HELP)
    parser.add_argument(
        "-o", "--out", required=True, metavar="DIR", help="folder of the run; one that is there goes on"
    )
    parser.add_argument("--recipe", choices=RECIPES, default="demo", help="how (default: demo, minutes on a laptop)")
    parser.add_argument(
        "--val",
        nargs="+",
        default=["0.05"],
        metavar="FASTA|FRACTION",
        help="held-out sequences, or the fraction that is held out (default: 0.05)",
    )
    for name, what in SIZES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help=f"{what} (default: recipe's)")
    parser.add_argument("--init", metavar="MODEL", help="directory or .nemo archive of the same shape to begin with")
    parser.add_argument("--steps", type=int, metavar="N", help="steps; schedule and phases keep their shape")
    parser.add_argument("--tokens", type=int, metavar="N", help="tokens of a step, on all devices (default: recipe's)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of weights, order and masks (default: 0)")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="auto: the GPU if there is one (default)")
    parser.add_argument("--ranks", type=int, default=1, metavar="N", help="processes, one for each GPU (default: 1)")
    parser.add_argument("--threads", type=int, metavar="N", help="of each process on a CPU (default: as torch has it)")
    parser.add_argument(
        "--shard", action="store_true", help="split the model over the ranks, for one that does not fit a GPU"
    )
    parser.set_defaults(run=run_pretrain)
    mean = commands.add_parser(
        "average",
        help="make a model of the mean of a run's last checkpoints",
        description="Write a model directory with the arithmetic mean of the weights of a run's last checkpoints.",
        examples=("embedome average run -o averaged --last 5",),
    )
    mean.add_argument("folder", metavar="DIR", help="folder of a run of `embedome pretrain`")
    mean.add_argument("-o", "--out", required=True, metavar="MODEL", help="the model directory to write")
    mean.add_argument("--last", type=int, required=True, metavar="N", help="checkpoints")
    mean.set_defaults(run=run_average)


def run_pretrain(options: argparse.Namespace) -> Answer:
    """Train a model and give the summary."""
    from embedome.training.pretrain import MODEL, pretrain_fasta
    from embedome.training.settings import PretrainSettings

    out, sizes = Path(options.out), {name: getattr(options, name) for name in SIZES}
    settings = PretrainSettings(
        name=out.name,
        recipe=options.recipe,
        steps=options.steps,
        tokens=options.tokens,
        sizes={name: value for name, value in sizes.items() if value is not None},
        seed=options.seed,
        init=options.init,
        device=choose_device(options),
        threads=options.threads,
        shard=options.shard,
    )
    summary = pretrain_fasta(options.fasta, held_out(options.val), out, settings=settings, ranks=options.ranks)
    return Answer(summary, summary_lines(out / MODEL, summary))


def summary_lines(model: Path, summary: dict[str, Any]) -> list[str]:
    """Return what was trained, and its loss beside the baselines."""
    baselines = ", ".join(f"{name} {loss:.4f}" for name, loss in summary["baselines"].items())
    return [
        f"{model}: {summary['parameters']:,} parameters, {summary['steps']:,} steps, {summary['tokens']:,} tokens",
        f"loss on held-out proteins {summary['validation']['residue_loss']:.4f}; baselines: {baselines}",
    ]


def held_out(val: list[str]) -> list[str] | float:
    """Return what --val names: files, or a fraction.

    Raises
    ------
    UserError
        Where the fraction is none.
    """
    from embedome.common.errors import UserError

    try:
        fraction = float(val[0])
    except ValueError:
        return val
    if len(val) > 1 or not 0 < fraction < 1:
        raise UserError(f"--val is {' '.join(val)}; expected FASTA files, or a fraction between 0 and 1")
    return fraction


def run_average(options: argparse.Namespace) -> Answer:
    """Write a model of the mean of checkpoints."""
    from embedome.training.average import average_run

    steps = average_run(options.folder, options.out, options.last)
    line = f"{options.out}: the mean of the checkpoints of steps {', '.join(map(str, steps))}"
    return Answer({"directory": options.out, "steps": list(steps)}, [line])
