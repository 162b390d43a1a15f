"""What embedding costs beside the model: a shard from file to parts with a stub in the place of the encoder.

The stub gives constant hidden states of ESM-1nv's width, so that all that is measured is reading, checking, tokenising,
grouping, pooling, copying, digests and writing. One process, one thread of torch; reading and writing overlap in
threads, and what counts is the processor time of all of them: that is what one core has to do. Run with

    PYTHONPATH=scripts python benchmarks/overhead.py [--sequences N] [--profile]
"""

import argparse
import cProfile
import json
import pstats
import resource
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from embedome.embedding import embed, part_pipeline
from embedome.embedding.cost import CostModel
from embedome.embedding.metrics import Clock
from embedome.embedding.settings import EmbedSettings, PartLimits
from embedome.models.create import make_untrained
from embedome.models.directory import load_model
from embedome.models.encoders.grouped import StreamEncoder
from isal import igzip
from made_inputs import random_sequences
from torch import Tensor, nn

HEADER = b">UniRef50_%s Some protein n=%d Tax=Homo sapiens TaxID=9606 RepID=%s_HUMAN\n"


class Stub(StreamEncoder):
    """Hidden states that are the same for all tokens; they take no memory and no time."""

    def __init__(self, like: nn.Module) -> None:
        super().__init__()
        self.dimension, self.n_layers, self.max_tokens = like.dimension, like.n_layers, like.max_tokens
        self.layers = nn.ModuleList()
        self.state = nn.Parameter(torch.rand(self.dimension))

    def stream(self, groups: Sequence[Tensor]) -> list[Tensor]:
        """Map token ids [B, L] of groups to hidden states [B, L, D]."""
        return [self.state.expand(*tokens.shape, -1) for tokens in groups]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--sequences", type=int, default=50_000, help="sequences of the shard (default: 50,000)")
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        residues = write_shard(folder / "00000.fasta.gz", options.sequences)
        make_untrained(folder / "model", "esm1nv", "esm1nv", {"layers": 1}, 0)
        model = load_model(folder / "model")
        stub = type(model)(Stub(model.encoder), model.tokenizer)
        part_pipeline.load_model = lambda *_, **__: stub
        run(folder, folder / "warm", 1000)
        profiler = cProfile.Profile()
        before, begin = cpu_seconds(), time.perf_counter()
        if options.profile:
            profiler.enable()
        seconds = run(folder, folder / "out", options.sequences)
        profiler.disable()
        used, wall = cpu_seconds() - before, time.perf_counter() - begin
    print(f"{options.sequences:,} sequences, {residues:,} residues, width 768")
    print(f"{residues / used:12,.0f} residues per second of one core ({used:.2f} s of processor time)")
    print(f"{residues / wall:12,.0f} residues per second of wall clock ({wall:.2f} s)")
    print(f"threads' seconds: {json.dumps(dict(seconds))}")
    if options.profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(25)


def run(folder: Path, out: Path, sequences: int) -> Mapping[str, float]:
    """Embed the shard's first sequences; seconds of each stage."""
    clock = Clock()
    limits = PartLimits(20_000, 1e9, CostModel(1e-6, 0.0))
    records = (
        record for _, record in zip(range(sequences), embed.shard_records(folder / "00000.fasta.gz"), strict=False)
    )
    embed.embed_records(
        records, folder / "model", out / "00000.json", settings=EmbedSettings(), limits=limits, source={}, clock=clock
    )
    return clock.read()


def cpu_seconds() -> float:
    """Processor time of this process, all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def write_shard(path: Path, sequences: int) -> int:
    """Write sequences with the lengths of UniRef50 up to 510; give their residues."""
    drawn = random_sequences(sequences)
    with igzip.open(path, "wb") as stream:
        for number, text in enumerate(drawn):
            name = b"A0A%09d" % number
            stream.write(HEADER % (name, number % 50 + 1, name) + text + b"\n")
    return sum(map(len, drawn))


if __name__ == "__main__":
    main()
