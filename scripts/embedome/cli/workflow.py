"""The command `embedome workflow`."""

import argparse
import shlex
from importlib.util import find_spec

from embedome.cli.answer import Answer
from embedome.cli.parser import Commands

NEXT = """\
{folder}: the workflow of embedome {version}, {files} files. Next:
{install}    cd {quoted}
    snakemake --cores all                           # the demo; its data set is results/dataset/esm1nv-demo
    snakemake --cores all --configfile my.yaml      # your own: my.yaml names what differs from config.yaml"""
INSTALL = "    pip install 'embedome[workflow]'                # Snakemake, and what reports need\n"


def add_workflow(commands: Commands) -> None:
    """Add the parser of `workflow`."""
    parser = commands.add_parser(
        "workflow",
        help="put the workflow for whole databases into a folder",
        description="Put the files of the Snakemake workflow into a folder to run it there. No file is written over.",
        examples=("embedome workflow my-run",),
    )
    parser.add_argument("folder", metavar="DIR", help="folder to run in; it may be there")
    parser.set_defaults(run=run_workflow)


def run_workflow(options: argparse.Namespace) -> Answer:
    """Lay the workflow's files, and say what to do next."""
    from embedome import __version__
    from embedome.workflow.run_folder import lay_workflow

    paths = lay_workflow(options.folder)
    said = NEXT.format(
        folder=options.folder,
        version=__version__,
        files=len(paths),
        quoted=shlex.quote(options.folder),
        install="" if find_spec("snakemake") else INSTALL,
    )
    return Answer({"folder": options.folder, "version": __version__, "files": list(map(str, paths))}, [said])
