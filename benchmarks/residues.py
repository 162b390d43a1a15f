"""Per-residue embeddings from file to files, a stub in the place of the encoder: how fast they are fetched and written.

The stub gives random half floats, as a GPU's memory would, at next to no cost. Each round writes the same vectors three
times: by pyarrow alone on one thread, from arrays that are there already, each row group a chunk; and by the embed
stage, from records to published parts, with one writer and with several. Printed are residues by seconds of wall
clock, and by seconds of processor time of all threads; of the rounds the best, as others may use the machine too.
Files go to TMPDIR. Run with

    PYTHONPATH=scripts python benchmarks/residues.py [--dimension D ...] [--sequences N] [--writers W] [--rounds R]
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from embedome.common.json_files import file_sha256
from embedome.common.parallel import available_cores
from embedome.dataset.format import RESIDUE_GROUP_ROWS, residue_schema
from embedome.embedding import embed, part_pipeline
from embedome.embedding.cost import CostModel
from embedome.embedding.part_pipeline import Machine
from embedome.embedding.settings import EmbedSettings, PartLimits
from embedome.models.create import make_untrained
from embedome.models.directory import load_model
from embedome.models.encoders.grouped import StreamEncoder
from embedome.parquet.vectors import residues_type, vector_array
from embedome.parquet.writer import PAGE_OPTIONS
from embedome.sequences.records import Record
from made_inputs import random_sequences
from torch import Tensor, nn

# Rows of random vectors, of which every batch takes some: beyond a page of Parquet no row comes twice.
NOISE_ROWS = 1 << 14
PART_SEQUENCES = 400
PLAIN = "pyarrow alone"


class Stub(StreamEncoder):
    """Hidden states that are views of random numbers."""

    def __init__(self, like: nn.Module) -> None:
        super().__init__()
        self.dimension, self.n_layers, self.max_tokens = like.dimension, like.n_layers, like.max_tokens
        self.layers = nn.ModuleList()
        self.noise = nn.Parameter(torch.randn(NOISE_ROWS, self.dimension))

    def stream(self, groups: Sequence[Tensor]) -> list[Tensor]:
        """Map token ids [B, T] of groups to hidden states [B, T, D]."""
        found, begin = [], 0
        for tokens in groups:
            found.append(self.noise[begin : begin + tokens.numel()].view(*tokens.shape, -1))
            begin += tokens.numel()
        return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--dimension", type=int, nargs="+", default=[768, 1536], help="default: 768 and 1536")
    parser.add_argument("--sequences", type=int, default=3200, help="in parts of 400 (default: 3,200)")
    parser.add_argument("--writers", type=int, default=available_cores(), help="default: cores")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sequences = random_sequences(options.sequences)
    residues = sum(map(len, sequences))
    records = [Record(f"UniRef50_A0A{number:09d}", "", text) for number, text in enumerate(sequences)]
    print(f"{len(sequences):,} sequences, {residues:,} residues, {available_cores()} cores; residues/s")
    for dimension in options.dimension:
        with tempfile.TemporaryDirectory() as name:
            ways = ways_to_write(Path(name), records, dimension, options.writers)
            taken: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
            for _ in range(options.rounds):
                for way, write in ways.items():
                    begin = time.perf_counter(), time.process_time()
                    write()
                    taken[way].append((time.perf_counter() - begin[0], time.process_time() - begin[1]))
        best = {way: np.min(each, axis=0) for way, each in taken.items()}
        plain = best[PLAIN]
        for way, found in best.items():
            wall, core = residues / found
            print(
                f"D = {dimension:5} {way:20} {wall:10,.0f} ({plain[0] / found[0]:5.2f} times {PLAIN}), "
                f"{core:10,.0f} of a core ({plain[1] / found[1]:5.2f} times)"
            )


def ways_to_write(
    folder: Path, records: Sequence[Record], dimension: int, writers: int
) -> dict[str, Callable[[], None]]:
    """What is measured, by its name, each in a new file or folder."""
    sizes = {"layers": 1, "hidden": dimension, "heads": 12, "feed_forward": 64}
    make_untrained(folder / "model", "stub", "esm1nv", sizes, 0)
    model = load_model(folder / "model")
    stub = type(model)(Stub(model.encoder), model.tokenizer)
    part_pipeline.load_model = lambda *_, **__: stub
    part_pipeline.load_engine.cache_clear()
    numbers = count()

    def by_embedome(writers: int) -> None:
        out = folder / str(next(numbers))
        limits = PartLimits(PART_SEQUENCES, 1e9, CostModel(1e-6, 0.0))
        settings = EmbedSettings("float16", per_residue=True, pooling=("first",))
        embed.embed_records(
            iter(records),
            folder / "model",
            out / "00000.json",
            settings=settings,
            limits=limits,
            source={},
            machine=Machine(writers=writers),
        )
        shutil.rmtree(out)

    def by_pyarrow() -> None:
        for states, table in tables:
            write_plainly(folder / "plain.parquet", states, table, dimension)

    tables = list(part_arrays(records, dimension))
    return {
        PLAIN: by_pyarrow,
        "embedome, 1 writer": lambda: by_embedome(1),
        f"embedome, {writers} writers": lambda: by_embedome(writers),
    }


def part_arrays(records: Sequence[Record], dimension: int) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """Of each part all vectors, float16 [R, D], and ids, digests and residues of its sequences."""
    noise = np.random.default_rng(0).standard_normal((NOISE_ROWS, dimension), np.float32).astype(np.float16)
    for begin in range(0, len(records), PART_SEQUENCES):
        part = records[begin : begin + PART_SEQUENCES]
        lengths = [len(record.sequence) for record in part]
        keys = pa.table({"id": [record.id for record in part], "digest": ["SQ." + "a" * 32] * len(part)})
        yield np.resize(noise, (sum(lengths), dimension)), keys.append_column("length", pa.array(lengths))


def write_plainly(path: Path, states: np.ndarray, table: pa.Table, dimension: int) -> None:
    """Write a part's vectors by pyarrow alone, a row group at a time, and digest the file."""
    ends = np.cumsum(table["length"].to_numpy())
    schema = residue_schema(dimension)
    options = {**PAGE_OPTIONS, "use_dictionary": False, "write_statistics": ["id"]}
    with pq.ParquetWriter(path, schema, **options) as writer:
        for begin, end in pairwise([*range(0, len(table), RESIDUE_GROUP_ROWS), len(table)]):
            first = int(ends[begin - 1]) if begin else 0
            offsets = np.concatenate([[first], ends[begin:end]]) - first
            vectors = vector_array(states[first : ends[end - 1]])
            column = pa.ListArray.from_arrays(offsets.astype(np.int32), vectors, residues_type(dimension))
            rows = table.slice(begin, end - begin)
            writer.write_table(pa.table([rows["id"], rows["digest"], column], schema=schema))
    file_sha256(path)


if __name__ == "__main__":
    main()
