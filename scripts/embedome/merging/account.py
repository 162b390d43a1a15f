"""What the splits of a data set hold, and the files that say so: metadata, skipped sequences and manifest."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from embedome.dataset.format import ALL_SKIPPED, CARD, COMMON_METADATA, CONFIGS, METADATA, SKIPPED_FILE
from embedome.dataset.manifest import OTHER_FILES, describe_bytes, write_manifest
from embedome.merging.data_card import RecordCounts, make_card, make_configs
from embedome.parquet.reader import ParquetFile, rows_of_groups


@dataclass(frozen=True, slots=True)
class SplitAccount:
    """The files of a split, and counts of their rows, added as these are written."""

    split: str
    states: Counter[str] = field(default_factory=Counter)
    """Rows by state; `reused` are those among them that come from an earlier data set."""
    reused: Counter[str] = field(default_factory=Counter)
    skipped: list[pa.Table] = field(default_factory=list)
    """Of the `SKIPPED` schema."""
    files: list[dict[str, Any]] = field(default_factory=list)
    """Entries of the manifest; `residues` are those of files of per-residue embeddings."""
    residues: list[dict[str, Any]] = field(default_factory=list)

    def __add__(self, other: Self) -> Self:
        return type(self)(
            self.split,
            self.states + other.states,
            self.reused + other.reused,
            self.skipped + other.skipped,
            self.files + other.files,
            self.residues + other.residues,
        )


def concat_skipped(accounts: Iterable[SplitAccount]) -> pa.Table:
    """Return the skipped sequences of all splits, of the `ALL_SKIPPED` schema."""
    tables = [
        table.append_column("split", pa.array([account.split] * len(table), pa.string()))
        for account in accounts
        for table in account.skipped
    ]
    return pa.concat_tables([ALL_SKIPPED.empty_table(), *tables])


def write_account(
    folder: Path,
    schema: pa.Schema,
    accounts: Sequence[SplitAccount],
    provenance: Mapping[str, Any],
    earlier: Mapping[str, Any] | None,
    records: RecordCounts | None = None,
) -> dict[str, Any]:
    """Write the files of a data set that hold no rows, the manifest last; it is also returned.

    Parameters
    ----------
    folder : path
        Of the data set, with all files that hold rows.
    schema : pyarrow.Schema
        Of these.
    accounts : sequence of SplitAccount
        One of each split.
    provenance : mapping
    earlier : mapping, optional
        What the earlier data set was, where rows come from one.
    records : RecordCounts, optional
        For the data card.
    """
    skipped = concat_skipped(accounts).sort_by("id")
    pq.write_table(skipped, folder / SKIPPED_FILE, compression="zstd", use_dictionary=["reason", "split"])
    write_metadata(folder, schema, [file for account in accounts for file in account.files])
    manifest: dict[str, Any] = {
        "dimension": schema.field("embedding").type.list_size,
        "rows": sum(account.states.total() for account in accounts),
        "splits": {account.split: describe_split(account, skipped) for account in accounts},
        OTHER_FILES: [],
        "provenance": provenance,
        "earlier": earlier,
    }
    (folder / CARD).write_text(make_card(manifest, records), encoding="utf-8", newline="\n")
    (folder / CONFIGS).write_text(make_configs(manifest["splits"]), encoding="utf-8", newline="\n")
    others = (COMMON_METADATA, METADATA, SKIPPED_FILE, CARD, CONFIGS)
    manifest[OTHER_FILES] = [describe_bytes(folder, name) for name in others]
    return write_manifest(folder, manifest)


def describe_split(account: SplitAccount, skipped: pa.Table) -> dict[str, Any]:
    """Return a split's entry in the manifest; `skipped` are the skipped sequences of all splits."""
    reasons = Counter(skipped.filter(pc.equal(skipped["split"], account.split))["reason"].to_pylist())
    return {
        "rows": account.states.total(),
        "states": dict(sorted(account.states.items())),
        "reused": dict(sorted(account.reused.items())),
        "skipped": dict(sorted(reasons.items())),
        "files": account.files,
        "residues": account.residues,
    }


def write_metadata(folder: Path, schema: pa.Schema, files: Iterable[dict[str, Any]]) -> None:
    """Write ``_metadata``, the footers of all files in one, and ``_common_metadata``, the schema.

    Each file's entry in the manifest gets the rows of its row groups, so that readers need no footer to plan.
    """
    pq.write_metadata(schema, folder / COMMON_METADATA)
    footers = []
    for file in files:
        footer = ParquetFile(folder / file["file"]).metadata
        footer.set_file_path(file["file"])
        file["row_groups"] = rows_of_groups(footer)
        footers.append(footer)
    pq.write_metadata(schema, folder / METADATA, footers)
