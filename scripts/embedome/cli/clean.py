"""The command `embedome clean`."""

import argparse

from embedome.cli.answer import Answer
from embedome.cli.parser import Commands


def add_clean(commands: Commands) -> None:
    """Add the parser of `clean`."""
    parser = commands.add_parser(
        "clean",
        help="list what earlier runs left and nothing needs; remove it with --delete",
        description="List what runs in a folder have left that no manifest or result names: files of shards that there "
        "are no longer, checkpoints of finished pretraining, features of evaluation, work of `embedome embed`.",
        examples=("embedome clean .", "embedome clean . --delete"),
    )
    parser.add_argument("folder", metavar="RUN", help="folder in which results/ is, or a command wrote its output")
    parser.add_argument("--delete", action="store_true", help="remove what is listed")
    parser.set_defaults(run=run_clean)


def run_clean(options: argparse.Namespace) -> Answer:
    """List what is not needed, and remove it where that is asked for."""
    from embedome.workflow.clean import find_unneeded

    total, lines, files = 0, [], []
    for each in find_unneeded(options.folder):
        size = each.bytes
        if not options.delete or each.remove():
            total += size
            lines.append(f"{1e-6 * size:12,.1f} MB  {each.path}  ({each.reason})")
            files.append({"path": str(each.path), "bytes": size, "reason": each.reason})
    lines.append(f"{1e-6 * total:12,.1f} MB  {'removed' if options.delete else 'in all; --delete removes it'}")
    return Answer({"removed": options.delete, "files": files}, lines)
