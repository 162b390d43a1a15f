"""Names and units of the numbers in statistics.json, for readers. docs/analysis.md defines each."""

from collections.abc import Iterable, Sequence
from typing import Any

# By the keys that lead to a number, where * is any: its name and its unit. What * stands for is what the number is of.
NAMES = {
    "rows": ("rows of the data set", "sequences"),
    "dimension": ("dimension of a vector", "numbers"),
    "bytes": ("size of the files", "bytes"),
    "files": ("files of the data set", "files"),
    "skipped": ("sequences without a vector", "sequences"),
    "splits: *: rows": ("rows of the split", "sequences"),
    "splits: *: states: *": ("rows in a state", "sequences"),
    "kept: *: sequences": ("sequences kept by the filter", "sequences"),
    "kept: *: residues": ("residues kept by the filter", "residues"),
    "lengths: *": ("lengths", "residues"),
    "lengths: *: residues": ("residues of all rows", "residues"),
    "lengths: *: mean": ("mean length", "residues"),
    "lengths: *: quantiles": ("lengths at 0, 25, 50, 75 and 100 %", "residues"),
    "norms: *": ("norms", "no unit"),
    "norms: *: mean": ("mean norm of the vectors", "no unit"),
    "norms: *: deviation": ("standard deviation of the norms", "no unit"),
    "norms: *: min": ("smallest norm", "no unit"),
    "norms: *: max": ("largest norm", "no unit"),
    "components: variance": ("variance, of all dimensions together", "squared norm"),
    "components: effective_rank": ("effective rank of the covariance", "dimensions"),
    "components: explained": ("shares of the variance along the first ten axes", "fraction"),
    "components: needed: *": ("principal axes with a share of the variance", "dimensions"),
    "equal_vectors: distinct_sequences": ("different sequences", "sequences"),
    "equal_vectors: vectors": ("vectors of more than one sequence", "vectors"),
    "equal_vectors: sequences": ("sequences that share a vector with another", "sequences"),
    "equal_vectors: in_train: *": ("sequences whose vector is one of train, too", "sequences"),
    "sample: sequences": ("sampled sequences", "sequences"),
    "neighbours": ("nearest neighbours", "none"),
    "neighbours: sequences": ("sampled sequences compared with each other", "sequences"),
    "neighbours: mean_cosine": ("mean cosine of all pairs", "no unit"),
    "neighbours: nearest_cosine_quantiles": ("cosines to the nearest, at 0, 25, 50, 75 and 100 %", "no unit"),
    "neighbours: near_cosine": ("cosine from which on a pair is a near duplicate", "no unit"),
    "neighbours: near_duplicates": ("near duplicates", "sequences"),
    "neighbours: *": ("agreement with the nearest", "none"),
    "neighbours: *: sequences": ("sequences with a label, whose nearest has one", "sequences"),
    "neighbours: *: same": ("share whose nearest has the same label", "fraction"),
    "neighbours: *: chance": ("the same for two drawn at random", "fraction"),
    "neighbours: *: possible": ("share with any relative in the sample", "fraction"),
    "umap: sequences": ("sequences on the map by UMAP", "sequences"),
    "umap: reason": ("why there is no map", "a text"),
    "drift: *": ("drift from train", "none"),
    "drift: *: rows": ("rows compared with train", "sequences"),
    "drift: *: standardised_difference: mean": ("mean difference of a dimension", "standard deviations"),
    "drift: *: standardised_difference: max": ("largest difference of a dimension", "standard deviations"),
    "drift: *: standardised_difference: infinite": ("dimensions that do not vary, but differ", "dimensions"),
    "drift: *: frechet": ("squared Fréchet distance to train", "squared norm"),
    "drift: *: frechet_of_sample: sequences": ("sequences of train drawn for comparison", "sequences"),
    "drift: *: frechet_of_sample: frechet": ("squared Fréchet distance of these", "squared norm"),
    "drift: *: length_wasserstein": ("Wasserstein-1 distance of the lengths", "residues"),
    "drift: *: length_kolmogorov_smirnov": ("Kolmogorov-Smirnov distance of the lengths", "fraction"),
}
PATTERNS = {tuple(pattern.split(": ")): named for pattern, named in NAMES.items()}
HEADER = ("number", "of", "value", "unit", "key in statistics.json")


def name_numbers(numbers: Iterable[tuple[str, Any]]) -> list[tuple]:
    """Return a line for each number: its name, what it is of, its value, its unit and its keys.

    Parameters
    ----------
    numbers : iterable of (str, value)
        As `report.flatten` gives them.
    """
    lines = []
    for path, value in numbers:
        keys = path.split(": ")
        pattern = find_pattern(keys)
        name, unit = PATTERNS.get(pattern, (path, ""))
        of = ", ".join(key for key, part in zip(keys, pattern, strict=True) if part == "*")
        lines.append((name, of, value, unit, path))
    return lines


def find_pattern(keys: Sequence[str]) -> tuple[str, ...]:
    """Return the pattern of a number's keys, the one with the fewest *; the keys themselves where none is known."""
    alike = (each for each in PATTERNS if len(each) == len(keys) and matches(keys, each))
    return min(alike, key=lambda each: each.count("*"), default=tuple(keys))


def matches(keys: Sequence[str], pattern: Sequence[str]) -> bool:
    """Return whether keys are as a pattern has them."""
    return all(part in ("*", key) for key, part in zip(keys, pattern, strict=True))
