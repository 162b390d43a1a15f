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

# From so many residues on MMseqs2 itself takes words of 7 letters if memory allows, else of 6 (optimizeSplit in its
# Prefiltering.cpp): what is found must not depend on the memory.
LONG_WORD_RESIDUES = 3_350_000_000
# Of the memory that a job has, for what MMseqs2 plans; it has buffers beside that.
MEMORY_SHARE = 0.8
LAST_LINES = 3
# Of sequences below 14 residues, or of one letter.
NO_WORDS = "No k-mer could be extracted"


@dataclass(frozen=True, slots=True)
class Mmseqs:
    """MMseqs2 as a job has it.

    Parameters
    ----------
    threads : int
    memory_mb : int, optional
        Of the job; all that the machine has if not given.
    log : path, optional
        File for what its modules print; null device if not given.

    Raises
    ------
    UserError
        Where it is not installed.
    """

    threads: int = 1
    memory_mb: int | None = None
    log: str | os.PathLike = os.devnull
    program: str = field(init=False)

    def __post_init__(self) -> None:
        program = shutil.which(PROGRAM)
        if program is None:
            raise UserError(f"MMseqs2 is not installed (no program {PROGRAM!r} is found); install it: {INSTALL}")
        object.__setattr__(self, "program", program)

    @classmethod
    def of_job(cls, threads: int, memory_mb: int, log: object) -> "Mmseqs":
        """MMseqs2 with a job's cores and memory; what it prints goes beside the job's log."""
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
            Where it fails, with the last lines it printed.
        """
        command = [self.program, module, *map(os.fspath, arguments)]
        Path(self.log).parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab+") as output:
            start = output.seek(0, os.SEEK_END)
            code = run_guarded(command, output.fileno())
            if code:
                size = output.seek(0, os.SEEK_END)
                output.seek(max(start, size - 4000))
                text = output.read().decode(errors="replace")
                hint = "; no sequence is long and varied enough, see filter.min_length" if NO_WORDS in text else ""
                fault = (
                    f"mmseqs {module} failed (exit code {code}): {last_lines(text)}; all it printed is in {self.log}"
                )
                raise UserError(fault + hint)

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
        # Told that they are proteins, which it would not believe of ACGT; not shuffled: keys in the order of rows.
        self.run("createdb", fasta, database, "--dbtype", "1", "--shuffle", "0")
        fasta.unlink()


def run_guarded(command: Sequence[str], output: int) -> int:
    """Run a command with its output to a file descriptor; give its exit code. It ends when this process ends."""
    process = subprocess.Popen(
        ["/bin/sh", "-c", GUARD, "sh", *command],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdin.close()


def last_lines(text: str) -> str:
    """The last lines of a text that say something, in one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " / ".join(lines[-LAST_LINES:]) or "it printed nothing"


def fasta_of_rows(catalog: str | os.PathLike, chosen: np.ndarray) -> Iterator[memoryview]:
    """FASTA of the chosen rows of the catalog, each under its number."""
    mark, end, empty = (pa.scalar(text, pa.large_string()) for text in (">", "\n", ""))
    row = 0
    for table in read_catalog(catalog, ["sequence"]):
        rows = np.flatnonzero(chosen[row : row + len(table)])
        if len(rows):
            names = pa.array(rows + row).cast(pa.large_string())
            sequences = table["sequence"].take(pa.array(rows)).combine_chunks().cast(pa.large_string())
            yield join_text(mark, names, end, sequences, end, empty)[0]
        row += len(table)


def word_length(residues: int) -> int:
    """Letters of the words by which sequences are found among targets of so many residues, as MMseqs2 has it."""
    return 6 if residues < LONG_WORD_RESIDUES else 7


def index_bytes(residues: int) -> int:
    """Memory of an index of so many residues: 7 N L + 8 a^k bytes (MMseqs2's user guide), with 20 letters."""
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
