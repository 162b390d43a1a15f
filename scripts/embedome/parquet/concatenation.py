"""One Parquet file of several of one schema: row groups are copied as they are, under a footer that finds them.

Nothing is decompressed, decoded or encoded, which for vectors takes far longer than copying. pyarrow cannot do it: it
writes what it has encoded itself.

References
----------
Parquet format, `parquet.thrift` (https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift).
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from embedome.parquet.thrift import BINARY, I16, I32, I64, LIST, STRUCT, Struct, Value, parse_struct, write_struct

MAGIC = b"PAR1"
# The footer's length and the magic number, at a file's end.
TAIL_BYTES = 8
COPY_BYTES = 1 << 22
# Numbers of parquet.thrift. FileMetaData:
SCHEMA, ROWS, GROUPS, KEY_VALUES = 2, 3, 4, 5
# RowGroup:
COLUMNS, GROUP_OFFSET, ORDINAL = 1, 5, 7
# ColumnChunk; an index is found by its offset and its length, fields that follow one another:
CHUNK_OFFSET, CHUNK, OFFSET_INDEX, COLUMN_INDEX = 2, 3, 4, 6
# ColumnMetaData:
TOTAL_COMPRESSED, DATA_PAGE, INDEX_PAGE, DICTIONARY_PAGE, BLOOM_FILTER = 7, 9, 10, 11, 14
# OffsetIndex, and PageLocation in it:
LOCATIONS, PAGE_OFFSET = 1, 1


class OtherSchemaError(ValueError):
    """A file whose columns are others than those of the first, or written in another way, as by another version."""


class Concatenation:
    """Writes one Parquet file of the row groups of others, in the order in which these are appended.

    Used as a context manager; the file at `path` is whole only when `finish` was called.

    Attributes
    ----------
    path : Path
    rows : int
        So far.
    sha256 : hashlib object
        Of what was written so far.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self.file = open(path, "wb", buffering=0)  # noqa: SIM115 - closed by __exit__
        self.sha256 = hashlib.sha256()
        self.position = self.rows = 0
        self.footer: Struct = {}
        self.schema: pa.Schema | None = None
        self.groups: list[Struct] = []
        # By kind, in the order in which they are written behind all row groups: whose they are, and their bytes.
        self.indexes: dict[int, list[tuple[Struct, bytes]]] = {COLUMN_INDEX: [], OFFSET_INDEX: []}
        self.write(MAGIC)

    def __enter__(self) -> "Concatenation":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, data: bytes | memoryview) -> None:
        """Write bytes."""
        self.sha256.update(data)
        self.position += len(data)
        while len(data):
            data = data[self.file.write(data) :]

    def append(self, source: BinaryIO | pa.NativeFile) -> None:
        """Copy the row groups of a Parquet file.

        Raises
        ------
        OtherSchemaError
        embedome.parquet.thrift.ThriftError
            Where its footer is damaged.
        """
        footer, schema = read_footer(source), pq.read_schema(source).remove_metadata()
        if not self.footer:
            self.footer, self.schema = footer, schema
        if (footer[SCHEMA], schema) != (self.footer[SCHEMA], self.schema):
            raise OtherSchemaError("its columns are not written as those of the files before it")
        groups = footer[GROUPS].value[1]
        if not groups:
            return
        start, end = data_range(groups)
        shift = self.position - start
        for group in groups:
            here = shift_group(group, shift, len(self.groups))
            self.groups.append(here)
            for old, chunk in zip(columns_of(group), columns_of(here), strict=True):
                if COLUMN_INDEX in old:
                    self.indexes[COLUMN_INDEX].append((chunk, read_index(source, old, COLUMN_INDEX)))
                if OFFSET_INDEX in old:
                    index = shift_index(read_index(source, old, OFFSET_INDEX), shift)
                    self.indexes[OFFSET_INDEX].append((chunk, index))
        self.rows += footer[ROWS].value
        source.seek(start)
        while start < end:
            data = source.read(min(COPY_BYTES, end - start))
            if not data:
                raise OSError("cut short")
            self.write(data)
            start += len(data)

    def finish(self, metadata: Mapping[bytes, bytes]) -> None:
        """Write the indexes and the footer: that of the first file, with these entries among its metadata."""
        for field, indexes in self.indexes.items():
            for chunk, index in indexes:
                chunk |= {field: Value(I64, self.position), field + 1: Value(I32, len(index))}
                self.write(index)
        about = {
            ROWS: Value(I64, self.rows),
            GROUPS: Value(LIST, (STRUCT, self.groups)),
            KEY_VALUES: Value(LIST, (STRUCT, with_entries(self.footer, metadata))),
        }
        footer = write_struct(self.footer | about)
        self.write(footer + len(footer).to_bytes(4, "little") + MAGIC)


def read_footer(source: BinaryIO | pa.NativeFile) -> Struct:
    """The FileMetaData of a Parquet file."""
    size = source.seek(0, os.SEEK_END)
    source.seek(size - TAIL_BYTES)
    length = int.from_bytes(source.read(4), "little")
    source.seek(size - TAIL_BYTES - length)
    return parse_struct(source.read(length), 0)[0]


def columns_of(group: Struct) -> list[Struct]:
    """The ColumnChunks of a RowGroup."""
    return group[COLUMNS].value[1]


def data_range(groups: list[Struct]) -> tuple[int, int]:
    """Where the pages of the row groups begin and end in their file."""
    ranges = [chunk_range(chunk[CHUNK].value) for group in groups for chunk in columns_of(group)]
    return min(start for start, _ in ranges), max(end for _, end in ranges)


def chunk_range(chunk: Struct) -> tuple[int, int]:
    """Where the pages of a column in a row group begin and end; its dictionary is the first of them."""
    start = min(chunk[field].value for field in (DATA_PAGE, DICTIONARY_PAGE) if field in chunk)
    return start, start + chunk[TOTAL_COMPRESSED].value


def read_index(source: BinaryIO | pa.NativeFile, chunk: Struct, field: int) -> bytes:
    """The bytes of an index of a column in a row group."""
    source.seek(chunk[field].value)
    return source.read(chunk[field + 1].value)


def shift_index(index: bytes, shift: int) -> bytes:
    """An OffsetIndex of pages that lie so many bytes further on."""
    fields, _ = parse_struct(index, 0)
    kind, locations = fields[LOCATIONS].value
    locations = [shift_offsets(location, shift, PAGE_OFFSET) for location in locations]
    return write_struct(fields | {LOCATIONS: Value(LIST, (kind, locations))})


def shift_group(group: Struct, shift: int, ordinal: int) -> Struct:
    """A RowGroup that lies so many bytes further on, the how-manieth it is; indexes are where they were."""
    chunks = [shift_chunk(chunk, shift) for chunk in columns_of(group)]
    about = {COLUMNS: Value(LIST, (STRUCT, chunks)), ORDINAL: Value(I16, ordinal)}
    return shift_offsets(group, shift, GROUP_OFFSET) | about


def shift_chunk(chunk: Struct, shift: int) -> Struct:
    """A ColumnChunk that lies so many bytes further on."""
    pages = shift_offsets(chunk[CHUNK].value, shift, DATA_PAGE, INDEX_PAGE, DICTIONARY_PAGE)
    # Not copied, and not written by pyarrow either, unless asked for.
    pages = {field: value for field, value in pages.items() if field not in (BLOOM_FILTER, BLOOM_FILTER + 1)}
    return shift_offsets(chunk, shift, CHUNK_OFFSET) | {CHUNK: Value(STRUCT, pages)}


def shift_offsets(fields: Struct, shift: int, *offsets: int) -> Struct:
    """A structure whose offsets, where it has them, are so many bytes further on; 0 stands for none."""
    found = {field: fields[field] for field in offsets if field in fields and fields[field].value}
    return fields | {field: Value(kind, value + shift) for field, (kind, value) in found.items()}


def with_entries(footer: Struct, metadata: Mapping[bytes, bytes]) -> list[Struct]:
    """The KeyValues of a footer, those of `metadata` in the place of what it had of their names."""
    old = footer[KEY_VALUES].value[1] if KEY_VALUES in footer else []
    entries = [entry for entry in old if entry[1].value not in metadata]
    return entries + [{1: Value(BINARY, key), 2: Value(BINARY, value)} for key, value in metadata.items()]
