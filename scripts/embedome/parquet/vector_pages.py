"""Vectors straight from the pages of a Parquet file, several times as fast as through Arrow's lists, page by page.

A column of vectors (docs/format.md) is PLAIN: after the levels, which say nothing as no vector is null and all have D
items, a page holds the vectors themselves, whole. Pages of any other layout are left to pyarrow (`OtherLayoutError`).

References
----------
Parquet format, "Data Pages" and `parquet.thrift` (https://parquet.apache.org/docs/file-format/data-pages/).
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedome.parquet.thrift import Struct, ThriftError, parse_struct

try:
    from isal.isal_zlib import crc32
except ImportError:
    # The same number at an eighth of the speed: the engine runs without isal.
    from zlib import crc32

ITEM = np.dtype("<f2")
# Bytes read at once where pages are passed over; a page's header has some 30.
HEADER_BYTES = 256
# Numbers of parquet.thrift: fields of PageHeader and DataPageHeader, and values of their enumerations.
TYPE, SIZE, COMPRESSED, CRC, DATA_PAGE = 1, 2, 3, 4, 5
VALUES, ENCODING = 1, 2
DATA_PAGE_V1, PLAIN = 0, 0


class OtherLayoutError(Exception):
    """The column is not laid out as embedome writes it."""


class DamagedPageError(OSError):
    """A page does not have its checksum."""


@dataclass(frozen=True, slots=True)
class Page:
    """A data page: which rows of its row group it holds, and where its compressed bytes are in the file."""

    first: int
    rows: int
    offset: int
    compressed: int
    size: int
    crc: int | None


def read_chunk(descriptor: int, chunk: pq.ColumnChunkMetaData, out: np.ndarray) -> None:
    """Read all vectors of a row group.

    Parameters
    ----------
    descriptor : int
        Of the open file.
    chunk : pyarrow.parquet.ColumnChunkMetaData
        The column in the row group.
    out : numpy.ndarray, dtype=float16, shape=(n, D)
        Where they go.

    Raises
    ------
    OtherLayoutError
    DamagedPageError
    """
    start = chunk.data_page_offset
    data = memoryview(os.pread(descriptor, chunk.total_compressed_size, start))
    rows, dimension = out.shape
    for page in list_pages(chunk, rows, dimension, lambda offset: data[offset - start :]):
        out[page.first : page.first + page.rows] = decode_page(page, data[page.offset - start :], chunk, dimension)


def read_rows_of_chunk(
    descriptor: int, chunk: pq.ColumnChunkMetaData, rows: int, dimension: int, wanted: np.ndarray
) -> np.ndarray:
    """Read some vectors of a row group, and of the file only the pages that hold them.

    Parameters
    ----------
    descriptor, chunk
        As for `read_chunk`; see there for exceptions.
    rows, dimension : int
        Shape of the column in the row group.
    wanted : numpy.ndarray, dtype=int64, shape=(k,)
        Row numbers in the row group, ascending.

    Returns
    -------
    numpy.ndarray, dtype=float16, shape=(k, D)
    """
    out = np.empty((len(wanted), dimension), ITEM)
    for page in list_pages(chunk, rows, dimension, lambda offset: os.pread(descriptor, HEADER_BYTES, offset)):
        first, last = np.searchsorted(wanted, [page.first, page.first + page.rows])
        if first < last:
            data = memoryview(os.pread(descriptor, page.compressed, page.offset))
            out[first:last] = decode_page(page, data, chunk, dimension)[wanted[first:last] - page.first]
        if last == len(wanted):
            break
    return out


def list_pages(
    chunk: pq.ColumnChunkMetaData, rows: int, dimension: int, read: Callable[[int], memoryview | bytes]
) -> Iterator[Page]:
    """Yield the pages of a column in a row group; `read` returns the bytes from a position in the file on."""
    if chunk.has_dictionary_page or not set(chunk.encodings) <= {"PLAIN", "RLE"}:
        raise OtherLayoutError
    offset, first = chunk.data_page_offset, 0
    while first < rows:
        try:
            header, length = parse_struct(read(offset), 0)
        except ThriftError:
            raise OtherLayoutError from None
        page = parse_page(header, first, offset + length, dimension)
        yield page
        offset, first = page.offset + page.compressed, first + page.rows
    if first != rows:
        raise OtherLayoutError


def parse_page(header: Struct, first: int, offset: int, dimension: int) -> Page:
    """Check what a page's header says: a damaged one must not make us ask for all the memory of the machine."""
    data_page = header.get(DATA_PAGE)
    if not isinstance(data_page, dict):
        raise OtherLayoutError
    kind, size, compressed = (number_in(header, key) for key in (TYPE, SIZE, COMPRESSED))
    values, encoding = (number_in(data_page, key) for key in (VALUES, ENCODING))
    crc = None if header.get(CRC) is None else number_in(header, CRC)
    rows, rest = divmod(values, dimension)
    # Levels take a bit an item at most, and two lengths.
    levels = size - values * ITEM.itemsize
    if (
        (kind, encoding, rest) != (DATA_PAGE_V1, PLAIN, 0)
        or rows < 1
        or compressed < 0
        or not 0 <= levels <= values + 64
    ):
        raise OtherLayoutError
    return Page(first, rows, offset, compressed, size, crc)


def number_in(fields: Struct, key: int) -> int:
    """Return a field of a header that must be a number."""
    value = fields.get(key)
    if not isinstance(value, int):
        raise OtherLayoutError
    return value


def decode_page(page: Page, data: memoryview, chunk: pq.ColumnChunkMetaData, dimension: int) -> np.ndarray:
    """Return the vectors of a page, float16 [n, D]; `data` begins with its compressed bytes."""
    data = data[: page.compressed]
    if page.crc is not None and crc32(data) != page.crc & 0xFFFFFFFF:
        raise DamagedPageError("CRC checksum verification failed")
    if chunk.compression != "UNCOMPRESSED":
        data = pa.Codec(chunk.compression.lower()).decompress(data, page.size)
    values = page.rows * dimension
    return np.frombuffer(data, ITEM, values, page.size - values * ITEM.itemsize).reshape(page.rows, dimension)
