"""Labels by id, out of a table in any of its forms. docs/annotation.md describes them."""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.annotation.joined_labels import warn_of_joined
from embedome.annotation.label_tables import LabelRows, LabelSource
from embedome.common.errors import UserError, first_line
from embedome.common.json_files import file_sha256


@dataclass(frozen=True, slots=True)
class LabelTable:
    """Labels by id. Ids and names are sorted, in the order of UTF-8 bytes.

    Attributes
    ----------
    ids : pyarrow.LargeStringArray, length n
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
    left_out : dict
        Rows of a GAF file that do not count, by reason; they are not among `rows`.
    """

    ids: pa.LargeStringArray
    names: pa.StringArray
    offsets: np.ndarray
    codes: np.ndarray
    rows: int
    empty: int
    sha256: str
    left_out: dict[str, int] = field(default_factory=dict)


def read_labels(source: LabelSource) -> LabelTable:
    """Read a table of labels as a stream.

    Raises
    ------
    UserError
        Where the file is missing or not readable, lacks a column, has a row without id, or names no label at all.

    Notes
    -----
    Memory: for each label of each row two numbers of four bytes, later one of eight; each id and label once.
    """
    rows, n_rows, empty = LabelRows(source), 0, 0
    ids, labels = Encoded(), Encoded()
    for batch in rows:
        names = pc.utf8_trim_whitespace(pc.fill_null(as_text(source, batch["id"]), "")).combine_chunks()
        blank = pc.indices_nonzero(pc.equal(names, ""))
        if len(blank):
            row = n_rows + blank[0].as_py() + 1
            raise UserError(f"{source.path}: row {row} has no {source.id_column}; expected an id")
        parents, texts = split_labels(source, batch["label"].combine_chunks())
        named = pc.not_equal(texts, "").to_numpy(zero_copy_only=False)
        parents, texts = parents[named], texts.filter(pa.array(named))
        ids.add(names.take(pa.array(parents)))
        labels.add(texts)
        n_rows, empty = n_rows + len(batch), empty + len(batch) - len(np.unique(parents))
    if not len(labels):
        left_out = f" after {rows.left_out.total():,} were left out (NOT, evidence)" if rows.left_out else ""
        raise UserError(f"{source.path}: no row has a {source.label_column}{left_out}; expected labels to carry over")
    return make_table(source, ids, labels, n_rows, empty, dict(+rows.left_out))


def make_table(
    source: LabelSource, ids: "Encoded", labels: "Encoded", rows: int, empty: int, left_out: dict[str, int]
) -> LabelTable:
    """Sort ids, and the labels of each."""
    id_names, pairs = ids.rank()
    names, codes = labels.rank()
    names = names.cast(pa.string())
    warn_of_joined(source, names)
    pairs *= len(names)
    pairs += codes
    pairs.sort()
    pairs = pairs[np.diff(pairs, prepend=-1) > 0]
    owner, codes = np.divmod(pairs, len(names))
    return LabelTable(
        ids=id_names,
        names=names,
        offsets=np.searchsorted(owner, np.arange(len(id_names) + 1)),
        codes=codes,
        rows=rows,
        empty=empty,
        sha256=file_sha256(source.path),
        left_out=left_out,
    )


class Encoded:
    """A column of texts, each distinct one kept once for each block of rows that were added."""

    def __init__(self) -> None:
        self.chunks: list[pa.DictionaryArray] = []

    def __len__(self) -> int:
        return sum(map(len, self.chunks))

    def add(self, texts: pa.StringArray) -> None:
        """Add rows."""
        encoded = texts.dictionary_encode()
        # Together distinct texts may have more than the 2 GB that a string array holds.
        names = encoded.dictionary.cast(pa.large_string())
        self.chunks.append(pa.DictionaryArray.from_arrays(encoded.indices, names))

    def rank(self) -> tuple[pa.LargeStringArray, np.ndarray]:
        """Return the distinct texts, sorted, and the position of each row's among them, int64; the rows are gone."""
        column = pa.chunked_array(self.chunks).unify_dictionaries()
        self.chunks = []
        dictionary = column.chunk(0).dictionary
        order = pc.sort_indices(dictionary).to_numpy()
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        found = np.concatenate([rank[chunk.indices.to_numpy()] for chunk in column.chunks])
        return dictionary.take(pa.array(order)), found


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
