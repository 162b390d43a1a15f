"""Ontologies in OBO files: a label implies its ancestors (the true-path rule)."""

import gzip
import logging
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO

import numpy as np
import pyarrow as pa

from embedome.annotation.reference_set import ranges
from embedome.common.errors import UserError, first_line
from embedome.common.inputs import MOST_LINE_BYTES, check_input, check_line
from embedome.common.json_files import file_sha256

log = logging.getLogger(__name__)

# What a term implies besides its classes; the second is the Relation Ontology's name of it.
PART_OF = ("part_of", "BFO:0000050")
# In one message.
NAMED = 3
# Proteins whose labels are propagated at once.
BLOCK = 1 << 16


@dataclass(frozen=True, slots=True)
class Ontology:
    """Terms and what they imply, by ``is_a`` and ``part_of``.

    References
    ----------
    The OBO flat file format 1.4, https://owlcollab.github.io/oboformat/doc/GO.format.obo-1_4.html

    Attributes
    ----------
    path : path
    parents : dict
        Of each current term, the terms that it implies directly.
    namespaces : dict
        Of each current term, where it has one.
    replaced : dict
        The current term in place of an alternative id or an obsolete term; None where the file names none, or several.
    """

    path: str | os.PathLike
    parents: dict[str, list[str]] = field(default_factory=dict)
    namespaces: dict[str, str] = field(default_factory=dict)
    replaced: dict[str, str | None] = field(default_factory=dict)

    def current(self, label: str) -> str | None:
        """Return the term in place of an id of the file; None for one that is obsolete and not replaced."""
        seen: set[str] = set()
        found: str | None = label
        while found is not None and found not in self.parents and found not in seen:
            seen.add(found)
            found = self.replaced.get(found)
        return found if found in self.parents else None

    def implied(self, term: str) -> set[str]:
        """Return a current term and all its ancestors."""
        found, waiting = {term}, [term]
        while waiting:
            new = set(self.parents[waiting.pop()]) - found
            found |= new
            waiting += new
        return found

    def __contains__(self, label: str) -> bool:
        return label in self.parents or label in self.replaced


def read_ontology(path: str | os.PathLike) -> Ontology:
    """Read an OBO file, plain or ``.gz``.

    Raises
    ------
    UserError
        Where it is missing, no OBO file, or a term has a parent that is not in it.
    """
    ontology = Ontology(path)
    successors: dict[str, list[str]] = {}
    for lines in read_stanzas(path):
        tags = [(tag, value) for tag, value in map(split_tag, lines) if value]
        values = dict(tags)
        if "id" not in values:
            raise UserError(f"{path}: a [Term] has no id; expected an OBO file")
        name = values["id"]
        for tag, value in tags:
            if tag == "alt_id":
                successors.setdefault(value, []).append(name)
        if values.get("is_obsolete") == "true":
            successors.setdefault(name, []).extend(value for tag, value in tags if tag == "replaced_by")
            continue
        ontology.parents[name] = [parent for tag, value in tags if (parent := find_parent(tag, value))]
        if "namespace" in values:
            ontology.namespaces[name] = values["namespace"]
    for name, found in successors.items():
        ontology.replaced[name] = found[0] if len(set(found)) == 1 else None
    check_parents(ontology)
    return ontology


def read_stanzas(path: str | os.PathLike) -> Iterator[list[str]]:
    """Yield the lines of each ``[Term]`` of an OBO file."""
    check_input(path, "an OBO file")
    lines: list[str] | None = None
    try:
        with open_obo(path) as stream:
            while line := stream.readline(MOST_LINE_BYTES + 1):
                check_line(path, len(line))
                if line.startswith("["):
                    if lines:
                        yield lines
                    lines = [] if line.strip() == "[Term]" else None
                elif lines is not None and line.strip():
                    lines.append(line.strip())
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise UserError(f"{path}: not a readable OBO file ({first_line(error)})") from None
    if lines:
        yield lines


def open_obo(path: str | os.PathLike) -> IO[str]:
    """Open an OBO file as text."""
    if str(path).lower().endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8")
    return open(path, encoding="utf-8")


def split_tag(line: str) -> tuple[str, str]:
    """Return tag and value of a line, without modifiers and comments.

    Examples
    --------
    >>> split_tag('is_a: GO:0048308 {source="x"} ! organelle inheritance')
    ('is_a', 'GO:0048308')
    """
    tag, _, value = line.partition(":")
    return tag.strip(), re.split(r"(?:^|\s)[!{]", value.strip(), maxsplit=1)[0].strip()


def find_parent(tag: str, value: str) -> str | None:
    """Return the term that a tag says is implied, if it says so."""
    if tag == "is_a":
        return value.split()[0]
    kind, _, other = value.partition(" ")
    return other.strip() or None if tag == "relationship" and kind in PART_OF else None


def check_parents(ontology: Ontology) -> None:
    """Refuse an ontology without terms, or with parents that are none of its terms."""
    if not ontology.parents:
        raise UserError(f"{ontology.path}: no current [Term]; expected an OBO file, as go-basic.obo")
    for name, parents in ontology.parents.items():
        for parent in parents:
            if parent not in ontology.parents:
                raise UserError(f"{ontology.path}: {name} has the parent {parent}, which is no current term of it")


@dataclass(frozen=True, slots=True)
class ImpliedLabels:
    """What each label of a table implies.

    Attributes
    ----------
    names : pyarrow.StringArray
        The labels and all that they imply, sorted.
    offsets, codes : numpy.ndarray, dtype=int64
        Label i of the table implies ``codes[offsets[i]:offsets[i + 1]]``, positions in `names`; a term that is obsolete
        and not replaced implies nothing.
    namespaces : pyarrow.StringArray
        Of each of the names; null where there is none.
    is_root : numpy.ndarray, dtype=bool
        Which of the names are terms without parents: all proteins have them, so they say nothing.
    about : dict
        The file's digest, and how many labels were replaced, obsolete and unknown.
    """

    names: pa.StringArray
    offsets: np.ndarray
    codes: np.ndarray
    namespaces: pa.StringArray
    is_root: np.ndarray
    about: dict[str, str | int]

    def propagate(self, offsets: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the labels of n proteins with what they imply, in the form in which they are given.

        The labels of protein i are ``codes[offsets[i]:offsets[i + 1]]``; a protein may be left without any.
        """
        found, sizes = [], []
        width = max(1, len(self.names))
        for start in range(0, len(offsets) - 1, BLOCK):
            ends = offsets[start : start + BLOCK + 1]
            mine = codes[ends[0] : ends[-1]]
            owner = np.repeat(np.arange(len(ends) - 1), np.diff(ends))
            starts, stops = self.offsets[mine], self.offsets[mine + 1]
            keys = np.unique(np.repeat(owner, stops - starts) * width + self.codes[ranges(starts, stops)])
            found.append(keys % width)
            sizes.append(np.bincount(keys // width, minlength=len(ends) - 1))
        if not found:
            return offsets, codes
        return np.concatenate([[0], np.cumsum(np.concatenate(sizes))]), np.concatenate(found)


def imply_labels(ontology: Ontology, labels: pa.StringArray) -> ImpliedLabels:
    """Find what labels imply; one that is not in the ontology implies itself alone.

    Raises
    ------
    UserError
        Where none of the labels is in the ontology.
    """
    names = labels.to_pylist()
    unknown = [name for name in names if name not in ontology]
    if len(unknown) == len(names):
        raise UserError(f"{ontology.path}: none of the {len(names):,} labels ({names[0]!r}, …) is a term of it")
    terms = {name: ontology.current(name) for name in names if name in ontology}
    obsolete = [name for name, term in terms.items() if term is None]
    replaced = [name for name, term in terms.items() if term not in (None, name)]
    warn_of("are no terms of it, and imply nothing", ontology, unknown)
    warn_of("are obsolete and not replaced, and are left out", ontology, obsolete)
    sets = [
        ontology.implied(term) if (term := terms.get(name)) else set() if name in terms else {name} for name in names
    ]
    every = sorted(set().union(*sets), key=str.encode)
    place = {name: number for number, name in enumerate(every)}
    return ImpliedLabels(
        names=pa.array(every, pa.string()),
        offsets=np.concatenate([[0], np.cumsum([len(each) for each in sets])]).astype(np.int64),
        codes=np.array([number for each in sets for number in sorted(place[name] for name in each)], np.int64),
        namespaces=pa.array([ontology.namespaces.get(name) for name in every], pa.string()),
        is_root=np.array([name in ontology.parents and not ontology.parents[name] for name in every], bool),
        about={
            "sha256": file_sha256(ontology.path),
            "replaced": len(replaced),
            "obsolete": len(obsolete),
            "unknown": len(unknown),
        },
    )


def warn_of(what: str, ontology: Ontology, names: Sequence[str]) -> None:
    """Name labels of which something is to be said."""
    if names:
        shown = ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
        log.warning("%s: %s labels %s: %s", ontology.path, f"{len(names):,}", what, shown)
