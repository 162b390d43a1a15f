"""A PyTorch data set that streams the rows of a data set of embeddings."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import IterableDataset, get_worker_info

from embedome.common.errors import UserError
from embedome.common.parallel import available_cores
from embedome.parquet.scan import RowRange, scan
from embedome.parquet.vectors import vector_matrix

# Rows of one stretch: ids, vectors [n, D], other columns; arrays of one length.
Block = tuple[np.ndarray, ...]


class TensorStream(IterableDataset):
    """Streams ids, vectors and other columns as tensors, each row exactly once an epoch.

    Rows are divided among the ranks of `torch.distributed`, where it was initialised before this object was made, and
    a rank's rows among the workers of its DataLoader, in ranges that begin and end at any row. Nothing is repeated or
    left out to make them equal: the rows of two ranks, or of two workers of a rank, differ by one at most, and so
    may the batches (``torch.distributed.algorithms.Join`` is for that).

    An item is (id, vector, *columns): str, float16 tensor [D], then an int32 tensor or a str for each column. With
    `rows` it is a batch of them: list of str, float16 tensor [n, D], then int32 tensor [n] or list of str. A number
    that is not known (taxid, n_members) is -1, as a tensor has no nulls.

    Parameters
    ----------
    pieces : sequence of RowRange
        Where the rows are.
    column : str
        Of the vectors.
    columns : sequence of str
        Others.
    rows : int, optional
        Of a batch.
    shuffle : int
        0: rows in order. Otherwise the order of row groups is shuffle_rows, and rows are drawn from a buffer of this
        many. A worker takes the memory of its buffer.
    seed : int
        The same on all ranks. Order depends on it, the epoch (`set_epoch`), and the number of ranks and workers.

    Raises
    ------
    UserError
        Where `rows` is below 1 or `shuffle` below 0.
    """

    def __init__(
        self,
        pieces: Sequence[RowRange],
        column: str,
        columns: Sequence[str] = (),
        *,
        rows: int | None = None,
        shuffle: int = 0,
        seed: int = 0,
    ) -> None:
        if rows is not None and rows < 1:
            raise UserError(f"batches of {rows} rows; expected 1 or more")
        if shuffle < 0:
            raise UserError(f"a shuffle buffer of {shuffle} rows; expected 0 or more")
        self.pieces, self.column, self.columns = list(pieces), column, list(columns)
        self.rows, self.shuffle, self.seed = rows, shuffle, seed
        # Asked here: a worker's process does not know.
        together = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.rank = torch.distributed.get_rank() if together else 0
        self.ranks = torch.distributed.get_world_size() if together else 1
        # In shared memory: workers that live on see the next epoch.
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Shuffle in another way from the next iteration on."""
        self.epoch.fill_(epoch)

    def __iter__(self) -> Iterator[tuple]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        names = list(dict.fromkeys(["id", self.column, *self.columns]))
        pieces = self.share(worker, workers)
        tables = scan(pieces, names, max(1, available_cores() // workers))
        blocks: Iterable[Block] = (self.block(table) for table in tables)
        if self.shuffle:
            seed = [self.seed, int(self.epoch), self.rank, worker, 1]
            size = min(self.shuffle, sum(len(piece) for piece in pieces))
            blocks = shuffle_rows(blocks, size, np.random.default_rng(seed))
        if self.rows is None:
            for block in blocks:
                yield from zip(*(iter_entries(array) for array in block), strict=True)
        else:
            for block in rebatch(blocks, self.rows):
                yield tuple(as_batch(array) for array in block)

    def share(self, worker: int, workers: int) -> list[RowRange]:
        """Return the row ranges, some of them cut_ranges, of one worker of this rank."""
        pieces = self.pieces
        if self.shuffle:
            order = np.random.default_rng([self.seed, int(self.epoch)]).permutation(len(pieces))
            pieces = [pieces[number] for number in order]
        total = sum(len(piece) for piece in pieces)
        first, last = find_share(total, self.rank, self.ranks)
        start, stop = find_share(last - first, worker, workers)
        return list(cut_ranges(pieces, first + start, first + stop))

    def block(self, table: pa.Table) -> Block:
        """Return a table as arrays: ids, vectors, other columns."""
        return (
            as_array(table["id"]),
            vector_matrix(table[self.column]),
            *(as_array(table[name]) for name in self.columns),
        )


def find_share(total: int, number: int, parts: int) -> tuple[int, int]:
    """Return where part `number` of `total` rows in equal parts begins and ends."""
    return total * number // parts, total * (number + 1) // parts


def cut_ranges(pieces: Iterable[RowRange], start: int, stop: int) -> Iterator[RowRange]:
    """Yield the row ranges that hold rows `start` to `stop`, the first and the last of them cut."""
    position = 0
    for piece in pieces:
        first, last = max(start - position, 0), min(stop - position, len(piece))
        if first < last:
            yield piece.part(first, last)
        position += len(piece)


def as_array(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column as an array: vectors float16 [n, D], numbers with -1 where there is none, strings as objects."""
    if pa.types.is_fixed_size_list(column.type):
        return vector_matrix(column)
    if pa.types.is_integer(column.type):
        return column.fill_null(-1).to_numpy()
    return np.array(column.to_pylist(), object)


def shuffle_rows(blocks: Iterable[Block], size: int, random: np.random.Generator) -> Iterator[Block]:
    """Yield rows in another order: a new row takes a random place in a buffer of `size`, and the row there goes out."""
    buffer: Block | None = None
    held = 0
    for block in blocks:
        # Memory is taken as it is filled, not before.
        buffer = buffer or tuple(np.empty((size, *array.shape[1:]), array.dtype) for array in block)
        for start in range(0, len(block[0]), size):
            rows = tuple(array[start : start + size] for array in block)
            taken = min(size - held, len(rows[0]))
            for array, new in zip(buffer, rows, strict=True):
                array[held : held + taken] = new[:taken]
            held += taken
            rows = tuple(array[taken:] for array in rows)
            if len(rows[0]):
                places = random.choice(size, len(rows[0]), replace=False)
                yield tuple(array[places] for array in buffer)
                for array, new in zip(buffer, rows, strict=True):
                    array[places] = new
    if buffer:
        order = random.permutation(held)
        yield tuple(array[order] for array in buffer)


def rebatch(blocks: Iterable[Block], rows: int) -> Iterator[Block]:
    """Cut blocks again, into `rows` rows each; the last may have fewer."""
    rest: Block | None = None
    for block in blocks:
        whole = concat_blocks(rest, block) if rest else block
        stop = len(whole[0]) - len(whole[0]) % rows
        for start in range(0, stop, rows):
            yield tuple(array[start : start + rows] for array in whole)
        rest = tuple(array[stop:] for array in whole)
    if rest and len(rest[0]):
        yield rest


def concat_blocks(one: Block, other: Block) -> Block:
    """Return the rows of both as one block."""
    return tuple(np.concatenate(pair) for pair in zip(one, other, strict=True))


def iter_entries(array: np.ndarray) -> Iterator[torch.Tensor | str]:
    """Iterate over an array's entries, each tensor with memory of its own: a worker sends the whole of it."""
    return iter(array) if array.dtype == object else (entry.clone() for entry in torch.from_numpy(array.copy()))


def as_batch(array: np.ndarray) -> torch.Tensor | list[str]:
    """Return an array as a tensor with memory of its own, or as a list of strings."""
    return array.tolist() if array.dtype == object else torch.from_numpy(array.copy())
