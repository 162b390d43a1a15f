"""JSON read, written and digested; the SHA-256 of a file."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedome.common.atomic_files import atomic_path
from embedome.common.errors import UserError, cut


def file_sha256(path: str | os.PathLike) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes, read as a stream."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def canonical_json(value: Any) -> bytes:
    """Return the one byte string of a JSON value: sorted keys, no white space, so that equal values have one digest."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def json_sha256(value: Any) -> str:
    """Return the hexadecimal SHA-256 of a JSON value's canonical form."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def json_text(value: Any) -> str:
    """Return a JSON value as files have it: indented for reading, keys in the order given."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def flatten_json(value: Any, separator: str, name: str = "") -> dict[str, Any]:
    """Return the values of nested JSON objects by their names, joined by a separator; `name` is that of all.

    Examples
    --------
    >>> flatten_json({"model": {"name": "esm1nv", "layers": [6]}}, ".")
    {'model.name': 'esm1nv', 'model.layers': [6]}
    """
    if not isinstance(value, Mapping):
        return {name: value}
    return {
        path: each
        for key, part in value.items()
        for path, each in flatten_json(part, separator, f"{name}{separator}{key}" if name else key).items()
    }


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write a JSON file atomically, as `json_text`."""
    with atomic_path(path) as temporary:
        temporary.write_text(json_text(value), encoding="utf-8")


def round_digits(value: float) -> float:
    """Round a number to six digits, for JSON that is read by people; whole numbers stay."""
    return value if isinstance(value, int) else float(f"{value:.6g}")


def read_json(path: str | os.PathLike) -> Any:
    """Read a JSON file.

    Raises
    ------
    UserError
        Where the file is missing or is not JSON; names the file.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        fault = f"{path}: not valid JSON ({cut(str(error))}); if embedome made it, delete it and run again"
        raise UserError(fault) from None
