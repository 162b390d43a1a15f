"""All that is measured on a GPU, in one call: parity, peak, throughput against Hugging Face, and what speed depends on.

Random weights of full size, lengths as in UniRef50 (log-normal, mu 5.43, sigma 0.675, cut at 510), bfloat16. Prints

- parity with the Hugging Face class in float32 on the CPU (benchmarks/parity.py), and ends there where a tolerance is
  broken;
- the peak of a large matrix product;
- file to file, residues per second and share of the peak, for the encoders of ESM-1nv, ProtT5nv and Ankh2-ext2; the
  Hugging Face class in padded batches of 32 in input order, and sorted with a token budget and its best attention;
- the engine by token budget, and compiled;
- scaled_dot_product_attention by back end, with T5's bias and without, at lengths that 8 divides and does not.

    PYTHONPATH=scripts python benchmarks/gpu.py                          # one GPU, about 8 minutes
    PYTHONPATH=scripts python benchmarks/gpu.py --device cpu --small     # proves that the script runs, in some minutes
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import transformers
from embedome.bench import gemm_peak
from embedome.cost import CostModel
from embedome.embed import Machine, embed_records
from embedome.engine import DTYPES, Engine
from embedome.initialise import make_untrained
from embedome.metrics import Clock
from embedome.models import load_model
from embedome.pieces import Sequences
from embedome.records import Record
from embedome.settings import PartLimits, Settings
from engine_cpu import batches
from inputs import random_sequences
from parity import compare
from torch.nn.attention import SDPBackend, sdpa_kernel

MODELS = ("esm1nv", "prott5nv", "ankh2-ext2")
SMALL = {"layers": 2, "hidden": 64, "heads": 4, "feed_forward": 128}
BUDGETS = (4096, 16384, 32768, 65536, 131072)
# Sequences that the slow variants get, as a share of ours.
SHARE = {"padded": 0.05, "sorted": 0.2}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="where to run (default: cuda)")
    parser.add_argument("--small", action="store_true", help="two layers of width 64, and few sequences")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, help="of which (default: all)")
    options = parser.parse_args()
    dtype = "bfloat16" if options.device == "cuda" else "float32"
    device = torch.device(options.device)
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
            throughput(directory, sequences, device, dtype, peak)
            depends(directory, sequences, device, dtype, peak)
    attention(device, DTYPES[dtype], 1 if options.small else 32)


def throughput(directory: Path, sequences: list[bytes], device: torch.device, dtype: str, peak: float) -> None:
    """Print residues per second of embedome and of Hugging Face."""
    ours = embedome(directory, sequences, device, dtype, peak)
    for variant, share in SHARE.items():
        subset = sequences[: max(64, int(share * len(sequences)))]
        for attention_name in ("eager", "sdpa"):
            try:
                rate = hugging_face(directory, variant, subset, device, dtype, attention_name)
            except (ValueError, ImportError, RuntimeError) as error:
                print(f"  Hugging Face, {variant}, {attention_name}: {str(error).splitlines()[0][:100]}")
                continue
            print(
                f"  Hugging Face, {variant}, {attention_name}: {rate:14,.0f} residues/s   embedome x {ours / rate:.2f}"
            )


def embedome(directory: Path, sequences: list[bytes], device: torch.device, dtype: str, peak: float) -> float:
    """Embed records to part files; print rates, and give residues per second."""
    limits = PartLimits(100_000, 1e9, CostModel(1e-9, 0.0))
    settings = Settings(dtype=dtype)
    with tempfile.TemporaryDirectory() as out:

        def run(name: str, part: Sequence[bytes], clock: Clock) -> None:
            records = (Record(f"P{i:08d}", "", sequence) for i, sequence in enumerate(part))
            embed_records(
                records,
                directory,
                Path(out) / f"{name}.json",
                settings=settings,
                limits=limits,
                source={},
                machine=Machine(device.type),
                clock=clock,
            )

        run("warm", sequences[: len(sequences) // 10], Clock())
        clock = Clock()
        begin = time.perf_counter()
        run("all", sequences, clock)
        seconds = time.perf_counter() - begin
    rate = clock.residues / seconds
    share = clock.operations / seconds / peak
    print(f"  embedome, file to file: {rate:14,.0f} residues/s, {share:.0%} of the peak, {json.dumps(clock.read())}")
    return rate


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
    from torch._dynamo.utils import counters

    # Layer by layer: all share what is compiled, and what is cached by length stays outside.
    for index, layer in enumerate(engine.encoder.layers):
        engine.encoder.layers[index] = torch.compile(layer, dynamic=True)
    counters.clear()
    try:
        engine.embed(part)  # compiles
        print(f"  engine, compiled, {counters['stats']['unique_graphs']} graphs: {timed(engine, part, peak)}")
    except Exception as error:  # whatever a compiler throws is a result here
        print(f"  engine, compiled: {type(error).__name__} {str(error).splitlines()[0][:100]}")


def timed(engine: Engine, part: Sequences, peak: float) -> str:
    """Rates of one run."""
    begin = time.perf_counter()
    operations = engine.embed(part).operations
    seconds = time.perf_counter() - begin
    return f"{len(part.residues) / seconds:14,.0f} residues/s, {operations / seconds / peak:.0%} of the peak"


@torch.inference_mode()
def attention(device: torch.device, dtype: torch.dtype, count: int) -> None:
    """Print the time of attention by back end, with a broadcast bias and without."""
    print(f"\nattention, 16 heads of 64, {count} sequences")
    for length in (256, 257, 510):
        query, key, value = (torch.randn(count, 16, length, 64, device=device, dtype=dtype) for _ in range(3))
        bias = torch.randn(1, 16, length, length, device=device, dtype=dtype)
        for label, mask in (("plain", None), ("bias", bias)):
            for backend in (
                SDPBackend.FLASH_ATTENTION,
                SDPBackend.EFFICIENT_ATTENTION,
                SDPBackend.CUDNN_ATTENTION,
                SDPBackend.MATH,
            ):
                work = attend(query, key, value, mask, backend)
                try:
                    print(f"  {length} {label:5} {backend.name:20} {1e3 * best(work, device):9.3f} ms")
                except RuntimeError as error:
                    print(f"  {length} {label:5} {backend.name:20} {str(error).splitlines()[0][:80]}")


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, backend: SDPBackend
) -> Callable[[], None]:
    """Attention by one back end."""

    def work() -> None:
        with sdpa_kernel(backend):
            torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)

    return work


def best(work: Callable[[], None], device: torch.device, repeats: int = 10) -> float:
    """Seconds of the fastest of some runs."""
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


if __name__ == "__main__":
    main()
