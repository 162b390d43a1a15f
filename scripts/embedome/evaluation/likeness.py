"""How like a task's test proteins are what a model was pretrained on, by the search that also checks splits for leaks.

Memory: some 60 bytes of each train sequence, and that of MMseqs2.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embedome.catalog.criteria import Criteria
from embedome.catalog.filter import filter_records
from embedome.catalog.table import read_catalog
from embedome.common import terms
from embedome.common.atomic_files import scratch_directory
from embedome.common.errors import UserError
from embedome.common.json_files import json_sha256, read_json, write_json
from embedome.common.locks import hold_lock
from embedome.evaluation.tasks import TEST, TRAIN
from embedome.models.directory import PRETRAINING
from embedome.splits.held_out import SearchSettings
from embedome.splits.leakage import measure_leakage
from embedome.splits.mmseqs import Mmseqs
from embedome.splits.split_table import write_splits
from embedome.training.pretrain import DATA
from embedome.training.store import ABOUT, Store, open_store

log = logging.getLogger(__name__)

# As the section leakage of the configuration has them.
SEARCH = SearchSettings(sensitivity=5.7, coverage=0.8, coverage_mode=0, e_value=0.001)
# Of a search's folder.
ACCOUNT, LOCK = "account.json", "lock"
# The identity from which on a hit counts in the table of scores.
RELATIVE = 0.3


def find_likeness(
    identity: Mapping[str, Any], run: Path, sequences: Sequence[bytes], cache: Path, threads: int
) -> dict[str, Any] | None:
    """Search test proteins against what a model was pretrained on, or find that done.

    Parameters
    ----------
    identity : mapping
        Of the model, as `models.directory.model_identity`.
    run : Path
        Folder of the pretraining, in which its sequences are.
    sequences : sequence of bytes
        Test proteins.
    cache : Path
        Folder of accounts.
    threads : int

    Returns
    -------
    dict or None
        As `measure_likeness`, or ``unknown``: why; None of a model that embedome has not pretrained.
    """
    if PRETRAINING not in identity:
        return None
    train = find_train(identity[PRETRAINING], run)
    if train is None:
        return unknown(f"{run / DATA / TRAIN} is missing, or not what the model was pretrained on")
    try:
        mmseqs = Mmseqs(threads)
    except UserError as error:
        return unknown(str(error))
    test = sorted({each.decode() for each in sequences})
    asked = {"train": train.sha256, "test": test, "search": SEARCH.arguments, "mmseqs": mmseqs.version}
    path = cache / json_sha256(asked)[:16] / ACCOUNT
    with hold_lock(path.with_name(LOCK)):
        if not path.is_file():
            write_json(path, measure_likeness(train, test, path, mmseqs))
    return read_json(path)


def unknown(reason: str) -> dict[str, str]:
    """Say why nothing is known."""
    log.warning("likeness to the sequences of pretraining is not known: %s", reason)
    return {"unknown": reason}


def find_train(pretraining: Mapping[str, Any], run: Path) -> Store | None:
    """Open the sequences that a model was trained on; None where they are not in the run's folder, or are others."""
    folder = run / DATA / TRAIN
    if not (folder / ABOUT).is_file():
        return None
    store = open_store(folder)
    recorded = pretraining.get("data", {}).get(TRAIN)
    return store if isinstance(recorded, dict) and store.sha256 == recorded["sha256"] else None


def measure_likeness(train: Store, test: Sequence[str], beside: Path, mmseqs: Mmseqs) -> dict[str, Any]:
    """Search test sequences against train ones.

    Returns
    -------
    dict
        ``train``: digest, source and number of sequences; ``test``: distinct sequences, how many have no hit, how many
        have one at or above some identities; program, version, arguments and what identity is.
    """
    log.info("searching %s test proteins in %s of pretraining", f"{len(test):,}", f"{len(train):,}")
    with scratch_directory(beside) as folder:
        catalog, splits = folder / "catalog", folder / "splits.parquet"
        files = [
            write_fasta(folder / "test.fasta", TEST, iter(test)),
            write_fasta(folder / "train.fasta", TRAIN, texts(train)),
        ]
        filter_records(files, Criteria(), catalog=catalog, rejects=folder / "rejects", summary=folder / "filter.json")
        write_splits(catalog, split_codes(catalog), splits)
        found = measure_leakage(
            catalog, splits, SEARCH, leakage=folder / "hits", summary=folder / "leakage.json", mmseqs=mmseqs
        )
    about = {"sha256": train.sha256, "source": train.source, **found["train"]}
    kept = {name: found[name] for name in ("program", "version", "arguments", "identity")}
    return {"train": about, "test": found["splits"][TEST], **kept}


def texts(store: Store) -> Iterator[str]:
    """Yield the sequences of a store."""
    for begin, end in zip(store.offsets[:-1], store.offsets[1:], strict=True):
        yield store.residues[begin:end].tobytes().decode()


def write_fasta(path: Path, split: str, sequences: Iterator[str]) -> Path:
    """Write sequences under their split and number."""
    with open(path, "w", encoding="ascii") as handle:
        for number, sequence in enumerate(sequences):
            handle.write(f">{split}-{number}\n{sequence}\n")
    return path


def split_codes(catalog: Path) -> np.ndarray:
    """Return the split of each row of a catalog of such records, int8 [n]."""
    names = [name for table in read_catalog(catalog, ["id"]) for name in table["id"].to_pylist()]
    return np.array([terms.SPLITS.index(name.split("-")[0]) for name in names], np.int8)


def relatives(account: Mapping[str, Any] | None) -> float | None:
    """Return the fraction of test sequences that have a hit of 30 % identity or more, of an account."""
    if account is None or TEST not in account:
        return None
    return next(each["fraction"] for each in account["test"]["thresholds"] if each["identity"] == RELATIVE)
