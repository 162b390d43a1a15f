"""A data set as text: an id and its numbers a line, separated by commas or tabs."""

from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.common.atomic_files import atomic_path
from embedome.common.counts import check_equal
from embedome.common.disk_space import check_room
from embedome.common.errors import UserError
from embedome.common.log import Progress
from embedome.common.outputs import check_output
from embedome.dataset.dataset import Dataset
from embedome.dataset.export_arrays import count_rows, id_bytes

DELIMITERS = {".csv": ",", ".tsv": "\t"}
# Of a number with its delimiter, some more than most have.
NUMBER_BYTES = 10
# Rows in memory as text.
ROWS = 1024


def export_text(data: Dataset, out: Path, split: str | None = None, pooling: str | None = None) -> int:
    """Write a line for each protein: its id and the numbers of its vector, below the names ``id``, ``embedding_0``, ….

    Numbers are the shortest that are read back as the same half floats. In ``.csv`` ids that hold commas or quotes are
    quoted; in ``.tsv`` nothing is.

    Parameters
    ----------
    data : Dataset
    out : path
        Ends in ``.csv`` or ``.tsv``.
    split, pooling : str, optional
        As for `Dataset.matrix`, in whose order the lines are.

    Returns
    -------
    int
        Lines without the first.

    Raises
    ------
    UserError
        Where a name is wrong, the file is there already, or the disk has too little room.
    """
    delimiter = DELIMITERS.get(out.suffix.lower())
    if delimiter is None:
        raise UserError(f"{out}: expected a name that ends in .csv or .tsv")
    check_output(out)
    rows = count_rows(data, split)
    batches = data.iter_batches(split, ROWS, pooling=pooling)
    check_room(out, rows * data.dimension * NUMBER_BYTES + sum(id_bytes(data, split)))
    with (
        atomic_path(out) as temporary,
        open(temporary, "w", encoding="utf-8", newline="\n") as stream,
        Progress("export", "sequences", rows) as progress,
    ):
        stream.write(delimiter.join(["id", *(f"embedding_{number}" for number in range(data.dimension))]) + "\n")
        for ids, vectors in batches:
            names = quote(ids) if delimiter == "," else pa.array(ids, pa.string())
            lines = pc.binary_join_element_wise(names, join_numbers(vectors, delimiter), delimiter)
            stream.writelines(f"{line}\n" for line in lines.to_pylist())
            progress.update(len(ids))
        check_equal("rows", rows, "written", progress.done)
    return rows


def quote(ids: list[str]) -> pa.StringArray:
    """Return ids as a field of a CSV file."""
    return pa.array([f'"{name.replace(chr(34), chr(34) * 2)}"' if set(name) & {",", '"'} else name for name in ids])


def join_numbers(vectors: np.ndarray, delimiter: str) -> pa.StringArray:
    """Return the numbers of each row of a float16 matrix [n, D] as a text."""
    flat = all_numbers().take(pa.array(vectors.view(np.uint16).reshape(-1)))
    offsets = np.arange(len(vectors) + 1, dtype=np.int32) * vectors.shape[1]
    return pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), flat), delimiter)


@cache
def all_numbers() -> pa.StringArray:
    """Return the shortest text of each half float, by its bits."""
    return pa.array([str(number) for number in np.arange(1 << 16, dtype=np.uint16).view(np.float16)])
