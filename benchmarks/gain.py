"""What pretraining is worth: a small model, trained here, beside random weights of its shape on FLIP's structures.

Trains with the recipe `demo` of `embedome pretrain`, evaluates as `embedome evaluate` does, and prints for each head
the accuracy of both, with the deviation over head seeds, and the gain in points. Run again, it goes on. Run with

    PYTHONPATH=scripts OMP_NUM_THREADS=1 python benchmarks/gain.py train.fasta --val val.fasta --data FLIP... -o gain
"""

import argparse
import json
from pathlib import Path
from typing import Any

from embedome.common.json_files import read_json
from embedome.common.log import setup_logging
from embedome.evaluation.evaluate import evaluate
from embedome.evaluation.settings import FROZEN, RANDOM, EvaluateSettings
from embedome.training.pretrain import MODEL, pretrain_fasta
from embedome.training.settings import PretrainSettings

TASK, METRIC = "secondary_structure", "accuracy"
HEADS = ("convolutions", "linear")


def main() -> None:
    """Train, evaluate and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("fasta", nargs="+", help="sequences to train on")
    parser.add_argument("--val", nargs="+", required=True, help="FASTA files of held-out sequences")
    parser.add_argument("--data", nargs="+", required=True, help="files of the task secondary_structure")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder")
    parser.add_argument("--steps", type=int, nargs="+", default=[943], help="of pretraining (default: 943)")
    parser.add_argument("--train-proteins", type=int, default=1500, help="of the task (default: 1500)")
    parser.add_argument("--max-residues", type=int, default=510, help="of a protein (default: 510)")
    options = parser.parse_args()
    setup_logging()
    for steps in options.steps:
        model, out = pretrain(options, steps), options.out / "evaluation" / str(steps)
        settings = EvaluateSettings(
            methods=(FROZEN, RANDOM),
            heads=HEADS,
            train_proteins=options.train_proteins,
            max_residues=options.max_residues,
        )
        evaluate(TASK, options.data, out, model=model, settings=settings)
        for head in HEADS:
            print(json.dumps({"steps": steps, "head": head, **compare(out / MODEL, head)}))


def pretrain(options: argparse.Namespace, steps: int) -> Path:
    """Train a model, or find it trained; return its directory."""
    run = options.out / f"demo-{steps}"
    settings = PretrainSettings(name=run.name, recipe="demo", steps=steps, threads=1)
    pretrain_fasta(options.fasta, options.val, run, settings=settings, ranks=1)
    return run / MODEL


def compare(folder: Path, head: str) -> dict[str, Any]:
    """Accuracies of both methods with a head, and the gain in points."""
    found = {}
    for method in (FROZEN, RANDOM):
        results = read_json(folder / TASK / f"{method}.json")["results"]
        [found[method]] = [each["scores"][METRIC] for each in results if each["head"] == head]
    gain = 100 * (found[FROZEN]["mean"] - found[RANDOM]["mean"])
    scores = {f"{method}_{name}": found[method][name] for method in found for name in ("mean", "spread", "val")}
    return {**scores, "gain_points": round(gain, 2)}


if __name__ == "__main__":
    main()
