"""Data sets in other forms: a NumPy file with the ids beside it, and HDF5 as UniProt publishes embeddings."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.common.atomic_files import atomic_path
from embedome.common.counts import check_equal
from embedome.common.disk_space import check_room
from embedome.common.errors import UserError, load_optional
from embedome.common.json_files import canonical_json
from embedome.common.log import Progress
from embedome.common.outputs import check_output
from embedome.common.terms import DUPLICATE
from embedome.dataset.dataset import Dataset
from embedome.dataset.format import KEYS
from embedome.dataset.hdf5_keys import ACCESSION, check_keys, key_maker
from embedome.parquet.row_file import RowFile
from embedome.parquet.vectors import vector_matrix

log = logging.getLogger(__name__)

ITEM_BYTES = 2
# What HDF5 adds to a data set of its own for each key, with its attribute: 410 measured.
KEY_BYTES = 500
ORIGINAL_ID = "original_id"


def export_npy(data: Dataset, out: Path, split: str | None = None, pooling: str | None = None) -> int:
    """Write vectors as one float16 matrix [n, D], which `numpy.load` can map, and ``<out stem>.ids.txt``, an id a line.

    Parameters
    ----------
    data : Dataset
    out : path
        Ends in ``.npy``. It is there only when both files are whole.
    split, pooling : str, optional
        As for `Dataset.matrix`, in whose order the rows are.

    Returns
    -------
    int
        Rows.

    Raises
    ------
    UserError
        Where a name is wrong, one of the files is there already, or the disk has too little room.
    """
    if out.suffix != ".npy":
        raise UserError(f"{out}: expected a name that ends in .npy")
    check_output(out)
    check_output(out.with_suffix(".ids.txt"), is_own=lambda path: lists_ids(path, data, split))
    rows = count_rows(data, split)
    ids = out.with_suffix(".ids.txt")
    batches = data.iter_batches(split, pooling=pooling)
    check_room(out, rows * data.dimension * ITEM_BYTES + sum(id_bytes(data, split)))
    header = {"descr": "<f2", "fortran_order": False, "shape": (rows, data.dimension)}
    with (
        atomic_path(out) as matrix_path,
        atomic_path(ids) as ids_path,
        open(matrix_path, "wb") as matrix,
        open(ids_path, "w", encoding="utf-8", newline="\n") as lines,
        Progress("export", "sequences", rows) as progress,
    ):
        np.lib.format.write_array_header_1_0(matrix, header)
        for names, vectors in batches:
            matrix.write(np.ascontiguousarray(vectors).data)
            lines.writelines(f"{name}\n" for name in names)
            progress.update(len(names))
        check_equal("rows", rows, "written", progress.done)
    return rows


def lists_ids(path: Path, data: Dataset, split: str | None) -> bool:
    """Return whether a file lists just these ids: an export that was killed between two files left it."""
    names = (name for table in data.tables(["id"], split) for name in table["id"].to_pylist())
    with open(path, encoding="utf-8", errors="replace", newline="\n") as lines:
        return all(line == f"{name}\n" for line, name in zip_longest(lines, names))


def export_hdf5(
    data: Dataset,
    out: Path,
    split: str | None = None,
    pooling: str | None = None,
    residues: bool = False,
    key: str = ACCESSION,
) -> int:
    """Write a key for each protein, as the files are that UniProt publishes.

    The attribute ``original_id`` of each is the protein's id; biotrainer, goPredSim and bio_embeddings go by it. The
    file's attribute ``provenance`` is that of the data set, as JSON.

    Parameters
    ----------
    data : Dataset
    out : path
    split, pooling : str, optional
        As for `Dataset.matrix`.
    residues : bool
        Write per-residue embeddings, float16 [L, D], in place of the protein's, float16 [D]; L is ``n_residues_used``.
    key : str
        ``accession``, ``id`` or ``number``, see `hdf5_keys.key_maker`.

    Returns
    -------
    int
        Keys.

    Raises
    ------
    UserError
        Where two ids have one key, before anything is written; where the data set has no per-residue embeddings, or the
        disk has too little room.

    References
    ----------
    UniProt help, "Protein embeddings" (https://www.uniprot.org/help/embeddings).
    """
    h5py = load_optional("h5py", "h5py")
    check_output(out, is_own=is_own_hdf5)
    check_keys(data, key, split)
    if out.exists():
        log.warning("%s: is there already, an export of embedome, and is replaced", out)
    rows = count_rows(data, split)
    if residues:
        entries, vectors = iter_residues(data, split), count_residues(data, split)
    else:
        entries = chain.from_iterable(zip(*batch, strict=True) for batch in data.iter_batches(split, pooling=pooling))
        vectors = rows
    check_room(out, vectors * data.dimension * ITEM_BYTES + rows * KEY_BYTES + sum(id_bytes(data, split)))
    with atomic_path(out) as temporary, Progress("export", "sequences", rows) as progress:
        # HDF5 ends in a segmentation fault where it cannot write; Python says why.
        temporary.touch()
        with h5py.File(temporary, "w") as file:
            file.attrs["provenance"] = canonical_json(data.manifest["provenance"]).decode()
            make = key_maker(key)
            for name, matrix in entries:
                file.create_dataset(make(name), data=matrix).attrs[ORIGINAL_ID] = name
                progress.update(1)
        check_equal("rows", rows, "written", progress.done)
    return rows


def is_own_hdf5(path: Path) -> bool:
    """Return whether a file is one that `export_hdf5` wrote."""
    import h5py

    try:
        with h5py.File(path) as file:
            return "provenance" in file.attrs
    except OSError:
        return False


def iter_residues(data: Dataset, split: str | None) -> Iterator[tuple[str, np.ndarray]]:
    """Yield ids and per-residue embeddings, float16 [L, D]; duplicates have those of their canonical id."""
    if not data.files(kind="residues"):
        raise data.without_residues()
    copies = duplicates_by_digest(data, split)
    known = pa.array(list(copies), pa.string())
    for name in data.splits:
        mine = split in (None, name)
        for entry in data.files(name, kind="residues"):
            file = RowFile(data.folder / entry["file"])
            for group in range(len(file.starts) - 1):
                keys = file.read(group, KEYS.names)
                # Of other splits only what duplicates of this one have their vectors from.
                wanted = np.arange(len(keys)) if mine else np.flatnonzero(pc.is_in(keys["digest"], value_set=known))
                if len(wanted):
                    yield from repeat_for_copies(file.read(group, file.schema.names, wanted), copies, mine)


def repeat_for_copies(table: pa.Table, copies: dict[str, list[str]], mine: bool) -> Iterator[tuple[str, np.ndarray]]:
    """Yield ids and per-residue embeddings of rows, where they are `mine`, and of their duplicates."""
    for name, digest, vectors in zip(*(table[column] for column in table.column_names), strict=True):
        matrix = vector_matrix(vectors.values)
        for owner in [*([name.as_py()] if mine else []), *copies.get(digest.as_py(), ())]:
            yield owner, matrix


def duplicates_by_digest(data: Dataset, split: str | None) -> dict[str, list[str]]:
    """Return the ids of duplicates by the digest of their sequence."""
    found = defaultdict(list)
    for table in data.tables(["id", "digest", "state"], split):
        rows = table.filter(pc.equal(table["state"], DUPLICATE))
        for name, digest in zip(rows["id"].to_pylist(), rows["digest"].to_pylist(), strict=True):
            found[digest].append(name)
    return dict(found)


def count_residues(data: Dataset, split: str | None) -> int:
    """Return the number of residues that have embeddings."""
    return sum(pc.sum(table["n_residues_used"]).as_py() or 0 for table in data.tables(["n_residues_used"], split))


def count_rows(data: Dataset, split: str | None) -> int:
    """Return the rows of a split, or of all; raises where there is no such split."""
    return sum(file["rows"] for file in data.files(split))


def id_bytes(data: Dataset, split: str | None) -> Iterable[int]:
    """Yield the bytes of the ids, a line each, table by table."""
    for table in data.tables(["id"], split):
        yield (pc.sum(pc.binary_length(table["id"])).as_py() or 0) + len(table)
