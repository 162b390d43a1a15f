"""Running MMseqs2: finding it, its databases made from the catalog, its modules with a log, and its tables.

Sequences go by their row in the catalog, so that no id is read in MMseqs2's own way (it takes P1 out of sp|P1|X).
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, Self

import numpy as np
import pyarrow as pa

from embedome.catalog.table import read_catalog
from embedome.common.errors import UserError
from embedome.sequences.fasta import join_text

PROGRAM = "mmseqs"
INSTALL = "conda install -c conda-forge -c bioconda mmseqs2, or sudo apt-get install mmseqs2, or run with --sdm conda"

# Runs a command, and ends it with all its children when standard input ends, that is when whoever holds the other end
# of the pipe is gone, be it by kill -9: a module of MMseqs2 would go on for hours.
GUARD = """
exec 3<&0
"$@" </dev/null 3<&- &
work=$!
(read -r _ <&3; kill -KILL 0) &
watch=$!
wait "$work"
code=$?
kill "$watch"
exit "$code"
"""

# From this many residues on MMseqs2 itself takes words of 7 letters if memory allows, else of 6 (optimizeSplit in its
# Prefiltering.cpp): what is found must not depend on the memory.
LONG_WORD_RESIDUES = 3_350_000_000
# Of the memory that a job has, for what MMseqs2 plans; it has buffers beside that.
MEMORY_SHARE = 0.8
LAST_LINES = 3
# Of sequences below 14 residues, or of one letter.
NO_WORDS = "No k-mer could be extracted"
# Of a sequence; its modules break off, or break, at longer ones.
MAX_RESIDUES = 65_535
# What it writes for residues that are in no word: repeats as small letters, and letters that it does not know.
IN_NO_WORD = b"abcdefghijklmnopqrstuvwxyzXUO*\n"
# Scores by BLOSUM62 alone: corrected for composition, those of repetitive sequences fall below any limit.
PLAIN_SCORES = ("--comp-bias-corr", "0")
# Its number for databases of pairs to align.
PAIRS_TYPE = "7"


class NoWordsError(UserError):
    """No sequence has a word by which others could be found."""


@dataclass(frozen=True, slots=True)
class Mmseqs:
    """MMseqs2 as a job has it.

    Parameters
    ----------
    threads : int
    memory_mb : int, optional
        Of the job; all that the machine has if not given.
    log : path, optional
        File for what its modules print, to look for a fault.

    Raises
    ------
    UserError
        Where it is not installed.
    """

    threads: int = 1
    memory_mb: int | None = None
    log: str | os.PathLike | None = None
    program: str = field(init=False)

    def __post_init__(self) -> None:
        program = shutil.which(PROGRAM)
        if program is None:
            raise UserError(f"MMseqs2 is not installed (no program {PROGRAM!r} is found); install it: {INSTALL}")
        object.__setattr__(self, "program", program)

    @classmethod
    def of_job(cls, threads: int, memory_mb: int, log: object) -> Self:
        """Return MMseqs2 with a job's cores and memory; what it prints goes beside the job's log."""
        return cls(threads, memory_mb, f"{log}.mmseqs")

    @property
    def version(self) -> str:
        """What it calls its version."""
        result = subprocess.run([self.program, "version"], capture_output=True, text=True, check=False)
        if result.returncode or not result.stdout.strip():
            raise UserError(f"{self.program}: `mmseqs version` fails ({last_lines(result.stderr)}); install it again")
        return result.stdout.strip()

    @property
    def memory_limit(self) -> list[str]:
        """Options that bound its memory: what the job has, but no more than the machine."""
        if not self.memory_mb:
            return []
        machine_mb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e6
        return ["--split-memory-limit", f"{int(MEMORY_SHARE * min(self.memory_mb, machine_mb))}M"]

    def run(self, module: str, *arguments: str | os.PathLike) -> None:
        """Run a module to its end.

        Raises
        ------
        UserError
            Where it fails, with the last lines it printed; `NoWordsError` where sequences have no words.
        """
        command = [self.program, module, *(os.fspath(each) for each in arguments)]
        with self.open_log() as output:
            start = output.seek(0, os.SEEK_END)
            code = run_guarded(command, output.fileno())
            if code:
                size = output.seek(0, os.SEEK_END)
                output.seek(max(start, size - 4000))
                text = output.read().decode(errors="replace")
                more = f"; all it printed is in {self.log}" if self.log else ""
                fault = f"mmseqs {module} failed (exit code {code}): {last_lines(text)}{more}"
                raise (NoWordsError if NO_WORDS in text else UserError)(fault)

    def open_log(self) -> BinaryIO:
        """Open the log, at any place, for reading and to append to it."""
        if not self.log:
            return TemporaryFile()
        Path(self.log).parent.mkdir(parents=True, exist_ok=True)
        return open(self.log, "ab+")

    def make_database(self, catalog: str | os.PathLike, chosen: np.ndarray, database: Path) -> None:
        """Make a sequence database of the chosen rows of the catalog, named by their number, in its order.

        Parameters
        ----------
        catalog : path
        chosen : numpy.ndarray, dtype=bool, shape=(n,)
            Of the catalog's rows.
        database : path
        """
        fasta = database.with_name(f"{database.name}.fasta")
        with fasta.open("wb") as handle:
            for text in fasta_of_rows(catalog, chosen):
                handle.write(text)
        # As proteins, which it would not assume for ACGT; not shuffled: keys in the order of rows.
        self.run("createdb", fasta, database, "--dbtype", "1", "--shuffle", "0")
        fasta.unlink()

    def make_subset(self, database: Path, keys: np.ndarray, subset: Path) -> Path:
        """Make a database of some sequences of another, given by their places in it, from 0; they keep their keys."""
        names = subset.with_name(f"{subset.name}.keys")
        np.savetxt(names, keys, "%d")
        self.run("createsubdb", names, database, subset, "--subdb-mode", "1")
        return subset

    def make_pairs(self, queries: np.ndarray, targets: np.ndarray, pairs: Path) -> Path:
        """Make a list of pairs to align, given by their places in two databases, queries ascending."""
        table = pairs.with_name(f"{pairs.name}.tsv")
        nothing = np.zeros_like(queries)
        np.savetxt(table, np.stack([queries, targets, nothing, nothing], axis=1), "%d", "\t")
        self.run("tsv2db", table, pairs, "--output-dbtype", PAIRS_TYPE)
        return pairs

    def residues_in_words(self, database: Path) -> np.ndarray:
        """Count the residues of each sequence, in order, that MMseqs2 takes words from; dtype=int64, shape (n,)."""
        masked, fasta = (database.with_name(f"{database.name}.{name}") for name in ("masked", "masked.fasta"))
        self.run("masksequence", database, masked, "--threads", str(self.threads))
        self.run("convert2fasta", masked, fasta)
        with fasta.open("rb") as handle:
            counts = np.fromiter(count_in_words(handle), np.dtype((np.int64, 2)))
        fasta.unlink()
        return counts[np.argsort(counts[:, 0]), 1]


def run_guarded(command: Sequence[str], output: int) -> int:
    """Run a command with its output to a file descriptor; return its exit code. It ends when this process ends."""
    process = subprocess.Popen(
        ["/bin/sh", "-c", GUARD, "sh", *command],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdin, "a pipe"
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdin.close()


def last_lines(text: str) -> str:
    """Return the last lines of a text that are not blank, in one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " / ".join(lines[-LAST_LINES:]) or "it printed nothing"


def fasta_of_rows(catalog: str | os.PathLike, chosen: np.ndarray) -> Iterator[memoryview]:
    """Yield FASTA of the chosen rows of the catalog, each under its number."""
    mark, end, empty = (pa.scalar(text, pa.large_string()) for text in (">", "\n", ""))
    row = 0
    for table in read_catalog(catalog, ["sequence"]):
        rows = np.flatnonzero(chosen[row : row + len(table)])
        if len(rows):
            names = pa.array(rows + row).cast(pa.large_string())
            sequences = table["sequence"].take(pa.array(rows)).combine_chunks().cast(pa.large_string())
            yield join_text(mark, names, end, sequences, end, empty)[0]
        row += len(table)


def count_in_words(fasta: BinaryIO) -> Iterator[tuple[int, int]]:
    """Yield the number of each sequence, and how many of its residues are in words."""
    for header in fasta:
        yield int(header[1:]), len(next(fasta).translate(None, IN_NO_WORD))


def word_length(residues: int) -> int:
    """Return the letters of the words by which MMseqs2 finds sequences among targets of `residues` residues."""
    return 6 if residues < LONG_WORD_RESIDUES else 7


def index_bytes(residues: int) -> int:
    """Return the bytes of an index of `residues` residues: 7 N L + 8 a^k (MMseqs2's user guide), with 20 letters."""
    return 7 * residues + 8 * 20 ** word_length(residues)


def read_table(path: str | os.PathLike, columns: Mapping[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
    """Read a table that MMseqs2 wrote, piece by piece."""
    from pyarrow import csv

    if not os.path.getsize(path):
        return
    yield from csv.open_csv(
        path,
        csv.ReadOptions(use_threads=False, column_names=list(columns)),
        csv.ParseOptions(delimiter="\t", quote_char=False),
        csv.ConvertOptions(column_types=dict(columns)),
    )
