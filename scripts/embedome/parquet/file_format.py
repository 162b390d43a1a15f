"""What an embedding file's metadata says of its format."""

import json
import os
from collections.abc import Mapping
from typing import Any

from embedome.common.errors import UserError

METADATA_KEY = b"embedome"
# Version of an embedding file, and of a shard's manifest. docs/format.md has the history.
FILE_FORMAT = 2


def read_about(path: str | os.PathLike, metadata: Mapping[bytes, bytes] | None) -> dict[str, Any] | None:
    """Read what a file's metadata says; return None where it is no embedding file.

    Raises
    ------
    UserError
        Where the file is of a format that this version does not know.
    """
    text = (metadata or {}).get(METADATA_KEY)
    if text is None:
        return None
    try:
        about = json.loads(text)
        version = about["format"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: damaged (its metadata cannot be read); restore it from a copy") from None
    if version != FILE_FORMAT:
        raise UserError(f"{path}: format {version!r}; expected {FILE_FORMAT}. Rebuild it with this version")
    return about
