"""The data card of a data set, and its splits as Hugging Face's `datasets` reads them.

A README.md would make pyarrow, pandas and Polars fail on the folder, as every name does that begins with neither an
underscore nor a dot. So the card is `_README.md`, and the splits stand in `.huggingface.yaml`, too, where `datasets`
and the Hub look for them. The bytes depend on the data set alone: no time, no path.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from embedome.dataset.format import RESIDUES_FOLDER, find_vector_names, vector_columns
from embedome.models.registry import REGISTRY

# What Hugging Face calls the splits, in the order in which they are shown.
SPLIT_NAMES = {"train": "train", "val": "validation", "test": "test"}
DEFAULT, RESIDUES = "default", "residues"
UNIPROT = ("uniref100", "uniref90", "uniref50", "uniprot_sprot", "uniprot_trembl")
UNIPROT_LICENCE = "CC BY 4.0, UniProt (https://www.uniprot.org/help/license)"


@dataclass(frozen=True, slots=True)
class RecordCounts:
    """What became of the records that were read, before any was embedded."""

    read: int
    rejected: Mapping[str, int] = field(default_factory=dict)
    """By reason."""

    @classmethod
    def of_summaries(cls, filtered: Mapping[str, Any], split: Mapping[str, Any]) -> "RecordCounts":
        """Take them from the summaries of the filter and split stages."""
        later = {reason: counts["sequences"] for reason, counts in split["rejected"].items()}
        return cls(filtered["read"], {**filtered["rejected"], **later})


def make_card(manifest: Mapping[str, Any], records: RecordCounts | None = None) -> str:
    """Return the data card, Markdown with YAML before it.

    Parameters
    ----------
    manifest : mapping
        Of the data set: rows, splits, dimension, provenance.
    records : RecordCounts, optional
        Rejected records are in no file of the data set, so the manifest does not count them.

    References
    ----------
    Hugging Face Hub documentation, "Dataset cards".
    """
    provenance, splits = manifest["provenance"], manifest["splits"]
    name = provenance.get("model", {}).get("name", "a model")
    parts = [
        front_matter(name, splits),
        f"# Embeddings of {describe_source(provenance)} by {name}\n",
        f"{manifest['rows']:,} protein sequences, one row each: {describe_vectors(manifest)}\n",
        "## How many\n",
        counts_table(splits),
        "\n".join(describe_counts(splits, records)),
        "## How it was made\n",
        "\n".join(f"- {key}: {value}" for key, value in describe_making(provenance)) + "\n",
        "## Licences\n",
        f"- Sequences: {sequence_licence(provenance)}\n- Weights of the model: {model_licence(name)}\n",
        "## How to read it\n",
        reading(next((split for split in SPLIT_NAMES if splits.get(split, {}).get("files")), "train")),
    ]
    return "\n".join(parts)


def front_matter(name: str, splits: Mapping[str, Any]) -> str:
    """Return the YAML block of a card on the Hugging Face Hub."""
    title = json.dumps(f"Protein embeddings by {name}", ensure_ascii=False)
    lines = ["---", f"pretty_name: {title}", "license: other", "tags:", "- biology", "- protein", "- embeddings"]
    return "\n".join([*lines, make_configs(splits) + "---", ""])


def make_configs(splits: Mapping[str, Any]) -> str:
    """Return as YAML which files are which split; of splits without a file nothing can be said.

    References
    ----------
    Hugging Face Hub documentation, "Manual configuration" of data files.
    """
    configs = [(DEFAULT, "files", ""), (RESIDUES, "residues", f"{RESIDUES_FOLDER}/")]
    lines = []
    for config, kind, folder in configs:
        present = [split for split in SPLIT_NAMES if splits.get(split, {}).get(kind)]
        if present:
            lines += [f"- config_name: {config}", f"  default: {json.dumps(config == DEFAULT)}", "  data_files:"]
        for split in present:
            lines += [f"  - split: {SPLIT_NAMES[split]}", f'    path: "{folder}split={split}/*.parquet"']
    return "\n".join(["configs:" if lines else "configs: []", *lines, ""])


def describe_source(provenance: Mapping[str, Any]) -> str:
    """Name the database or the files that the sequences are from."""
    release = find_release(provenance)
    inputs = ", ".join(each["file"] for each in provenance.get("source", {}).get("inputs", ()))
    return " ".join(str(release[key]) for key in ("database", "release") if release.get(key)) or inputs or "proteins"


def find_release(provenance: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the release that the sequences are from; empty where they are from files."""
    release = provenance.get("source", {}).get("release")
    return release if isinstance(release, Mapping) else {}


def describe_vectors(manifest: Mapping[str, Any]) -> str:
    """Say which columns hold which vectors."""
    columns = vector_columns(find_vector_names(manifest["provenance"]))
    shown = ", ".join(f"`{column}` ({name})" for name, column in columns.items())
    return f"{shown}, {manifest['dimension']} numbers of float16 each."


def counts_table(splits: Mapping[str, Any]) -> str:
    """Return a table of rows by split and state, and of skipped sequences."""
    states = sorted({state for split in splits.values() for state in split["states"]})
    lines = ["| split | rows | " + " | ".join([*states, "skipped"]) + " |", "|---|" + "---:|" * (len(states) + 2)]
    for split in [name for name in SPLIT_NAMES if name in splits]:
        account = splits[split]
        numbers = [account["rows"], *(account["states"].get(state, 0) for state in states)]
        numbers.append(sum(account["skipped"].values()))
        lines.append(f"| {SPLIT_NAMES[split]} | " + " | ".join(f"{number:,}" for number in numbers) + " |")
    return "\n".join([*lines, ""])


def describe_counts(splits: Mapping[str, Any], records: RecordCounts | None) -> Iterable[str]:
    """Yield what the states are, why sequences were skipped, and what became of the records that were read."""
    skipped: Counter[str] = Counter()
    for split in splits.values():
        skipped.update(split["skipped"])
    yield "`truncated`: the first residues of a long sequence alone went into the vector (`n_residues_used`)."
    yield "`windowed`: averaged over windows. `duplicate`: the same sequence as another row, and its vector."
    if skipped:
        yield f"Skipped sequences have no vector and are listed in `_skipped.parquet`: {by_reason(skipped)}."
    if records:
        kept = records.read - sum(records.rejected.values())
        reasons = f" ({by_reason(records.rejected)})" if records.rejected else ""
        rejected = f"{sum(records.rejected.values()):,}"
        yield f"{records.read:,} records were read, {kept:,} of them kept and {rejected} rejected{reasons}."
    yield ""


def by_reason(counts: Mapping[str, int]) -> str:
    """Return counts by reason as a text."""
    return ", ".join(f"{reason} {number:,}" for reason, number in sorted(counts.items()))


def describe_making(provenance: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Yield how the vectors were made, by what; a word for each key of the provenance that matters to a reader."""
    model = provenance.get("model", {})
    digest = f", sha256 of the weights {model['weights_sha256']}" if "weights_sha256" in model else ""
    yield "program", f"embedome {provenance.get('embedome', '')}".strip()
    yield "model", f"{model.get('name', 'unknown')}{digest}"
    if hub := model.get("hub"):
        yield "weights from", json.dumps(hub, ensure_ascii=False, sort_keys=True)
    if model.get("trained") is False:
        yield "untrained", "the weights are random, and the vectors have no biological meaning"
    for key in ("features", "layer", "pooling", "dtype", "long_sequences", "max_residues", "overlap"):
        if provenance.get(key) is not None:
            value = provenance[key]
            yield key, ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    for each in provenance.get("source", {}).get("inputs", ()):
        yield "input", f"`{each['file']}`, sha256 {each['sha256']}"
    yield "all of it", "`provenance` in `_manifest.json`, which lists every file with its sha256, this one too"


def sequence_licence(provenance: Mapping[str, Any]) -> str:
    """Return the licence of the sequences, as far as it is known."""
    release = find_release(provenance)
    is_demo = str(release.get("release", "")).startswith("embedome-demo")
    if release.get("database") in UNIPROT and not is_demo:
        return UNIPROT_LICENCE
    return "synthetic, without one" if is_demo else "that of their source"


def model_licence(name: str) -> str:
    """Return the licence of a model's weights, where the registry knows it."""
    return REGISTRY[name].licence if name in REGISTRY else "that of whoever made the model"


def reading(split: str) -> str:
    """Return programs that read the data set, from its folder; `split` is one that has rows."""
    return f"""```python
import pandas
frame = pandas.read_parquet(".", filters=[("split", "==", "{split}")])
```

```python
import os
import datasets
rows = datasets.load_dataset(os.getcwd())["{SPLIT_NAMES[split]}"]
```

```python
import duckdb
rows = duckdb.sql("select id, split, length from 'split=*/*.parquet'")
```

```python
from embedome.dataset import open_dataset
data = open_dataset(".")
for ids, vectors in data.matrix("{split}"):
    print(len(ids), vectors.shape)
```

`embedome verify .` compares every file with the manifest. What begins with an underscore holds no rows of proteins:
the pattern `**/*.parquet` finds it too, `split=*/*.parquet` does not.
"""
