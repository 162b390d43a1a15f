"""Rule overview: the page on which the report opens, with the numbers that matter, and every figure with its text."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from embedome.analysis.key_numbers import find_warning, key_numbers
from embedome.analysis.pages import write_page_of
from embedome.analysis.runtimes import read_total
from embedome.common.json_files import read_json


def write_overview(
    overview: str | os.PathLike,
    figures: Sequence[str | os.PathLike],
    captions: Mapping[str, tuple[str, str]],
    *,
    statistics: str | os.PathLike,
    ledger: str | os.PathLike,
    runtimes: str | os.PathLike,
    leakage: str | os.PathLike | None = None,
) -> None:
    """Write the page.

    Parameters
    ----------
    overview : path
        HTML file.
    figures : sequence of paths
        SVG files, in the order in which they are shown.
    captions : mapping
        By a figure's name, its heading and its text.
    statistics, ledger, leakage : path
        JSON files; leakage where it was measured.
    runtimes : path
        TSV file.
    """
    numbers: dict[str, Any] = read_json(statistics)
    write_page_of(
        Path(overview),
        "overview.html",
        model=numbers["provenance"]["model"]["name"],
        warning=find_warning(numbers),
        numbers=key_numbers(
            numbers, read_json(ledger), read_json(leakage) if leakage else None, read_total(Path(runtimes))
        ),
        figures=[
            {
                "name": path.stem,
                "heading": captions[path.stem][0],
                "text": captions[path.stem][1],
                "svg": svg_element(path),
            }
            for path in map(Path, figures)
        ],
    )


def svg_element(path: Path) -> str:
    """Return the picture of an SVG file as HTML has it: without the XML declaration and document type above it."""
    text = path.read_text(encoding="utf-8")
    return text[text.index("<svg") :]
