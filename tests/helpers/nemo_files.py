"""NeMo archives made by hand, and the maths of a Megatron layer in NumPy, from the published description."""

import io
import math
import tarfile
from pathlib import Path

import numpy as np
import torch

PIECES = ["<unk>", "<s>", "</s>", "<pad>", "<mask>", *"LASGVERTDIPKNFQYHMCWXBZUO"]


def saved(state: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def archive(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    centered = x - x.mean(-1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5) * weight + bias


class Weights:
    """A state dict in float64, without its prefix."""

    def __init__(self, state: dict[str, torch.Tensor], prefix: str) -> None:
        self.tensors = {name.removeprefix(prefix): tensor.double().numpy() for name, tensor in state.items()}

    def norm(self, name: str, x: np.ndarray) -> np.ndarray:
        return layer_norm(x, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]

    def mlp(self, layer: str, x: np.ndarray) -> np.ndarray:
        inner = self.linear(f"{layer}.mlp.dense_h_to_4h", x)
        inner = 0.5 * inner * (1 + np.tanh(0.79788456 * (inner + 0.044715 * inner**3)))
        return self.linear(f"{layer}.mlp.dense_4h_to_h", inner)


def attend(query: np.ndarray, key: np.ndarray, value: np.ndarray, causal: bool = False) -> np.ndarray:
    """One head."""
    scores = query @ key.T / math.sqrt(query.shape[-1])
    if causal:
        scores[np.triu_indices(len(scores), 1)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ value


def by_head(stacked: np.ndarray, parts: int, size: int) -> list[list[np.ndarray]]:
    """Cut [L, heads * parts * size]: each head's parts (query, key, value) stand together."""
    heads = stacked.shape[-1] // (parts * size)
    cut = [stacked[:, i * size : (i + 1) * size] for i in range(heads * parts)]
    return [cut[head * parts : (head + 1) * parts] for head in range(heads)]
