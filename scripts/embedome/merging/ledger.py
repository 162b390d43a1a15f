"""The ledger: every record read ends in exactly one state, and the counts of all stages add up."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from embedome.catalog.filter import describe_source
from embedome.catalog.table import recorded_catalog
from embedome.common.counts import add_counts, check_equal
from embedome.common.errors import UserError
from embedome.common.json_files import read_json, write_json
from embedome.common.terms import DUPLICATE, EMBEDDED, SPLITS, STRUCTURE, TRUNCATED, WINDOWED

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
        Manifests of the shards, ``<split>/<shard>.json``.
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
        {split: [read_json(path) for path in manifests if Path(path).parent.name == split] for split in SPLITS},
        read_json(dataset),
    )
    write_json(ledger, result)
    log.info("the ledger closes: read %s, kept %s, %s", result["read"], result["kept"], result["states"])
    return result


def make_ledger(
    filtered: Mapping[str, Any],
    split: Mapping[str, Any],
    shards: Mapping[str, Any],
    manifests: Mapping[str, Sequence[Mapping[str, Any]]],
    dataset: Mapping[str, Any],
) -> dict:
    """Add up the stages' counts and check them against each other; as `write_ledger`."""
    check_digests(filtered, split, shards, dataset)
    splits = {name: split_account(name, split, shards, manifests[name], dataset) for name in SPLITS}
    states = add_counts([account["states"] for account in splits.values()])
    skipped = add_counts([account["skipped"] for account in splits.values()])
    left_out = split["rejected"]
    rejected = {**filtered["rejected"], **{reason: counts["sequences"] for reason, counts in left_out.items()}}
    kept = filtered["kept"] - sum(counts["sequences"] for counts in left_out.values())
    duplicates = filtered["duplicates"] - sum(counts["duplicates"] for counts in left_out.values())
    skipped_duplicates = duplicates - states.get(DUPLICATE, 0)
    skipped_in_shards = sum(sum(shard["skipped"].values()) for split in splits.values() for shard in split["shards"])
    check_equal("records read", filtered["read"], "kept and rejected", kept + sum(rejected.values()))
    check_equal("records of the input files", sum(i["records"] for i in filtered["inputs"]), "read", filtered["read"])
    check_equal("kept", kept, "kept by the split stage", split["kept"])
    check_equal("kept", kept, "in splits", sum(account["sequences"] for account in splits.values()))
    check_equal("kept", kept, "embedded, duplicates and skipped", sum(states.values()) + sum(skipped.values()))
    check_equal(
        "skipped in shards, and their duplicates",
        skipped_in_shards + skipped_duplicates,
        "skipped in the data set",
        sum(skipped.values()),
    )
    check_equal("rows of the data set", dataset["rows"], "embedded and duplicates", sum(states.values()))
    return {
        "format": 1,
        "read": filtered["read"],
        "rejected": dict(sorted(rejected.items())),
        "kept": kept,
        "states": states,
        "reused": add_counts([account["reused"] for account in splits.values()]),
        "skipped": skipped,
        "splits": splits,
    }


def split_account(
    name: str, split: Mapping, shards: Mapping, manifests: Sequence[Mapping[str, Any]], dataset: Mapping
) -> dict[str, Any]:
    """Draw up the account of one split, from its records to its rows in the data set."""
    counts, rows = split["splits"][name], dataset["splits"][name]
    found = {manifest["shard"]: manifest for manifest in manifests}
    held = [shard_account(name, shard, found.pop(shard["shard"], {})) for shard in shards["splits"][name]]
    check_equal(f"split {name}: manifests of shards", len(manifests), "shards", len(held))
    check_equal(
        f"split {name}: distinct sequences",
        counts["sequences"] - counts["duplicates"],
        "in shards and reused",
        sum(shard["sequences"] for shard in held) + shards["reused"][name],
    )
    check_equal(f"split {name}: reused", shards["reused"][name], "in the data set", sum(rows["reused"].values()))
    states = add_counts([rows["reused"], *(shard["states"] for shard in held)])
    for state in (EMBEDDED, TRUNCATED, WINDOWED):
        sides = states.get(state, 0), "in the data set", rows["states"].get(state, 0)
        check_equal(f"split {name}: {state} in shards and reused", *sides)
    ended = sum(rows["states"].values()) + sum(rows["skipped"].values())
    check_equal(f"split {name}: sequences", counts["sequences"], "rows and skipped", ended)
    check_equal(f"split {name}: rows", rows["rows"], "rows of its files", sum(file["rows"] for file in rows["files"]))
    check_equal(f"split {name}: rows", rows["rows"], "rows by state", sum(rows["states"].values()))
    ends = {key: rows[key] for key in ("states", "reused", "skipped")}
    return {**counts, **ends, "shards": held}


def shard_account(split: str, shard: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Draw up the account of one shard: what it holds and what became of it."""
    states, skipped = manifest.get("states", {}), manifest.get("skipped", {})
    where = f"split {split}, shard {shard['shard']}"
    agree(f"{where}: sequences", shard, "in its manifest", manifest, "content_sha256")
    check_equal(f"{where}: sequences", shard["sequences"], "in its manifest", manifest.get("sequences", 0))
    check_equal(
        f"{where}: sequences", shard["sequences"], "embedded and skipped", sum(states.values()) + sum(skipped.values())
    )
    return {**{key: shard[key] for key in ("shard", "sequences", "residues")}, "states": states, "skipped": skipped}


def check_digests(
    filtered: Mapping[str, Any], split: Mapping[str, Any], shards: Mapping[str, Any], dataset: Mapping[str, Any]
) -> None:
    """Compare what stages say of the input files, of the catalog and of an earlier data set."""
    known = {"catalog_sha256": recorded_catalog(filtered)}
    agree("the filter's catalog", known, "that of the split stage", split, "catalog_sha256")
    agree("the filter's catalog", known, "that of the shards", shards, "catalog_sha256")
    agree("the shards' earlier data set", shards, "that of the data set", dataset, "earlier")
    source = dataset.get("provenance", {}).get("source", {})
    for key in ("inputs", "release", "taxa", STRUCTURE) if source else ():
        agree(f"the filter's {key}", describe_source(filtered), f"{key} of the data set", source, key)


def agree(left: str, one: Mapping[str, Any], right: str, other: Mapping[str, Any], key: str) -> None:
    """Fail where two accounts know something by other digests; one that does not know it agrees."""
    if None not in (one.get(key), other.get(key)) and one[key] != other[key]:
        raise UserError(
            f"the ledger does not close: {left} and {right} are not the same ({key}); files of different runs are "
            "mixed: rerun the workflow, with --forceall if that does not help"
        )
