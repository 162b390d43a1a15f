"""How sequence files are read: what the id is, what is done with empty files, and with sequences of nucleotides."""

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from embedome.common.errors import UserError
from embedome.common.settings import SectionSettings
from embedome.sequences.header_ids import HeaderIds
from embedome.sequences.record_columns import count_letters, read_offsets
from embedome.sequences.structures import ERROR

log = logging.getLogger(__name__)

WARN, REFUSE = "warn", "refuse"
# Records without an id at most.
MOST_NAMELESS = 500_000
# Letters of nucleic acids, N for any of them. In proteins they are a quarter of all.
NUCLEOTIDES = "ACGTUN"
# From this length on, and this fraction of such letters, a sequence is hardly a protein.
LEAST_LENGTH, LEAST_FRACTION = 40, 0.95


@dataclass(frozen=True, slots=True)
class ReadSettings(SectionSettings):
    """How sequence files are read.

    Parameters
    ----------
    id : int or str, optional
        As of `header_ids.HeaderIds.of_setting`.
    skip_empty : bool
        Pass over files without a record, in place of an error.
    nucleotides : str
        ``warn`` or ``refuse``: what to do where sequences look like DNA or RNA.
    structure : str, optional
        Path of a 3Di FASTA with a structure state for each residue of each kept record, see `structures`.
    missing_structure : str
        Of `structures.MISSING`: what becomes of a kept record that is not in there.
    """

    id: int | str | None = None
    skip_empty: bool = False
    nucleotides: str = WARN
    structure: str | None = None
    missing_structure: str = ERROR
    header_ids: HeaderIds | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "header_ids", HeaderIds.of_setting(self.id))


@dataclass(frozen=True, slots=True)
class Nucleic:
    """Records whose sequences look like nucleic acids.

    Parameters
    ----------
    count : int
    first : int
        Position in its file of the first one, from 1; 0 for none.
    """

    count: int = 0
    first: int = 0

    @classmethod
    def among(cls, numbers: np.ndarray, sequences: pa.StringArray) -> "Nucleic":
        """Find those among n sequences, none empty, of records with these positions [n]."""
        lengths = np.diff(read_offsets(sequences))
        fraction = count_letters(sequences, NUCLEOTIDES) / np.maximum(lengths, 1)
        found = numbers[(lengths >= LEAST_LENGTH) & (fraction >= LEAST_FRACTION)]
        return cls(len(found), int(found.min()) if len(found) else 0)

    @classmethod
    def of_all(cls, found: Iterable["Nucleic"]) -> "Nucleic":
        """Add up what was found in one file."""
        some = [each for each in found if each.count]
        return cls(sum(each.count for each in some), min((each.first for each in some), default=0))


def check_names(nameless: int, path: os.PathLike) -> None:
    """Check that not very many records lack an id: all of them are sorted at once.

    Raises
    ------
    UserError
        Names the file that was read last.
    """
    if nameless > MOST_NAMELESS:
        raise UserError(
            f"{path}: more than {MOST_NAMELESS:,} records have no id; expected FASTA with an id in each header, and "
            "source.id to say where"
        )


def check_nucleic(found: Sequence[tuple[int, Nucleic]], paths: Sequence[os.PathLike], settings: ReadSettings) -> None:
    """Say so where sequences look like nucleic acids; `found` are those of runs, after the number of the run's file.

    Raises
    ------
    UserError
        Where the settings refuse them.
    """
    if not (count := sum(nucleic.count for _, nucleic in found)):
        return
    file, first = min((file, nucleic.first) for file, nucleic in found if nucleic.count)
    message = (
        f"{paths[file]}: {count:,} records look like DNA or RNA, the first is record {first}: nearly all of their "
        f"letters are {NUCLEOTIDES}"
    )
    if settings.nucleotides == REFUSE:
        raise UserError(f"{message}; expected proteins, translate them first")
    log.warning("%s; they are taken for proteins", message)
