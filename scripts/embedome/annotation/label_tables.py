"""Tables of labels read as streams: .tsv, .csv, .parquet, and GAF files of GO annotations as they are."""

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from embedome.common.errors import UserError, first_line
from embedome.common.inputs import check_input, check_line
from embedome.parquet.reader import ParquetFile

log = logging.getLogger(__name__)

BLOCK_BYTES = 1 << 24
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
COMMENT, GAF_COMMENT = b"#", b"!"
# Experimental evidence, and what a curator or an author states: the codes of CAFA's benchmarks.
EXPERIMENTAL = ("EXP", "IDA", "IPI", "IMP", "IGI", "IEP", "TAS", "IC")
# http://geneontology.org/docs/guide-go-evidence-codes
EVIDENCE = (
    *EXPERIMENTAL, "HTP", "HDA", "HMP", "HGI", "HEP", "IBA", "IBD", "IKR", "IRD", "ISS", "ISO", "ISA", "ISM", "IGC",
    "RCA", "NAS", "ND", "IEA",
)  # fmt: skip
ALL_EVIDENCE = "all"
# Columns of a GAF file, counted from 0: http://geneontology.org/docs/go-annotation-file-gaf-format-2.2
GAF_ID, GAF_QUALIFIER, GAF_TERM, GAF_EVIDENCE, GAF_LEAST_COLUMNS = 1, 3, 4, 6, 15
DENIED = r"(?i)(?:^|\|)NOT(?:\||$)"


@dataclass(frozen=True, slots=True)
class LabelSource:
    """Where labels are, and what of them is taken.

    Parameters
    ----------
    path : path
        ``.tsv``, ``.csv`` or ``.gaf``, with ``.gz`` or without, or ``.parquet``.
    id_column, label_column : str
        Columns with the ids or accessions of the data set, and with a label or several. Not of GAF files.
    separator : str
        What stands between several labels in one text; empty where a text is one label. Lists are taken item by item.
    evidence : sequence of str
        Of GAF files: evidence codes that count, or ``all``. What is denied (NOT) never counts.
    ontology : path, optional
        OBO file: a label implies its ancestors, see `ontology.Ontology`.
    """

    path: str | os.PathLike
    id_column: str = "id"
    label_column: str = "label"
    separator: str = ";"
    evidence: Sequence[str] = EXPERIMENTAL
    ontology: str | os.PathLike | None = None

    def columns(self) -> dict[str, Any]:
        """Return how the table is read, as JSON."""
        names = {name: getattr(self, name) for name in ("id_column", "label_column", "separator")}
        return names | {"evidence": list(self.evidence)}

    @classmethod
    def from_config(cls, section: Mapping[str, Any]) -> "LabelSource":
        """Take the table that the configuration's section ``annotate`` names."""
        names = ("id_column", "label_column", "separator", "ontology")
        others = {name: section[name] for name in names}
        return cls(section["labels"], evidence=tuple(section["evidence"]), **others)


@dataclass(frozen=True, slots=True)
class LabelRows:
    """A table of labels as a stream of its rows, with counts of those that do not count.

    Attributes
    ----------
    left_out : collections.Counter
        Rows of a GAF file that were left out, by reason, when the stream has ended.
    """

    source: LabelSource
    left_out: Counter[str] = field(default_factory=Counter)

    def __iter__(self) -> Iterator[pa.Table]:
        """Yield the columns ``id`` and ``label``, some rows at a time.

        Raises
        ------
        UserError
            Where the file is missing or not readable, or lacks a column.
        """
        path = Path(self.source.path)
        check_input(path, "a table of labels")
        kind = Path(path.name.lower().removesuffix(".gz")).suffix
        readers = {".tsv": read_tsv, ".csv": read_csv, ".gaf": self.read_gaf, ".parquet": read_parquet}
        if kind not in readers:
            known = ".tsv, .csv, .gaf (.gz) or .parquet"
            raise UserError(f"{path}: cannot tell what it is; expected a name that ends in {known}")
        try:
            yield from readers[kind](self.source)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path}: not a readable table ({first_line(error)})") from None

    def read_gaf(self, source: LabelSource) -> Iterator[pa.Table]:
        """Yield ids and terms of a GAF file that are not denied and have the evidence."""
        if (source.id_column, source.label_column) != ("id", "label"):
            raise UserError(f"{source.path}: a GAF file has columns of its own; leave those of ids and labels out")
        if unknown := [code for code in source.evidence if code not in (*EVIDENCE, ALL_EVIDENCE)]:
            raise UserError(f"no evidence code {unknown[0]!r}; expected some of {', '.join(EVIDENCE)}, or all")
        rows = 0
        for lines in read_lines(source.path):
            lines = lines.filter(pc.invert(is_blank_or(lines, GAF_COMMENT)))
            check_width(source, lines, rows, least=GAF_LEAST_COLUMNS)
            fields = pc.split_pattern(lines, b"\t", max_splits=GAF_EVIDENCE + 1)
            name, qualifier, term, evidence = (
                pc.utf8_trim_whitespace(pc.list_element(fields, place).cast(pa.string()))
                for place in (GAF_ID, GAF_QUALIFIER, GAF_TERM, GAF_EVIDENCE)
            )
            denied = pc.match_substring_regex(qualifier, DENIED)
            counts = pc.is_in(evidence, value_set=pa.array(source.evidence, pa.string()))
            if ALL_EVIDENCE in source.evidence:
                counts = pa.array([True] * len(lines), pa.bool_())
            other = evidence.filter(pc.and_not(pc.invert(counts), denied))
            self.left_out.update({"NOT": pc.sum(denied).as_py() or 0})
            self.left_out.update(other.to_pylist())
            kept = pc.and_not(counts, denied)
            rows += len(lines)
            yield pa.table({"id": name.filter(kept), "label": term.filter(kept)})
        left_out = +self.left_out
        shown = ", ".join(f"{reason} {n:,}" for reason, n in left_out.most_common())
        log.info("%s: %s of %s rows are left out%s", source.path, f"{left_out.total():,}", f"{rows:,}",
                 f" ({shown})" if shown else "")  # fmt: skip


def read_parquet(source: LabelSource) -> Iterator[pa.Table]:
    """Yield the two columns of a Parquet file, a row group at a time."""
    file, wanted = ParquetFile(source.path), [source.id_column, source.label_column]
    find_columns(source, file.schema_arrow.names)
    for group in range(file.num_row_groups):
        yield file.read_row_group(group, columns=wanted).select(wanted).rename_columns(["id", "label"])


def read_tsv(source: LabelSource) -> Iterator[pa.Table]:
    """Yield the two columns of a file whose columns are separated by tabs; quotes mean nothing."""
    places: list[int] = []
    rows = comments = width = 0
    for lines in read_lines(source.path):
        comments += count_comments(lines)
        if not places:
            names, rest = take_header(source, lines)
            if names is None:
                continue
            places, width = find_columns(source, names), len(names)
            comments -= lines[len(lines) - len(rest) - 1].as_py().startswith(COMMENT)
            lines = rest
        skip = is_blank_or(lines, COMMENT)
        lines = lines.filter(pc.invert(skip))
        check_width(source, lines, rows, most=width)
        # Editors take blanks and tabs off the ends of lines.
        lines = pc.binary_join_element_wise(lines, b"\t" * width, b"")
        fields = pc.split_pattern(lines, b"\t", max_splits=max(places) + 1)
        rows += len(lines)
        yield pa.table([pc.list_element(fields, place).cast(pa.string()) for place in places], names=["id", "label"])
    say_comments(source, comments)
    if not places:
        raise UserError(f"{source.path}: not a readable table (no line names the columns)")


def take_header(source: LabelSource, lines: pa.BinaryArray) -> tuple[list[str] | None, pa.BinaryArray]:
    """Return the names of the columns, and what follows; None where all lines are blank or comments.

    The names may stand in a comment.
    """
    wanted = {source.id_column, source.label_column}
    for number, line in enumerate(lines.to_pylist()):
        names = [name.strip() for name in line.decode(errors="replace").removesuffix("\r").split("\t")]
        bare = [names[0].lstrip("# "), *names[1:]]
        if line.startswith(COMMENT) and wanted <= set(bare):
            names = bare
        if line.strip() and (not line.startswith(COMMENT) or wanted <= set(names)):
            return names, lines.slice(number + 1)
    return None, lines.slice(len(lines))


def read_csv(source: LabelSource) -> Iterator[pa.Table]:
    """Yield the two columns of a file whose columns are separated by commas, as text; quotes hold values together."""
    comments = skipped = count_leading_comments(source)
    handled: list[str] = []

    def handle(row: pa.csv.InvalidRow) -> str:
        handled.append(row.text)
        return "skip" if row.text.startswith(COMMENT.decode()) else "error"

    reading = pa.csv.ReadOptions(skip_rows=skipped, block_size=BLOCK_BYTES)
    parsing = pa.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=handle)
    with open_text(source.path) as stream:
        names = pa.csv.open_csv(stream, read_options=reading, parse_options=parsing).schema.names
    bare = [name.lstrip("# ").strip() if not number else name.strip() for number, name in enumerate(names)]
    first, *wanted = names[0], *(names[place] for place in find_columns(source, bare))
    # Of other columns the types would be guessed, from the first of them.
    converting = pa.csv.ConvertOptions(
        column_types=dict.fromkeys([first, *wanted], pa.string()),
        strings_can_be_null=False,
        include_columns=list(dict.fromkeys([first, *wanted])),
    )
    handled.clear()
    with open_text(source.path) as stream:
        reader = pa.csv.open_csv(stream, read_options=reading, parse_options=parsing, convert_options=converting)
        for batch in reader:
            is_comment = pc.starts_with(batch[first], COMMENT.decode())
            comments += pc.sum(is_comment).as_py() or 0
            rows = batch.filter(pc.invert(is_comment))
            yield pa.table([rows[name] for name in wanted], names=["id", "label"])
    say_comments(source, comments + len(handled))


def count_leading_comments(source: LabelSource) -> int:
    """Count the comments at the beginning of a file, but for one that names the columns."""
    wanted, found = {source.id_column, source.label_column}, 0
    for lines in read_lines(source.path):
        for line in lines.to_pylist():
            names = {name.strip(' #"\r') for name in line.decode(errors="replace").split(",")}
            if not line.startswith(COMMENT) or wanted <= names:
                return found
            found += 1
    return found


def count_comments(lines: pa.Array) -> int:
    """Count the lines that begin as comments do."""
    return pc.sum(pc.starts_with(lines, COMMENT)).as_py() or 0


def say_comments(source: LabelSource, comments: int) -> None:
    """Log how many lines were passed over as comments."""
    if comments:
        log.info("%s: %s lines that begin with # are passed over as comments", source.path, f"{comments:,}")


def open_text(path: str | os.PathLike) -> pa.NativeFile:
    """Open a file, or what is compressed in it, as bytes."""
    return pa.input_stream(str(path), compression="gzip" if str(path).lower().endswith(".gz") else None)


def read_lines(path: str | os.PathLike) -> Iterator[pa.BinaryArray]:
    """Yield the lines of a file without their ends, some megabytes at a time."""
    with open_text(path) as stream:
        rest = stream.read(BLOCK_BYTES).removeprefix(BYTE_ORDER_MARK)
        while block := stream.read(BLOCK_BYTES):
            text, end, rest = (rest + block).rpartition(b"\n")
            check_line(path, len(rest))
            if end:
                yield split_lines(text)
        if rest:
            yield split_lines(rest.removesuffix(b"\n"))


def split_lines(text: bytes) -> pa.BinaryArray:
    """Split a text at line ends of any kind."""
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return pc.split_pattern(pa.array([text], pa.binary()), b"\n").flatten()


def is_blank_or(lines: pa.BinaryArray, comment: bytes) -> pa.BooleanArray:
    """Return which lines hold nothing but blanks and tabs, or begin as comments do."""
    blank = pc.equal(pc.ascii_trim_whitespace(lines.view(pa.string())), "")
    return pc.or_(blank, pc.starts_with(lines, comment))


def check_width(
    source: LabelSource, lines: pa.BinaryArray, before: int, least: int = 0, most: int | None = None
) -> None:
    """Refuse lines of fewer or more columns; blank columns at the end do not count as more."""
    columns = pc.count_substring(lines, b"\t").to_numpy() + 1
    for row in np.flatnonzero((columns < least) | (columns > (most or columns))):
        n = int(columns[row])
        if most and n > most:
            n = len(lines[row].as_py().rstrip().split(b"\t"))
            if n <= most:
                continue
        expected = f"{most}" if most else f"{least} or more, as GAF files have"
        raise UserError(
            f"{source.path}: not a readable table (row {before + row + 1} has {n} columns; expected {expected})"
        )


def find_columns(source: LabelSource, have: Sequence[str]) -> list[int]:
    """Return where the two columns are; refuse a table that lacks one of them, or has one twice."""
    places = []
    for name in (source.id_column, source.label_column):
        if name not in have:
            raise UserError(f"{source.path}: no column {name!r}; there are {', '.join(have)}")
        if have.count(name) > 1:
            raise UserError(f"{source.path}: {have.count(name)} columns are called {name!r}; expected one")
        places.append(list(have).index(name))
    return places
