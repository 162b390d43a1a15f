"""Which files of a data set one annotation job has."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from embedome.dataset.dataset import Dataset

LOOKUP_FOLDER, SUMMARY = "_lookup", "_summary.json"


@dataclass(frozen=True, slots=True)
class Partition:
    """What one job annotates: number `index` of `of` equal shares of a split's files, and of those of duplicates."""

    split: str
    index: int
    of: int

    @classmethod
    def of_job(cls, wildcards: Any, shards: int) -> Self:
        """Return the partition of the job whose wildcards are a split and the number of one of its shards."""
        return cls(wildcards.split, int(wildcards.shard), shards)

    @property
    def name(self) -> str:
        """Path of its file in the annotation."""
        return f"split={self.split}/part-{self.index:05d}.parquet"

    def files(self, data: Dataset) -> tuple[list[Path], list[Path]]:
        """Return its part files and its files of duplicates, each in the order of their ids."""
        files: tuple[list[Path], list[Path]] = ([], [])
        for entry in data.files(self.split):
            kind, _ = file_number(entry["file"])
            files[kind == "duplicates"].append(data.folder / entry["file"])
        parts, duplicates = (
            [path for place, path in enumerate(paths) if place * self.of // len(paths) == self.index] for paths in files
        )
        return parts, duplicates


def file_number(name: str) -> tuple[str, int]:
    """Return whether a data set's file holds ``part`` or ``duplicates``, and the number of its shard, or its own."""
    match = re.fullmatch(r"(part|duplicates)-(\d+).*", Path(name).name)
    return (match[1], int(match[2])) if match else ("part", 0)


def list_partitions(data: Dataset) -> list[Partition]:
    """List a partition for each shard."""
    found = []
    for split in data.splits:
        numbers = [file_number(entry["file"]) for entry in data.files(split)]
        shards = max((number for kind, number in numbers if kind == "part"), default=0) + 1
        found += [Partition(split, index, shards) for index in range(shards)]
    return found
