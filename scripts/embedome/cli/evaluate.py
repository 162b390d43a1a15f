"""The command `embedome evaluate`."""

import argparse

from embedome.cli.answer import Answer
from embedome.cli.options import DEVICES, DTYPES, choose_device, choose_dtype
from embedome.cli.parser import Commands

METHODS = ("frozen", "lora", "random", "one-hot", "composition")
HEADS = ("convolutions", "mlp-256", "mlp-128", "light-attention", "convbert", "linear", "ridge")
EPILOG = """\
DIR/MODEL/TASK/METHOD.json has scores with intervals, DIR/table.tsv those of all results in DIR. Run again after a
crash: features and heads that are there are not computed again. DIR/cache may be removed when all is done. See
docs/evaluation.md for the tasks and their files.
"""


def add_evaluate(commands: Commands) -> None:
    """Add the parser of `evaluate`."""
    parser = commands.add_parser(
        "evaluate",
        help="score a model's vectors on FLIP's and Ankh's tasks, or on your own, beside baselines",
        description="Train small heads on frozen features of a model and on those of baselines, and score them.",
        epilog=EPILOG,
        examples=(
            "embedome evaluate models/esm2-650m --task own --data proteins.fasta labels.tsv -o evaluation",
            "embedome evaluate models/esm2-650m --task own --data proteins.fasta labels.tsv --layer all -o evaluation",
        ),
    )
    parser.add_argument("model", metavar="MODEL_DIR", nargs="?", help="Hugging Face model directory (default: none)")
    parser.add_argument("--task", required=True, metavar="NAME", help="of docs/evaluation.md, or own")
    parser.add_argument(
        "--data",
        required=True,
        nargs="+",
        metavar="PATH",
        help="its files: folders, zip archives, files; val=FILE for a file of one split; own: FASTA and table",
    )
    parser.add_argument("-o", "--out", required=True, metavar="DIR", help="folder of results; more are added to it")
    parser.add_argument(
        "--method",
        choices=METHODS,
        nargs="+",
        default=[],
        help="frozen: the model's vectors; lora: trained ones (default: all but lora)",
    )
    parser.add_argument(
        "--layer", nargs="+", default=["-1"], metavar="K", help="0 the embedding, or all (default: the last)"
    )
    parser.add_argument("--head", choices=HEADS, nargs="+", default=[], help="(default: the published one of the task)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="heads trained of each (default: 3)")
    parser.add_argument("--train-proteins", type=int, metavar="N", help="drawn from all of train (default: all)")
    parser.add_argument(
        "--long",
        choices=["truncate", "window", "skip"],
        default="truncate",
        help="long proteins: use the first residues (default), average overlapping windows, or leave out",
    )
    parser.add_argument(
        "--max-residues", type=int, metavar="N", help="beyond which a protein is long (default: by the model)"
    )
    parser.add_argument("--overlap", type=int, default=0, metavar="N", help="residues that windows share (default: 0)")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="auto: the GPU if there is one (default)")
    parser.add_argument("--dtype", choices=("auto", *DTYPES), default="auto", help="arithmetic of the model")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of heads on a CPU (default: 1)")
    parser.set_defaults(run=run_evaluate)


def run_evaluate(options: argparse.Namespace) -> Answer:
    """Evaluate and give the scores."""
    from embedome.evaluation.evaluate import evaluate
    from embedome.evaluation.settings import EvaluateSettings

    device = choose_device(options)
    settings = EvaluateSettings(
        methods=tuple(options.method),
        heads=tuple(options.head),
        layers=choose_layers(options.layer),
        seeds=options.seeds,
        train_proteins=options.train_proteins,
        long_sequences=options.long,
        overlap=options.overlap,
        max_residues=options.max_residues,
        dtype=choose_dtype(options, device),
        device=device,
        threads=options.threads,
    )
    found = evaluate(options.task, options.data, options.out, model=options.model, settings=settings)
    lines = [
        f"{method}, {head}: {metric} {value:.4f}"
        for method, result in found.items()
        for metric, scores in result.items()
        if metric != "file"
        for head, value in scores.items()
    ]
    table = f"{options.out}/table.tsv"
    return Answer({"table": table, "methods": found}, [*lines, table])


def choose_layers(values: list[str]) -> tuple[int, ...]:
    """Return the layers that --layer names; none for all.

    Raises
    ------
    UserError
        Where one is no number.
    """
    from embedome.common.errors import UserError

    if values == ["all"]:
        return ()
    try:
        return tuple(map(int, values))
    except ValueError:
        raise UserError(f"--layer is {' '.join(values)}; expected numbers, or all") from None
