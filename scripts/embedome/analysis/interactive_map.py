"""The interactive map of the sample: one HTML file that needs no network, drawn by Bokeh, in WebGL where there is any.

pages/map.html is the page and pages/map.js what it does. Numbers are in it as base64 of little-endian arrays.
"""

import base64
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from embedome.analysis.drawing import component_labels
from embedome.analysis.labels import Labels
from embedome.analysis.pages import page_text, write_page_of
from embedome.analysis.palette import OTHERS, SPLIT_STYLES, Style

UNKNOWN = "unknown"
# What Bokeh calls Matplotlib's markers.
MARKER_NAMES = {
    "o": "circle",
    "^": "triangle",
    "s": "square",
    "D": "diamond",
    "v": "inverted_triangle",
    "P": "plus",
    "*": "star",
}
RAMP_STEPS = 64
CAPTION = (
    "Each point is a sequence of the sample. Move the pointer over a point to read its id. Turn the wheel to zoom, "
    "and drag to move. The first plot has the principal axes of all vectors. The second, where there is one, is a "
    "map by UMAP: which sequences lie together says something; distances between groups, and their sizes, say little."
)


def write_map(
    path: Path,
    sample: pa.Table,
    labels: Sequence[Labels],
    explained: Sequence[float],
    model: str,
) -> None:
    """Write the interactive map.

    Parameters
    ----------
    path : path
        HTML file.
    sample : pyarrow.Table
        As `Sampled.table` makes it, k rows.
    labels : sequence of Labels
        By which points may be coloured besides split, length and norm; each of k sequences.
    explained : sequence of float
        Shares of the variance along the first principal axes.
    model : str
        Its name.
    """
    # The bundle: bokeh.min.js, WebGL, and the interface for scripts; no widgets, which are plain HTML here.
    from bokeh.resources import Resources

    views = map_views(sample, explained)
    data = {
        "sequences": len(sample),
        "ids": base64.b64encode("\n".join(sample["id"].to_pylist()).encode()).decode(),
        "fields": map_fields(sample, labels),
        "views": views,
        "ramp": ramp(),
    }
    bundle = Resources(mode="inline", components=["bokeh", "bokeh-gl", "bokeh-api"], log_level="warn").js_raw
    write_page_of(
        path,
        "map.html",
        title=f"Map of {len(sample):,} sampled sequences, {model}",
        caption=CAPTION,
        panels=len(views),
        # A text in it may not end the element.
        data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
        scripts=[*bundle, page_text("map.js")],
    )


def map_views(sample: pa.Table, explained: Sequence[float]) -> list[dict[str, Any]]:
    """Return the planes that points are drawn in: principal axes, and the map where there is one."""
    views = [view("Principal components", sample, ("pc1", "pc2"), component_labels(explained))]
    if sample["umap1"].null_count < len(sample):
        views.append(view("UMAP", sample, ("umap1", "umap2"), ["UMAP 1 (no unit)", "UMAP 2 (no unit)"]))
    return views


def view(name: str, sample: pa.Table, columns: Sequence[str], axes: Sequence[str]) -> dict[str, Any]:
    """Return one plane; sequences that are not on it are at NaN."""
    x, y = (array(sample[column].to_numpy(zero_copy_only=False).astype(np.float32)) for column in columns)
    drawn = len(sample) - sample[columns[0]].null_count
    return {"name": name, "title": f"{name} of {drawn:,} sequences", "axes": list(axes), "x": x, "y": y}


def map_fields(sample: pa.Table, labels: Sequence[Labels]) -> list[dict[str, Any]]:
    """Return what points can be coloured by, and what the pointer shows."""
    return [
        named_field("split", sample["split"].to_pylist(), SPLIT_STYLES),
        number_field("length", "residues", sample["length"].to_numpy(), log=True),
        *(named_field(each.kind, each.values, each.styles) for each in labels),
        number_field("norm", "no unit", sample["norm"].to_numpy(), log=False),
    ]


def named_field(kind: str, values: Sequence[str | None], styles: Mapping[str, Style]) -> dict[str, Any]:
    """Return a field of names: each one's code, style and place in the legend."""
    counts = Counter(UNKNOWN if value is None else value for value in values)
    names = sorted(counts)
    codes = {name: code for code, name in enumerate(names)}
    rest = {"others": 0, UNKNOWN: 0}
    shown = [name for name in styles if name in counts]
    for name in counts.keys() - set(shown):
        rest[UNKNOWN if name == UNKNOWN else "others"] += counts[name]
    lines = [(name, counts[name], styles[name]) for name in shown]
    lines += [(name, count, OTHERS) for name, count in rest.items() if count]
    return {
        "key": kind,
        "name": kind,
        "names": names,
        "styles": [style_entry(styles.get(name, OTHERS)) for name in names],
        "values": array(np.array([codes[UNKNOWN if value is None else value] for value in values], np.int32)),
        "legend": [{"text": f"{name} ({count:,})", **style_entry(style)} for name, count, style in lines],
    }


def number_field(name: str, unit: str, values: np.ndarray, *, log: bool) -> dict[str, Any]:
    """Return a field of numbers with its range; on a logarithmic scale numbers are above 0."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (1.0, 1.0)
    kept = values.astype(np.int32 if values.dtype.kind == "i" else np.float32)
    return {"key": name, "name": name, "unit": unit, "log": log, "low": low, "high": high, "values": array(kept)}


def style_entry(style: Style) -> dict[str, str]:
    """Return a style in Bokeh's words."""
    return {"color": style.color, "marker": MARKER_NAMES[style.marker]}


def array(values: np.ndarray) -> dict[str, str]:
    """Return an array as JSON: its type, and its bytes in base64."""
    plain = values.astype(values.dtype.newbyteorder("<"))
    return {"kind": values.dtype.name, "base64": base64.b64encode(plain.tobytes()).decode()}


def ramp() -> list[str]:
    """Return the colours of numbers, from low to high: dark to light, so that they are read in grey, too."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(color) for color in colormaps["viridis"](np.linspace(0, 1, RAMP_STEPS))]
