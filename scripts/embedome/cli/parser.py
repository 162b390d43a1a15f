"""The parser of every command: examples in its help, and the options that all commands share."""

import argparse
import logging
from collections.abc import Sequence
from typing import Any, TypeAlias

# What a command says on stderr, and the least level of the log's lines.
QUIET, NORMAL, VERBOSE = "quiet", "normal", "verbose"
LEVELS = {QUIET: logging.ERROR, NORMAL: logging.INFO, VERBOSE: logging.DEBUG}


class CommandParser(argparse.ArgumentParser):
    """A parser of a command.

    Parameters
    ----------
    examples : sequence of str
        Command lines, as a user types them. A test parses each of them.
    **settings
        As for `argparse.ArgumentParser`.
    """

    def __init__(self, *, examples: Sequence[str], **settings: Any) -> None:
        super().__init__(**settings)
        self.examples = tuple(examples)
        # An option that is not given leaves what an outer parser has found.
        loudness = self.add_mutually_exclusive_group()
        for flag, name, what in (
            ("-q", QUIET, "say nothing on standard error but errors"),
            ("-v", VERBOSE, "say more on standard error: versions, and where an error was found"),
        ):
            loudness.add_argument(
                flag,
                f"--{name}",
                dest="loudness",
                action="store_const",
                const=name,
                default=argparse.SUPPRESS,
                help=what,
            )
        self.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="print the result as one JSON document"
        )

    def format_help(self) -> str:
        """Return the help, with the examples at its end."""
        return "\n  ".join([f"{super().format_help()}\nExamples:", *self.examples]) + "\n"


Commands: TypeAlias = "argparse._SubParsersAction[CommandParser]"
