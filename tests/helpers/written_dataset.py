"""Data sets with vectors of the test's own choice, written without a model, and the catalog that they are of."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from embedome.catalog.table import CATALOG
from embedome.common.terms import SPLITS
from embedome.dataset.format import SKIPPED, SKIPPED_FILE, embedding_schema
from embedome.dataset.manifest import write_manifest
from embedome.parquet.vectors import vector_array
from embedome.splits.split_table import SCHEMA


@dataclass(frozen=True)
class Protein:
    """A kept record; `copy_of` is the id of the same sequence where it is a duplicate; skipped without a vector."""

    id: str
    split: str
    sequence: str
    vector: np.ndarray | None
    taxid: int | None = None
    copy_of: str | None = None


def write_dataset(folder: Path, proteins: Sequence[Protein], dimension: int, file_rows: int = 100) -> Path:
    """Write ``dataset``, ``catalog`` and ``splits.parquet`` to a folder; files have `file_rows` rows at most."""
    splits = {}
    for split in SPLITS:
        kept = sorted((protein for protein in proteins if protein.split == split), key=lambda protein: protein.id)
        mine = [protein for protein in kept if protein.vector is not None]
        (folder / "dataset" / f"split={split}").mkdir(parents=True)
        entries = []
        for start in range(0, len(mine), file_rows):
            rows = mine[start : start + file_rows]
            name = f"split={split}/part-{start:05d}.parquet"
            pq.write_table(row_table(rows, dimension), folder / "dataset" / name)
            ends = {"first_id": rows[0].id, "last_id": rows[-1].id}
            entries.append({"file": name, "rows": len(rows), **ends, "bytes": 1, "sha256": ""})
        copies = sum(protein.copy_of is not None for protein in mine)
        states = {"embedded": len(mine) - copies, "duplicate": copies}
        splits[split] = {
            "rows": len(mine),
            "states": states,
            "skipped": {"too-long": len(kept) - len(mine)},
            "files": entries,
            "residues": [],
        }
    manifest = {
        "dimension": dimension,
        "rows": sum(split["rows"] for split in splits.values()),
        "splits": splits,
    }
    manifest["provenance"] = {"pooling": ["mean"], "model": {"name": "made"}, "dtype": "float32", "per_residue": False}
    write_manifest(folder / "dataset", manifest)
    pq.write_table(SKIPPED.empty_table(), folder / "dataset" / SKIPPED_FILE)
    write_catalog(folder, sorted(proteins, key=lambda protein: protein.id))
    return folder


def row_table(rows: Sequence[Protein], dimension: int) -> pa.Table:
    vectors = np.array([row.vector for row in rows], np.float16).reshape(len(rows), dimension)
    columns = {
        "id": [row.id for row in rows],
        "digest": [f"SQ.{row.sequence}" for row in rows],
        "length": [len(row.sequence) for row in rows],
        "n_residues_used": [len(row.sequence) for row in rows],
        "state": ["duplicate" if row.copy_of else "embedded" for row in rows],
        "taxid": [row.taxid for row in rows],
        "n_members": [None] * len(rows),
        "embedding": vector_array(vectors),
    }
    return pa.table(columns, schema=embedding_schema(dimension))


def write_catalog(folder: Path, proteins: Sequence[Protein]) -> None:
    values = {
        "id": [protein.id for protein in proteins],
        "digest": [f"SQ.{protein.sequence}" for protein in proteins],
        "length": [len(protein.sequence) for protein in proteins],
        "name": [""] * len(proteins),
        "description": [""] * len(proteins),
        "record": list(range(len(proteins))),
        "duplicate_of": [protein.copy_of for protein in proteins],
        "sequence": [protein.sequence for protein in proteins],
    }
    missing = {name: [None] * len(proteins) for name in CATALOG.names if name not in values}
    (folder / "catalog").mkdir()
    pq.write_table(
        pa.table({**values, **missing}).select(CATALOG.names).cast(CATALOG), folder / "catalog/part-0.parquet"
    )
    splits = {"id": values["id"], "split": [protein.split for protein in proteins]}
    pq.write_table(pa.table(splits, schema=SCHEMA), folder / "splits.parquet")
