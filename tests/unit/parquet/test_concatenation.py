"""Row groups copied into one file: pyarrow and DuckDB read it as if written at once; its page index holds."""

import io
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from embedome.common.json_files import file_sha256
from embedome.parquet import thrift
from embedome.parquet.concatenation import (
    CHUNK,
    GROUPS,
    LOCATIONS,
    OFFSET_INDEX,
    Concatenation,
    OtherSchemaError,
    columns_of,
    read_footer,
    read_index,
)
from embedome.parquet.reader import ParquetFile
from embedome.parquet.thrift import Value, parse_struct, write_struct
from embedome.parquet.writer import PAGE_OPTIONS
from hypothesis import given, settings
from hypothesis import strategies as st

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("state", pa.string()),
        pa.field("count", pa.int32()),
        pa.field("vector", pa.list_(pa.field("element", pa.float16(), nullable=False), 3), nullable=False),
    ]
)


def table_of(start: int, rows: int) -> pa.Table:
    numbers = range(start, start + rows)
    return pa.table(
        {
            "id": [f"{number:06d}" for number in numbers],
            "state": [["embedded", None, "windowed"][number % 3] for number in numbers],
            "count": [number if number % 5 else None for number in numbers],
            "vector": pa.array([[number % 7, -1, 0.5] for number in numbers], SCHEMA.field("vector").type),
        },
        SCHEMA,
    )


def file_of(table: pa.Table, group: int = 50, **options) -> io.BytesIO:
    file = io.BytesIO()
    options = {**PAGE_OPTIONS, "use_dictionary": ["state"], "data_page_size": 200, **options}
    with pq.ParquetWriter(file, table.schema, **options) as writer:
        if len(table):
            writer.write_table(table, row_group_size=group)
        writer.add_key_value_metadata({b"about": b"one"})
    return file


def concatenated(path: Path, files: list[io.BytesIO]) -> Concatenation:
    with Concatenation(path) as made:
        for file in files:
            made.append(file)
        made.finish({b"about": b"all", b"more": b""})
    return made


@settings(max_examples=40)
@given(sizes=st.lists(st.integers(0, 160), min_size=1, max_size=5), group=st.integers(1, 90))
def test_rows_metadata_and_digest_are_those_of_one_file(tmp_path_factory, sizes, group):
    path = tmp_path_factory.mktemp("concatenation") / "x.parquet"
    tables = [table_of(1000 * number, rows) for number, rows in enumerate(sizes)]
    made = concatenated(path, [file_of(table, group) for table in tables])
    expected = pa.concat_tables(tables)
    assert made.rows == len(expected)
    assert made.sha256.hexdigest() == file_sha256(path)
    file = ParquetFile(path)
    assert file.schema_arrow.remove_metadata() == SCHEMA
    assert file.read().replace_schema_metadata(None) == expected
    assert (file.metadata.metadata[b"about"], file.metadata.metadata[b"more"]) == (b"all", b"")
    assert file.metadata.num_row_groups == sum(-(-rows // group) for rows in sizes)
    # Statistics are those of the rows that the row group has.
    start = 0
    for number in range(file.metadata.num_row_groups):
        rows = file.metadata.row_group(number).num_rows
        ids = expected["id"].slice(start, rows).to_pylist()
        statistics = file.metadata.row_group(number).column(0).statistics
        assert (statistics.min, statistics.max) == (ids[0], ids[-1])
        start += rows


def test_duckdb_reads_it_and_prunes_by_its_statistics(tmp_path):
    tables = [table_of(1000 * number, 160) for number in range(3)]
    concatenated(tmp_path / "x.parquet", [file_of(table) for table in tables])
    query = f"select * from '{tmp_path}/x.parquet'"
    with duckdb.connect() as connection:
        found = connection.execute(query).fetchall()
        one = connection.execute(f"{query} where id = '002100'").fetchall()
    expected = [tuple(row.values()) for row in pa.concat_tables(tables).to_pylist()]
    assert [(*row[:3], list(row[3])) for row in found] == expected
    assert one == [row for row in found if row[0] == "002100"]


def test_the_page_index_leads_to_pages(tmp_path):
    concatenated(tmp_path / "x.parquet", [file_of(table_of(1000 * number, 160)) for number in range(3)])
    data = (tmp_path / "x.parquet").read_bytes()
    footer = read_footer(io.BytesIO(data))
    pages = 0
    for group in footer[GROUPS].value[1]:
        for chunk in columns_of(group):
            index, _ = parse_struct(read_index(io.BytesIO(data), chunk, OFFSET_INDEX), 0)
            place = chunk[CHUNK].value[9].value
            for location in index[LOCATIONS].value[1]:
                # Data pages of a column lie behind one another, each of the size that the index tells.
                assert location[1].value == place
                header, end = parse_struct(data, place)
                assert header[1].value == 0
                assert end - place + header[3].value == location[2].value
                place += location[2].value
                pages += 1
    assert pages > 3 * 4 * len(SCHEMA)


def test_files_of_other_columns_are_refused(tmp_path):
    other = table_of(0, 5).rename_columns(["id", "state", "number", "vector"])
    with Concatenation(tmp_path / "x.parquet") as made:
        made.append(file_of(table_of(0, 5)))
        with pytest.raises(OtherSchemaError):
            made.append(file_of(other))


def test_a_file_cut_short_is_an_error(tmp_path):
    class Short(io.BytesIO):
        def read(self, size=-1):
            return b"" if self.tell() == 4 else super().read(size)

    with Concatenation(tmp_path / "x.parquet") as made, pytest.raises(OSError, match="cut short"):
        made.append(Short(file_of(table_of(0, 160)).getvalue()))


def test_a_structure_of_thrift_is_parsed():
    # Field 1: i32 -3, field 2: true, field 4: struct {1: binary "ab"}, field 20 (long form): i64 300,
    # field 21: list of two i32.
    data = bytes([0x15, 5, 0x11, 0x2C, 0x18, 2, 97, 98, 0, 6, 0x28, 0xD8, 4, 0x19, 0x25, 2, 4, 0])
    expected = {
        1: Value(thrift.I32, -3),
        2: Value(thrift.TRUE, True),
        4: Value(thrift.STRUCT, {1: Value(thrift.BINARY, b"ab")}),
        20: Value(thrift.I64, 300),
        21: Value(thrift.LIST, (thrift.I32, [1, 2])),
    }
    assert parse_struct(data, 0) == (expected, len(data))
    assert write_struct(expected) == data


NUMBERS = st.integers(-(2**63), 2**63 - 1)
PLAIN = st.one_of(
    st.tuples(st.sampled_from([thrift.I16, thrift.I32, thrift.I64]), NUMBERS),
    st.tuples(st.just(thrift.BINARY), st.binary(max_size=200)),
    st.tuples(st.just(thrift.BYTE), st.integers(0, 255)),
    st.tuples(st.just(thrift.DOUBLE), st.binary(min_size=8, max_size=8)),
)
TRUTH = st.sampled_from([Value(thrift.TRUE, True), Value(thrift.FALSE, False)])


def fields_of(values: st.SearchStrategy) -> st.SearchStrategy:
    return st.dictionaries(st.integers(1, 1000), values, max_size=6)


VALUES = st.recursive(
    st.one_of(PLAIN.map(lambda pair: Value(*pair)), TRUTH),
    lambda inner: st.one_of(
        fields_of(inner).map(lambda fields: Value(thrift.STRUCT, fields)),
        st.lists(NUMBERS, max_size=20).map(lambda items: Value(thrift.LIST, (thrift.I64, items))),
        st.lists(fields_of(inner), max_size=20).map(lambda items: Value(thrift.LIST, (thrift.STRUCT, items))),
    ),
    max_leaves=20,
)


@given(fields=fields_of(VALUES))
def test_what_is_written_is_read_again_and_a_cut_is_an_error(fields):
    data = write_struct(fields)
    assert parse_struct(data, 0) == (fields, len(data))
    with pytest.raises(thrift.ThriftError):
        parse_struct(data[:-1], 0)


def test_a_footer_of_pyarrow_is_written_as_it_was():
    file = file_of(table_of(0, 160))
    footer = read_footer(file)
    data = file.getvalue()
    length = int.from_bytes(data[-8:-4], "little")
    assert write_struct(footer) == data[-8 - length : -8]
