"""The command `embedome finetune`."""

import argparse

from embedome.cli.answer import Answer
from embedome.cli.options import DEVICES, choose_device
from embedome.cli.parser import Commands

HEADS = ("convolutions", "mlp-256", "mlp-128", "light-attention", "convbert")
EPILOG = """\
DIR/adapter is the adapter in peft's form, with the head and its labels beside; DIR/model the model with the adapter
merged, which `embedome embed -m` takes; DIR/result.json the scores. Run again after a crash: it goes on after the last
epoch. See docs/fine-tuning.md.
"""


def add_finetune(commands: Commands) -> None:
    """Add the parser of `finetune`."""
    parser = commands.add_parser(
        "finetune",
        help="train a model on a task by adapters (LoRA)",
        description="Train low-rank adapters of a model's queries and values, and a head, on a task of your own or "
        "on one of `embedome evaluate`.",
        epilog=EPILOG,
        examples=(
            "embedome finetune models/esm2-650m --task own --data proteins.fasta labels.tsv -o tuned",
            "embedome finetune models/esm2-650m --task own --data proteins.fasta labels.tsv --rank 8 -o tuned",
        ),
    )
    parser.add_argument("model", metavar="MODEL_DIR", help="Hugging Face model directory")
    parser.add_argument("--task", required=True, metavar="NAME", help="of docs/evaluation.md, or own")
    parser.add_argument("--data", required=True, nargs="+", metavar="PATH", help="its files, as for evaluate")
    parser.add_argument("-o", "--out", required=True, metavar="DIR", help="folder of the run, which may go on")
    parser.add_argument("--head", choices=HEADS, help="(default: the published one of the task, or convbert)")
    parser.add_argument("--rank", type=int, default=16, metavar="N", help="of the adapters (default: 16)")
    parser.add_argument("--alpha", type=float, default=16, metavar="X", help="scale of the adapters (default: 16)")
    parser.add_argument("--dropout", type=float, default=0.1, metavar="X", help="of their input (default: 0.1)")
    parser.add_argument(
        "--targets", nargs="+", default=[], metavar="NAME", help="modules adapted (default: queries and values)"
    )
    parser.add_argument("--rate", type=float, default=1e-3, metavar="X", help="learning rate (default: 0.001)")
    parser.add_argument("--epochs", type=int, default=5, metavar="N", help="the best by validation stays (default: 5)")
    parser.add_argument("--batch", type=int, default=16, metavar="N", help="proteins of a step (default: 16)")
    parser.add_argument("--train-proteins", type=int, metavar="N", help="drawn from all of train (default: all)")
    parser.add_argument(
        "--long", choices=["truncate", "skip"], default="truncate", help="long proteins: first residues, or none"
    )
    parser.add_argument(
        "--max-residues", type=int, metavar="N", help="beyond which a protein is long (default: by the model)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="(default: 0)")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="auto: the GPU if there is one (default)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="on a CPU (default: 1)")
    parser.set_defaults(run=run_finetune)


def run_finetune(options: argparse.Namespace) -> Answer:
    """Fine-tune a model and give its scores."""
    from embedome.evaluation.finetune import FinetuneSettings, finetune
    from embedome.evaluation.settings import EvaluateSettings
    from embedome.evaluation.tuned import TuneSettings
    from embedome.models.adapters import AdapterSettings

    settings = FinetuneSettings(
        head=options.head,
        tune=TuneSettings(
            adapter=AdapterSettings(options.rank, options.alpha, options.dropout),
            targets=tuple(options.targets),
            rate=options.rate,
            epochs=options.epochs,
            batch=options.batch,
        ),
        evaluate=EvaluateSettings(
            train_proteins=options.train_proteins,
            long_sequences=options.long,
            max_residues=options.max_residues,
            device=choose_device(options),
            threads=options.threads,
        ),
        seed=options.seed,
    )
    result = finetune(options.model, options.task, options.data, options.out, settings=settings)
    metric = result["metric"]
    scores = f"{metric} {result['test'][metric]:.4f} on test, {result['val'][metric]:.4f} on validation"
    return Answer(result, [scores, f"{options.out}/adapter, {options.out}/model"])
