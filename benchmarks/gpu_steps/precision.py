"""Whether the numbers are right: beside the Hugging Face classes, beside other kernels, and run again."""

from collections.abc import Iterator

import numpy as np
import torch
from embedome.engine.tolerances import Deviation, tolerance
from parity import CASES, compare
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpu_steps.bench import MODELS, SMALL, Bench, Row, layout_of

# Where memory and indices are large; the first is 1 more than a multiple of 32.
LONG = (2049, 8193, 10_000)
# The most important ones first, in case the time is over.
ORDER = ("esm1nv", "esm2-650m", "ankh2-ext2", "prott5nv")


def smallest_cosine(some: np.ndarray, others: np.ndarray) -> float:
    """The smallest cosine of two vectors of the same sequence."""
    one, other = some.astype(np.float64), others.astype(np.float64)
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(1) / norms).min())


def parity(bench: Bench) -> Iterator[Row]:
    """Every model and type beside the Hugging Face class in float32 on the CPU (benchmarks/parity.py)."""
    cases = sorted(CASES, key=lambda case: ORDER.index(case.name) if case.name in ORDER else len(ORDER))
    for found in compare(bench.device.type, bench.size(None, SMALL), cases):
        row: Row = {"what": f"{found.label} in {found.dtype}", "layers": found.layers, **found.deviation._asdict()}
        if not found.held:
            row["broken"] = f"{found.label} in {found.dtype} is beyond the tolerance"
        yield row


@torch.inference_mode()
def long(bench: Bench) -> Iterator[Row]:
    """Long sequences of a T5, with its bias, beside the plain formula of attention."""
    engine = bench.engine("ankh2-shallow")
    bound = tolerance(bench.dtype, engine.encoder.n_layers)
    for length in bench.size(LONG, (65, 97)):
        residues = np.random.default_rng(0).choice(np.frombuffer(b"ACDEFGHIKLMNPQRSTVWY", np.uint8), (1, length - 1))
        tokens = torch.from_numpy(engine.tokenizer.tokens(residues)).to(bench.device)
        seconds = bench.seconds(lambda tokens=tokens: engine.encoder(tokens))
        found = engine.encoder(tokens).double()
        with sdpa_kernel(SDPBackend.MATH):
            exact = engine.encoder(tokens).double()
        cosine = torch.cosine_similarity(found.mean(1), exact.mean(1)).item()
        deviation = Deviation(cosine, (found - exact).abs().max().item())
        row: Row = {"what": f"{length:,} tokens", "ms": 1e3 * seconds, **deviation._asdict()}
        if not deviation.within(bound):
            row["broken"] = f"{length:,} tokens: not what the plain formula of attention gives"
        yield row


def twice(bench: Bench) -> Iterator[Row]:
    """The same part twice: whether each byte is the same, and if not, how far off."""
    for name in MODELS:
        engine = bench.engine(name)
        layout = layout_of(engine, bench.part(name, bench.size(2000, 30)))
        one, other = (engine.finish(engine.run(layout)).vectors["mean"] for _ in range(2))
        same = bool((one.view(np.uint16) == other.view(np.uint16)).all())
        yield {"what": name, "same_bytes": same, "cosine": smallest_cosine(one, other)}
