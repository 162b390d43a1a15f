"""The ten numbers that a reader of the report sees first, each with what it means."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from embedome.common.terms import DUPLICATE, TRUNCATED

RANDOM_WEIGHTS = (
    "The model's weights are random: nobody has trained it. Its vectors have no biological meaning, and neither has "
    "any figure that is drawn from them. They show only that the workflow runs."
)


@dataclass(frozen=True, slots=True)
class KeyNumber:
    """A number, or a name, with its unit and what it means."""

    name: str
    value: str
    unit: str
    meaning: str


def find_warning(statistics: Mapping[str, Any]) -> str | None:
    """Return what a reader has to know before all numbers, if there is anything."""
    return RANDOM_WEIGHTS if statistics["provenance"]["model"].get("trained") is False else None


def key_numbers(
    statistics: Mapping[str, Any], ledger: Mapping[str, Any], leakage: Mapping[str, Any] | None, seconds: int
) -> list[KeyNumber]:
    """Return the ten numbers.

    Parameters
    ----------
    statistics : mapping
        What the analyse stage wrote.
    ledger : mapping
    leakage : mapping, optional
        The summary, where leakage was measured.
    seconds : int
        Of all jobs of the run.
    """
    rows, provenance = statistics["rows"], statistics["provenance"]
    distinct = statistics["equal_vectors"]["distinct_sequences"]
    rejected = sum(ledger["rejected"].values())
    skipped = sum(ledger["skipped"].values())
    truncated, duplicates = (ledger["states"].get(state, 0) for state in (TRUNCATED, DUPLICATE))
    size, unit = readable_bytes(statistics["bytes"])
    left = f" {skipped:,} more were kept but skipped ({by_reason(ledger['skipped'])})." if skipped else ""
    return [
        KeyNumber("Sequences", f"{rows:,}", "rows", f"Each has an id and a vector. {distinct:,} are different.{left}"),
        KeyNumber("Dimension", f"{statistics['dimension']:,}", "numbers per vector", describe_vectors(provenance)),
        KeyNumber("Model", provenance["model"]["name"], describe_training(provenance["model"]), "It made the vectors."),
        KeyNumber(
            "Kept",
            f"{ledger['kept']:,}",
            "records",
            f"Of {ledger['read']:,} records read, {share(ledger['kept'], ledger['read'])} passed the filter.",
        ),
        KeyNumber("Rejected", f"{rejected:,}", "records", by_reason(ledger["rejected"]) or "No record was rejected."),
        KeyNumber(
            "Truncated",
            f"{truncated:,}",
            "sequences",
            f"{share(truncated, rows)} of the rows are longer than the model takes. Their first residues alone count.",
        ),
        KeyNumber(
            "Duplicates",
            f"{duplicates:,}",
            "sequences",
            f"{share(duplicates, rows)} of the rows have the sequence of another row, and its vector.",
        ),
        KeyNumber("Size", size, unit, f"{statistics['files']:,} Parquet files of the data set, compressed."),
        KeyNumber("Time", clock(seconds), "h:mm:ss", "All jobs of the run as they last ran, added up."),
        leakage_number(leakage),
    ]


def describe_vectors(provenance: Mapping[str, Any]) -> str:
    """Return how the vectors were made, in a sentence."""
    layers, poolings = provenance["layer"], ", ".join(provenance["pooling"])
    named = ", ".join(map(str, layers)) if isinstance(layers, list) else str(layers)
    last = " (the last)" if named == "-1" else ""
    return f"Pooling {poolings} of layer {named}{last}, computed in {provenance['dtype']} and stored in float16."


def describe_training(model: Mapping[str, Any]) -> str:
    """Return whether a model is trained, as far as its directory says."""
    if "pretraining" in model:
        return f"trained by embedome, recipe {model['pretraining']['recipe']}"
    if model.get("trained") is None:
        return "its directory does not say whether it is trained"
    return "trained" if model["trained"] else "not trained: random weights"


def leakage_number(leakage: Mapping[str, Any] | None) -> KeyNumber:
    """Return how many held-out sequences are like one of train, at the lowest identity that was counted."""
    if not leakage:
        return KeyNumber("Leakage", "not measured", "", "leakage.measure: true searches val and test against train.")
    found = {name: split["thresholds"][0] for name, split in leakage["splits"].items()}
    hits = sum(each["sequences"] for each in found.values())
    total = sum(split["sequences"] for split in leakage["splits"].values())
    lowest = min(each["identity"] for each in found.values())
    by_split = ", ".join(f"{name} {each['sequences']:,}" for name, each in found.items())
    meaning = (
        f"{share(hits, total)} of val and test have a hit in train at {lowest:.0%} identity or above ({by_split})."
    )
    return KeyNumber("Leakage", f"{hits:,}", "sequences", meaning)


def by_reason(counts: Mapping[str, int]) -> str:
    """Return counts by reason, the largest first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{reason} {count:,}" for reason, count in ordered)


def share(part: int, whole: int) -> str:
    """Return a part in per cent."""
    return f"{100 * part / whole:.1f} %" if whole else "0 %"


def readable_bytes(count: int) -> tuple[str, str]:
    """Return bytes as a number of at least 1, if possible, and its unit."""
    units = ("bytes", "kB", "MB", "GB", "TB")
    power = min(max(len(str(count)) - 1, 0) // 3, len(units) - 1)
    return (f"{count / 1000**power:.1f}" if power else str(count)), units[power]


def clock(seconds: int) -> str:
    """Return seconds as hours, minutes and seconds."""
    return f"{seconds // 3600:,}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
