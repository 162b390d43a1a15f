"""What a model has to beat: one-hot residues, composition, and random weights of its own shape."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedome.common.atomic_files import atomic_directory
from embedome.common.errors import UserError
from embedome.common.json_files import file_sha256, json_sha256
from embedome.common.locks import hold_lock
from embedome.engine.windows import LongPolicy, Sequences, cut_windows
from embedome.evaluation.features import Block
from embedome.evaluation.tasks import PROTEIN, RESIDUE
from embedome.models.directory import CONFIG
from embedome.models.tokenizer import STANDARD

# A column for each standard residue, and one for all others.
COLUMNS = len(STANDARD) + 1
WEIGHTS_SEED = 0


def column_table() -> np.ndarray:
    """Return the column of each byte, int64 [256]."""
    table = np.full(256, len(STANDARD), np.int64)
    table[np.frombuffer(STANDARD.encode(), np.uint8)] = np.arange(len(STANDARD))
    return table


@dataclass(frozen=True, slots=True)
class SequenceFeatures:
    """Features without a model, of the residues that the model would see.

    Parameters
    ----------
    method : str
        ``one-hot`` or ``composition``.
    level : str
    policy : LongPolicy
    longest : int
        Residues that are seen at once.
    varying : numpy.ndarray or None
        One-hot of whole proteins: the positions that are not the same in all, int64 [p].
    """

    method: str
    level: str
    policy: LongPolicy
    longest: int
    varying: np.ndarray | None = None

    @property
    def dimension(self) -> int:
        """Numbers of a vector."""
        return COLUMNS * (1 if self.varying is None else len(self.varying))

    @property
    def identities(self) -> list[dict[str, Any]]:
        """What they depend on, beside the sequences; there are no layers."""
        varying = None if self.varying is None else self.varying.tolist()
        # Of a model without a limit the longest is any number.
        longest = min(self.longest, 2**53)
        return [{"method": self.method, "long": self.policy.name, "longest": longest, "varying": varying}]

    def make(self, sequences: Sequence[bytes], places: Sequence[int]) -> Iterator[Block]:
        """Compute features; as `features.Maker.make`."""
        joined = Sequences.join(list(sequences))
        used = used_residues(joined, self.policy, self.longest)
        columns = [
            column_table()[joined.residues[begin : begin + count]]
            for begin, count in zip(joined.offsets[:-1], used, strict=True)
        ]
        if self.level == RESIDUE:
            vectors = np.eye(COLUMNS, dtype=np.float16)[np.concatenate(columns)]
        elif self.varying is not None:
            flat = [np.eye(COLUMNS, dtype=np.float16)[each[self.varying]].reshape(-1) for each in columns]
            vectors = np.stack(flat)
        else:
            shares = [np.bincount(each, minlength=COLUMNS) / max(1, len(each)) for each in columns]
            vectors = np.stack(shares).astype(np.float16)
        yield Block(vectors, used)


def used_residues(sequences: Sequences, policy: LongPolicy, longest: int) -> np.ndarray:
    """Return the residues of each sequence that a model would see, int32 [n]; 0 of one that it skips."""
    pieces = cut_windows(sequences, policy, longest)
    lengths = sequences.lengths if policy.name == "window" else np.minimum(sequences.lengths, longest)
    return np.where(pieces.counts > 0, lengths, 0).astype(np.int32)


def varying_positions(sequences: Sequence[bytes], longest: int) -> np.ndarray | None:
    """Return the positions at which sequences of one length differ, int64 [p]; None where they differ in length.

    One-hot positions are the strong baseline of a protein's variants; sequences of several lengths have no such
    positions, and longer ones than the model sees are not compared.
    """
    length = len(sequences[0])
    if length > longest or any(len(each) != length for each in sequences):
        return None
    first = np.frombuffer(sequences[0], np.uint8)
    differs = np.zeros(length, bool)
    for each in sequences:
        differs |= np.frombuffer(each, np.uint8) != first
    return np.flatnonzero(differs) if differs.any() else None


def random_model(model: Path, root: Path) -> Path:
    """Make a model directory of the same shape and vocabulary with random weights, or find it made.

    Parameters
    ----------
    model : Path
        Model directory.
    root : Path
        Folder of such directories.

    Raises
    ------
    UserError
        Where embedome cannot make weights of the architecture.
    """
    from embedome.models.hugging_face_tokenizer import vocabulary_files

    tokenizer = {path.name: file_sha256(path) for path in vocabulary_files(model)}
    folder = root / json_sha256({"config": file_sha256(model / CONFIG), "tokenizer": tokenizer})[:16]
    # Jobs of other tasks want the same one.
    with hold_lock(folder.with_suffix(".lock")):
        if not folder.is_dir():
            make_random_model(model, folder)
    return folder


def make_random_model(model: Path, folder: Path) -> None:
    """Make a model directory as `random_model`."""
    from transformers import AutoConfig

    from embedome.models import create
    from embedome.models.hugging_face_tokenizer import vocabulary_files
    from embedome.models.registry import CONFIG_KEY, REGISTRY

    config = AutoConfig.from_pretrained(model)
    entry = next((each for each in REGISTRY.values() if each.model_type == config.model_type), None)
    if entry is None:
        raise UserError(
            f"{model}: embedome makes no random weights of {config.model_type}; leave the method random out"
        )
    name = (getattr(config, CONFIG_KEY, None) or {}).get("name", model.name)
    config.update({CONFIG_KEY: {"name": f"{name}, random weights", "trained": False, "seed": WEIGHTS_SEED}})
    with atomic_directory(folder) as temporary:
        create.random_model(entry, config).save_pretrained(temporary)
        for path in vocabulary_files(model):
            shutil.copyfile(path, temporary / path.name)


def sequence_features(
    method: str, level: str, policy: LongPolicy, longest: int, sequences: Sequence[bytes]
) -> SequenceFeatures:
    """Return what computes one-hot or composition features.

    One-hot of a whole protein is a vector of all positions where all proteins have one length, and else the mean over
    residues, which is the composition.
    """
    varying = varying_positions(sequences, longest) if (method, level) == ("one-hot", PROTEIN) else None
    return SequenceFeatures(method, level, policy, longest, varying)
