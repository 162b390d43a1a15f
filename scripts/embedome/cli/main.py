"""The command line: `embedome embed`, `describe`, `get`, `verify`, `export`, `annotate`, `translate` and so on."""

import logging
import os
import platform
import shlex
import signal
import sys
from collections.abc import Sequence

from embedome import __version__
from embedome.cli.annotate import add_annotate
from embedome.cli.bench import add_bench
from embedome.cli.clean import add_clean
from embedome.cli.completion import add_completion
from embedome.cli.dataset import add_dataset
from embedome.cli.embed import add_embed
from embedome.cli.evaluate import add_evaluate
from embedome.cli.export import add_export
from embedome.cli.finetune import add_finetune
from embedome.cli.models import add_models
from embedome.cli.parser import LEVELS, NORMAL, CommandParser
from embedome.cli.plan import add_plan
from embedome.cli.pretrain import add_pretrain
from embedome.cli.translate import add_translate
from embedome.cli.workflow import add_workflow
from embedome.common.errors import user_errors
from embedome.common.log import setup_logging
from embedome.common.process import exit_on_interrupt, exit_on_sigterm

log = logging.getLogger(__name__)

EPILOG = """\
The workflow for whole databases is run with snakemake, in a checkout or a folder of `embedome workflow`. This command
does the same for one or a few FASTA files on this machine, and reads what either wrote.
"""


# As a shell reports a process that a closed pipe ended.
CLOSED_PIPE_EXIT = 128 + signal.SIGPIPE
# As argparse ends: a script whose command is missing has done nothing.
USAGE_EXIT = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; docs/commands.md has the exit codes."""
    try:
        run_command(arguments)
    except BrokenPipeError:
        # Who reads has enough, as `head` has. What is left goes nowhere, at exit too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(CLOSED_PIPE_EXIT)


def run_command(arguments: Sequence[str] | None) -> None:
    """Run the command line, all of its output written."""
    try:
        parser = make_parser()
        options = parser.parse_args(arguments)
        if options.run is None:
            parser.print_help()
            sys.exit(USAGE_EXIT)
        setup_logging(level=LEVELS[options.loudness])
        exit_on_sigterm()
        exit_on_interrupt()
        log_start(arguments)
        with user_errors():
            options.run(options).print(options.json)
    finally:
        sys.stdout.flush()


def log_start(arguments: Sequence[str] | None) -> None:
    """Log what is run, and by which versions, for whoever looks for a fault."""
    given = sys.argv[1:] if arguments is None else arguments
    log.debug("embedome %s, Python %s: %s", __version__, platform.python_version(), shlex.join(["embedome", *given]))


def make_parser() -> CommandParser:
    """Make the parser of all subcommands."""
    parser = CommandParser(
        prog="embedome",
        description="Protein language model embeddings as verified Parquet tables.",
        epilog=EPILOG,
        examples=(
            "embedome models fetch esm2-650m",
            "embedome embed proteins.fasta -m models/esm2-650m -o vectors.parquet",
            "embedome describe vectors.parquet",
            "embedome plan -m esm2-650m --fasta proteins.fasta --gpu A100",
        ),
    )
    parser.set_defaults(run=None, loudness=NORMAL, json=False)
    parser.add_argument("--version", action="version", version=f"embedome {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND")
    add_embed(commands)
    add_dataset(commands)
    add_export(commands)
    add_translate(commands)
    add_annotate(commands)
    add_models(commands)
    add_pretrain(commands)
    add_evaluate(commands)
    add_finetune(commands)
    add_bench(commands)
    add_plan(commands)
    add_workflow(commands)
    add_clean(commands)
    add_completion(commands, make_parser)
    return parser
