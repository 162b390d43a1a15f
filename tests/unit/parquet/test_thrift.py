"""Structures of Thrift's compact protocol: values of all kinds that Parquet uses, and bytes that are none."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from embedome.parquet.thrift import ThriftError, parse_struct

# Field 1: i32 -3, field 2: true, field 4: struct {1: binary "ab"}, field 20 (long form): i64 300, field 21: list of
# two i32, field 22: list of sixteen bytes (long form).
DATA = bytes([0x15, 5, 0x11, 0x2C, 0x18, 2, 97, 98, 0, 6, 0x28, 0xD8, 4, 0x19, 0x25, 2, 4])
DATA += bytes([0x19, 0xF3, 16, *range(16), 0])
FIELDS = {1: -3, 2: True, 4: {1: b"ab"}, 20: 300, 21: [1, 2], 22: list(range(16))}


def test_a_structure_is_parsed():
    assert parse_struct(DATA, 0) == (FIELDS, len(DATA))
    assert parse_struct(b"before" + DATA, 6) == (FIELDS, 6 + len(DATA))


@pytest.mark.parametrize("length", range(len(DATA)))
def test_a_structure_that_is_cut_short_is_an_error(length):
    with pytest.raises(ThriftError):
        parse_struct(DATA[:length], 0)


def test_a_kind_that_parquet_does_not_use_is_an_error():
    with pytest.raises(ThriftError, match="kind 11"):
        parse_struct(bytes([0x1B, 0]), 0)


def test_structures_without_end_are_an_error():
    with pytest.raises(ThriftError):
        parse_struct(b"\x1c" * 100_000, 0)


def test_a_footer_says_what_pyarrow_reads_in_it():
    file = io.BytesIO()
    table = pa.table({"id": ["a", "b", None], "number": [1.5, None, 3.0]})
    pq.write_table(table, file, row_group_size=2)
    data = file.getvalue()
    length = int.from_bytes(data[-8:-4], "little")
    footer, end = parse_struct(data, len(data) - 8 - length)
    assert end == len(data) - 8
    metadata = pq.read_metadata(file)
    # Numbers of parquet.thrift: FileMetaData has rows 3, row groups 4, created_by 6; a RowGroup columns 1, rows 3; a
    # ColumnChunk its metadata 3, of which 7 is the compressed size and 9 the offset of the first page.
    assert (footer[3], footer[6].decode()) == (metadata.num_rows, metadata.created_by)
    assert [group[3] for group in footer[4]] == [2, 1]
    for number, group in enumerate(footer[4]):
        for place, column in enumerate(group[1]):
            expected = metadata.row_group(number).column(place)
            assert (column[3][7], column[3][9]) == (expected.total_compressed_size, expected.data_page_offset)
