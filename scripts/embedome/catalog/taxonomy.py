"""NCBI's taxonomy: which taxa lie below which.

References
----------
NCBI taxonomy dump, taxdump_readme.txt: nodes.dmp has the fields tax_id, parent tax_id and others, merged.dmp the
identifiers that were replaced; fields end in a tab, a bar, and but for the last a tab.
"""

import io
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from embedome.common.errors import UserError
from embedome.common.inputs import BoundedHeader

NODES, MERGED = "nodes.dmp", "merged.dmp"
LARGEST = 2**27


def taxon_flags(taxa: Sequence[int], taxonomy: str | os.PathLike | None) -> np.ndarray:
    """Mark taxa, and where a taxonomy is given, all that lies below them.

    Parameters
    ----------
    taxa : sequence of int
        NCBI taxonomy identifiers.
    taxonomy : path, optional
        nodes.dmp (merged.dmp is read where it lies beside), or taxdump.tar.gz.

    Returns
    -------
    numpy.ndarray, dtype=bool
        By identifier; 0 and all beyond its end are not marked.

    Raises
    ------
    UserError
        Where the file is missing, is no taxonomy, or has no such taxon.
    """
    if taxonomy is None:
        flags = np.zeros(max(taxa) + 1, bool)
        flags[list(taxa)] = True
        return flags
    pairs = read_pairs(taxonomy, NODES)
    parent = np.zeros(pairs.max() + 1, np.int64)
    parent[pairs[:, 0]] = pairs[:, 1]
    merged = dict(read_pairs(taxonomy, MERGED).tolist())
    taxa = [merged.get(taxon, taxon) for taxon in taxa]
    missing = [taxon for taxon in taxa if taxon >= len(parent) or not parent[taxon]]
    if missing:
        raise UserError(f"{taxonomy}: no taxon {missing[0]} there; check filter.include_taxa and exclude_taxa")
    flags = np.zeros(len(parent), bool)
    flags[list(taxa)] = True
    count = 0
    while (now := int(flags.sum())) != count:
        count = now
        flags |= flags[parent]
    flags[0] = False
    for old, new in merged.items():
        if old < len(flags) and new < len(flags):
            flags[old] = flags[new]
    return flags


def read_pairs(taxonomy: str | os.PathLike, name: str) -> np.ndarray:
    """Read the first two fields of a file of the dump, int64 [n, 2]; none where merged.dmp is missing.

    Raises
    ------
    UserError
        As `taxon_flags`.
    """
    try:
        with open_member(Path(taxonomy), name) as lines:
            pairs = np.array(list(parse_pairs(lines)), np.int64).reshape(-1, 2)
    except FileNotFoundError:
        if name == MERGED:
            return np.zeros((0, 2), np.int64)
        raise UserError(f"{taxonomy}: no such file; expected NCBI's {NODES} or taxdump.tar.gz") from None
    except (ValueError, IndexError, UnicodeDecodeError, tarfile.TarError, EOFError, OSError):
        raise UserError(f"{taxonomy}: cannot be read; expected NCBI's {NODES} or taxdump.tar.gz") from None
    if (len(pairs) and not 0 <= pairs.min() <= pairs.max() < LARGEST) or (name == NODES and not len(pairs)):
        raise UserError(f"{taxonomy}: no taxonomy; expected NCBI's {NODES} or taxdump.tar.gz")
    return pairs


@contextmanager
def open_member(path: Path, name: str) -> Iterator[IO[str]]:
    """Open a file of the dump, whether it lies in a folder or in the archive."""
    if path.name.endswith((".tar.gz", ".tgz", ".tar")):
        with tarfile.open(path, tarinfo=BoundedHeader) as archive:
            member = next((each for each in archive if each.name.removeprefix("./") == name), None)
            if member is None:
                raise FileNotFoundError(name)
            file = archive.extractfile(member)
            if file is None:
                raise tarfile.ReadError(f"{name} is not a regular file")
            yield io.TextIOWrapper(file, "ascii")
    else:
        with open(path if name == NODES else path.with_name(name), encoding="ascii", errors="strict") as lines:
            yield lines


def parse_pairs(lines: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Yield the first two fields of each line."""
    for line in lines:
        one, other = line.split("|", 2)[:2]
        yield int(one), int(other)
