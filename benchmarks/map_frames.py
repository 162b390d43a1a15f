"""Frame times of the interactive map in a Chromium without a window, while it is moved.

Made-up sequences on both planes. Each frame moves the first plane, and its time is that since the frame before. On a
machine without a GPU the processor draws: by plain pictures, as Bokeh prefers there, and by WebGL, which a reader's
GPU does many times as fast. Run with

    PYTHONPATH=scripts:tests python benchmarks/map_frames.py [--points N] [--frames N]
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from embedome.analysis.interactive_map import write_map
from embedome.analysis.labels import sample_labels
from helpers.chromium import NO_WEBGL, SOFTWARE_WEBGL, Page, open_page

PIECE = 10
WAYS = {
    "plain pictures, by the processor": NO_WEBGL,
    "WebGL, by the processor": SOFTWARE_WEBGL,
    "what a reader on this machine has": (),
}
RENDERER = """(() => {
  const { webgl } = Bokeh.index.get_one(window.embedomeMap.figures[0]).canvas_view;
  const context = webgl && webgl.canvas.getContext("webgl");
  const about = context && context.getExtension("WEBGL_debug_renderer_info");
  return about ? context.getParameter(about.UNMASKED_RENDERER_WEBGL) : "no WebGL";
})()"""
MOVE = """(async () => {
  const { x_range } = window.embedomeMap.figures[0];
  const width = x_range.end - x_range.start;
  const frame = () => new Promise(requestAnimationFrame);
  const times = [];
  let last = await frame();
  for (let number = 0; number < FRAMES; number++) {
    const step = width / 200 * ((number + FIRST) % 40 < 20 ? 1 : -1);
    x_range.setv({ start: x_range.start + step, end: x_range.end + step });
    const now = await frame();
    times.push(now - last);
    last = now;
  }
  return times;
})()"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--points", type=int, default=20_000, help="sequences on the map (default: 20,000)")
    parser.add_argument("--frames", type=int, default=40, help="frames that are measured (default: 40)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        sample = made_sample(args.points)
        write_map(folder / "map.html", sample, [sample_labels(sample)], [0.2, 0.1], "made-up")
        size = (folder / "map.html").stat().st_size
        print(f"{args.points:,} points on two planes, a file of {size / 1e6:.1f} MB, {args.frames} frames")
        for way, graphics in WAYS.items():
            with open_page((folder / "map.html").as_uri(), folder / way, graphics=graphics) as page:
                page.wait_for("'ready' in document.body.dataset")
                move(page, PIECE)
                times = move(page, args.frames)
                median, late = np.quantile(times, (0.5, 0.95))
                print(f"{way}: median {median:.0f} ms, 95 % within {late:.0f} ms ({page.run(RENDERER)})", flush=True)


def move(page: Page, frames: int) -> list[float]:
    """Return the milliseconds that each frame takes; some at a time, as a reply is waited for."""
    return [
        time
        for first in range(0, frames, PIECE)
        for time in page.run(MOVE.replace("FRAMES", str(PIECE)).replace("FIRST", str(first)))
    ]


def made_sample(count: int) -> pa.Table:
    """Return a sample of made-up sequences in clusters, with ids as long as UniRef's."""
    rng = np.random.default_rng(0)
    family = rng.geometric(0.05, count)
    middles = rng.normal(scale=5, size=(family.max() + 1, 4))
    points = middles[family] + rng.normal(size=(count, 4))
    return pa.table(
        {
            "id": [f"UniRef50_A0A{number:07d}" for number in range(count)],
            "split": rng.choice(["val", "test", "train"], count, p=[0.05, 0.05, 0.9]).tolist(),
            "length": pa.array(np.exp(rng.normal(5.5, 0.6, count)).astype(np.int32) + 20),
            "norm": pa.array(rng.normal(3, 0.3, count), pa.float32()),
            "taxid": pa.array([None] * count, pa.int32()),
            "family": [f"F{number:06d}" for number in family],
            **{name: pa.array(points[:, place]) for place, name in enumerate(("pc1", "pc2", "umap1", "umap2"))},
        }
    )


if __name__ == "__main__":
    main()
