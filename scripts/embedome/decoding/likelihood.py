"""The likelihood of the sequences of FASTA files, as tables in input order.

Columns: id; tokens scored; sum and mean of their log-probabilities, natural logarithm; perplexity, exp(-mean).
"""

import csv
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from embedome.common.atomic_files import atomic_path
from embedome.common.errors import UserError
from embedome.common.log import Progress
from embedome.common.outputs import check_output
from embedome.common.terms import NON_FINITE, OUT_OF_MEMORY
from embedome.decoding.length_batches import Batches, RecordAccount, blocks
from embedome.decoding.masked_lm import MaskedLM
from embedome.decoding.seq2seq import Seq2Seq
from embedome.engine.device import TOKEN_BUDGET
from embedome.sequences.dropped_records import begins_with, check_dropped
from embedome.sequences.records import Record, read_records

COLUMNS = ("id", "tokens", "log_likelihood", "mean_log_likelihood", "perplexity")


def score_masked(fasta: Sequence[str | os.PathLike], model: MaskedLM, out: str | os.PathLike) -> dict[str, int]:
    """Write the pseudo-log-likelihood of each sequence, see `MaskedLM.log_likelihoods`; its tokens are the residues.

    Parameters
    ----------
    fasta : sequence of paths
    model : MaskedLM
    out : path
        The table, separated by tabs; records left out are in ``<out>.dropped.tsv``.

    Returns
    -------
    dict
        Numbers of records: read, scored, and left out by reason.

    Raises
    ------
    UserError
        Where an input is no FASTA.
    """
    with open_table(out) as table:
        for record in read_records(fasta):
            if table.account.admits(record, model.max_residues):
                table.add(record, model.log_likelihoods(record.sequence))
            table.progress.update(1)
    return table.account.close(Path(out))


def score_targets(
    fasta: str | os.PathLike, targets: str | os.PathLike, model: Seq2Seq, out: str | os.PathLike
) -> dict[str, int]:
    """Write the likelihood of each target given its source; its tokens are the residues and the end.

    Parameters
    ----------
    fasta, targets : path
        FASTA files of the same ids in the same order.
    model : Seq2Seq
    out : path
        As in `score_masked`.

    Returns
    -------
    dict
        As `score_masked`.

    Raises
    ------
    UserError
        Where an input is no FASTA, or the ids differ.
    """
    batches = Batches(TOKEN_BUDGET[model.device.type])
    longest = (model.max_residues, model.max_target_residues)
    with open_table(out) as table:
        for block in blocks(read_pairs(fasta, targets)):
            usable = [pair for pair in block if table.account.admits_pair(pair, longest)]
            found = batches.run(
                [(source.sequence, target.sequence) for source, target in usable],
                lambda pair: (len(pair[0]), len(pair[1])),
                lambda pairs: model.log_likelihoods(*zip(*pairs, strict=True)),
            )
            for (source, _), scores in zip(usable, found, strict=True):
                table.add(source, scores)
            table.progress.update(len(block))
    return table.account.close(Path(out))


def check_table(out: str | os.PathLike, inputs: Sequence[str | os.PathLike]) -> None:
    """Refuse to write a table over a file that is read, or is no such table; and its list of records likewise.

    Raises
    ------
    UserError
        Names the file.
    """
    check_output(out, inputs, lambda path: begins_with(path, COLUMNS))
    check_dropped(Path(out))


class Table:
    """A table of scores under way."""

    def __init__(self, writer: Any, progress: Progress) -> None:
        self.writer, self.progress, self.account = writer, progress, RecordAccount()
        writer.writerow(COLUMNS)

    def add(self, record: Record, scores: np.ndarray | None) -> None:
        """Add a row, float64 [tokens]; None where the memory did not suffice."""
        total = math.nan if scores is None else float(scores.sum())
        if scores is None or not math.isfinite(total):
            self.account.skip(record, OUT_OF_MEMORY if scores is None else NON_FINITE)
            return
        mean = total / len(scores)
        self.writer.writerow([record.id, len(scores), *(f"{value:.6g}" for value in (total, mean, math.exp(-mean)))])
        self.account.counts["scored"] += 1


@contextmanager
def open_table(out: str | os.PathLike) -> Iterator[Table]:
    """Open a table that is published when it is whole."""
    with (
        atomic_path(out) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as stream,
        Progress("score", "sequences") as progress,
    ):
        yield Table(csv.writer(stream, delimiter="\t", lineterminator="\n"), progress)


def read_pairs(fasta: str | os.PathLike, targets: str | os.PathLike) -> Iterator[tuple[Record, Record]]:
    """Yield the records of two files side by side.

    Raises
    ------
    UserError
        Where their ids differ; names the first record that does.
    """
    for number, pair in enumerate(zip_longest(read_records([fasta]), read_records([targets])), 1):
        source, target = (record and record.id for record in pair)
        if source != target:
            raise UserError(
                f"{targets}: record {number} is {target or 'missing'}; expected {source or 'the end'} as in {fasta}, "
                "the same ids in the same order"
            )
        yield pair
