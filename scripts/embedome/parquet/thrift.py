"""Structures of Thrift's compact protocol, in which Parquet's headers and footers are written: read, and written again.

A structure is a dict of its fields by number. As the kind of a value must be known to write it, each is held with it.

References
----------
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from collections.abc import Callable
from typing import Any, NamedTuple

# Kinds of values; lists of the kind that the first of their two items says. Maps and sets are not in Parquet's.
TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 9, 12
# Items of a short list; a longer one has its length behind its first byte.
SHORT = 15

Data = memoryview | bytes


class ThriftError(ValueError):
    """The bytes are no structure, or one of kinds that Parquet does not use."""


class Value(NamedTuple):
    """A value, with its kind.

    `value` is a bool, int, bytes or dict of fields; of a list, a tuple of the items' kind and the list of their values.
    """

    kind: int
    value: Any


Struct = dict[int, Value]


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
            value, position = (kind == TRUE, position) if kind <= FALSE else parse_value(data, position, kind)
            fields[number] = Value(kind, value)
    except (IndexError, RecursionError):
        raise ThriftError("cut short") from None
    return fields, position + 1


def parse_value(data: Data, position: int, kind: int) -> tuple[Any, int]:
    """Parse a value of a kind, and tell where it ends; truth values are here those of a list, a byte each."""
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


def parse_list(data: Data, position: int) -> tuple[tuple[int, list[Any]], int]:
    """Parse a list: its items' kind and their values."""
    length, kind = data[position] >> 4, data[position] & 15
    position += 1
    if length == SHORT:
        length, position = parse_varint(data, position)
    items = []
    for _ in range(length):
        item, position = parse_value(data, position, kind)
        items.append(item)
    return (kind, items), position


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


def write_struct(fields: Struct) -> bytes:
    """The bytes of a structure, its fields in the order of their numbers."""
    pieces = []
    last = 0
    for number, (kind, value) in sorted(fields.items()):
        step = number - last
        pieces.append(bytes([step << 4 | kind]) if step <= SHORT else bytes([kind]) + write_number(number))
        if kind > FALSE:
            pieces.append(WRITERS[kind](value))
        last = number
    return b"".join(pieces) + b"\0"


def write_list(value: tuple[int, list[Any]]) -> bytes:
    """The bytes of a list."""
    kind, items = value
    write = WRITERS[kind]
    length = len(items)
    head = bytes([length << 4 | kind]) if length < SHORT else bytes([SHORT << 4 | kind]) + write_varint(length)
    return head + b"".join(write(item) for item in items)


def write_byte(value: int) -> bytes:
    """The byte of a small number, or of a truth value in a list."""
    return bytes([value])


def write_binary(value: bytes) -> bytes:
    """The bytes of a string, its length before it."""
    return write_varint(len(value)) + value


def write_number(value: int) -> bytes:
    """The bytes of a signed number (zigzag)."""
    return write_varint(2 * value if value >= 0 else -2 * value - 1)


def write_varint(value: int) -> bytes:
    """The bytes of an unsigned number."""
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)


WRITERS: dict[int, Callable[[Any], bytes]] = {
    TRUE: write_byte,
    FALSE: write_byte,
    BYTE: write_byte,
    I16: write_number,
    I32: write_number,
    I64: write_number,
    DOUBLE: bytes,
    BINARY: write_binary,
    LIST: write_list,
    STRUCT: write_struct,
}
