"""TODO files."""

from collections.abc import Sequence
from pathlib import Path


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """What to call files: the ends of their paths, as short as tells them apart.

    Examples
    --------
    >>> distinct_names([Path("/data/GCF_1/protein.faa"), Path("/data/GCF_2/protein.faa")])
    ['GCF_1/protein.faa', 'GCF_2/protein.faa']
    """
    names = [path.name for path in paths]
    for depth in range(2, 1 + max(len(path.parts) for path in paths)):
        if len(set(names)) == len(set(paths)):
            break
        names = [Path(*path.parts[-depth:]).as_posix() for path in paths]
    return names
