"""Sequences as one array, and their windows: the stretches that run through a model at once.

Shapes: n sequences, p windows (a whole sequence, its beginning, or a stretch of it), R residues of all sequences.
"""

from dataclasses import dataclass

import numpy as np

from embedome.common.errors import UserError

# Residues that fit a model without a longest sequence: any number.
NO_LIMIT = int(np.iinfo(np.int64).max)


@dataclass(frozen=True, slots=True)
class Sequences:
    """Sequences as one array: residues back to back.

    Parameters
    ----------
    residues : numpy.ndarray, dtype=uint8, shape=(R,)
        ASCII residues of all sequences.
    offsets : numpy.ndarray, dtype=int64, shape=(n + 1,)
        Where each sequence begins, and the end of the last.
    states : numpy.ndarray, dtype=uint8, shape=(R,), optional
        The structure state of each residue, ASCII.
    """

    residues: np.ndarray
    offsets: np.ndarray
    states: np.ndarray | None = None

    @classmethod
    def join(cls, sequences: list[bytes], states: list[bytes] | None = None) -> "Sequences":
        """Join byte strings: sequences, and the structure states of each, as many as it has residues."""
        lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
        # A bytearray, as torch wants arrays that may be written.
        residues = np.frombuffer(bytearray(b"".join(sequences)), np.uint8)
        structure = None if states is None else np.frombuffer(b"".join(states), np.uint8)
        if structure is not None and len(structure) != len(residues):
            raise ValueError(f"{len(structure)} structure states of {len(residues)} residues")
        return cls(residues, np.concatenate([[0], np.cumsum(lengths)]), structure)

    @property
    def lengths(self) -> np.ndarray:
        """Residues of each sequence, int64 [n]."""
        return np.diff(self.offsets)


@dataclass(frozen=True, slots=True)
class LongPolicy:
    """What to do with a long sequence.

    Parameters
    ----------
    name : str
        ``truncate``: its first residues; ``window``: overlapping windows, averaged residue by residue; ``skip``.
    overlap : int
        Residues that neighbouring windows share.
    max_residues : int, optional
        Residues beyond which a sequence is long, and of a window; None for as many as the model's positions hold,
        which is any number where positions are relative.
    """

    name: str = "truncate"
    overlap: int = 0
    max_residues: int | None = None

    def longest(self, most: int | None) -> int:
        """Return the residues that run through a model at once.

        Parameters
        ----------
        most : int, optional
            As many as its positions hold; None for any number.

        Raises
        ------
        UserError
            Where more are asked for than the model's positions hold, or windows overlap by their whole length.
        """
        held = NO_LIMIT if most is None else most
        longest = held if self.max_residues is None else self.max_residues
        if not 0 < longest <= held:
            raise UserError(f"embed.max_residues is {longest}; expected 1 to {held}, which the model's positions hold")
        if self.name == "window" and not 0 <= self.overlap < longest:
            bound = "" if longest == NO_LIMIT else f", and less than the {longest} residues of a window"
            raise UserError(f"embed.overlap is {self.overlap}; expected 0 or more{bound}")
        return longest


@dataclass(frozen=True, slots=True)
class Windows:
    """Stretches of residues that run through the model as they are, in the order of their sequences.

    Parameters
    ----------
    start, length : numpy.ndarray, dtype=int64, shape=(p,)
        Residues.
    owner : numpy.ndarray, dtype=int64, shape=(p,)
        Index of the sequence, ascending.
    counts : numpy.ndarray, dtype=int64, shape=(n,)
        Windows of each sequence; none of one that is skipped.
    """

    start: np.ndarray
    length: np.ndarray
    owner: np.ndarray
    counts: np.ndarray


def cut_windows(sequences: Sequences, policy: LongPolicy, longest: int) -> Windows:
    """Cut sequences into windows of at most `longest` residues, as the policy says.

    Those of one sequence begin at a fixed stride, the last one flush with the sequence's end.
    """
    lengths = sequences.lengths
    longer = lengths > longest
    counts = np.ones(len(lengths), np.int64)
    stride = longest - policy.overlap
    if policy.name == "window":
        counts[longer] += -(-(lengths[longer] - longest) // stride)
    elif policy.name == "skip":
        counts[longer] = 0
    owner = np.repeat(np.arange(len(lengths)), counts)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)  # within the sequence
    begin = np.minimum(number * stride, lengths[owner] - longest) * (longer[owner] & (policy.name == "window"))
    return Windows(sequences.offsets[owner] + begin, np.minimum(lengths[owner], longest), owner, counts)


def residue_weights(sequences: Sequences, windows: Windows) -> np.ndarray | None:
    """Return one over the number of windows that cover each residue, float32 [R]; None where no two overlap."""
    if len(windows.counts) == 0 or windows.counts.max() < 2:
        return None
    steps = np.zeros(len(sequences.residues) + 1, np.int32)
    np.add.at(steps, windows.start, 1)
    np.add.at(steps, windows.start + windows.length, -1)
    return (1 / np.maximum(np.cumsum(steps[:-1]), 1)).astype(np.float32)
