"""FASTA files translated by an encoder-decoder."""

import os
from collections.abc import Sequence
from pathlib import Path

from embedome.common.atomic_files import atomic_path
from embedome.common.errors import UserError
from embedome.common.log import Progress
from embedome.common.terms import OUT_OF_MEMORY
from embedome.decoding.length_batches import Batches, RecordAccount, blocks
from embedome.decoding.seq2seq import Decoding, Seq2Seq
from embedome.engine.device import TOKEN_BUDGET
from embedome.sequences.fasta import write_entry
from embedome.sequences.records import read_records

EMPTY = "empty-translation"


def translate_fasta(
    fasta: Sequence[str | os.PathLike], model: Seq2Seq, out: str | os.PathLike, decoding: Decoding
) -> dict[str, int]:
    """Translate every record, as FASTA in input order; those left out are in ``<out>.dropped.tsv``.

    Returns
    -------
    dict
        Numbers of records: read, translated, and left out by reason.

    Raises
    ------
    UserError
        Where an input is no FASTA, or more tokens are asked for than the model has positions.
    """
    check_decoding(model, decoding)
    batches = Batches(max(1, TOKEN_BUDGET[model.device.type] // decoding.beams))
    out, account = Path(out), RecordAccount()
    with atomic_path(out) as temporary, open(temporary, "wb") as stream, Progress("translate", "sequences") as progress:
        for block in blocks(read_records(fasta)):
            usable = [record for record in block if account.admits(record, model.max_residues)]
            sequences = [record.sequence for record in usable]
            found = batches.run(
                sequences, lambda sequence: (len(sequence),), lambda batch: model.translate(batch, decoding)
            )
            for record, translation in zip(usable, found, strict=True):
                if translation:
                    write_entry(stream, record.id, record.description, translation.encode())
                    account.counts["translated"] += 1
                else:
                    account.skip(record, OUT_OF_MEMORY if translation is None else EMPTY)
            progress.update(len(block))
    return account.close(out)


def check_decoding(model: Seq2Seq, decoding: Decoding) -> None:
    """Refuse more tokens than the model has positions for."""
    if model.positions is not None and (decoding.max_length or 0) > model.positions:
        raise UserError(f"--max-length is {decoding.max_length}; the model's positions hold {model.positions} tokens")
