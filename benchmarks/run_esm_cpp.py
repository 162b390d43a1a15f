"""esm-cpp's side of engine_cpu.py, run by the Python of an environment of its own: esm-cpp 0.2.1 takes numpy before 2.

python run_esm_cpp.py quantize WEIGHTS FASTA GGUF      int8 by SmoothQuant, calibrated on the sequences
python run_esm_cpp.py vectors WEIGHTS FASTA OUT.npz    one sequence at a time: the only call that gives vectors
python run_esm_cpp.py packed WEIGHTS FASTA OUT.npz     all sequences packed, its fastest call: logits, no vectors
"""

import sys

import esm_cpp
import numpy as np

# As esm-cpp's own command has them.
PERCENTILE, ALPHA = 99.9, 0.5
CALIBRATION = 32
LONGEST = 1022


def main() -> None:
    """Read the sequences, load the weights and do one of the three."""
    action, weights, fasta, out = sys.argv[1:]
    load = esm_cpp.Model.load_from_gguf if weights.endswith(".gguf") else esm_cpp.Model.load_from_safetensors
    model, tokens = load(weights), read_tokens(fasta)
    if action == "quantize":
        observer = esm_cpp.ActivationObserver()
        for ids in [*tokens.values()][:CALIBRATION]:
            model.forward_with_observer(ids, None, observer)
        model.apply_smoothquant(observer.percentile(PERCENTILE), ALPHA)
        model.quantize_weights()
        model.save_to_gguf(out)
    elif action == "vectors":
        states = {name: model.forward_with_hidden_states(ids)[1][-1] for name, ids in tokens.items()}
        np.savez(out, **{name: each[1:-1].mean(0).astype(np.float16) for name, each in states.items()})
    else:
        logits = model.forward_scheduled([*tokens.values()])
        means = (each[1:-1].mean(0).astype(np.float16) for each in logits)
        np.savez(out, **dict(zip(tokens, means, strict=True)))


def read_tokens(fasta: str) -> dict[str, np.ndarray]:
    """Return the tokens of each sequence, by its id: two lines a record, as engine_cpu.py writes them."""
    tokenizer = esm_cpp.Tokenizer()
    with open(fasta) as file:
        lines = file.read().split("\n")
    return {
        name[1:]: np.array(tokenizer.encode(sequence[:LONGEST]), np.int32)
        for name, sequence in zip(lines[::2], lines[1::2], strict=False)
    }


if __name__ == "__main__":
    main()
