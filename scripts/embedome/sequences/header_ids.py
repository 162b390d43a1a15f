"""Which part of a FASTA header is the id: its first word, another one, or what a regular expression finds."""

import re
from dataclasses import dataclass
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc

from embedome.common.errors import UserError


@dataclass(frozen=True, slots=True)
class HeaderIds:
    r"""Finds the id in a header.

    Parameters
    ----------
    pattern : str
        Regular expression (RE2), whose first group is the id.

    Examples
    --------
    >>> HeaderIds.of_setting(r"\|(\w+)\|").find("sp|P01308|INS_HUMAN Insulin")
    'P01308'
    >>> HeaderIds.of_setting(2).find("lcl 123 a protein")
    '123'
    """

    pattern: str

    @classmethod
    def of_setting(cls, setting: int | str | None, key: str = "source.id") -> Self | None:
        """Return what finds the ids: of a word's number, or an expression; None for the first word.

        Raises
        ------
        UserError
            Where it is neither; names the key.
        """
        if setting in (None, 1):
            return None
        if isinstance(setting, int):
            if not 1 <= setting <= 1000:
                raise UserError(f"{key} is {setting}; expected the number of a word, 1 to 1000, or an expression")
            return cls(rf"^\s*(?:\S+\s+){{{setting - 1}}}(\S+)")
        # An expression without a group is the id as a whole.
        faults = [fault for pattern in (str(setting), f"({setting})") if (fault := cls(pattern).fault())]
        if len(faults) == 2:
            raise UserError(f"{key} is {setting!r}; expected a regular expression in RE2's syntax ({faults[0]})")
        return cls(f"({setting})" if faults else str(setting))

    def fault(self) -> str | None:
        """Say what is wrong with the expression, if anything."""
        try:
            self.take(pa.array([b"x"]))
        except pa.ArrowInvalid as error:
            return re.sub(r"^.*?: ", "", str(error).split("\n", 1)[0])
        return None

    def take(self, headers: pa.BinaryArray) -> pa.BinaryArray:
        """Return the id in each of n headers; empty where there is none."""
        whole = f"(?s)^.*?(?:{self.pattern}).*$"
        found = pc.replace_substring_regex(headers, whole, r"\1", max_replacements=1)
        return pc.if_else(pc.match_substring_regex(headers, whole), found, pa.scalar(b"", headers.type))

    def find(self, header: str) -> str:
        """Return the id in a header; empty where there is none."""
        return self.take(pa.array([header.encode()]))[0].as_py().decode("utf-8", errors="replace")
