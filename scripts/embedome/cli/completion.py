"""The command `embedome completion`."""

import argparse
from collections.abc import Callable, Iterable, Iterator

from embedome.cli.answer import Answer
from embedome.cli.parser import CommandParser, Commands
from embedome.common.errors import load_optional

SHELLS = ("bash", "zsh", "fish")
EPILOG = """\
bash reads the script from ~/.local/share/bash-completion/completions/embedome, fish from
~/.config/fish/completions/embedome.fish, and zsh from the file _embedome in a folder of its fpath.
"""
# What an argument is called in the help, where it is a path.
FILES = {"3DI_FASTA", "DATASET", "FASTA", "FASTA|FRACTION", "FILE", "FILE.nemo", "OBO", "OUT", "PATH", "SOURCE"}
FOLDERS = {"ADAPTER", "BASE", "DIR", "MODEL_DIR", "RUN"}


def add_completion(commands: Commands, make_parser: Callable[[], CommandParser]) -> None:
    """Add the parser of `completion`; `make_parser` makes that of all commands."""
    parser = commands.add_parser(
        "completion",
        help="print a script by which the shell completes commands, options, names and paths",
        description="Print a script by which the shell completes commands, options, file names, and the names of "
        "models, recipes, tasks and formats. It is made once: the shell does not start Python.",
        epilog=EPILOG,
        examples=("embedome completion bash", "embedome completion zsh", "embedome completion fish"),
    )
    parser.add_argument("shell", choices=SHELLS, help="the shell that reads the script")
    parser.set_defaults(run=lambda options: write_script(make_parser(), options.shell))


def write_script(parser: CommandParser, shell: str) -> Answer:
    """Write the script of a parser, in which names and paths are noted."""
    shtab = load_optional("shtab", "shtab")
    for action in iter_arguments(parser):
        if action.metavar in FILES | FOLDERS:
            action.complete = shtab.FILE if action.metavar in FILES else shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.choices is None:
            action.choices = known_names(action)
    script = shtab.complete(parser, shell)
    return Answer({"shell": shell, "script": script}, [script])


def iter_arguments(parser: CommandParser) -> Iterator[argparse.Action]:
    """Yield the arguments of a parser and of its commands; those that name a command are left out."""
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            yield action
            continue
        for command in action.choices.values():
            yield from iter_arguments(command)


def known_names(action: argparse.Action) -> Iterable[str] | None:
    """Return the names that an argument may have, where they are known; others may be valid too."""
    from embedome.common.terms import POOLINGS, SPLITS
    from embedome.embedding.roofline import DEVICES
    from embedome.evaluation.tasks import TASKS
    from embedome.models.registry import REGISTRY

    return {
        ("name", "NAME"): list(REGISTRY),
        ("model", "MODEL"): list(REGISTRY),
        ("task", "NAME"): [*TASKS, "own"],
        ("gpu", "NAME"): list(DEVICES),
        ("split", "NAME"): list(SPLITS),
        ("hold_out", "SPLIT"): list(SPLITS),
        ("pooling", "NAME"): list(POOLINGS),
    }.get((action.dest, str(action.metavar)))
