"""The command line: `embedome embed`, `describe`, `get`, `verify`, `export`, `annotate`, `translate` and so on."""

import argparse
import json
from collections.abc import Sequence

from embedome import __version__
from embedome.annotate_command import add_annotate
from embedome.common.errors import user_errors
from embedome.common.log import setup_logging
from embedome.common.parallel import available_cores, start_server
from embedome.common.process import exit_on_sigterm
from embedome.export_command import add_export
from embedome.machine_options import add_machine_options, chosen_device
from embedome.models_command import add_models
from embedome.plan_command import add_bench, add_plan
from embedome.translate_command import add_translate

EPILOG = """\
The workflow for whole databases is run with snakemake, see README.md. This command does the same for one or a few
FASTA files on this machine, and reads what either wrote.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with 2 on an error of the user's."""
    options = make_parser().parse_args(arguments)
    setup_logging()
    exit_on_sigterm()
    with user_errors():
        options.run(options)


def make_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    parser = argparse.ArgumentParser(
        prog="embedome", description="Protein language model embeddings as verified Parquet tables.", epilog=EPILOG
    )
    parser.add_argument("--version", action="version", version=f"embedome {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_embed(commands)
    describe = commands.add_parser("describe", help="print a data set's counts, schema, size and provenance as JSON")
    describe.add_argument("dataset", metavar="DATASET", help="folder of a data set, or a file of `embedome embed`")
    describe.set_defaults(run=run_describe)
    get = commands.add_parser("get", help="print vectors by id, a line each: id and numbers, separated by tabs")
    get.add_argument("dataset", metavar="DATASET", help="folder of a data set, or a file of `embedome embed`")
    get.add_argument("ids", metavar="ID", nargs="+", help="an id, as in the FASTA header")
    get.set_defaults(run=run_get)
    verify = commands.add_parser("verify", help="check every file of a data set against its manifest")
    verify.add_argument("dataset", metavar="DATASET", help="folder of a data set")
    verify.set_defaults(run=run_verify)
    add_export(commands)
    add_translate(commands)
    add_annotate(commands)
    add_models(commands)
    add_bench(commands)
    add_plan(commands)
    return parser


def add_embed(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The parser of `embed`."""
    parser = commands.add_parser(
        "embed",
        help="embed FASTA files into one Parquet file",
        description="Embed FASTA files into one Parquet file, sorted by id. Run again after a crash: it goes on.",
    )
    parser.add_argument("fasta", metavar="FASTA", nargs="+", help="protein sequences; plain, .gz or .zst")
    parser.add_argument("-o", "--out", required=True, metavar="FILE", help="the Parquet file to write")
    add_machine_options(parser, int8=True)
    parser.add_argument(
        "--features",
        choices=["encoder", "decoder"],
        default="encoder",
        help="which half of a T5 (default: encoder)",
    )
    parser.add_argument(
        "--layer",
        type=int,
        default=-1,
        metavar="K",
        help="hidden states of this layer; 0 the embedding (default: last)",
    )
    parser.add_argument(
        "--pooling",
        choices=["mean", "max", "first"],
        nargs="+",
        default=["mean"],
        help="mean and max over residues, first: the token before them; a column each (default: mean)",
    )
    parser.add_argument(
        "--per-residue",
        action="store_true",
        help="write the vectors of the residues too, to <FILE stem>.residues.parquet",
    )
    parser.add_argument(
        "--long",
        choices=["truncate", "window", "skip"],
        default="truncate",
        help="long sequences: use the first residues (default), average overlapping windows, or leave out",
    )
    parser.add_argument(
        "--max-residues",
        type=int,
        metavar="N",
        help="residues beyond which a sequence is long (default: as many as the model's positions hold)",
    )
    parser.add_argument("--overlap", type=int, default=0, metavar="N", help="residues that windows share (default: 0)")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes on the CPU, each with the model in memory (default: cores)"
    )
    parser.set_defaults(run=run_embed)


def run_embed(options: argparse.Namespace) -> None:
    """Embed FASTA files into one file."""
    if options.device != "cuda" and options.workers != 1:
        start_server("embedome.embedding.part_pipeline")
    from embedome.common.atomic_files import check_output
    from embedome.common.errors import UserError
    from embedome.embedding.part_pipeline import Machine
    from embedome.embedding.settings import EmbedSettings
    from embedome.embedding.single_file import embed_fasta

    if options.overlap < 0 or (options.overlap and options.long != "window"):
        raise UserError(f"--overlap is {options.overlap}; expected 0 or more, and --long window with it")
    if options.workers is not None and options.workers < 1:
        raise UserError(f"--workers is {options.workers}; expected 1 or more")
    check_output(options.out, options.fasta)
    device = chosen_device(options)
    account = embed_fasta(
        options.fasta,
        options.model,
        options.out,
        settings=EmbedSettings(
            dtype=options.dtype,
            long_sequences=options.long,
            overlap=options.overlap,
            max_residues=options.max_residues,
            features=options.features,
            layer=options.layer,
            pooling=tuple(dict.fromkeys(options.pooling)),
            per_residue=options.per_residue,
        ),
        machine=Machine(device, workers=options.workers or (available_cores() if device == "cpu" else 1)),
    )
    print(f"{options.out}: {json.dumps(account)}")


def run_describe(options: argparse.Namespace) -> None:
    """Print what a data set says of itself."""
    from embedome.dataset.open import open_dataset

    print(json.dumps(open_dataset(options.dataset).describe(), indent=2, ensure_ascii=False))


def run_get(options: argparse.Namespace) -> None:
    """Print vectors by id."""
    from embedome.dataset.open import open_dataset

    for name, vector in zip(options.ids, open_dataset(options.dataset).get(options.ids), strict=True):
        print(name, *vector.tolist(), sep="\t")


def run_verify(options: argparse.Namespace) -> None:
    """Check a data set, and print what there is."""
    from embedome.dataset.verify import verify_dataset

    print(f"{options.dataset}: {json.dumps(verify_dataset(options.dataset, available_cores()))}")


if __name__ == "__main__":
    main()
