"""Reading a data set of embeddings: matrices, look-ups by id, Dask.

The files are plain Parquet: pyarrow, pandas, Polars, DuckDB and Dask read them without embedome (docs/reading.md).
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.errors import UserError
from embedome.files import read_json
from embedome.format import (
    DUPLICATE,
    KEYS,
    MANIFEST,
    SKIPPED_FILE,
    describe_file,
    embedding_schema,
    part_info,
    read_rows,
    residue_schema,
    residues_path,
    vector_columns,
    vector_matrix,
)
from embedome.lookup import find_in_files

if TYPE_CHECKING:
    import dask.array


def open_dataset(path: str | os.PathLike) -> "Dataset":
    """Open a data set: the folder that the workflow wrote, or the one file of `embedome embed`.

    Raises
    ------
    UserError
        Where there is none, or the folder has no manifest and so is not whole.
    """
    path = Path(path)
    if path.is_file():
        info = part_info(path)
        ids = read_rows(path, ["id"])["id"].to_pylist()
        entry = describe_file(path, info.rows, ids)
        splits = {"all": {"rows": info.rows, "states": count_states(path), "files": [entry], "residues": []}}
        if info.provenance["per_residue"]:
            splits["all"]["residues"] = [{**entry, "file": residues_path(path).name}]
        manifest = {"rows": info.rows, "dimension": info.dimension, "splits": splits, "provenance": info.provenance}
        return Dataset(path.parent, manifest, skipped=pa.Table.from_pylist(info.skipped) if info.skipped else None)
    if not (path / MANIFEST).is_file():
        raise UserError(f"{path}: no data set there (no {MANIFEST}); run the merge stage, or check the path")
    skipped = read_rows(path / SKIPPED_FILE)
    return Dataset(path, read_json(path / MANIFEST), skipped=skipped if len(skipped) else None)


def count_states(path: Path) -> dict[str, int]:
    """Rows of a file by state."""
    counts = pc.value_counts(read_rows(path, ["state"])["state"].combine_chunks()).to_pylist()
    return {count["values"]: count["counts"] for count in sorted(counts, key=lambda count: count["values"])}


@dataclass(frozen=True, slots=True)
class Dataset:
    """An opened data set. Vectors are float16, D of them per protein."""

    folder: Path
    manifest: dict[str, Any]
    skipped: pa.Table | None = field(default=None, repr=False)
    """Sequences that got no vector, with the reason."""

    def __len__(self) -> int:
        return self.manifest["rows"]

    @property
    def dimension(self) -> int:
        """D, the length of a vector."""
        return self.manifest["dimension"]

    @property
    def poolings(self) -> list[str]:
        """How residues were pooled; one vector each, the first where none is named."""
        return self.manifest["provenance"]["pooling"]

    @property
    def schema(self) -> pa.Schema:
        """Schema of the rows."""
        return embedding_schema(self.dimension, self.poolings)

    def column(self, pooling: str | None = None) -> str:
        """The column of a pooling's vectors.

        Raises
        ------
        UserError
            Where the data set has none of that pooling.
        """
        columns = vector_columns(self.poolings)
        if pooling is not None and pooling not in columns:
            raise UserError(f"{self.folder}: no vectors of pooling {pooling!r}; there are {', '.join(columns)}")
        return columns[pooling or self.poolings[0]]

    @property
    def splits(self) -> list[str]:
        """Names of the splits."""
        return list(self.manifest["splits"])

    def files(self, split: str | None = None, kind: str = "files") -> list[dict[str, Any]]:
        """The manifest's entries of a split's files, or of all; `kind` is ``residues`` for those of residues' vectors.

        Raises
        ------
        UserError
            Where there is no such split.
        """
        splits = self.manifest["splits"]
        if split is not None and split not in splits:
            raise UserError(f"{self.folder}: no split {split!r}; there are {', '.join(splits)}")
        return [file for name in ([split] if split else splits) for file in splits[name][kind]]

    def matrix(self, split: str | None = None, pooling: str | None = None) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yield ids and vectors, one file at a time, ids sorted within a file.

        Parameters
        ----------
        split : str, optional
            All splits, one after the other, where none is named.
        pooling : str, optional
            The first of `poolings` where none is named.

        Yields
        ------
        ids : list of str, length n
        vectors : numpy.ndarray, dtype=float16, shape=(n, D)
        """
        column = self.column(pooling)
        for table in self.tables(["id", column], split):
            yield table["id"].to_pylist(), vector_matrix(table[column])

    def tables(self, columns: Sequence[str], split: str | None = None) -> Iterator[pa.Table]:
        """Yield some columns as Arrow tables, one file at a time; others are not read."""
        for file in self.files(split):
            yield read_rows(self.folder / file["file"], columns)

    def rows(self, ids: Sequence[str]) -> pa.Table:
        """The rows of some ids, in the order asked for.

        Only row groups whose id statistics admit one of the ids are read.

        Raises
        ------
        UserError
            Where an id is not there; says whether it was skipped and why.
        """
        table = find_in_files(self.folder, self.files(), sorted(set(ids)), self.schema)
        position = pc.index_in(pa.array(ids, pa.string()), value_set=table["id"])
        if position.null_count:
            raise self.missing(ids[pc.indices_nonzero(pc.is_null(position))[0].as_py()])
        return table.take(position)

    def get(self, ids: Sequence[str], pooling: str | None = None) -> np.ndarray:
        """The vectors of some ids, in the order asked for.

        Parameters
        ----------
        ids : sequence of str, length k
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
        return vector_matrix(self.rows(ids)[self.column(pooling)])

    def residues(self, ids: Sequence[str]) -> list[np.ndarray]:
        """The vectors of the residues of some ids, in the order asked for.

        Residues' vectors are written once for each sequence: duplicates find their canonical id's by the digest.

        Returns
        -------
        list of numpy.ndarray, dtype=float16, shape=(n_residues_used, D)

        Raises
        ------
        UserError
            As `rows`, and where the data set has no vectors of residues.
        """
        files = self.files(kind="residues")
        if not files:
            raise UserError(f"{self.folder}: no vectors of residues; embed with per_residue to have them")
        rows = self.rows(ids)
        names = set(rows.filter(pc.not_equal(rows["state"], DUPLICATE))["id"].to_pylist())
        copies = rows.filter(pc.equal(rows["state"], DUPLICATE))["digest"]
        for file in files if len(copies) else []:
            keys = read_rows(self.folder / file["file"], KEYS.names)
            names.update(keys.filter(pc.is_in(keys["digest"], value_set=copies))["id"].to_pylist())
        table = find_in_files(self.folder, files, sorted(names), residue_schema(self.dimension))
        by_digest = dict(zip(table["digest"].to_pylist(), table["residue_embeddings"], strict=True))
        return [vector_matrix(by_digest[digest].values) for digest in rows["digest"].to_pylist()]

    def missing(self, name: str) -> UserError:
        """The error for an id that has no row."""
        if self.skipped is not None:
            hits = self.skipped.filter(pc.equal(self.skipped["id"], name))["reason"].to_pylist()
            if hits:
                return UserError(f"{self.folder}: {name!r} has no vector, it was skipped ({hits[0]})")
        return UserError(f"{self.folder}: no row has the id {name!r}")

    def to_dask(self, split: str | None = None, pooling: str | None = None) -> "dask.array.Array":
        """The vectors as a Dask array, one chunk per file, rows in the order of `matrix`; parameters as there.

        Returns
        -------
        dask.array.Array, dtype=float16, shape=(n, D)
        """
        import dask
        import dask.array

        load, column = dask.delayed(load_matrix), self.column(pooling)
        chunks = [
            dask.array.from_delayed(
                load(self.folder / file["file"], column), (file["rows"], self.dimension), np.float16
            )
            for file in self.files(split)
            if file["rows"]
        ]
        return dask.array.concatenate(chunks) if chunks else dask.array.zeros((0, self.dimension), np.float16)

    def describe(self) -> dict[str, Any]:
        """Counts, provenance, schema and size, as JSON."""
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


def load_matrix(path: Path, column: str) -> np.ndarray:
    """The vectors of a file's column, float16 [n, D]."""
    return vector_matrix(read_rows(path, [column])[column])
