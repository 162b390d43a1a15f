"""Structures of Thrift's compact protocol, in which the headers of Parquet's pages are written, parsed.

A structure is a dict of its fields' values by number: bools, integers, bytes, dicts of fields, and lists of these.

References
----------
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from typing import Any

# Kinds of values. Maps and sets are not in Parquet's structures.
TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 9, 12
# Items of a short list; a longer one has its length after its first byte.
SHORT = 15

Data = memoryview | bytes
Struct = dict[int, Any]


class ThriftError(ValueError):
    """The bytes are no structure, or one of kinds that Parquet does not use."""


def parse_struct(data: Data, position: int) -> tuple[Struct, int]:
    """Parse a structure: its fields by number, and where it ends.

    Raises
    ------
    ThriftError
    """
    fields: Struct = {}
    number = 0
    try:
        while kind := data[position]:
            position += 1
            step, kind = kind >> 4, kind & 15
            if step:
                number += step
            else:
                number, position = parse_number(data, position)
            if kind <= FALSE:
                fields[number] = kind == TRUE
            else:
                fields[number], position = parse_value(data, position, kind)
    except (IndexError, RecursionError):
        raise ThriftError("cut short") from None
    return fields, position + 1


def parse_value(data: Data, position: int, kind: int) -> tuple[Any, int]:
    """Parse a value of a kind, and where it ends; truth values here are those of a list, one byte each."""
    if kind in (I16, I32, I64):
        return parse_number(data, position)
    if kind == BINARY:
        length, position = parse_varint(data, position)
        return bytes(data[position : position + length]), position + length
    if kind == STRUCT:
        return parse_struct(data, position)
    if kind == LIST:
        return parse_list(data, position)
    if kind in (TRUE, FALSE, BYTE):
        return data[position], position + 1
    if kind == DOUBLE:
        return bytes(data[position : position + 8]), position + 8
    raise ThriftError(f"kind {kind}")


def parse_list(data: Data, position: int) -> tuple[list[Any], int]:
    """Parse a list of values."""
    length, kind = data[position] >> 4, data[position] & 15
    position += 1
    if length == SHORT:
        length, position = parse_varint(data, position)
    items = []
    for _ in range(length):
        item, position = parse_value(data, position, kind)
        items.append(item)
    return items, position


def parse_number(data: Data, position: int) -> tuple[int, int]:
    """Parse a signed number (zigzag)."""
    value, position = parse_varint(data, position)
    return value >> 1 ^ -(value & 1), position


def parse_varint(data: Data, position: int) -> tuple[int, int]:
    """Parse an unsigned number of seven bits a byte, lowest first."""
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position
