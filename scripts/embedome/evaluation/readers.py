"""The forms in which tasks are published, each read into rows: FLIP's FASTA pairs, CSVs, DeepLoc's, others."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from embedome.common.errors import UserError, cut, quote_value
from embedome.evaluation.data_files import DataFile, Source
from embedome.evaluation.examples import (
    NO_LABEL,
    SEED,
    ExampleSet,
    Labelling,
    Row,
    clean_sequence,
    make_examples,
)
from embedome.evaluation.tasks import SPLITS, TEST, TRAIN, VAL, Task

# Of DSOL: the sequences, and their classes in the same order.
DSOL_FILES = ("src", "tgt")
# Mutations of a variant of the train set, and what of those is validation.
FEW_MUTATIONS, VALIDATION_SHARE = 3, 0.2
SUBSTITUTION = re.compile(r"([A-Z])(\d+)([A-Z])")
DEEPLOC_HEADER = re.compile(r"(\S+) (\S+)-([MSU])( test)?")


@dataclass(slots=True)
class Reading:
    """A task under way: what was read, and what was left out.

    Parameters
    ----------
    task : Task
    left_out : Counter of str
    files : list of DataFile
        That were read.
    """

    task: Task
    left_out: Counter[str] = field(default_factory=Counter)
    files: list[DataFile] = field(default_factory=list)

    def find(self, source: Source, name: str, needed: bool = True) -> DataFile | None:
        """Return a source's file, noted as read; the only one given is the only one needed, whatever its name."""
        file = source.find(name)
        if file is None and len(self.task.files) == len(source.files) == 1:
            [file] = source.files
        if file is None and needed:
            raise UserError(f"{source}: has no {name}, which the task {self.task.name} needs")
        if file:
            self.files.append(file)
        return file

    def get(self, source: Source, name: str) -> DataFile:
        """Return a source's file that must be there."""
        file = self.find(source, name)
        assert file, "find has raised otherwise"
        return file


def read_task(task: Task, sources: Sequence[Source]) -> tuple[ExampleSet, list[DataFile]]:
    """Read a published task from its files.

    Where several sources have proteins of a split, those of the last one are taken.

    Parameters
    ----------
    task : Task
    sources : sequence of Source

    Returns
    -------
    ExampleSet
    list of DataFile
        What was read.

    Raises
    ------
    UserError
        Where a file is missing or not of the form, and as `examples.make_examples`: among others where there is no
        train protein.
    """
    reading = Reading(task)
    by_split: dict[str, list[Row]] = {}
    for source in sources:
        found: dict[str, list[Row]] = {}
        for row in READERS[task.reader](reading, source):
            found.setdefault(row.split, []).append(row)
        by_split |= found
    rows = [row for split in SPLITS for row in by_split.get(split, ())]
    return make_examples(rows, Labelling(task.level, task.kind, task.classes), reading.left_out), reading.files


def read_flip(reading: Reading, source: Source) -> Iterator[Row]:
    """Yield rows of FLIP's FASTA: sequences and labels in two files, a mask in a third; or values in headers."""
    names = reading.task.files
    if "records" in names:
        file = reading.get(source, names["records"])
        for where, header, body in file.records():
            name, fields = header_fields(where, header)
            target = required(where, fields, "TARGET").replace("Cell_membrane", "Cell.membrane")
            yield Row(name, clean_sequence(body, where), flip_split(where, fields), target, where)
        return
    sequences = read_sequences(reading.get(source, names["sequences"]))
    mask_file = reading.find(source, names["mask"]) if "mask" in names else None
    masks = {header.split()[0]: body.decode() for _, header, body in mask_file.records()} if mask_file else None
    labelled = 0
    for where, header, body in reading.get(source, names["labels"]).records():
        name, fields = header_fields(where, header)
        if name not in sequences:
            raise UserError(f"{where}: {cut(name)} has labels, but no sequence in {names['sequences']}")
        if masks is not None and name not in masks:
            raise UserError(f"{where}: {cut(name)} has labels, but no mask in {names['mask']}")
        labelled += 1
        yield Row(
            name,
            sequences[name],
            flip_split(where, fields),
            body.decode("utf-8", "backslashreplace"),
            where,
            None if masks is None else masks[name],
        )
    if labelled < len(sequences):
        reading.left_out[NO_LABEL] += len(sequences) - labelled


def read_sequences(file: DataFile) -> dict[str, bytes]:
    """Return the sequences of a FASTA file by id.

    Raises
    ------
    UserError
        Where a header is empty, or an id comes twice.
    """
    sequences: dict[str, bytes] = {}
    for where, header, body in file.records():
        if not header:
            raise UserError(f"{where}: the header holds no word; expected an id")
        name = header.split()[0]
        if name in sequences:
            raise UserError(f"{where}: the id {cut(name)} comes twice")
        sequences[name] = clean_sequence(body, where)
    return sequences


def header_fields(where: str, header: str) -> tuple[str, dict[str, str]]:
    """Return the id of a header of FLIP's, and its fields ``NAME=value``."""
    if not header:
        raise UserError(f"{where}: the header holds no word; expected an id")
    name, *words = header.split()
    return name, dict(word.split("=", 1) for word in words if "=" in word)


def required(where: str, fields: dict[str, str], name: str) -> str:
    """Return a field that must be there."""
    if name not in fields:
        raise UserError(f"{where}: has no {name}; expected columns or fields {', '.join(fields) or 'of the task'}")
    return fields[name]


def flip_split(where: str, fields: dict[str, str]) -> str:
    """Return the split of a record of FLIP's: validation is what of train is marked so."""
    kind = required(where, fields, "SET")
    if kind == TRAIN and fields.get("VALIDATION", "").lower() == "true":
        return VAL
    if kind not in SPLITS:
        raise UserError(f"{where}: SET is {quote_value(kind)}; expected train or test")
    return kind


def read_flip_csv(reading: Reading, source: Source) -> Iterator[Row]:
    """Yield rows of FLIP's CSV: sequence, target, set and validation; they have no ids."""
    for number, (where, fields) in enumerate(reading.get(source, reading.task.files["records"]).table()):
        split = {"SET": required(where, fields, "set"), "VALIDATION": fields.get("validation") or ""}
        sequence = clean_sequence(required(where, fields, "sequence").encode(), where)
        yield Row(f"Sequence{number}", sequence, flip_split(where, split), required(where, fields, "target"), where)


def read_netsurfp(reading: Reading, source: Source) -> Iterator[Row]:
    """Yield rows of secondary structure in CSV: NetSurfP-2.0's with blanks between residues, or BioNeMo's without.

    FLIP's files are taken for train and validation, too: of three states, the same proteins.
    """
    task = reading.task
    if source.split is None and source.find("sampled.fasta"):
        yield from read_flip_for_training(reading, source)
        return
    for split, file in split_files(reading, source):
        for number, (where, fields) in enumerate(file.table()):
            yield netsurfp_row(task, where, fields, split, f"{file.name}-{number}")


def split_files(reading: Reading, source: Source) -> Iterator[tuple[str, DataFile]]:
    """Yield the files of a source that hold one split each: by their names, or the split that was given with it."""
    for split, name in reading.task.files.items():
        file = source.find(name) if source.split is None else source.files[0] if source.split == split else None
        if file:
            reading.files.append(file)
            yield split, file


def read_flip_for_training(reading: Reading, source: Source) -> Iterator[Row]:
    """Yield the train and validation rows of FLIP's secondary structure, of three states."""
    if len(reading.task.classes) != 3:
        raise UserError(
            f"{source}: has three states, but the task {reading.task.name} needs eight; give a CSV with them"
        )
    files = {"sequences": "sequences.fasta", "labels": "sampled.fasta", "mask": "mask.fasta"}
    task = replace(reading.task, files=files)
    for row in read_flip(Reading(task, reading.left_out, reading.files), source):
        if row.split != TEST:
            yield row


def netsurfp_row(task: Task, where: str, fields: dict[str, str], split: str, name: str) -> Row:
    """Return the row of a CSV of either form."""
    if "input" in fields:
        columns = ("input", task.column, "disorder")
        sequence, target, disorder = (required(where, fields, column).strip(" []").split() for column in columns)
        mask = "".join("1" if float(each.strip("',")) else "0" for each in disorder)
    else:
        columns = ("sequence", task.column.replace("dssp", "") + "state", "resolved")
        *texts, mask = (required(where, fields, column) for column in columns)
        sequence, target = map(list, texts)
        name = fields.get("id", name)
    # The eighth state has no letter in DSSP: C, or a blank.
    text = "".join(target).replace("_", "C").replace("-", "C")
    return Row(name, clean_sequence("".join(sequence).encode(), where), split, text, where, mask)


def read_deeploc(reading: Reading, source: Source) -> Iterator[Row]:
    """Yield rows of DeepLoc: FASTA with place and kind in the header, or a CSV with columns of these names."""
    for split, file in split_files(reading, source):
        seen: Counter[str] = Counter()
        for where, fields in deeploc_records(file):
            if fields.get("split", split) not in (split, ""):
                continue
            target = required(where, fields, reading.task.column)
            sequence = clean_sequence(fields["sequence"].encode(), where)
            name = required(where, fields, "accession")
            seen[name] += 1
            # The isoforms of a protein go by its accession.
            isoform = f"{name}-{seen[name]}" if seen[name] > 1 else name
            yield Row(isoform, sequence, split, target, where)


def deeploc_records(file: DataFile) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the records of a file of DeepLoc's as fields."""
    if next(file.lines(), "").startswith(">"):
        for where, header, body in file.records():
            match = DEEPLOC_HEADER.fullmatch(header)
            if match is None:
                raise UserError(
                    f"{where}: the header is {quote_value(header)}; expected such as 'Q9H400 Cell.membrane-M test'"
                )
            names = ("accession", "location", "membrane")
            yield where, {**dict(zip(names, match.groups(), strict=False)), "sequence": body.decode()}
    else:
        yield from file.table()


def read_dsol(reading: Reading, source: Source) -> Iterator[Row]:
    """Yield rows of DeepSol: a file of sequences, one a line, and a file of classes, in the same order."""
    for split in SPLITS:
        found = {kind: [file for file in source.files if file.name.endswith(f"{split}_{kind}")] for kind in DSOL_FILES}
        if not found["src"] and not found["tgt"]:
            continue
        if len(found["src"]) != 1 or len(found["tgt"]) != 1:
            raise UserError(f"{source}: has {split}_src or {split}_tgt alone, or several of them; expected one of each")
        files = [found[kind][0] for kind in DSOL_FILES]
        reading.files += files
        sequences, classes = ([line.strip() for line in file.lines()] for file in files)
        if len(sequences) != len(classes):
            raise UserError(f"{files[0]} has {len(sequences):,} lines, {files[1]} {len(classes):,}; expected as many")
        for number, (sequence, target) in enumerate(zip(sequences, classes, strict=True), 1):
            where = f"{files[0]}: line {number}"
            yield Row(f"{split}{number}", clean_sequence(sequence.encode(), where), split, target, where)


def read_variants(reading: Reading, source: Source) -> Iterator[Row]:
    """Yield rows of variants, as lists of substitutions such as ``T57S,V66A``: few of them train, more are the test."""
    found = list(reading.get(source, reading.task.files["records"]).table())
    few = [int(required(where, fields, "num_mutations")) <= FEW_MUTATIONS for where, fields in found]
    held_out = np.random.default_rng(SEED).permutation(sum(few)) < VALIDATION_SHARE * sum(few)
    splits = iter(np.where(held_out, VAL, TRAIN).tolist())
    for is_few, (where, fields) in zip(few, found, strict=True):
        variant = required(where, fields, "variant")
        sequence = substitute(reading.task.wild_type, variant, where)
        yield Row(variant, sequence, next(splits) if is_few else TEST, required(where, fields, "score"), where)


def substitute(wild_type: str, variant: str, where: str) -> bytes:
    """Return the sequence of a variant; positions are counted from 0, as metl-pub does.

    Raises
    ------
    UserError
        Where a substitution is none of the wild type's.
    """
    letters = list(wild_type)
    for each in variant.split(","):
        match = SUBSTITUTION.fullmatch(each)
        position = int(match[2]) if match else -1
        if match is None or not 0 <= position < len(letters) or wild_type[position] != match[1]:
            raise UserError(
                f"{where}: {quote_value(each)} is no substitution in {len(letters)} residues of the wild type"
            )
        letters[position] = match[3]
    return "".join(letters).encode()


READERS: dict[str, Callable[[Reading, Source], Iterator[Row]]] = {
    "flip": read_flip,
    "flip-csv": read_flip_csv,
    "netsurfp": read_netsurfp,
    "deeploc": read_deeploc,
    "dsol": read_dsol,
    "variants": read_variants,
}
