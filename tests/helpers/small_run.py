"""A tiny run of the line from FASTA to data set, and readers of its results that share nothing with it."""

import gzip
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from embedome.catalog.criteria import Criteria
from embedome.catalog.filter import filter_records
from embedome.catalog.reading import ReadSettings
from embedome.common.dask_workers import DaskWorkers
from embedome.dataset.reuse import Reuse, find_reusable
from embedome.embedding.cost import CostModel
from embedome.embedding.embed import embed_shard
from embedome.embedding.settings import EmbedSettings, PartLimits
from embedome.embedding.shard import write_shards
from embedome.merging.merge import merge_shards
from embedome.models.create import make_untrained
from embedome.splits.cluster_table import CLUSTERS
from embedome.splits.split import split_catalog
from embedome.splits.split_methods import SplitSettings
from helpers.paths import ROOT, SCRIPTS
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, MegatronBertModel

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
POSITIONS = 64
MAX_RESIDUES = POSITIONS - 2
SIZE = {"layers": 2, "hidden": 32, "heads": 4, "feed_forward": 64, "positions": POSITIONS}
COST = CostModel(1e-6, 1e-9)
PLAN = SplitSettings("hash", 1, 0.2, 0.2)
SHARDS = {"val": 1, "test": 1, "train": 2}
SOURCE = {"release": "test"}

torch.set_num_threads(1)


def limits(sequences: int = 5, seconds: float = 1e9) -> PartLimits:
    return PartLimits(sequences, seconds, COST)


def random_sequence(rng: random.Random, length: int) -> str:
    return "".join(rng.choices(RESIDUES, k=length))


def random_records(seed: int, lengths: Iterable[int]) -> list[tuple[str, str]]:
    """Ids, not in order, and sequences of the lengths."""
    rng = random.Random(seed)
    lengths = list(lengths)
    names = [f"P{i:04d}" for i in range(len(lengths))]
    rng.shuffle(names)
    return [(name, random_sequence(rng, length)) for name, length in zip(names, lengths, strict=True)]


def rough_model(folder: Path, seed: int = 1, like: str = "esm1nv", sizes: Mapping[str, int] = SIZE) -> Path:
    """A model directory in which every parameter, biases too, is random and matters.

    The token types stay zero, as ESM-1nv has none.
    """
    make_untrained(folder, "rough", like, sizes, seed)
    path = folder / "model.safetensors"
    generator = torch.Generator().manual_seed(seed)
    weights = load_file(path)
    for name in weights:
        if "token_type" not in name and weights[name].is_floating_point():
            weights[name] += 0.1 * torch.randn(weights[name].shape, generator=generator)
    save_file(weights, path, {"format": "pt"})
    return folder


class HuggingFace:
    """The reference: the Hugging Face class in float32, one sequence at a time."""

    def __init__(self, directory: Path) -> None:
        self.model = MegatronBertModel.from_pretrained(directory, add_pooling_layer=False).float().eval()
        self.tokenizer = AutoTokenizer.from_pretrained(directory)

    @torch.inference_mode()
    def hidden(self, sequence: str) -> np.ndarray:
        """Hidden states of the tokens, special ones too, float32 [L + 2, D]."""
        return self.model(**self.tokenizer(sequence, return_tensors="pt")).last_hidden_state[0].numpy()

    def mean(self, sequence: str) -> np.ndarray:
        """Mean over the residues' hidden states, float64 [D]."""
        return self.hidden(sequence)[1:-1].astype(np.float64).mean(0)

    def vector(self, sequence: str, policy: str = "truncate", overlap: int = 0) -> np.ndarray:
        """What a sequence of any length should give."""
        return self.residues(sequence, policy, overlap).mean(0)

    def residues(self, sequence: str, policy: str = "truncate", overlap: int = 0) -> np.ndarray:
        """Return the per-residue embeddings of a sequence of any length, float64 [L used, D]."""
        if policy == "truncate" or len(sequence) <= MAX_RESIDUES:
            return self.hidden(sequence[:MAX_RESIDUES])[1:-1].astype(np.float64)
        states: list[list[np.ndarray]] = [[] for _ in sequence]
        start = 0
        while True:
            start = min(start, len(sequence) - MAX_RESIDUES)
            window = self.hidden(sequence[start : start + MAX_RESIDUES])[1:-1].astype(np.float64)
            for offset, state in enumerate(window):
                states[start + offset].append(state)
            if start + MAX_RESIDUES == len(sequence):
                return np.stack([np.mean(each, axis=0) for each in states])
            start += MAX_RESIDUES - overlap


def assert_within_one_ulp(vectors: np.ndarray, reference: np.ndarray) -> None:
    """Float16 vectors differ from the reference by one unit in the last place at most."""
    assert vectors.dtype == np.float16
    assert vectors.shape == reference.shape
    ulp = np.maximum(np.spacing(np.abs(vectors)), np.spacing(np.abs(reference).astype(np.float16)))
    difference = np.abs(vectors.astype(np.float64) - reference.astype(np.float64))
    # Near zero the units are finer than float32 sums are.
    assert (difference <= np.maximum(ulp.astype(np.float64), 2e-6)).all(), difference.max()


@dataclass(frozen=True)
class Line:
    """The folders of one run."""

    folder: Path
    shards: Mapping[str, int]

    @property
    def dataset(self) -> Path:
        return self.folder / "dataset"

    @property
    def manifests(self) -> list[Path]:
        return [self.manifest(split, i) for split, n in self.shards.items() for i in range(n)]

    def manifest(self, split: str, shard: int = 0) -> Path:
        return self.folder / "embeddings" / split / f"{shard:05d}.json"

    def fasta(self, split: str, shard: int = 0) -> Path:
        return self.folder / "shards" / split / f"{shard:05d}.fasta.gz"

    def embed(
        self,
        model: Path,
        settings: EmbedSettings | None = None,
        parts: PartLimits | None = None,
        source: Mapping[str, object] = SOURCE,
    ) -> None:
        """Embed the shards that have no manifest, as the workflow does."""
        for split, n in self.shards.items():
            for shard in range(n):
                if not self.manifest(split, shard).exists():
                    embed_shard(
                        self.fasta(split, shard),
                        model,
                        self.manifest(split, shard),
                        settings=settings or EmbedSettings(),
                        limits=parts or limits(),
                        source=source,
                        shards=self.folder / "shards.json",
                    )

    def merge(
        self,
        dataset: Path | None = None,
        manifests: list[Path] | None = None,
        threads: int = 2,
        file_bytes: int = 0,
        reuse: Reuse | None = None,
    ) -> dict:
        return merge_shards(
            self.manifests if manifests is None else manifests,
            self.folder / "shards.json",
            self.folder / "catalog",
            self.folder / "splits.parquet",
            dataset or self.dataset,
            file_mb=file_bytes / 1e6,
            reuse=reuse,
            workers=DaskWorkers(threads=threads),
        )

    def copy(self, folder: Path) -> "Line":
        shutil.copytree(self.folder, folder)
        return Line(folder, self.shards)


def fasta_text(records: Iterable[tuple[str, str]]) -> str:
    return "".join(f">{name} some protein n=2 Tax=Homo TaxID=9606 RepID=R_{name}\n{seq}\n" for name, seq in records)


def prepare(
    folder: Path,
    records: Iterable[tuple[str, str]],
    shards: Mapping[str, int] = SHARDS,
    plan: SplitSettings = PLAN,
    earlier: Path | None = None,
    alike: Callable[[str], object] | None = None,
    structure: Path | None = None,
) -> Line:
    """Filter, split and shard records, but for those of an earlier data set.

    Where sequences are given the same value by `alike`, the split keeps the one of the largest id.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "in.fasta").write_text(fasta_text(records))
    catalog, splits = folder / "catalog", folder / "splits.parquet"
    filter_records(
        [folder / "in.fasta"],
        Criteria(),
        catalog=catalog,
        rejects=folder / "rejects.parquet",
        summary=folder / "filter.json",
        reading=ReadSettings(structure=str(structure) if structure else None),
    )
    split_catalog(
        catalog,
        folder / "filter.json",
        plan,
        splits=splits,
        summary=folder / "splits.json",
        clusters=write_clusters(catalog, alike, folder / "clusters.parquet") if alike else None,
        rejects=folder / "rejects_redundant.parquet" if alike else None,
    )
    found = [str(folder / name) for name in ("reused.parquet", "reuse.json")] if earlier else []
    if earlier:
        find_reusable(catalog, earlier, reused=found[0], summary=found[1])
    write_shards(
        catalog,
        splits,
        folder / "splits.json",
        shards,
        COST,
        folder=folder / "shards",
        summary=folder / "shards.json",
        reuse=Reuse.of_files(found),
    )
    return Line(folder, shards)


def write_clusters(catalog: Path, alike: Callable[[str], object], path: Path) -> Path:
    """Clusters of sequences with the same value, as the cluster stage writes them; each by its largest id."""
    records = rows(catalog / "*.parquet", "id, sequence", "where duplicate_of is null")
    distinct = [(name, alike(sequence)) for name, sequence in records]
    leader = {value: name for name, value in distinct}
    number = {value: place for place, value in enumerate(dict.fromkeys(value for _, value in distinct))}
    table = [{"id": name, "representative": leader[value], "cluster": number[value]} for name, value in distinct]
    pq.write_table(pa.Table.from_pylist(table, CLUSTERS), path)
    return path


def write_shard(path: Path, records: Iterable[tuple[str, str]]) -> Path:
    """A shard file made by hand, sorted by id."""
    path.write_bytes(gzip.compress(fasta_text(sorted(records)).encode()))
    return path


def read_fasta(path: Path) -> dict[str, str]:
    """A gzipped FASTA file with one line per sequence, by splitting lines."""
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    return {head[1:].split()[0]: sequence for head, sequence in zip(lines[::2], lines[1::2], strict=True)}


def rows(files: str | Path, columns: str = "id, embedding", tail: str = "") -> list[tuple]:
    """Rows of Parquet files as DuckDB reads them, in file order."""
    with duckdb.connect(config={"threads": 1}) as connection:
        return connection.execute(
            f"select {columns} from read_parquet('{files}', hive_partitioning=true) {tail}"
        ).fetchall()


def vectors(files: str | Path) -> dict[str, np.ndarray]:
    """Float16 vectors by id, as DuckDB reads them."""
    return {name: np.array(vector, np.float16) for name, vector in rows(files)}


def page_byte(path: Path, group: int, column: int) -> int:
    """Position in a Parquet file of a byte of compressed data, the last but two of a column chunk."""
    chunk = pq.read_metadata(path).row_group(group).column(column)
    start = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
    return start + chunk.total_compressed_size - 3


def flip(path: Path, position: int, bit: int = 2) -> None:
    """Flip one bit of a file, in a new file of its name: others may be linked to the old one."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.unlink()
    path.write_bytes(data)


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones and temporaries too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class Processes:
    """Starts functions in processes of their own, forked from one that has the heavy imports done."""

    def __init__(self) -> None:
        # The server imports before it has the path of its parent.
        paths = [str(SCRIPTS), str(ROOT / "tests"), os.environ.get("PYTHONPATH")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        self.context = get_context("forkserver")
        # What a child unpickles its work from: it would import this module, and transformers with it, each time.
        self.context.set_forkserver_preload(["hypothesis", "pytest", "helpers.small_run"])

    def start(self, work: Callable[[], object]) -> BaseProcess:
        process = self.context.Process(target=work)
        process.start()
        return process

    def run(self, work: Callable[[], object]) -> None:
        process = self.start(work)
        process.join(60)
        assert process.exitcode == 0

    def kill(self, process: BaseProcess, delay: float, ready: Callable[[], bool]) -> bool:
        """Kill a process `delay` seconds after `ready`; whether it was still running then."""
        deadline = time.monotonic() + 60
        while process.is_alive() and not ready():
            assert time.monotonic() < deadline
            time.sleep(0.0005)
        time.sleep(delay)
        process.kill()
        process.join(60)
        assert process.exitcode in (0, -signal.SIGKILL)
        return process.exitcode != 0
