"""The words that stages share: splits, states of a row, reasons for skipping, poolings, names of vectors."""

from collections.abc import Sequence

# States of a row.
EMBEDDED, TRUNCATED, WINDOWED, DUPLICATE = "embedded", "truncated", "windowed", "duplicate"
# How residues' hidden states become one vector; `first` is the token before the residues.
MEAN, MAX, FIRST = "mean", "max", "first"
POOLINGS = (MEAN, MAX, FIRST)

TOO_LONG, NON_FINITE, OUT_OF_MEMORY = "too-long", "non-finite", "out-of-memory"

# Structure states: a column of the catalog, a key of summaries and provenance, where sequences have any.
STRUCTURE = "structure"

SPLITS = ("val", "test", "train")
VAL, TEST, TRAIN, REJECTED = range(4)


def vector_names(layers: Sequence[int], poolings: Sequence[str]) -> list[str]:
    """Return the names of a sequence's vectors: its poolings; of several layers each pooling of each layer.

    Examples
    --------
    >>> vector_names([33], ["mean", "max"]), vector_names([6, 33], ["mean"])
    (['mean', 'max'], ['layer_6_mean', 'layer_33_mean'])
    """
    if len(layers) == 1:
        return list(poolings)
    return [f"layer_{layer}_{pooling}" for layer in layers for pooling in poolings]
