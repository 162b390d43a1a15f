"""All that is measured on a GPU, in one call: parity, peak, throughput against Hugging Face, and what speed depends on.

Random weights of full size, lengths as in UniRef50 (log-normal, mu 5.43, sigma 0.675, cut at 510), bfloat16. Prints

- parity with the Hugging Face class in float32 on the CPU (benchmarks/parity.py), and ends there where a tolerance is
  broken;
- the peak of a large matrix product;
- from FASTA to part files, residues per second and share of the peak, for the encoders of ESM-1nv, ProtT5nv and
  Ankh2-ext2; the Hugging Face class in padded batches of 32 in input order, and sorted with a token budget, with each
  attention, in memory. They take turns, round by round: medians, and of the ratios the range too;
- the same with vectors of residues, which is how well copies and writing overlap with the device;
- the engine by token budget, with several lengths a batch, with cuDNN's attention, and compiled;
- attention by back end, with T5's bias and without, at lengths that 8 divides and does not; flex_attention with the
  bias, and sequences of several lengths as one jagged tensor;
- a matrix product in 8 bits: its speed and how far it is off.

    PYTHONPATH=scripts python benchmarks/gpu.py                          # one GPU; by --models in several calls
    PYTHONPATH=scripts python benchmarks/gpu.py --device cpu --small     # proves that the script runs, in some minutes
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from unittest import mock

import torch
import transformers
from embedome.embedding.benchmark import gemm_peak
from embedome.embedding.cost import CostModel
from embedome.embedding.embed import embed_records, shard_records
from embedome.embedding.metrics import Clock
from embedome.embedding.part_pipeline import Machine
from embedome.embedding.settings import EmbedSettings, PartLimits
from embedome.engine.engine import DTYPES, Engine
from embedome.engine.windows import Sequences
from embedome.models.create import make_untrained
from embedome.models.directory import load_model
from engine_cpu import batches
from kernels import attention, eight_bits
from made_inputs import random_sequences
from parity import compare

MODELS = ("esm1nv", "prott5nv", "ankh2-ext2")
SMALL = {"layers": 2, "hidden": 64, "heads": 4, "feed_forward": 128}
BUDGETS = (4096, 16384, 32768, 65536, 131072)
# Sequences that the slow variants get, as a share of ours.
SHARE = {"padded": 0.05, "sorted": 0.2}
# And those whose residues' vectors are written: 1.5 kB a residue.
RICH_SHARE = 0.02
# Of a compiled encoder: all layers but a T5's first are alike, and each is compiled once more for shapes that change.
MAX_GRAPHS = 8


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="where to run (default: cuda)")
    parser.add_argument("--small", action="store_true", help="two layers of width 64, and few sequences")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, help="of which (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the median counts (default: 3)")
    options = parser.parse_args()
    dtype = "bfloat16" if options.device == "cuda" else "float32"
    device = torch.device(options.device)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    name = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    print(f"{name}, torch {torch.__version__}, transformers {transformers.__version__}, {dtype}")
    if not options.small:
        print("\nparity")
        for line in compare(options.device, full=False):
            print(line, flush=True)
    peak = gemm_peak(device, DTYPES[dtype], 2.0)
    print(f"\nlarge matrix product: {peak / 1e12:.2f} TFLOP/s")
    with tempfile.TemporaryDirectory() as folder:
        for model in options.models:
            directory = Path(folder) / model
            make_untrained(directory, model, model, SMALL if options.small else {}, 0)
            sequences = random_sequences(
                80 if options.small else {"esm1nv": 200_000, "prott5nv": 100_000}.get(model, 15_000)
            )
            print(f"\n{model}: {len(sequences):,} sequences")
            throughput(directory, sequences, device, dtype, peak, options.rounds)
            depends(directory, sequences, device, dtype, peak)
    attention(device, DTYPES[dtype], 2 if options.small else 32)
    eight_bits(device, 256 if options.small else 8192)


def throughput(
    directory: Path, sequences: list[bytes], device: torch.device, dtype: str, peak: float, rounds: int
) -> None:
    """Print residues per second of embedome and of Hugging Face."""
    settings = EmbedSettings(dtype=dtype)
    with tempfile.TemporaryDirectory() as name:
        fasta = write_fasta(Path(name) / "all.fasta", sequences)
        few = write_fasta(Path(name) / "few.fasta", sequences[: max(16, int(RICH_SHARE * len(sequences)))])
        embedome(directory, few, device, settings)  # warm
        works = {
            (variant, kind): partial(hugging_face, directory, variant, share_of(sequences, share), device, dtype, kind)
            for variant, share in SHARE.items()
            for kind in ("eager", "sdpa")
        }
        clocks, rates = [], {key: [] for key in works}
        for _ in range(rounds):
            clocks.append(embedome(directory, fasta, device, settings))
            for key in list(works):
                try:
                    rates[key].append(works[key]())
                except (ValueError, ImportError, RuntimeError) as error:
                    print(f"  Hugging Face, {', '.join(key)}: {str(error).splitlines()[0][:100]}")
                    del works[key]
        report("from FASTA to part files", clocks, peak)
        rich = [embedome(directory, few, device, replace(settings, per_residue=True)) for _ in range(rounds)]
        report("the same with vectors of residues", rich, peak)
    for key in works:
        ratios = [clock.residues / seconds / rate for (clock, seconds), rate in zip(clocks, rates[key], strict=True)]
        print(
            f"  Hugging Face, {', '.join(key)}: {median(rates[key]):14,.0f} residues/s"
            f"   embedome x {median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        )


def share_of(sequences: list[bytes], share: float) -> list[bytes]:
    """The first sequences, 64 at least."""
    return sequences[: max(64, int(share * len(sequences)))]


def report(what: str, clocks: list[tuple[Clock, float]], peak: float) -> None:
    """Print the medians of some runs of embedome."""
    rate = median(clock.residues / seconds for clock, seconds in clocks)
    share = median(clock.operations / seconds / peak for clock, seconds in clocks)
    clock, seconds = clocks[-1]
    parts = json.dumps(clock.read() | {"total": round(seconds, 4)})
    print(f"  embedome, {what}: {rate:14,.0f} residues/s, {share:.0%} of the peak, {parts}")


def write_fasta(path: Path, sequences: list[bytes]) -> Path:
    """Write sequences as a shard file has them."""
    path.write_bytes(b"".join(b">P%08d\n%s\n" % each for each in enumerate(sequences)))
    return path


def embedome(directory: Path, fasta: Path, device: torch.device, settings: EmbedSettings) -> tuple[Clock, float]:
    """Embed a shard file to part files; what took how long, and seconds in all."""
    with tempfile.TemporaryDirectory(dir=fasta.parent) as out:
        clock = Clock()
        begin = time.perf_counter()
        embed_records(
            shard_records(fasta),
            directory,
            Path(out) / "all.json",
            settings=settings,
            limits=PartLimits(100_000, 1e9, CostModel(1e-9, 0.0)),
            source={},
            machine=Machine(device.type),
            clock=clock,
        )
        return clock, time.perf_counter() - begin


@torch.inference_mode()
def hugging_face(
    directory: Path, variant: str, sequences: list[bytes], device: torch.device, dtype: str, attention_name: str
) -> float:
    """Residues per second of the Hugging Face class in memory: tokenizer, model, mean, to the host."""
    torch.backends.cuda.enable_cudnn_sdp(True)  # as it is where embedome does not turn it off
    model = transformers.AutoModel.from_pretrained(
        directory, dtype=DTYPES[dtype], attn_implementation=attention_name
    ).eval()
    model = (model.get_encoder() if model.config.is_encoder_decoder else model).to(device)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    named = {str(number): sequence.decode() for number, sequence in enumerate(sequences)}

    def run(items: dict[str, str]) -> None:
        budget = 65536 if device.type == "cuda" else 2048
        for batch in batches(variant, items, budget):
            inputs = tokenizer([sequence for _, sequence in batch], padding=True, return_tensors="pt").to(device)
            inputs.pop("token_type_ids", None)
            hidden = model(**inputs).last_hidden_state
            mask = inputs["attention_mask"][:, :, None].to(hidden.dtype)
            ((hidden * mask).sum(1) / mask.sum(1)).half().cpu()

    run(dict(list(named.items())[:64]))
    begin = time.perf_counter()
    run(named)
    return sum(map(len, sequences)) / (time.perf_counter() - begin)


def depends(directory: Path, sequences: list[bytes], device: torch.device, dtype: str, peak: float) -> None:
    """Print the engine's speed by token budget, and with a compiled encoder."""
    engine = Engine(load_model(directory), device=device.type, dtype=dtype)
    own, part = engine.token_budget, Sequences.join(sequences[: len(sequences) // 4])
    for budget in BUDGETS:
        if budget <= 2 * own:
            engine.token_budget = budget
            print(f"  engine, {budget:6} tokens a batch: {timed(engine, part, peak)}")
    engine.token_budget = own
    torch.backends.cuda.enable_cudnn_sdp(True)
    print(f"  engine, cuDNN's attention allowed: {timed(engine, part, peak)}")
    torch.backends.cuda.enable_cudnn_sdp(False)
    with mock.patch("embedome.engine.engine.MIXED_LENGTHS", {device.type}):
        print(f"  engine, several lengths a batch: {timed(engine, part, peak)}")
    from torch._dynamo.utils import counters

    # Layer by layer: all share what is compiled, and what is cached by length stays outside.
    for index, layer in enumerate(engine.encoder.layers):
        engine.encoder.layers[index] = torch.compile(layer, dynamic=True)
    counters.clear()
    try:
        engine.embed(part)  # compiles
        rate = timed(engine, part, peak)
    except Exception as error:  # whatever a compiler throws is a result here
        print(f"  engine, compiled: {type(error).__name__} {str(error).splitlines()[0][:100]}")
        return
    graphs = counters["stats"]["unique_graphs"]
    print(f"  engine, compiled, {graphs} graphs: {rate}")
    if graphs > MAX_GRAPHS:
        sys.exit(f"the encoder was compiled {graphs} times; expected {MAX_GRAPHS} at the most, whatever the lengths")


def timed(engine: Engine, part: Sequences, peak: float) -> str:
    """Rates of one run."""
    begin = time.perf_counter()
    operations = engine.embed(part).operations
    seconds = time.perf_counter() - begin
    return f"{len(part.residues) / seconds:14,.0f} residues/s, {operations / seconds / peak:.0%} of the peak"


if __name__ == "__main__":
    main()
