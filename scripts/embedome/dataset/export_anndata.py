"""A data set as AnnData's .h5ad: vectors as X, all else of the rows as obs. Needs h5py alone.

References
----------
The on-disk format of AnnData, https://anndata.readthedocs.io/en/latest/fileformat-prose.html
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.common.atomic_files import atomic_path
from embedome.common.counts import check_equal
from embedome.common.disk_space import check_room
from embedome.common.errors import load_optional
from embedome.common.json_files import canonical_json
from embedome.common.log import Progress
from embedome.common.outputs import check_output
from embedome.common.terms import DUPLICATE, EMBEDDED, TRUNCATED, WINDOWED
from embedome.dataset.dataset import Dataset
from embedome.dataset.export_arrays import count_rows, id_bytes
from embedome.parquet.scan import SPLIT

if TYPE_CHECKING:
    import h5py

INDEX = "id"
# Columns of obs by the way in which they are stored.
TEXTS, NUMBERS, UNSURE_NUMBERS = ("digest",), ("length", "n_residues_used"), ("taxid", "n_members")
STATES = (EMBEDDED, TRUNCATED, WINDOWED, DUPLICATE)
# Of obs, about, beside the ids.
ROW_BYTES = 120
ITEM_BYTES = 4


def export_anndata(data: Dataset, out: Path, split: str | None = None, pooling: str | None = None) -> int:
    """Write a file that ``anndata.read_h5ad`` reads: X is float32 [n, D], obs the other columns with the split.

    float32, as few programs for single cells calculate with half floats; the numbers are the same. ``uns`` has the
    provenance, as JSON, and the name of the vectors.

    Parameters
    ----------
    data : Dataset
    out : path
    split, pooling : str, optional
        As for `Dataset.matrix`, in whose order the rows are.

    Returns
    -------
    int
        Rows.

    Raises
    ------
    UserError
        Where a name is wrong, the file is there already, or the disk has too little room.
    """
    h5py = load_optional("h5py", "h5py")
    check_output(out)
    rows, name = count_rows(data, split), pooling or data.poolings[0]
    columns = [*TEXTS, *NUMBERS, *UNSURE_NUMBERS, "state", SPLIT]
    batches = data.iter_batches(split, columns=columns, pooling=pooling)
    check_room(out, rows * (data.dimension * ITEM_BYTES + ROW_BYTES) + sum(id_bytes(data, split)))
    with atomic_path(out) as temporary, Progress("export", "sequences", rows) as progress:
        with h5py.File(temporary, "w") as file:
            writer = AnnDataFile(file, rows, data.dimension, list(data.splits))
            for ids, vectors, *values in batches:
                writer.add(progress.done, ids, vectors, dict(zip(columns, values, strict=True)))
                progress.update(len(ids))
            writer.finish(
                columns, {"provenance": canonical_json(data.manifest["provenance"]).decode(), "vectors": name}
            )
        check_equal("rows", rows, "written", progress.done)
    return rows


class AnnDataFile:
    """An AnnData file, filled some rows at a time.

    Parameters
    ----------
    file : h5py.File
    rows, dimension : int
        Of X.
    splits : list of str
    """

    def __init__(self, file: "h5py.File", rows: int, dimension: int, splits: list[str]) -> None:
        import h5py

        self.file, self.text = file, h5py.string_dtype()
        self.categories = {"state": list(STATES), SPLIT: splits}
        self.obs, self.var = file.create_group("obs"), file.create_group("var")
        self.array("X", (rows, dimension), np.float32)
        for name in (INDEX, *TEXTS):
            self.array(f"obs/{name}", (rows,), self.text)
        for name in NUMBERS:
            self.array(f"obs/{name}", (rows,), np.int32)
        for name in UNSURE_NUMBERS:
            self.array(f"obs/{name}/values", (rows,), np.int32)
            self.array(f"obs/{name}/mask", (rows,), bool)
            encode(self.obs[name], "nullable-integer", "0.1.0")
        for name, values in self.categories.items():
            self.array(f"obs/{name}/codes", (rows,), np.int8)
            self.array(f"obs/{name}/categories", (len(values),), self.text)[:] = values
            encode(self.obs[name], "categorical", "0.2.0")
            self.obs[name].attrs["ordered"] = False
        self.array("var/dimension", (dimension,), self.text)[:] = [str(number) for number in range(dimension)]

    def array(self, name: str, shape: tuple[int, ...], kind: Any) -> "h5py.Dataset":
        """Make an array to be filled."""
        made = self.file.create_dataset(name, shape, kind)
        encode(made, "string-array" if kind is self.text else "array", "0.2.0")
        return made

    def add(self, start: int, ids: list[str], vectors: np.ndarray, columns: dict[str, pa.Array]) -> None:
        """Fill rows from `start` on."""
        here = slice(start, start + len(ids))
        self.file["X"][here] = vectors
        self.obs[INDEX][here] = ids
        for name in TEXTS:
            self.obs[name][here] = columns[name].to_pylist()
        for name in NUMBERS:
            self.obs[name][here] = columns[name].to_numpy()
        for name in UNSURE_NUMBERS:
            self.obs[name]["values"][here] = pc.fill_null(columns[name], 0).to_numpy()
            self.obs[name]["mask"][here] = columns[name].is_null().to_numpy(zero_copy_only=False)
        for name, values in self.categories.items():
            codes = pc.index_in(columns[name], value_set=pa.array(values, pa.string()))
            self.obs[name]["codes"][here] = codes.to_numpy().astype(np.int8)

    def finish(self, columns: list[str], uns: dict[str, str]) -> None:
        """Write what makes an AnnData file of it."""
        for group, index, order in ((self.obs, INDEX, columns), (self.var, "dimension", [])):
            encode(group, "dataframe", "0.2.0")
            group.attrs["_index"] = index
            group.attrs["column-order"] = np.array(order, self.text)
        for name in ("uns", "layers", "obsm", "obsp", "varm", "varp"):
            encode(self.file.create_group(name), "dict", "0.1.0")
        for key, value in uns.items():
            encode(self.file["uns"].create_dataset(key, data=value, dtype=self.text), "string", "0.2.0")
        encode(self.file, "anndata", "0.1.0")


def encode(entry: "h5py.HLObject", kind: str, version: str) -> None:
    """Say how an entry is stored."""
    entry.attrs["encoding-type"], entry.attrs["encoding-version"] = kind, version
