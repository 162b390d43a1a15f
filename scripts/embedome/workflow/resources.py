"""What jobs ask for, as functions that Snakemake calls: more with each attempt."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Resource = Callable[..., int]

# Megabytes of the largest part's per-residue embeddings, and of what one that is being encoded takes beside them.
RESIDUES_MB = 2300
# Bytes of each number of a further vector, as measured (docs/performance.md), for the dimension of ESM-2 650M; a job
# with a wider model gets more with its next attempt.
NUMBER_BYTES, DIMENSION = 10, 1280


def further_vectors_mb(embed: Mapping[str, Any]) -> int:
    """Return the megabytes that the largest part takes of the vectors beyond each sequence's first."""
    layers = embed["layer"] if isinstance(embed["layer"], list) else [embed["layer"]]
    further = len(layers) * len(embed["pooling"]) - 1
    return int(further * embed["part_sequences"] * DIMENSION * NUMBER_BYTES / 1e6)


def by_attempt(amount: int) -> Resource:
    """Ask for an amount times the attempt."""
    return lambda wildcards, attempt: amount * attempt


def by_attempt_and_size(amount: int, times: float, each: int = 0) -> Resource:
    """Ask for megabytes: a base, `each` for a thread, and `times` the input's size, times the attempt."""

    # Snakemake passes arguments by these names.
    def megabytes(wildcards: Any, input: Any, attempt: int, threads: int = 1) -> int:  # noqa: A002
        return attempt * int(amount + each * threads + times * input.size_mb)

    return megabytes


def by_attempt_and_records(amount: int, each: int) -> Resource:
    """Ask for megabytes: a base and `each` bytes for a record read, or a row of an earlier data set."""

    def megabytes(wildcards: Any, input: Any, attempt: int) -> int:  # noqa: A002
        # If it does not exist yet, Snakemake expects the FileNotFoundError, and asks again.
        records = json.loads(Path(input.filter).read_text())["read"]
        if "earlier" in input.keys():  # noqa: SIM118 - of Snakemake's named list, whose items are paths
            records += json.loads(Path(input.earlier).read_text()).get("rows", 0)
        return attempt * int(amount + each * records / 1e6)

    return megabytes
