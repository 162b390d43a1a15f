"""Draw demo.png, the picture of README.md, from the results of `make run`: .venv/bin/python docs/images/draw.py."""

import json
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pyarrow.parquet as pq
from matplotlib import pyplot
from matplotlib.axes import Axes
from PIL import Image

RESULTS = Path("results")
RUN = "esm1nv-demo"
PICTURE = Path(__file__).with_name("demo.png")
# Okabe and Ito's colours, which are distinct with any colour vision; shapes tell families apart without them.
FAMILIES = (("#0072B2", "o"), ("#E69F00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#D55E00", "v"))
OTHERS = "#C4C4C4"
BARS = "#0072B2"


def main() -> None:
    """Draw both panels and write the PNG, in 64 colours."""
    mpl.use("agg")
    pyplot.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(8.4, 3.6), width_ratios=[3, 2], layout="constrained")
    draw_map(left)
    draw_ledger(right)
    figure.savefig(PICTURE, dpi=125, metadata={"Software": None})
    Image.open(PICTURE).convert("P", palette=Image.Palette.ADAPTIVE, colors=64).save(PICTURE, optimize=True)


def draw_map(axes: Axes) -> None:
    """Draw each sampled protein at its first two principal components, the largest families by colour and shape."""
    sample = pq.read_table(RESULTS / "analysis" / RUN / "sample.parquet")
    x, y = sample["pc1"].to_numpy(), sample["pc2"].to_numpy()
    families = np.array(sample["family"].to_pylist(), str)
    names, counts = np.unique(families, return_counts=True)
    largest = names[np.argsort(-counts, kind="stable")][: len(FAMILIES)]
    rest = ~np.isin(families, largest)
    axes.scatter(x[rest], y[rest], s=4, color=OTHERS, linewidths=0, label=f"{len(names) - len(largest)} others")
    for name, (color, shape) in zip(largest, FAMILIES, strict=True):
        mine = families == name
        axes.scatter(x[mine], y[mine], s=12, color=color, marker=shape, linewidths=0, label=name)
    axes.set(xlabel="principal component 1", ylabel="principal component 2", xticks=[], yticks=[])
    axes.set_title(f"{len(x):,} distinct proteins of the demo, a vector each", fontsize=9)
    axes.legend(title="family", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), markerscale=1.6)


def draw_ledger(axes: Axes) -> None:
    """Draw how many of the records ended in each state."""
    ledger = json.loads((RESULTS / "ledger.json").read_text())
    states = ledger["states"] | {f"rejected:\n{reason}": count for reason, count in ledger["rejected"].items()}
    names = sorted(states, key=states.__getitem__)
    bars = axes.barh(names, [states[name] for name in names], color=BARS, height=0.6)
    axes.bar_label(bars, fmt="{:,.0f}", padding=3)
    axes.set(xticks=[], xlim=(0, max(states.values()) * 1.2))
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_title(f"{ledger['read']:,} records read, each in one state", fontsize=9)


if __name__ == "__main__":
    main()
