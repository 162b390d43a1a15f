"""Reading a data set of embeddings: matrices, look-ups by id, Dask.

The files are plain Parquet: pyarrow, pandas, Polars, DuckDB and Dask read them without embedome (docs/reading.md).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.common.errors import UserError
from embedome.common.parallel import available_cores
from embedome.common.terms import DUPLICATE
from embedome.dataset.format import KEYS, embedding_schema, find_vector_names, residue_schema, vector_columns
from embedome.dataset.id_search import IdSearch, list_ids
from embedome.dataset.part_file import read_rows
from embedome.dataset.to_faiss import EXACT_UP_TO, Neighbours, index_with_ids
from embedome.parquet.id_lookup import find_in_files
from embedome.parquet.reader import RowReader
from embedome.parquet.scan import SPLIT, RowRange, list_row_ranges, matrices, scan
from embedome.parquet.vectors import vector_matrix

if TYPE_CHECKING:
    import dask.dataframe

    from embedome.dataset.to_torch import TensorStream


@dataclass(frozen=True, slots=True)
class Dataset:
    """An opened data set. Vectors are float16, D of them per protein."""

    folder: Path
    manifest: dict[str, Any]
    skipped: pa.Table | None = field(default=None, repr=False)
    """Skipped sequences, with the reason."""
    file: Path | None = None
    """Where the data set is one file."""

    def __len__(self) -> int:
        return self.manifest["rows"]

    @property
    def name(self) -> Path:
        """What messages call it: the file, or the folder."""
        return self.file or self.folder

    @property
    def dimension(self) -> int:
        """D, the length of a vector."""
        return self.manifest["dimension"]

    @property
    def poolings(self) -> list[str]:
        """Names of a row's vectors, the first where none is named: poolings, of several layers ``layer_12_mean``."""
        return find_vector_names(self.manifest["provenance"])

    @property
    def schema(self) -> pa.Schema:
        """Schema of the rows."""
        return embedding_schema(self.dimension, self.poolings)

    def column(self, pooling: str | None = None) -> str:
        """Return the column of the vectors of a name in `poolings`.

        Raises
        ------
        UserError
            Where the data set has none of that name.
        """
        columns = vector_columns(self.poolings)
        if pooling is not None and pooling not in columns:
            raise UserError(f"{self.name}: no vectors of pooling {pooling!r}; there are {', '.join(columns)}")
        return columns[pooling or self.poolings[0]]

    @property
    def splits(self) -> list[str]:
        """Names of the splits."""
        return list(self.manifest["splits"])

    def files(self, split: str | None = None, kind: str = "files") -> list[dict[str, Any]]:
        """Return the manifest's entries of a split's files, or of all.

        `kind` is ``files``, or ``residues`` for the files of per-residue embeddings.

        Raises
        ------
        UserError
            Where there is no such split.
        """
        splits = self.manifest["splits"]
        if split is not None and split not in splits:
            raise UserError(f"{self.name}: no split {split!r}; there are {', '.join(splits)}")
        return [file for name in ([split] if split else splits) for file in splits[name][kind]]

    def check_columns(self, columns: Sequence[str], *others: str) -> list[str]:
        """Return the names of columns, checked to be in the files or among the `others`.

        Raises
        ------
        UserError
            Names one that is not; also where `columns` is no list.
        """
        if isinstance(columns, str):
            raise UserError(f"{self.name}: columns are one text, {columns!r}; expected a list: [{columns!r}]")
        known = [*self.schema.names, *others]
        for name in columns:
            if name not in known:
                raise UserError(f"{self.name}: no column {name!r}; there are {', '.join(known)}")
        return list(columns)

    def pieces(self, split: str | None = None, kind: str = "files") -> list[RowRange]:
        """Return where the rows of a split, or of all, are; parameters as for `files`."""
        names = self.splits if split is None else [split]
        return [piece for name in names for piece in list_row_ranges(self.folder, name, self.files(name, kind))]

    def matrix(
        self, split: str | None = None, pooling: str | None = None, threads: int | None = None
    ) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yield ids and vectors, one file at a time, ids sorted within a file.

        Memory is that of the file, and of those that are decoded meanwhile: see `iter_batches` for less.

        Parameters
        ----------
        split : str, optional
            All splits, one after the other, where none is named.
        pooling : str, optional
            Of `poolings`, the first where none is named.
        threads : int, optional
            That decode ahead; all cores if not given.

        Yields
        ------
        ids : list of str, length n
        vectors : numpy.ndarray, dtype=float16, shape=(n, D)
        """
        column = self.column(pooling)
        files = [(self.folder / file["file"], file["rows"]) for file in self.files(split)]
        yield from matrices(files, column, self.dimension, threads or available_cores())

    def iter_batches(
        self,
        split: str | None = None,
        rows: int = 8192,
        columns: Sequence[str] = (),
        pooling: str | None = None,
        threads: int | None = None,
    ) -> Iterator[tuple]:
        """Yield ids and vectors, `rows` at a time, whatever the files; memory is that of some row groups.

        Parameters
        ----------
        split, pooling, threads
            As for `matrix`; rows come in its order.
        rows : int
            Of a batch; the last may have fewer.
        columns : sequence of str
            Other columns to yield, by name; ``split`` too.

        Yields
        ------
        ids : list of str, length n
        vectors : numpy.ndarray, dtype=float16, shape=(n, D)
        *columns : pyarrow.Array
            One for each of `columns`; values that are not known are null.

        Raises
        ------
        UserError
            Where a name is unknown, or `rows` below 1.
        """
        if rows < 1:
            raise UserError(f"batches of {rows} rows; expected 1 or more")
        column, others = self.column(pooling), self.check_columns(columns, SPLIT)
        names = list(dict.fromkeys(["id", column, *others]))
        tables = scan(self.pieces(split), names, threads or available_cores())
        first = next(tables, None)
        if first is None:
            return
        reader = RowReader(chain([first], tables), first.schema)
        while len(table := reader.take(rows)):
            arrays = [table[name].combine_chunks() for name in others]
            yield table["id"].to_pylist(), vector_matrix(table[column]), *arrays

    def tables(
        self, columns: Sequence[str], split: str | None = None, threads: int | None = None
    ) -> Iterator[pa.Table]:
        """Yield some columns as Arrow tables, a row group at a time, in the order of `matrix`; others are not read.

        Raises
        ------
        UserError
            As `iter_batches`.
        """
        yield from scan(self.pieces(split), self.check_columns(columns, SPLIT), threads or available_cores())

    def rows(self, ids: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of some ids, in the order asked for.

        Where no row has an id, it is taken for an accession of UniProtKB or UniRef: P12345 finds sp|P12345|AATM_RABIT
        or UniRef50_P12345. Of files that may hold an id the footer is read; of row groups that may, the ids; where one
        is there the other columns, and of vectors the pages that hold it.

        Parameters
        ----------
        ids : sequence or array of str
        columns : sequence of str, optional
            All of the files if not given.

        Raises
        ------
        UserError
            Where an id is not there; says whether it was skipped and why. Where it is the accession of several ids, or
            a column is unknown.
        """
        names = self.schema.names if columns is None else self.check_columns(columns)
        schema = pa.schema([self.schema.field(name) for name in dict.fromkeys(["id", *names])])
        return IdSearch(self.name, self.folder, self.files(), self.skipped).rows(list_ids(ids), schema).select(names)

    def get(self, ids: Sequence[str], pooling: str | None = None) -> np.ndarray:
        """Return the vectors of some ids, in the order asked for.

        Parameters
        ----------
        ids : sequence or array of str, length k
            Or accessions, as for `rows`.
        pooling : str, optional
            As in `matrix`.

        Returns
        -------
        numpy.ndarray, dtype=float16, shape=(k, D)

        Raises
        ------
        UserError
            As `rows`.
        """
        column = self.column(pooling)
        return vector_matrix(self.rows(ids, [column])[column])

    def residues(self, ids: Sequence[str]) -> list[np.ndarray]:
        """Return the per-residue embeddings of some ids, in the order asked for.

        They are written once for each sequence: duplicates find their canonical id's by the digest.

        Returns
        -------
        list of numpy.ndarray, dtype=float16, shape=(n_residues_used, D)

        Raises
        ------
        UserError
            As `rows`, and where the data set has no per-residue embeddings.
        """
        files = self.files(kind="residues")
        if not files:
            raise self.without_residues()
        rows = self.rows(ids, ["id", "digest", "state"])
        names = set(rows.filter(pc.not_equal(rows["state"], DUPLICATE))["id"].to_pylist())
        copies = rows.filter(pc.equal(rows["state"], DUPLICATE))["digest"]
        for file in files if len(copies) else []:
            keys = read_rows(self.folder / file["file"], KEYS.names)
            names.update(keys.filter(pc.is_in(keys["digest"], value_set=copies))["id"].to_pylist())
        table = find_in_files(self.folder, files, sorted(names), residue_schema(self.dimension))
        by_digest = dict(zip(table["digest"].to_pylist(), table["residue_embeddings"], strict=True))
        return [vector_matrix(by_digest[digest].values) for digest in rows["digest"].to_pylist()]

    def without_residues(self) -> UserError:
        """Return the error for a data set that has no per-residue embeddings."""
        return UserError(f"{self.name}: no per-residue embeddings; embed with per_residue to have them")

    def to_dask(self, split: str | None = None, pooling: str | None = None) -> "dask.array.Array":
        """Return the vectors as a Dask array, a chunk per file, rows in the order of `matrix`; parameters as there.

        Returns
        -------
        dask.array.Array, dtype=float16, shape=(n, D)
        """
        from embedome.dataset.to_dask import dask_array

        files = [(self.folder / file["file"], file["rows"]) for file in self.files(split) if file["rows"]]
        return dask_array(files, self.column(pooling), self.dimension)

    def to_dask_frame(
        self, split: str | None = None, columns: Sequence[str] | None = None
    ) -> "dask.dataframe.DataFrame":
        """Return the other columns as a Dask data frame, a partition per chunk of `to_dask`, rows in the same order.

        Parameters
        ----------
        split : str, optional
            As for `matrix`.
        columns : sequence of str, optional
            All but the vectors, and ``split``, if not given. Not those of vectors: Dask turns columns of arrays into
            strings.

        Returns
        -------
        dask.dataframe.DataFrame
            Numbers that may be unknown are pandas' Int32.

        Raises
        ------
        UserError
            Where a column is unknown, or one of vectors.
        """
        from embedome.dataset.to_dask import dask_frame

        vectors = vector_columns(self.poolings).values()
        schema = pa.schema([*(field for field in self.schema if field.name not in vectors), (SPLIT, pa.string())])
        names = schema.names if columns is None else self.check_columns(columns, SPLIT)
        for name in vectors:
            if name in names:
                raise UserError(f"{self.name}: {name!r} is a column of vectors; to_dask returns them as an array")
        return dask_frame(self.pieces(split), names, schema)

    def to_torch(
        self,
        split: str | None = None,
        rows: int | None = None,
        columns: Sequence[str] = (),
        pooling: str | None = None,
        shuffle: int = 0,
        seed: int = 0,
    ) -> "TensorStream":
        """Return the rows as a PyTorch data set that streams tensors; see `embedome.dataset.to_torch.TensorStream`.

        Parameters
        ----------
        split, columns, pooling
            As for `iter_batches`.
        rows : int, optional
            Rows of a batch, for a DataLoader with ``batch_size=None``; single rows if not given.
        shuffle : int
            Rows of the buffer that rows are drawn from; row groups are shuffled too. 0: the order of `matrix`.
        seed : int
            Of the shuffle.
        """
        from embedome.dataset.to_torch import TensorStream

        return TensorStream(
            self.pieces(split),
            self.column(pooling),
            self.check_columns(columns, SPLIT),
            rows=rows,
            shuffle=shuffle,
            seed=seed,
        )

    def to_faiss(
        self,
        split: str | None = None,
        pooling: str | None = None,
        metric: str = "cosine",
        exact_up_to: int = EXACT_UP_TO,
        seed: int = 0,
        threads: int | None = None,
    ) -> Neighbours:
        """Build a FAISS index of the vectors, with their ids.

        Parameters
        ----------
        split, pooling, threads
            As for `matrix`.
        metric, exact_up_to, seed
            As for `embedome.dataset.to_faiss.build_index`.
        """
        threads = threads or available_cores()
        return index_with_ids(
            lambda: (batch for _, batch in self.iter_batches(split, pooling=pooling, threads=threads)),
            (chunk for table in self.tables(["id"], split, threads) for chunk in table["id"].chunks),
            self.dimension,
            metric=metric,
            exact_up_to=exact_up_to,
            seed=seed,
            threads=threads,
        )

    def describe(self) -> dict[str, Any]:
        """Return counts, provenance, schema and size, as JSON."""
        files = self.files()
        return {
            "rows": len(self),
            "dimension": self.dimension,
            "bytes": sum(file["bytes"] for file in files),
            "files": len(files),
            "splits": {
                name: {key: split[key] for key in ("rows", "states")} for name, split in self.manifest["splits"].items()
            },
            "skipped": len(self.skipped) if self.skipped is not None else 0,
            "schema": {column.name: str(column.type) for column in self.schema},
            "provenance": self.manifest["provenance"],
        }
