"""Files of shards that there are no longer, parts that no manifest names, and work that `embedome embed` has left."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from embedome.common.json_files import read_json
from embedome.common.outputs import others_in
from embedome.common.unneeded import Unneeded
from embedome.dataset.part_file import is_own_file
from embedome.embedding.single_file import LOCK, WORK_FILES, is_work

# Of a shard and its parts.
SHARD_FILE = re.compile(r"(\d{5})(\.fasta\.gz|\.json|-\d{5}(\.residues)?\.parquet)")


def unneeded_parts(results: Path) -> Iterator[Unneeded]:
    """Yield files of shards that ``shards.json`` does not list, and parts that their shard's manifest does not name.

    A shard without a manifest is under way: its parts stay.

    Parameters
    ----------
    results : Path
        Folder of a run's results.
    """
    summary = results / "shards" / "shards.json"
    if not summary.is_file():
        return
    models = sorted(path for path in (results / "embeddings").glob("*") if path.is_dir())
    for split, shards in read_json(summary)["splits"].items():
        names = {shard["shard"] for shard in shards}
        for folder in (results / "shards" / split, *(model / split for model in models)):
            yield from unneeded_of_folder(folder, {name: parts_of(folder / f"{name}.json") for name in names})


def parts_of(manifest: Path) -> set[str] | None:
    """Return the files that the manifest of a shard names; None where there is no manifest yet."""
    if not manifest.is_file():
        return None
    entries = read_json(manifest)["parts"]
    residues = {entry["per_residue"]["file"] for entry in entries if entry["per_residue"]}
    return {manifest.name, *(entry["file"] for entry in entries), *residues}


def unneeded_of_folder(folder: Path, shards: Mapping[str, set[str] | None]) -> Iterator[Unneeded]:
    """Yield the files of a split that belong to none of its shards, or are parts that their shard does not name."""
    for path in sorted(folder.glob("*")):
        match = SHARD_FILE.fullmatch(path.name)
        if match is None or (path.suffix == ".parquet" and not is_own_file(path)):
            continue
        if match[1] not in shards:
            yield Unneeded(path, "of a shard that there is no longer")
        elif (named := shards[match[1]]) is not None and path.name not in named:
            yield Unneeded(path, "a part that its shard's manifest does not name")


def unneeded_work(folder: Path) -> Iterator[Unneeded]:
    """Yield folders of work that runs of `embedome embed` have left: such a run would go on from there."""
    for work in sorted(folder.glob("*.work")):
        if work.is_dir() and (work / LOCK).is_file() and is_work(work) and not any(others_in(work, WORK_FILES)):
            yield Unneeded(work, "of `embedome embed`, which would go on from there", work / LOCK)
