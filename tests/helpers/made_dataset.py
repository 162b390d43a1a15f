"""Data sets of random vectors, written with the writer of part files, of any size and cut; nothing is embedded."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from embedome.dataset.format import SKIPPED, SKIPPED_FILE, embedding_metadata, embedding_schema
from embedome.dataset.manifest import write_manifest
from embedome.dataset.part_file import describe_file, write_part
from embedome.parquet.vectors import vector_array

PROVENANCE = {"pooling": ["mean"], "per_residue": False}


def random_rows(first: int, rows: int, dimension: int) -> pa.Table:
    """Rows whose ids are P and a number, from `first` on; every third has no taxid."""
    random = np.random.default_rng(first)
    numbers = np.arange(first, first + rows)
    columns = {
        "id": [f"P{number:07d}" for number in numbers],
        "digest": [f"SQ.{number}" for number in numbers],
        "length": random.integers(1, 1000, rows),
        "n_residues_used": numbers % 500,
        "state": np.where(numbers % 7, "embedded", "truncated"),
        "taxid": pa.array(numbers + 1, mask=numbers % 3 == 0),
        "n_members": pa.array(numbers % 50 + 1),
    }
    vectors = vector_array(random.normal(size=(rows, dimension)).astype(np.float16))
    schema = embedding_schema(dimension)
    return pa.table(
        [pa.array(column).cast(schema.field(name).type) for name, column in columns.items()] + [vectors], schema
    )


def make_dataset(folder: Path, splits: Mapping[str, Sequence[int]], dimension: int = 8) -> Path:
    """A data set with a number of rows in each file of each split."""
    first, entries = 0, {}
    for split, sizes in splits.items():
        files = []
        for number, rows in enumerate(sizes):
            table = random_rows(first, rows, dimension)
            path = folder / f"split={split}" / f"part-{number:05d}-00000.parquet"
            write_part(path, table, embedding_metadata(PROVENANCE))
            entry = describe_file(path, rows, table["id"].to_pylist())
            files.append({**entry, "file": str(path.relative_to(folder))})
            first += rows
        entries[split] = {"rows": sum(sizes), "states": {}, "skipped": {}, "files": files, "residues": []}
    pq.write_table(SKIPPED.empty_table(), folder / SKIPPED_FILE)
    write_manifest(folder, {"rows": first, "dimension": dimension, "splits": entries, "provenance": PROVENANCE})
    return folder
