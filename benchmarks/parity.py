"""How far the encoders are from the Hugging Face classes, run one sequence at a time in float32 on the CPU.

Seeded random weights, random sequences of several lengths, in batches of equal length. Prints for each model and
dtype the largest difference of an element of residues' hidden states and the smallest cosine of pooled vectors, both
before rounding to float16, and ends with an error, once all are compared, where one is beyond its tolerance
(engine/tolerances.py). Run with

    PYTHONPATH=scripts python benchmarks/parity.py [--device cuda] [--full]
"""

import argparse
import copy
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import transformers
from embedome.common.errors import UserError
from embedome.engine.engine import DTYPES, INT8, Engine
from embedome.engine.tolerances import Deviation, tolerance
from embedome.models.architectures import DECODER, ENCODER
from embedome.models.create import make_untrained
from embedome.models.directory import Model, load_model
from made_inputs import RESIDUES

# Of residues. With the one special token of a T5, tokens of some are 1 more than a multiple of 32, 64 or 256: attention
# kernels work in blocks of such sizes.
LENGTHS = (1, 7, 32, 33, 64, 100, 255, 256, 510)
BATCH = 3


@dataclass(frozen=True)
class Case:
    """A model to compare; `sizes` are what it is shrunk to unless --full is given."""

    name: str
    sizes: dict[str, int]
    features: str = ENCODER


CASES = (
    Case("esm1nv", {}),
    Case("prott5nv", {}),
    Case("ankh2-ext2", {"layers": 4, "decoder_layers": 2}),
    Case("ankh2-ext2", {"layers": 4, "decoder_layers": 2}, DECODER),
    Case("esm2-8m", {}),
    Case("esm2-650m", {"layers": 4}),
    Case("prott5-xl", {"layers": 2}),
    Case("esm1b", {"layers": 4}),
    Case("protbert", {"layers": 4}),
    Case("sapiens-vh", {}),
    Case("esmc-300m", {"layers": 4}),
)


class Reference:
    """The Hugging Face class."""

    def __init__(self, directory: Path, features: str) -> None:
        self.model = transformers.AutoModel.from_pretrained(directory).float().eval()
        self.features = features

    @torch.inference_mode()
    def hidden(self, tokens: torch.Tensor) -> torch.Tensor:
        """Hidden states of one sequence, [1, L, D]."""
        if self.features == DECODER:
            return self.model(input_ids=tokens, decoder_input_ids=tokens).last_hidden_state
        encoder = self.model.get_encoder() if self.model.config.is_encoder_decoder else self.model
        return encoder(tokens).last_hidden_state


class Compared(NamedTuple):
    """What came out for a model in a dtype."""

    label: str
    layers: int
    dtype: str
    deviation: Deviation
    held: bool
    """Whether it is within the tolerance."""


def main() -> None:
    """Compare and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where the encoders run")
    parser.add_argument("--full", action="store_true", help="all layers of every model")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {options.device}")
    print(f"{'model':28} {'layers':>6}  {'dtype':9} {'residues, max difference':>25} {'pooled, min cosine':>19}")
    broken = []
    for label, layers, dtype, found, held in compare(options.device, {} if options.full else None):
        line = f"{label:28} {layers:6}  {dtype:9} {found.residues:25.1e} {found.cosine:19.7f}"
        print(line if held else f"{line}  beyond the tolerance", flush=True)
        if not held:
            broken.append(f"{label} in {dtype}")
    if broken:
        sys.exit(f"beyond the tolerance of docs/models.md: {', '.join(broken)}")


def compare(device: str, sizes: Mapping[str, int] | None, cases: Sequence[Case] = CASES) -> Iterator[Compared]:
    """What came out for each model and dtype; models are of these sizes, or shrunk as each case says."""
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(folder) / case.name
            make_untrained(directory, case.name, case.name, case.sizes if sizes is None else sizes, 0)
            model = load_model(directory, case.features)
            batches = draw(model)
            reference = Reference(directory, case.features)
            exact = [torch.cat([reference.hidden(row[None]) for row in batch]) for batch in batches]
            del reference
        label, layers = case.name + (", decoder" if case.features == DECODER else ""), model.encoder.n_layers
        for dtype in (*DTYPES, INT8):
            try:
                # A copy: rounded weights do not come back.
                engine = Engine(copy.deepcopy(model), device=device, dtype=dtype)
            except UserError:  # where the model, or the device, is not fit for it
                continue
            found = distance(engine, batches, exact)
            yield Compared(label, layers, dtype, found, found.within(tolerance(dtype, layers)))


def draw(model: Model) -> list[torch.Tensor]:
    """Token ids of random sequences, [BATCH, L] by length, of those that the model takes."""
    rng = np.random.default_rng(0)
    lengths = [length for length in LENGTHS if model.max_residues is None or length <= model.max_residues]
    return [torch.from_numpy(model.tokenizer.tokens(rng.choice(RESIDUES, (BATCH, length)))) for length in lengths]


@torch.inference_mode()
def distance(engine: Engine, batches: list[torch.Tensor], exact: list[torch.Tensor]) -> Deviation:
    """How far hidden states are off, and their means."""
    first, last = len(engine.tokenizer.first), -len(engine.tokenizer.last) or None
    deviations = []
    for batch, states in zip(batches, exact, strict=True):
        mine, true = (each[:, first:last].double().cpu() for each in (engine.encoder(batch.to(engine.device)), states))
        cosines = torch.cosine_similarity(mine.mean(1), true.mean(1))
        deviations.append(Deviation(float(cosines.min()), float((mine - true).abs().max())))
    return Deviation(min(each.cosine for each in deviations), max(each.residues for each in deviations))


if __name__ == "__main__":
    main()
