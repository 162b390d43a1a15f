"""What a sound record must meet to be kept: length, members, taxon, name, standard residues."""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.catalog.taxonomy import taxon_flags
from embedome.common.errors import UserError
from embedome.common.settings import from_section
from embedome.sequences.record_columns import count_letters, read_bytes, read_offsets

# Beside the 20 amino acids: ambiguous B, J, X, Z, and selenocysteine U and pyrrolysine O.
NONSTANDARD = "BJOUXZ"
FRAGMENT = r"\(Fragments?\)"

Rule = tuple[str, np.ndarray, Callable[[int], str]]


@dataclass(frozen=True, slots=True)
class Criteria:
    """What a record must meet to be kept; None and empty lists are no limit.

    Parameters
    ----------
    min_length, max_length : int
        Residues.
    min_members : int
        Of a UniRef cluster; records without that number are kept.
    fragments : bool
        Keep sequences whose description says that they are a fragment.
    max_nonstandard : float
        Largest fraction of residues that are one of `NONSTANDARD`.
    mask_residues, reject_residues : str
        Letters of `NONSTANDARD` that are replaced by X, and letters with which no sequence is kept.
    include_taxa, exclude_taxa : sequence of int
        NCBI taxonomy identifiers: only records of the first are kept, and those of the second are dropped; with their
        descendants where `taxonomy` is given.
    taxonomy : path
        NCBI's nodes.dmp, or the taxdump.tar.gz that holds it.
    include_names, exclude_names : sequence of str
        Regular expressions (RE2), one of which the name must match, or none.

    Raises
    ------
    UserError
        Where an expression cannot be read, and as `taxonomy.taxon_flags`.
    """

    min_length: int = 1
    max_length: int | None = None
    min_members: int | None = None
    fragments: bool = True
    max_nonstandard: float | None = None
    mask_residues: str = ""
    reject_residues: str = ""
    include_taxa: Sequence[int] = ()
    exclude_taxa: Sequence[int] = ()
    taxonomy: str | None = None
    include_names: Sequence[str] = ()
    exclude_names: Sequence[str] = ()
    taxa: dict[str, np.ndarray] = field(init=False, repr=False, compare=False)

    @classmethod
    def from_config(cls, section: Mapping[str, Any]) -> Self:
        """Take the criteria from the configuration's section ``filter``."""
        return from_section(cls, section, fragments=section["fragments"] == "keep")

    def __post_init__(self) -> None:
        for key in ("include_names", "exclude_names"):
            for pattern in getattr(self, key):
                check_pattern(f"filter.{key}", pattern)
        taxa = {key: getattr(self, f"{key}_taxa") for key in ("include", "exclude")}
        flags = {key: taxon_flags(ids, self.taxonomy) for key, ids in taxa.items() if ids}
        object.__setattr__(self, "taxa", flags)

    def taxa_identity(self) -> dict[str, dict[str, Any]]:
        """Return count and digest of the taxa that are included and of those that are excluded, all below them too."""
        listed = {key: np.flatnonzero(flags) for key, flags in self.taxa.items()}
        return {
            key: {"count": len(taxa), "sha256": hashlib.sha256("\n".join(map(str, taxa)).encode()).hexdigest()}
            for key, taxa in listed.items()
        }

    def faults(self, sequences: pa.StringArray, fields: pa.Table) -> dict[int, tuple[str, str]]:
        """Return reason and detail of each of n records that is dropped, by its row; of several the first.

        Parameters
        ----------
        sequences : pyarrow.StringArray
        fields : pyarrow.Table
            As `headers.parse_descriptions` returns them, and the column ``description``.
        """
        found: dict[int, tuple[str, str]] = {}
        for reason, hit, detail in self.rules(sequences, fields):
            for row in np.flatnonzero(hit).tolist():
                found.setdefault(row, (reason, detail(row)))
        return found

    def rules(self, sequences: pa.StringArray, fields: pa.Table) -> Iterator[Rule]:
        """Yield each limit: its reason, which of n records it drops [n], and what to say of one."""
        lengths = np.diff(read_offsets(sequences))
        yield "too-short", lengths < self.min_length, lambda row: f"{lengths[row]} residues; at least {self.min_length}"
        if self.max_length is not None:
            hit = lengths > self.max_length
            yield "too-long", hit, lambda row: f"{lengths[row]} residues; at most {self.max_length}"
        yield from self.header_rules(fields)
        if self.reject_residues:
            bad = count_letters(sequences, self.reject_residues)
            none = f"none of {', '.join(self.reject_residues)}"
            yield "nonstandard-residues", bad > 0, lambda row: f"{bad[row]} of {lengths[row]} residues; {none}"
        if self.max_nonstandard is not None:
            odd = count_letters(sequences, NONSTANDARD)
            # A quotient is rounded as the limit itself was: 29 of 100 are not above 0.29.
            hit = odd / lengths > self.max_nonstandard
            most = f"at most {self.max_nonstandard:g} of all"
            yield "nonstandard-residues", hit, lambda row: f"{odd[row]} of {lengths[row]} residues; {most}"

    def header_rules(self, fields: pa.Table) -> Iterator[Rule]:
        """Yield the limits on what the header says."""
        if self.min_members is not None:
            members = pc.fill_null(fields["n_members"], self.min_members).to_numpy()
            hit = members < self.min_members
            yield "few-members", hit, lambda row: f"{members[row]} members; at least {self.min_members}"
        if not self.fragments:
            yield "fragment", matches(fields["description"], [FRAGMENT]), lambda _: "a fragment, as its header says"
        if self.taxa:
            yield from self.taxon_rules(pc.fill_null(fields["taxid"], 0).to_numpy())
        names = fields["name"]
        if self.include_names:
            yield "name", ~matches(names, self.include_names), lambda _: "no match in include_names"
        if self.exclude_names:
            yield "name", matches(names, self.exclude_names), lambda _: "a match in exclude_names"

    def taxon_rules(self, taxids: np.ndarray) -> Iterator[Rule]:
        """Yield the limits on the taxon [n], which is 0 where none is given."""
        if "include" in self.taxa:
            hit = ~look_up(self.taxa["include"], taxids)
            yield "taxon", hit, lambda row: f"taxon {taxids[row] or 'not given'}; not one of include_taxa"
        if "exclude" in self.taxa:
            hit = look_up(self.taxa["exclude"], taxids)
            yield "taxon", hit, lambda row: f"taxon {taxids[row]}; one of exclude_taxa"

    def mask(self, sequences: pa.StringArray) -> pa.StringArray:
        """Return the sequences as they are kept: with X for the residues that are masked."""
        if not self.mask_residues:
            return sequences
        masked = self.mask_text(read_bytes(sequences).tobytes())
        return pa.StringArray.from_buffers(len(sequences), pa.py_buffer(read_offsets(sequences)), pa.py_buffer(masked))

    def mask_text(self, text: bytes) -> bytes:
        """Return one sequence, or several back to back, as they are kept."""
        return text.translate(bytes.maketrans(self.mask_residues.encode(), b"X" * len(self.mask_residues)))


def check_pattern(key: str, pattern: str) -> None:
    """Check a regular expression.

    Raises
    ------
    UserError
        Names the key.
    """
    if fault := pattern_fault(key, pattern):
        raise UserError(fault)


def pattern_fault(key: str, pattern: str) -> str | None:
    """Say what is wrong with a regular expression, if anything."""
    try:
        matches(pa.chunked_array([[""]]), [pattern])
    except pa.ArrowInvalid as error:
        reason = re.sub(r"^.*?: ", "", str(error).split("\n", 1)[0])
        return f"{key} has {pattern!r}; expected a regular expression in RE2's syntax ({reason})"
    return None


def matches(texts: pa.ChunkedArray, patterns: Sequence[str]) -> np.ndarray:
    """Return whether each of n texts matches one of the patterns anywhere, bool [n]."""
    found = [pc.match_substring_regex(texts, pattern).to_numpy() for pattern in patterns]
    return np.logical_or.reduce(found).astype(bool)


def look_up(flags: np.ndarray, taxids: np.ndarray) -> np.ndarray:
    """Return the flag of each taxon, bool [n]; identifiers beyond the table have none."""
    return flags[np.where(taxids < len(flags), taxids, 0)]
