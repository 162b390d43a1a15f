"""A configuration as its schema has it: defaults for what is not named, text of the command line read, whole numbers.

Snakemake reads values within ``--config 'shard={val: 1}'`` as text, and a workflow that uses this one as a module hands
over a configuration without the defaults.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from embedome.common.errors import cut, quote_value

# What Arrow and NumPy hold.
LARGEST = 2**63 - 1


def complete_config(
    config: Mapping[str, Any], defaults: Mapping[str, Any], schema: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a configuration with the defaults for keys that it does not name, its values read by the schema.

    Nothing is checked: what does not fit the schema stays as it is.

    Parameters
    ----------
    config, defaults : mapping
    schema : mapping
        JSON schema of the configuration.

    Examples
    --------
    >>> numbers = {"properties": {"shard": {"properties": {"val": {"type": "integer"}, "test": {"type": "integer"}}}}}
    >>> complete_config({"shard": {"val": "3"}}, {"shard": {"val": 1, "test": 1}}, numbers)
    {'shard': {'val': 3, 'test': 1}}
    """
    return {key: read_value(value, schema.get("properties", {}).get(key, {})) for key, value in fill(defaults, config)}


def fill(defaults: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield keys and values of both; of mappings in both each key by itself."""
    for key in [*defaults, *(key for key in config if key not in defaults)]:
        value = config.get(key, defaults.get(key))
        default = defaults.get(key)
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            value = dict(fill(default, value))
        yield key, value


def read_value(value: Any, schema: Mapping[str, Any]) -> Any:
    """Return a value as its schema has it, where it can be read so: text as a number, 1.0 as 1."""
    if isinstance(value, Mapping):
        parts = schema.get("properties", {})
        return {key: read_value(inner, parts.get(key, {})) for key, inner in value.items()}
    if isinstance(value, list):
        return [read_value(inner, schema.get("items", {})) for inner in value]
    kinds = admitted(schema)
    if isinstance(value, str) and kinds:
        value = read_text(value, kinds)
    if isinstance(value, float) and value.is_integer() and abs(value) <= LARGEST and {"integer", "number"} & kinds:
        return int(value)
    return value


def admitted(schema: Mapping[str, Any]) -> set[str]:
    """Return the JSON types that a schema admits; empty where it says nothing of them."""
    kinds = schema.get("type", [])
    words = {bool: "boolean", int: "integer", str: "string", type(None): "null"}
    return {kinds} if isinstance(kinds, str) else {*kinds, *(words[type(each)] for each in schema.get("enum", []))}


def read_text(text: str, kinds: set[str]) -> Any:
    """Return what a text says in YAML, where that is of another type that the schema admits; else the text.

    Examples
    --------
    >>> read_text("1e-5", {"number"}), read_text("1", {"integer"}), read_text("null", {"string", "null"})
    (1e-05, 1, None)
    >>> read_text("true", {"string"}), read_text("ten", {"integer"})
    ('true', 'ten')
    """
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return text
    if value is None:
        return None if "null" in kinds and text else text
    if "string" in kinds:
        return text
    if isinstance(value, str):
        return read_float(value) if "number" in kinds else value
    fits = {bool: {"boolean"}, int: {"integer", "number"}, float: {"integer", "number"}}.get(type(value), set())
    return value if fits & kinds else text


def read_float(text: str) -> float | str:
    """Return the number that a text is; the text where it is none. YAML 1.1 wants a point: 1e-5 is text in it."""
    try:
        return float(text) if text.isascii() and "_" not in text else text
    except ValueError:
        return text


def value_faults(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield what no key may hold, and a schema cannot say: numbers without end, and names with a line end."""
    for path, value in leaves(config):
        if isinstance(value, float) and not math.isfinite(value):
            yield f"{path} is {value}; expected a finite number"
        elif isinstance(value, int | float) and abs(value) > LARGEST:
            yield f"{path} is {quote_value(value)}; expected at most {LARGEST}"
        elif isinstance(value, str) and any(ord(letter) < ord(" ") and letter != "\t" for letter in value):
            yield f"{path} is '{cut(value)}'; expected text without line ends and control characters"


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value that is neither a list nor a mapping, after the path to it."""
    if isinstance(value, Mapping | list):
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, inner in pairs:
            yield from leaves(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value
