"""How the model was trained, for the report: its curve beside the baselines, from files that training wrote."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedome.analysis.drawing import add_legend, line, new_plot
from embedome.analysis.palette import OTHER, PALETTE
from embedome.common.json_files import read_json
from embedome.common.terms import SPLITS, TRAIN, VAL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Means over neighbouring lines: those of a few thousand tokens are noise.
POINTS = 200
BASELINES = {"unigram": ":", "composition": "--", "neighbours": "-."}


def read_training(summary: str | os.PathLike) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a training's summary, and the lines of training.jsonl, which lies beside it.

    Raises
    ------
    UserError
        Where a file is missing or no JSON.
    """
    lines = (Path(summary).parent / "training.jsonl").read_text(encoding="utf-8").splitlines()
    return read_json(summary), [json.loads(line) for line in lines]


def plot_training(summary: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> "Figure":
    """Loss of hidden residues in training and in validation, the baselines, and the learning rate."""
    steps = [each for each in lines if "validation" not in each]
    held_out = [each for each in lines if "validation" in each]
    result = summary["validation"]["residue_loss"]
    figure, (left, right) = new_plot(
        f"Recipe {summary['recipe']}: {summary['steps']:,} steps, {summary['tokens']:,} tokens, "
        f"{result:.3f} nats per hidden residue",
        panels=2,
    )
    train, val = SPLITS[TRAIN], SPLITS[VAL]
    at, loss = average_neighbours([each["step"] for each in steps], [each["residue_loss"] for each in steps])
    left.plot(at, loss, label="train, masks of the recipe", **line(train))
    losses = [each["validation"]["residue_loss"] for each in held_out]
    left.plot([each["step"] for each in held_out], losses, label="val, fixed masks", marker=".", **line(val))
    for name, dashes in BASELINES.items():
        value = summary["baselines"][name]
        left.axhline(value, color="#000000", linestyle=dashes, linewidth=0.8, label=f"{name} ({value:.3f})")
    lowest = min([*loss, *losses, *summary["baselines"].values()])
    highest = summary["baselines"]["unigram"] + 0.6 * (summary["baselines"]["unigram"] - lowest)
    left.set(xlabel="step", ylabel="nats per hidden residue", ylim=(lowest - 0.02, highest))
    add_legend(left)
    right.plot([each["step"] for each in steps], [each["rate"] for each in steps], color=PALETTE[0])
    right.set(xlabel="step", ylabel="learning rate")
    right.grid(color=OTHER, linewidth=0.4)
    return figure


def average_neighbours(steps: Sequence[int], values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Means of neighbouring values, `POINTS` at most, and of their steps."""
    pieces = min(POINTS, len(steps))
    cuts = np.linspace(0, len(steps), pieces + 1).astype(int)[:-1]
    sizes = np.diff(cuts, append=len(steps))
    step, value = (np.add.reduceat(np.asarray(row, float), cuts) / sizes for row in (steps, values))
    return step, value
