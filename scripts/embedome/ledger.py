"""The ledger: every record read ends in exactly one state, and the counts of all stages add up."""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from embedome.errors import UserError
from embedome.files import read_json, write_json
from embedome.format import DUPLICATE, EMBEDDED, TRUNCATED, WINDOWED
from embedome.split import SPLITS

log = logging.getLogger(__name__)


def write_ledger(
    filter_summary: str | os.PathLike,
    split_summary: str | os.PathLike,
    shards: str | os.PathLike,
    manifests: Sequence[str | os.PathLike],
    dataset: str | os.PathLike,
    ledger: str | os.PathLike,
) -> dict:
    """Draw up the account of a run from what its stages wrote.

    Parameters
    ----------
    filter_summary, split_summary, shards, dataset : path
        JSON files of the stages; `dataset` is the data set's manifest.
    manifests : sequence of paths
        Manifests of the shards.
    ledger : path
        JSON file; its content is also returned.

    Raises
    ------
    UserError
        Where a sum does not close: names the two sides.
    """
    result = make_ledger(
        read_json(filter_summary),
        read_json(split_summary),
        read_json(shards),
        [read_json(path) for path in manifests],
        read_json(dataset),
    )
    write_json(ledger, result)
    log.info("the ledger closes: read %s, kept %s, %s", result["read"], result["kept"], result["states"])
    return result


def make_ledger(
    filtered: Mapping[str, Any],
    split: Mapping[str, Any],
    shards: Mapping[str, Any],
    manifests: Sequence[Mapping[str, Any]],
    dataset: Mapping[str, Any],
) -> dict:
    """Add up the stages' counts and check them against each other; as `write_ledger`."""
    splits = {name: split_account(name, split, shards, dataset) for name in SPLITS}
    states = add_up([account["states"] for account in splits.values()])
    skipped = add_up([account["skipped"] for account in splits.values()])
    rejected = sum(filtered["rejected"].values())
    vectors = sum(states.get(state, 0) for state in (EMBEDDED, TRUNCATED, WINDOWED))
    skipped_duplicates = filtered["duplicates"] - states.get(DUPLICATE, 0)
    close("records read", filtered["read"], "kept and rejected", filtered["kept"] + rejected)
    close("records of the input files", sum(i["records"] for i in filtered["inputs"]), "read", filtered["read"])
    close("kept", filtered["kept"], "in splits", sum(account["sequences"] for account in splits.values()))
    close("kept", filtered["kept"], "embedded, duplicates and skipped", sum(states.values()) + sum(skipped.values()))
    close(
        "sequences in shards",
        sum(m["sequences"] for m in manifests),
        "distinct",
        filtered["kept"] - filtered["duplicates"],
    )
    close("vectors of shards", sum(sum(m["states"].values()) for m in manifests), "vectors in the data set", vectors)
    close(
        "skipped in shards, and their duplicates",
        sum(sum(m["skipped"].values()) for m in manifests) + skipped_duplicates,
        "skipped in the data set",
        sum(skipped.values()),
    )
    close("rows of the data set", dataset["rows"], "embedded and duplicates", sum(states.values()))
    return {
        "format": 1,
        "read": filtered["read"],
        "rejected": filtered["rejected"],
        "kept": filtered["kept"],
        "states": states,
        "skipped": skipped,
        "splits": splits,
    }


def split_account(name: str, split: Mapping, shards: Mapping, dataset: Mapping) -> dict[str, Any]:
    """The account of one split, from its records to its rows in the data set."""
    counts, rows = split["splits"][name], dataset["splits"][name]
    held = [{key: shard[key] for key in ("shard", "sequences", "residues")} for shard in shards["splits"][name]]
    close(
        f"split {name}: distinct sequences",
        counts["sequences"] - counts["duplicates"],
        "in shards",
        sum(shard["sequences"] for shard in held),
    )
    ends = sum(rows["states"].values()) + sum(rows["skipped"].values())
    close(f"split {name}: sequences", counts["sequences"], "rows and skipped", ends)
    close(f"split {name}: rows", rows["rows"], "rows of its files", sum(file["rows"] for file in rows["files"]))
    return {**counts, "states": rows["states"], "skipped": rows["skipped"], "shards": held}


def add_up(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Add counts by name, names in order."""
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(sorted(total.items()))


def close(left: str, left_count: int, right: str, right_count: int) -> None:
    """Fail where two counts that must be equal are not."""
    if left_count != right_count:
        raise UserError(
            f"the ledger does not close: {left} {left_count:,}, {right} {right_count:,}; "
            "files of different runs are mixed: rerun the workflow, with --forceall if that does not help"
        )
