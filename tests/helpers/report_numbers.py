"""What the report's first page is made from: a ledger, and as much of the statistics as it needs."""

LEDGER = {
    "read": 200,
    "kept": 185,
    "rejected": {"fragment": 3, "too-short": 12},
    "states": {"duplicate": 20, "embedded": 130, "truncated": 30},
    "skipped": {"too-long": 5},
}


def statistics(**model) -> dict:
    """Of a data set of 180 rows; keywords are what the model's directory says."""
    return {
        "rows": 180,
        "dimension": 768,
        "bytes": 2_500_000,
        "files": 3,
        "equal_vectors": {"distinct_sequences": 160},
        "provenance": {
            "model": {"name": "m", **model},
            "layer": [6, 12],
            "pooling": ["mean", "max"],
            "dtype": "bfloat16",
        },
    }
