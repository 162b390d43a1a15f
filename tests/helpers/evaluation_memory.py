"""The most memory that an evaluation takes: run as a program, so that nothing else is in the process."""

import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from embedome.evaluation import features, head_data
from embedome.evaluation.evaluate import Evaluation, evaluate
from embedome.evaluation.settings import EvaluateSettings
from helpers.made_tasks import write_flip_pairs

# Numbers of a vector: half floats of 512 bytes, of which labels and sequence are a small part.
DIMENSION = 256
RESIDUES = 200


class Peak:
    """The most anonymous memory of this process while a block runs; pages of mapped files are the system's to drop."""

    def __enter__(self) -> "Peak":
        self.bytes, self.is_over = 0, threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.is_over.set()
        self.thread.join()

    def watch(self) -> None:
        """Look every few milliseconds."""
        while not self.is_over.wait(0.002):
            self.bytes = max(self.bytes, anonymous_bytes())


def anonymous_bytes() -> int:
    """Memory of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


class MadeFeatures:
    """Vectors of residues, of no meaning."""

    level, dimension, identities = "residue", DIMENSION, [{"made": True}]

    def make(self, sequences: Sequence[bytes], places: Sequence[int]) -> Iterator[features.Block]:
        """As `features.Maker.make`."""
        table = np.random.default_rng(0).normal(size=(256, DIMENSION)).astype(np.float16)
        yield features.Block(
            table[np.frombuffer(b"".join(sequences), np.uint8)], np.array([*map(len, sequences)], np.int32)
        )


def main(proteins: int, heads: Sequence[str]) -> None:
    """Evaluate a task of as many proteins in train, of a fifth in test, and print the peak."""
    # Blocks that a small task fills too: what is held of one does not count.
    features.BLOCK_RESIDUES = head_data.CHUNK_ROWS = head_data.BLOCK_LABELS = 4096
    Evaluation.maker = lambda *given, **named: MadeFeatures()
    counts = {"train": proteins, "val": proteins // 5, "test": proteins // 5}
    with tempfile.TemporaryDirectory() as folder:
        data = write_flip_pairs(Path(folder) / "data", counts, RESIDUES)
        settings = EvaluateSettings(methods=("one-hot",), heads=tuple(heads), seeds=1)
        with Peak() as peak:
            evaluate("secondary_structure", [data], Path(folder) / "out", settings=settings)
    sys.stdout.write(str(peak.bytes))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
