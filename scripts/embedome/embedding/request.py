"""What a run of single_file.py is asked for, checked without torch: a mistyped path is answered at once."""

import os
from collections.abc import Sequence
from pathlib import Path

from embedome.catalog.reading import ReadSettings
from embedome.common.outputs import check_output
from embedome.models.directory import check_model_directory
from embedome.sequences.any_format import is_blank
from embedome.sequences.compressed import read_blocks
from embedome.sequences.dropped_records import check_dropped
from embedome.sequences.input_files import check_streams, is_stream


def check_request(
    fasta: Sequence[str | os.PathLike],
    model: str | os.PathLike,
    out: str | os.PathLike,
    *,
    per_residue: bool,
    reading: ReadSettings | None = None,
) -> None:
    """Check that the sequences can be read, the results written and the model loaded, by its config.json and its files.

    Torch is imported for none of it, but for a model that embedome has no encoder for, of which transformers is asked.

    Parameters
    ----------
    fasta, model, out, reading : as of `single_file.embed_fasta`
    per_residue : bool
        Whether per-residue embeddings are written too.

    Raises
    ------
    UserError
        Where a FASTA file is missing, empty or cannot be read, an output would replace what embedome did not make, and
        as `check_model_directory`.
    """
    check_streams(fasta)
    for path in fasta:
        if not is_stream(path) and not (reading and reading.skip_empty and is_blank(path)):
            next(read_blocks(path), None)
    inputs = list(fasta)
    if reading and reading.structure:
        next(read_blocks(reading.structure), None)
        inputs.append(reading.structure)
    check_output(out, inputs, is_embedding_file)
    check_dropped(Path(out))
    if per_residue:
        from embedome.dataset.part_file import residues_path

        check_output(residues_path(Path(out)), inputs, is_embedding_file)
    check_model_directory(model)


def is_embedding_file(path: Path) -> bool:
    """Return `part_file.is_own_file`, whose packages are imported only where there is a file to look at."""
    from embedome.dataset.part_file import is_own_file

    return is_own_file(path)
