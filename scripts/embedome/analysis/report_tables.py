"""Tables as files: tab-separated values for programs, and pages of HTML, which Snakemake's report shows."""

import csv
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from embedome.common.atomic_files import atomic_path

# Light in dark mode too, as the page around it is.
STYLE = """
body { margin: 1.5em; background: #fff; color: #111; font: 15px/1.4 sans-serif; }
h1 { font-size: 1.15em; }
table { border-collapse: collapse; }
th, td { padding: .3em 1.2em .3em 0; border-bottom: 1px solid #ccc; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid #111; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.long { overflow-wrap: anywhere; }
"""
# Longer texts, as checksums, may break.
LONG = 30


def write_tsv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table of tab-separated values."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, delimiter="\t", lineterminator="\n")
        writer.writerows([header, *rows])


def write_page(path: Path, title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a table as a page of its own; columns of numbers stand to the right, whole numbers have commas."""
    numbers = [all(is_number(value) or value == "" for value in column) for column in zip(*rows, strict=True)]
    numbers = numbers or [False] * len(header)
    heads = "".join(cell("th", name, number) for name, number in zip(header, numbers, strict=True))
    lines = "".join(
        f"<tr>{''.join(cell('td', value, number) for value, number in zip(row, numbers, strict=True))}</tr>\n"
        for row in rows
    )
    text = (
        f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style></head>\n<body>\n<h1>{escape(title)}</h1>\n"
        f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{lines}</tbody>\n</table>\n</body>\n</html>\n"
    )
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def is_number(value: Any) -> bool:
    """Return whether a value is a number; a truth value is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def cell(tag: str, value: Any, number: bool) -> str:
    """Return a value as a cell of an HTML table."""
    text = f"{value:,}" if isinstance(value, int) and is_number(value) else str(value)
    kind = ' class="number"' if number else ' class="long"' if len(text) > LONG else ""
    return f"<{tag}{kind}>{escape(text)}</{tag}>"
