"""A task's proteins and their labels in one form, whatever files they came from; faults are named by record.

Shapes: n proteins, R residues of all of them, C classes.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from embedome.common.errors import UserError, cut, quote_value
from embedome.evaluation.tasks import CLASSES, NUMBERS, RESIDUE, SPLITS, TEST, TRAIN, VAL
from embedome.sequences.records import RESIDUES, STOP, UPPER_CASE, WHITE_SPACE

log = logging.getLogger(__name__)

# Of the train proteins, what becomes validation where a task has none.
HELD_OUT = 0.1
SEED = 0
SEPARATOR = ";"
UNKNOWN_CLASS, NO_LABEL, REPEATED = "of another class", "without a label", "that stand there twice"
IN_TEST = "of train that are in val or test"


@dataclass(frozen=True, slots=True)
class Row:
    """A protein as a file has it.

    Parameters
    ----------
    id : str
    sequence : bytes
    split : str
    target : str
        Residue classes as a letter for each; others of several residues or labels with ``;`` between them.
    where : str
        File and record, for messages.
    mask : str or None
        A ``1`` for each residue that counts, of a protein one.
    """

    id: str
    sequence: bytes
    split: str
    target: str
    where: str
    mask: str | None = None


@dataclass(frozen=True, slots=True)
class Labelling:
    """What labels are.

    Parameters
    ----------
    level : str
        ``residue`` or ``protein``.
    kind : str
        ``classes``, ``labels`` or ``numbers``.
    classes : tuple of str
        In order; empty for numbers.
    """

    level: str
    kind: str
    classes: tuple[str, ...] = ()

    @property
    def outputs(self) -> int:
        """Numbers that a head computes of each residue or protein."""
        return 1 if self.kind == NUMBERS else len(self.classes)


@dataclass(frozen=True, slots=True)
class ExampleSet:
    """Proteins and labels.

    Parameters
    ----------
    labelling : Labelling
    ids : list of str
    sequences : list of bytes
    splits : numpy.ndarray, dtype=int8, shape=(n,)
        Index in `tasks.SPLITS`.
    targets : numpy.ndarray, shape=(n,) or (R,), of labels (n, C) or (R, C)
        int64 indices of classes; float32 zeros and ones of labels; float64 numbers.
    mask : numpy.ndarray, dtype=bool, shape=(n,) or (R,)
        Which of them count.
    found : dict of str to int
        Proteins of each split, as they stand in the files.
    left_out : dict of str to int
        Proteins that are not here, by reason.
    notes : tuple of str
        What else was done.
    """

    labelling: Labelling
    ids: list[str]
    sequences: list[bytes]
    splits: np.ndarray
    targets: np.ndarray
    mask: np.ndarray
    found: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> np.ndarray:
        """Residues of each protein, int64 [n]."""
        return np.fromiter(map(len, self.sequences), np.int64, len(self))

    @property
    def offsets(self) -> np.ndarray:
        """Where each protein's targets begin, and the end of the last, int64 [n + 1]."""
        counts = self.lengths if self.labelling.level == RESIDUE else np.ones(len(self), np.int64)
        return np.concatenate([[0], np.cumsum(counts)])

    def of_split(self, split: str) -> np.ndarray:
        """Return which proteins are of a split, int64 indices, ascending."""
        return np.flatnonzero(self.splits == SPLITS.index(split))

    def take(self, chosen: np.ndarray) -> Self:
        """Return some of the proteins, given by indices."""
        offsets = self.offsets
        rows = np.concatenate([np.arange(offsets[each], offsets[each + 1]) for each in chosen] or [np.empty(0, int)])
        return replace(
            self,
            ids=[self.ids[each] for each in chosen],
            sequences=[self.sequences[each] for each in chosen],
            splits=self.splits[chosen],
            targets=self.targets[rows],
            mask=self.mask[rows],
        )

    def with_few(self, train: int | None) -> Self:
        """Return all but train proteins beyond a number, which are drawn, the same ones each time; None for all."""
        mine = self.of_split(TRAIN)
        if train is None or train >= len(mine):
            return self
        kept = np.random.default_rng(SEED).choice(mine, train, replace=False)
        chosen = np.sort(np.concatenate([kept, np.flatnonzero(self.splits != SPLITS.index(TRAIN))]))
        note = f"{train:,} of {len(mine):,} train proteins, drawn with seed {SEED}"
        return replace(self.take(chosen), notes=(*self.notes, note))


def make_examples(rows: Iterable[Row], labelling: Labelling, left_out: Counter[str] | None = None) -> ExampleSet:
    """Check rows and encode their labels.

    Parameters
    ----------
    rows : iterable of Row
    labelling : Labelling
        Without classes: those that occur.
    left_out : Counter of str
        What readers left out, by reason.

    Raises
    ------
    UserError
        Names the record: a sequence that is none, an id that comes twice, labels or a mask of another length, numbers
        that are none; where train or test has no protein, and where train has one class alone.
    """
    held, left_out = list(rows), Counter(left_out)
    found = Counter(row.split for row in held)
    if labelling.kind != NUMBERS and not labelling.classes:
        labelling = replace(labelling, classes=occurring(held, labelling))
    index = {name: position for position, name in enumerate(labelling.classes)}
    held = without_repeats(held, left_out)
    kept, targets, masks = [], [], []
    for row in held:
        mask = read_mask(row, labelling)
        target = encode(row, labelling, index, mask)
        if target is None:
            left_out[UNKNOWN_CLASS] += 1
            continue
        kept.append(row)
        targets.append(target)
        masks.append(mask)
    return check_splits(
        ExampleSet(
            labelling,
            [row.id for row in kept],
            [row.sequence for row in kept],
            np.array([SPLITS.index(row.split) for row in kept], np.int8),
            np.concatenate(targets) if targets else np.empty(0),
            np.concatenate(masks) if masks else np.empty(0, bool),
            {split: found[split] for split in SPLITS},
            dict(left_out),
            shared_sequences(kept),
        )
    )


def clean_sequence(text: bytes, where: str) -> bytes:
    """Return a sequence in capitals, without white space and a stop sign at its end.

    Raises
    ------
    UserError
        Where it is empty, or has anything but letters.
    """
    sequence = text.translate(UPPER_CASE, WHITE_SPACE).removesuffix(STOP)
    if not sequence:
        raise UserError(f"{where}: the sequence is empty")
    if odd := sequence.translate(None, RESIDUES):
        raise UserError(f"{where}: the sequence has {quote_value(odd[:1].decode('ascii', 'backslashreplace'))}")
    return sequence


def without_repeats(rows: Sequence[Row], left_out: Counter[str]) -> list[Row]:
    """Leave out train proteins whose id is in validation or test too, as files of two sources have them, and repeats.

    Raises
    ------
    UserError
        Where an id comes twice, and its rows differ.
    """
    held_out = {row.id for row in rows if row.split != TRAIN}
    kept = [row for row in rows if row.split != TRAIN or row.id not in held_out]
    if len(kept) < len(rows):
        left_out[IN_TEST] += len(rows) - len(kept)
    first: dict[str, Row] = {}
    for row in kept:
        before = first.setdefault(row.id, row)
        if before is not row and what_counts(before) != what_counts(row):
            raise UserError(f"{row.where}: the id {cut(row.id)} comes twice, before in {before.where}")
    if len(first) < len(kept):
        left_out[REPEATED] += len(kept) - len(first)
    return list(first.values())


def what_counts(row: Row) -> tuple[bytes, str, str, str | None]:
    """Return all of a row but where it stands."""
    return row.sequence, row.split, row.target, row.mask


def shared_sequences(rows: Iterable[Row]) -> tuple[str, ...]:
    """Say how many test proteins have the very sequence of a train protein, if any."""
    sequences = {split: [row.sequence for row in rows if row.split == split] for split in (TRAIN, TEST)}
    shared = len(set(sequences[TRAIN]) & set(sequences[TEST]))
    return (f"{shared:,} sequences of test are in train, too",) if shared else ()


def names_of(row: Row, labelling: Labelling) -> list[list[str]]:
    """Return the names of classes or labels of each residue, or of the protein.

    Raises
    ------
    UserError
        Where there is not one for each residue.
    """
    if labelling.level == RESIDUE:
        names = [list(each) for each in (row.target if labelling.kind == CLASSES else row.target.split(SEPARATOR))]
    elif labelling.kind == CLASSES:
        names = [[row.target]]
    else:
        names = [[each for each in row.target.split(SEPARATOR) if each]]
    check_count(row, labelling, len(names))
    return names


def occurring(rows: Iterable[Row], labelling: Labelling) -> tuple[str, ...]:
    """Return the classes or labels that occur, sorted."""
    return tuple(sorted({name for row in rows for names in names_of(row, labelling) for name in names}))


def encode(row: Row, labelling: Labelling, index: Mapping[str, int], mask: np.ndarray) -> np.ndarray | None:
    """Return a row's target, one for each residue or of the protein; None for a class that is none of the task's."""
    if labelling.kind == NUMBERS:
        items = row.target.split(SEPARATOR) if labelling.level == RESIDUE else [row.target]
        check_count(row, labelling, len(items))
        return read_numbers(row, items, mask)
    names = names_of(row, labelling)
    if any(name not in index for each in names for name in each):
        return None
    if labelling.kind == CLASSES:
        return np.array([index[name] for [name] in names], np.int64)
    target = np.zeros((len(names), len(index)), np.float32)
    for position, each in enumerate(names):
        target[position, [index[name] for name in each]] = 1
    return target


def check_count(row: Row, labelling: Labelling, count: int) -> None:
    """Refuse labels of residues that are not as many as residues."""
    if labelling.level == RESIDUE and count != len(row.sequence):
        raise UserError(
            f"{row.where}: {cut(row.id)} has {count:,} labels, but {len(row.sequence):,} residues; expected one each"
        )


def read_numbers(row: Row, items: Sequence[str], mask: np.ndarray) -> np.ndarray:
    """Return a row's numbers, float64; those that do not count may be anything, and are 0 then."""
    values = np.zeros(len(items))
    for position in np.flatnonzero(mask).tolist():
        try:
            values[position] = float(items[position])
        except ValueError:
            values[position] = np.nan
        if not np.isfinite(values[position]):
            raise UserError(
                f"{row.where}: {cut(row.id)} has the value {quote_value(items[position])}; expected a finite number"
                + (", or a mask with 0 there" if len(items) > 1 else "")
            )
    return values


def read_mask(row: Row, labelling: Labelling) -> np.ndarray:
    """Return which of a row's labels count, bool."""
    count = len(row.sequence) if labelling.level == RESIDUE else 1
    if row.mask is None:
        return np.ones(count, bool)
    if len(row.mask) != count or set(row.mask) - set("01"):
        raise UserError(f"{row.where}: the mask of {cut(row.id)} is not {count:,} times 0 or 1")
    return np.frombuffer(row.mask.encode(), np.uint8) == ord("1")


def check_splits(examples: ExampleSet) -> ExampleSet:
    """Refuse a task that cannot be learnt or tested; hold out a tenth of train where there is no validation."""
    for split, advice in ((TRAIN, "what is not trained on cannot be scored"), (TEST, "there is nothing to score")):
        if not len(examples.of_split(split)):
            others = f"; {examples.left_out}" if examples.left_out else ""
            raise UserError(f"the task has no {split} protein at hand{others}: {advice}; give its {split} file")
    examples = examples if len(examples.of_split(VAL)) else hold_out(examples)
    labelling = examples.labelling
    rows = train_rows(examples)
    values = examples.targets[rows][examples.mask[rows]]
    if len(values) == 0 or (labelling.kind != NUMBERS and len(np.unique(values, axis=0)) < 2):
        what = f"one class, {labelling.classes[int(values.flat[0])]}" if len(values) and values.ndim == 1 else "no two"
        raise UserError(f"all train proteins are of {what}: nothing can be learnt; expected two classes or more")
    return examples


def train_rows(examples: ExampleSet) -> np.ndarray:
    """Return which targets are of train proteins, int64 indices."""
    counts = np.diff(examples.offsets)
    return np.flatnonzero(np.repeat(examples.splits == SPLITS.index(TRAIN), counts))


def hold_out(examples: ExampleSet) -> ExampleSet:
    """Make a tenth of the train proteins, at least one, validation; the same ones each time."""
    mine = examples.of_split(TRAIN)
    count = max(1, round(HELD_OUT * len(mine)))
    if count >= len(mine):
        raise UserError("the task has no validation protein, and one train protein alone; give more")
    splits = examples.splits.copy()
    splits[np.random.default_rng(SEED).choice(mine, count, replace=False)] = SPLITS.index(VAL)
    note = f"no validation proteins in the files: {count:,} of train are, drawn with seed {SEED}"
    log.info("%s", note)
    return replace(examples, splits=splits, notes=(*examples.notes, note))
