"""Tables of labels: which protein carries which. docs/annotation.md describes their form."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from embedome.common.errors import UserError, first_line
from embedome.common.json_files import file_sha256
from embedome.parquet.reader import ParquetFile

log = logging.getLogger(__name__)

DELIMITERS = {".tsv": "\t", ".csv": ","}
# What people join labels by, and the expression that splits them. Blanks are in many a label: there codes alone count.
JOINERS = {",": r"\s*,\s*", ";": r"\s*;\s*", "|": r"\s*\|\s*", "/": r"\s*/\s*", " ": r"\s+"}
# GO:0005524, 1.10.150.-, IPR000719, K01234: no words, and no numbers as in 2,3-dihydroxybenzoate.
CODE = r"^(?:[A-Za-z][\w.-]*:\w[\w.-]*|\d+(?:\.[\dn-]+){1,3}|[A-Za-z]{1,6}_?\d{2,}[\w.]*)$"
SHOWN_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class LabelSource:
    """Where labels are.

    Parameters
    ----------
    path : path
        ``.tsv``, ``.csv``, with ``.gz`` or without, or ``.parquet``.
    id_column, label_column : str
        Columns with the ids of the data set, and with a label or several.
    separator : str
        What stands between several labels in one text; empty where a text is one label. Lists are taken item by item.
    """

    path: str | os.PathLike
    id_column: str = "id"
    label_column: str = "label"
    separator: str = ";"

    def columns(self) -> dict[str, str]:
        """Return how the table is read, as JSON."""
        return {name: getattr(self, name) for name in ("id_column", "label_column", "separator")}

    @classmethod
    def from_config(cls, section: Mapping[str, Any]) -> "LabelSource":
        """Take the table that the configuration's section ``annotate`` names."""
        return cls(section["labels"], section["id_column"], section["label_column"], section["separator"])


@dataclass(frozen=True, slots=True)
class LabelTable:
    """Labels by id. Ids and names are sorted, in the order of UTF-8 bytes.

    Attributes
    ----------
    ids : pyarrow.StringArray, length n
    names : pyarrow.StringArray
        The labels.
    offsets : numpy.ndarray, dtype=int64, shape=(n + 1,)
        The labels of id i are ``codes[offsets[i]:offsets[i + 1]]``, at least one.
    codes : numpy.ndarray, dtype=int64
        Positions in `names`, ascending for each id.
    rows, empty : int
        Rows of the table, and those among them that name no label.
    sha256 : str
        Of the file.
    """

    ids: pa.StringArray
    names: pa.StringArray
    offsets: np.ndarray
    codes: np.ndarray
    rows: int
    empty: int
    sha256: str


def read_labels(source: LabelSource) -> LabelTable:
    """Read a table of labels. It is in memory at once.

    Raises
    ------
    UserError
        Where the file is missing or unreadable, lacks a column, has a row without id, or names no label at all.
    """
    table = read_columns(source)
    ids = pc.fill_null(as_text(source, table["id"]), "")
    blank = pc.indices_nonzero(pc.equal(ids, ""))
    if len(blank):
        raise UserError(f"{source.path}: row {blank[0].as_py() + 1} has no {source.id_column}; expected an id")
    parents, labels = split_labels(source, table["label"].combine_chunks())
    named = pc.not_equal(labels, "").to_numpy(zero_copy_only=False)
    parents, labels = parents[named], labels.filter(pa.array(named))
    if not len(labels):
        raise UserError(f"{source.path}: no row has a {source.label_column}; expected labels to carry over")
    id_names, id_codes = rank_values(ids.combine_chunks().take(pa.array(parents)))
    names, codes = rank_values(labels)
    warn_of_joined(source, names)
    pairs = np.unique(id_codes * len(names) + codes)
    return LabelTable(
        ids=id_names,
        names=names,
        offsets=np.searchsorted(pairs // len(names), np.arange(len(id_names) + 1)),
        codes=pairs % len(names),
        rows=len(table),
        empty=len(table) - len(np.unique(parents)),
        sha256=file_sha256(source.path),
    )


def split_labels(source: LabelSource, column: pa.Array) -> tuple[np.ndarray, pa.StringArray]:
    """Return the labels of n rows one by one, stripped of white space: the row of each, int64 [m], and the labels."""
    if is_list(column.type):
        rows, items = pc.list_parent_indices(column), pc.list_flatten(column)
        texts = pc.fill_null(as_text(source, items), "")
    else:
        texts = pc.fill_null(as_text(source, column), "")
        if not source.separator:
            return np.arange(len(texts)), pc.utf8_trim_whitespace(texts)
        pieces = pc.split_pattern(texts, source.separator)
        rows, texts = pc.list_parent_indices(pieces), pieces.flatten()
    return rows.to_numpy(), pc.utf8_trim_whitespace(texts)


def is_list(kind: pa.DataType) -> bool:
    """Return whether the values of a column are lists."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def as_text(source: LabelSource, column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return a column as text."""
    try:
        return column.cast(pa.string())
    except pa.ArrowException as error:
        raise UserError(f"{source.path}: a column is no text ({first_line(error)}); expected ids and labels") from None


def warn_of_joined(source: LabelSource, names: pa.StringArray) -> None:
    """Warn where labels look like several in one, joined by something that is not the separator."""
    for separator, pattern in JOINERS.items():
        if separator != source.separator and len(found := find_joined(names, pattern, separator == " ")):
            log.warning(
                "%s: %s of %s labels look like several joined by %r, for example %r; if they are, name what separates "
                "labels (--separator, annotate.separator), or make lists of them, an item each",
                source.path,
                f"{len(found):,}",
                f"{len(names):,}",
                separator,
                found[0].as_py()[:SHOWN_CHARACTERS],
            )


def find_joined(names: pa.StringArray, pattern: str, codes_only: bool) -> pa.StringArray:
    """Return the labels whose parts all look like labels: they have the form of a code, or occur elsewhere, too."""
    several = names.filter(pc.match_substring_regex(names, pattern))
    pieces = pc.split_pattern_regex(several, pattern)
    # Without the brackets and quotes of lists in other languages.
    label, parts = pc.list_parent_indices(pieces).to_numpy(), pc.utf8_trim(pieces.flatten(), "[](){}'\"")
    is_label = pc.match_substring_regex(parts, CODE)
    if not codes_only:
        counts = pc.value_counts(parts)
        repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
        known = pa.concat_arrays([names, repeated])
        is_label = pc.or_(is_label, pc.is_in(parts, value_set=known))
    odd = np.bincount(label[~is_label.to_numpy(zero_copy_only=False)], minlength=len(several))
    return several.filter(pa.array(odd == 0))


def rank_values(values: pa.Array) -> tuple[pa.StringArray, np.ndarray]:
    """Return the distinct values, sorted, and the position of each value among them, int64."""
    encoded = values.dictionary_encode()
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return encoded.dictionary.take(pa.array(order)), rank[encoded.indices.to_numpy()]


def read_columns(source: LabelSource) -> pa.Table:
    """Read the two columns as ``id`` and ``label``.

    Raises
    ------
    UserError
        As `read_labels`.
    """
    path, wanted = Path(source.path), [source.id_column, source.label_column]
    kind = Path(path.name.lower().removesuffix(".gz")).suffix
    if kind == ".parquet":
        file = ParquetFile(path)
        check_columns(source, file.schema_arrow.names)
        return file.read(columns=wanted).select(wanted).rename_columns(["id", "label"])
    if kind not in DELIMITERS:
        raise UserError(f"{path}: cannot tell what it is; expected a name that ends in .tsv, .csv (.gz) or .parquet")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        return read_text(source, path, DELIMITERS[kind])
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable table ({first_line(error)})") from None


def read_text(source: LabelSource, path: Path, delimiter: str) -> pa.Table:
    """Read two columns of a delimited file as text; quotes mean something in .csv only."""
    wanted = [source.id_column, source.label_column]
    quoted = delimiter == ","
    parse = pa.csv.ParseOptions(delimiter=delimiter, quote_char='"' if quoted else False, newlines_in_values=quoted)
    # Of other columns the types would be guessed, from the first of them.
    convert = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(wanted, pa.string()),
        strings_can_be_null=False,
        include_columns=wanted,
        include_missing_columns=True,
    )
    opened = partial(pa.input_stream, str(path), compression="gzip" if path.name.lower().endswith(".gz") else None)
    with opened() as stream:
        check_columns(source, pa.csv.open_csv(stream, parse_options=parse).schema.names)
    with opened() as stream:
        reader = pa.csv.open_csv(stream, parse_options=parse, convert_options=convert)
        batches = [pa.table(batch) for batch in reader]
    return pa.concat_tables(batches or [reader.schema.empty_table()]).rename_columns(["id", "label"])


def check_columns(source: LabelSource, have: list[str]) -> None:
    """Refuse a table that lacks one of the two columns, or has one twice."""
    for name in (source.id_column, source.label_column):
        if name not in have:
            raise UserError(f"{source.path}: no column {name!r}; there are {', '.join(have)}")
        if have.count(name) > 1:
            raise UserError(f"{source.path}: {have.count(name)} columns are called {name!r}; expected one")
