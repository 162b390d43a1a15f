"""Structure states beside the records of the filter stage: found by id, one for each residue, and counted."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from embedome.catalog.reading import ReadSettings
from embedome.sequences.record_columns import Records, read_offsets
from embedome.sequences.structures import Structures, index_structures

log = logging.getLogger(__name__)


def open_structures(reading: ReadSettings, folder: Path) -> Structures | None:
    """Index the 3Di FASTA that the settings name, if any, in `folder`; fails as `index_structures`."""
    if reading.structure is None:
        return None
    return index_structures(reading.structure, reading.missing_structure, folder, reading.header_ids)


def states_of_kept(structures: Structures, records: Records, keep: np.ndarray, path: str) -> list[bytes]:
    """Return the structure states of each of n sound records; none of those that are not kept, bool [n].

    Raises
    ------
    UserError
        As `Structures.fit`; `path` is the file of the records.
    """
    lengths, names = np.diff(read_offsets(records.sequences)).tolist(), records.ids.to_pylist()
    found = structures.of_ids(records.ids)
    states = [b""] * len(found)
    for row in np.flatnonzero(keep).tolist():
        states[row] = structures.fit(names[row], found[row], lengths[row], f"record {records.number[row]} of {path}")
    return states


def find_places(structures: Structures | None, ids: pa.StringArray) -> np.ndarray:
    """Return where the ids are that have structure states, int64 [k]."""
    if structures is None:
        return np.empty(0, np.int64)
    places = structures.places(ids)
    return places[places >= 0]


def count_structures(structures: Structures, places: Iterable[np.ndarray]) -> dict[str, Any]:
    """Return the account of a 3Di FASTA, and say how many of its records have no sequence."""
    has_sequence = np.zeros(structures.records, bool)
    for each in places:
        has_sequence[each] = True
    idle = int((~has_sequence).sum())
    if idle:
        log.warning("%s: %s of %s records have no sequence", structures.path, f"{idle:,}", f"{structures.records:,}")
    return {
        "file": Path(structures.path).name,
        "sha256": structures.sha256,
        "missing": structures.missing,
        "records": structures.records,
        "without_sequence": idle,
    }
