"""Files that embedome exported, HDF5 and NumPy: described, and checked as far as they can be without checksums."""

import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Any

import numpy as np

from embedome.common.errors import UserError, first_line, load_optional
from embedome.common.log import Progress
from embedome.common.parallel import process_pool
from embedome.dataset.export_arrays import ITEM_BYTES, ORIGINAL_ID
from embedome.parquet.vectors import finite_rows

if TYPE_CHECKING:
    import h5py

log = logging.getLogger(__name__)

# What h5py raises on a damaged file.
DAMAGED = (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError)
# Matrix rows that are read at once.
BLOCK = 8192


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """What a file holds, and how each of its vectors is read.

    Parameters
    ----------
    rows, dimension : int
    provenance : dict or None
        None where the file does not have it.
    files : list of Path
        The file and those that belong to it.
    read : callable
        Yields ids and their vectors, float16 [n, D], some at a time.
    """

    rows: int
    dimension: int
    provenance: dict[str, Any] | None
    files: list[Path]
    read: Callable[[], Iterator[tuple[list[str], np.ndarray]]]

    def describe(self) -> dict[str, Any]:
        """Return counts, size and provenance, as JSON; the names are those of `Dataset.describe`."""
        size = sum(path.stat().st_size for path in self.files)
        counts = {"rows": self.rows, "dimension": self.dimension, "bytes": size, "files": len(self.files)}
        return {**counts, "provenance": self.provenance}

    def verify(self) -> dict[str, Any]:
        """Read all, and check that ids are there once and vectors are finite; return what `verify_dataset` does.

        Memory: the ids.

        Raises
        ------
        UserError
        """
        path, seen = self.files[0], set[str]()
        with Progress("verify", "rows", self.rows) as progress:
            for names, vectors in self.read():
                if vectors.shape[1] != self.dimension or not finite_rows(vectors).all():
                    place = repr(names[0]) if names else "rows without an id"
                    raise UserError(f"{path}: at {place}: a vector is not finite, or of another size; export it again")
                progress.update(len(names))
                for name in names:
                    if not name or name in seen:
                        raise UserError(f"{path}: the id {name!r} is there twice, or empty; export it again")
                    seen.add(name)
        if len(seen) != self.rows:
            raise UserError(f"{path}: {self.rows:,} vectors, but {len(seen):,} ids; export it again")
        return {"format": None, "rows": self.rows, "files": len(self.files), "bytes": self.describe()["bytes"]}


HDF5, NPY = (".h5", ".hdf5"), (".npy",)
EXPORTED = (*HDF5, *NPY)


def describe_exported(path: Path) -> dict[str, Any]:
    """Describe a file, of the kind that its name ends in.

    Raises
    ------
    UserError
        Where it is damaged, or not one that embedome exported.
    """
    return look(path, ExportedFile.describe)


def verify_exported(path: Path) -> dict[str, Any]:
    """Check a file; as `describe_exported`."""
    return look(path, ExportedFile.verify)


def look(path: Path, what: Callable[[ExportedFile], dict[str, Any]]) -> dict[str, Any]:
    """Open a file and return what is asked of it; HDF5 in a process of its own, which a damaged file may end.

    Raises
    ------
    UserError
    """
    if path.suffix.lower() in NPY:
        return what(open_npy(path))
    with process_pool(1, __name__) as pool:
        try:
            return pool.submit(look_at_hdf5, path, what, log.getEffectiveLevel()).result()
        except BrokenProcessPool:
            raise damaged(path, "HDF5", RuntimeError("its library has crashed")) from None


def look_at_hdf5(path: Path, what: Callable[[ExportedFile], dict[str, Any]], level: int) -> dict[str, Any]:
    """Open an HDF5 file and return what is asked of it; `level` is that of the log."""
    logging.getLogger("embedome").setLevel(level)
    try:
        with open_hdf5(path) as found:
            return what(found)
    except DAMAGED as error:
        raise damaged(path, "HDF5", error) from None


@contextmanager
def open_hdf5(path: Path) -> Iterator[ExportedFile]:
    """Open a file of `export_arrays.export_hdf5`; on a damaged one, here or later, h5py raises one of `DAMAGED`."""
    h5py = load_optional("h5py", "h5py")
    with h5py.File(path) as file:
        provenance = json.loads(file.attrs.get("provenance", "null"))
        if not isinstance(provenance, dict):
            raise UserError(f"{path}: not an HDF5 file that embedome exported (by its attribute 'provenance')")
        first = next(iter(file.values()), None)
        dimension = first.shape[-1] if first is not None else 0
        yield ExportedFile(len(file), dimension, provenance, [path], lambda: read_hdf5(path, file))


def read_hdf5(path: Path, file: "h5py.File") -> Iterator[tuple[list[str], np.ndarray]]:
    """Yield the id and the vectors of each key."""
    for key in file:
        values = file[key][()]
        if values.dtype != np.float16 or values.ndim not in (1, 2):
            raise UserError(f"{path}: {key!r} holds no vectors in float16; export it again")
        yield [str(file[key].attrs[ORIGINAL_ID])], np.atleast_2d(values)


def open_npy(path: Path) -> ExportedFile:
    """Open a file of `export_arrays.export_npy`, with the ids beside it."""
    try:
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, TokenError) as error:
        raise damaged(path, "NumPy", error) from None
    if not isinstance(matrix, np.memmap) or matrix.dtype != np.float16 or matrix.ndim != 2:
        raise UserError(f"{path}: not a matrix in float16; expected a file that embedome exported")
    ids = path.with_suffix(".ids.txt")
    if not ids.is_file():
        raise UserError(f"{ids}: no such file; the ids of {path.name} are in it")
    rows, dimension = matrix.shape
    if path.stat().st_size != matrix.offset + rows * dimension * ITEM_BYTES:
        raise UserError(f"{path}: more bytes than its matrix has; export it again")
    return ExportedFile(rows, dimension, None, [path, ids], lambda: read_npy(ids, matrix))


def read_npy(ids: Path, matrix: np.ndarray) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yield ids and rows of the matrix; the last ids have no row, or the last rows no id, where there are too few."""
    with open(ids, encoding="utf-8", errors="replace", newline="\n") as lines:
        for start in range(0, len(matrix), BLOCK):
            block = np.ascontiguousarray(matrix[start : start + BLOCK])
            names = [line.removesuffix("\n") for _, line in zip(range(len(block)), lines, strict=False)]
            yield names, block
        if rest := [line.removesuffix("\n") for line in lines]:
            yield rest, matrix[:0]


def damaged(path: Path, what: str, error: BaseException) -> UserError:
    """Return the error of a file that cannot be read."""
    return UserError(f"{path}: not a readable {what} file ({first_line(error)}); restore it, or export it again")
