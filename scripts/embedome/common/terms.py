"""The words that stages share: splits, states of a row, reasons for skipping, poolings."""

# States of a row.
EMBEDDED, TRUNCATED, WINDOWED, DUPLICATE = "embedded", "truncated", "windowed", "duplicate"
# How residues' hidden states become one vector; `first` is the token before the residues.
MEAN, MAX, FIRST = "mean", "max", "first"
POOLINGS = (MEAN, MAX, FIRST)

TOO_LONG, NON_FINITE, OUT_OF_MEMORY = "too-long", "non-finite", "out-of-memory"

SPLITS = ("val", "test", "train")
VAL, TEST, TRAIN, REJECTED = range(4)
