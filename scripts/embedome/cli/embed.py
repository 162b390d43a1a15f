"""The command `embedome embed`."""

import argparse
from pathlib import Path

from embedome.cli.answer import Answer, describe_counts
from embedome.cli.export import SUFFIXES, write_export
from embedome.cli.options import FASTA_HELP, add_engine_options, choose_device, choose_dtype
from embedome.cli.parser import Commands
from embedome.common.errors import UserError
from embedome.common.parallel import available_cores, start_server

OUT = "the Parquet file to write; of a name in .npy, .h5, .h5ad, .csv or .tsv it is <FILE stem>.parquet, and exported"


def add_embed(commands: Commands) -> None:
    """Add the parser of `embed`."""
    parser = commands.add_parser(
        "embed",
        help="embed FASTA files into one Parquet file",
        description="Embed FASTA files into one Parquet file, sorted by id. Run again after a crash: it goes on.",
        examples=(
            "embedome embed proteins.fasta -m models/esm2-650m -o vectors.parquet",
            "embedome embed sequences/ -m models/esm2-650m -o vectors.h5",
            "embedome embed proteins.fasta.gz -m models/prott5-xl -o vectors.parquet --pooling mean max --per-residue",
        ),
    )
    parser.add_argument(
        "fasta", metavar="FASTA", nargs="+", help=f"{FASTA_HELP}; a folder of them; - for standard input"
    )
    parser.add_argument(
        "--structure",
        metavar="3DI_FASTA",
        help="structure states (3Di) of the sequences, for SaProt and ProstT5: a FASTA with the same ids and lengths",
    )
    parser.add_argument(
        "--missing-structure",
        choices=["error", "unknown"],
        default="error",
        help="a sequence that the 3Di FASTA lacks: end (default), or read all of its states as unknown",
    )
    parser.add_argument("-o", "--out", required=True, metavar="FILE", help=OUT)
    add_engine_options(parser)
    parser.add_argument(
        "--features",
        choices=["encoder", "decoder"],
        default="encoder",
        help="which half of a T5 (default: encoder)",
    )
    parser.add_argument(
        "--layer",
        type=int,
        nargs="+",
        default=[-1],
        metavar="K",
        help="hidden states of these layers; 0 the embedding; a column each, in one pass (default: last)",
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
        help="write per-residue embeddings too, to <FILE stem>.residues.parquet",
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
        "--id",
        metavar="PART",
        help="part of a header that is the id: a word's number, or a regular expression (RE2) whose first group it is "
        "(default: the first word)",
    )
    parser.add_argument("--skip-empty", action="store_true", help="pass over files without a record")
    parser.add_argument(
        "--strict", action="store_true", help="an error, no warning, where sequences look like DNA or RNA"
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes, each with the model in memory (default: one for each core, or for each GPU that is visible)",
    )
    parser.set_defaults(run=run_embed)


def run_embed(options: argparse.Namespace) -> Answer:
    """Embed FASTA files into one file."""
    from embedome.catalog.reading import REFUSE, WARN, ReadSettings
    from embedome.embedding.request import check_request
    from embedome.sequences.header_ids import HeaderIds
    from embedome.sequences.input_files import list_files

    if options.overlap < 0 or (options.overlap and options.long != "window"):
        raise UserError(f"--overlap is {options.overlap}; expected 0 or more, and --long window with it")
    if options.missing_structure != "error" and options.structure is None:
        raise UserError("--missing-structure is given; expected --structure with it")
    if options.workers is not None and options.workers < 1:
        raise UserError(f"--workers is {options.workers}; expected 1 or more")
    part = int(options.id) if options.id and options.id.isdecimal() else options.id
    HeaderIds.of_setting(part, "--id")
    reading = ReadSettings(
        part,
        options.skip_empty,
        REFUSE if options.strict else WARN,
        options.structure,
        options.missing_structure,
    )
    # Before torch is imported, here and in the server.
    out, export = choose_output(Path(options.out))
    check_request(list_files(options.fasta), options.model, out, per_residue=options.per_residue, reading=reading)
    check_suffix(Path(options.out))
    if options.device != "cuda" and options.workers != 1:
        start_server("embedome.embedding.part_pipeline")
    from embedome.embedding.part_pipeline import MOST_WRITERS, Machine
    from embedome.embedding.settings import EmbedSettings
    from embedome.embedding.single_file import embed_fasta
    from embedome.engine.device import count_gpus

    device, cores = choose_device(options), available_cores()
    account = embed_fasta(
        options.fasta,
        options.model,
        out,
        settings=EmbedSettings(
            dtype=choose_dtype(options, device),
            long_sequences=options.long,
            overlap=options.overlap,
            max_residues=options.max_residues,
            features=options.features,
            layer=tuple(options.layer),
            pooling=tuple(dict.fromkeys(options.pooling)),
            per_residue=options.per_residue,
            fused=options.fused,
        ),
        reading=reading,
        machine=Machine(
            device,
            workers=options.workers or (cores if device == "cpu" else count_gpus()),
            writers=min(cores, MOST_WRITERS) if device == "cuda" else 1,
        ),
    )
    data, lines = {"file": str(out), "export": None, **account}, [f"{out}: {describe_counts(account)}"]
    if export:
        proteins = write_export(out, Path(options.out), export)
        data["export"] = {"file": options.out, "proteins": proteins}
        lines.append(f"{options.out}: {proteins:,} proteins")
    return Answer(data, lines)


def choose_output(out: Path) -> tuple[Path, str | None]:
    """Return the Parquet file to write, and the format that it is then exported to, where the name is of another one.

    Raises
    ------
    UserError
        Where there is a file that the export would replace.
    """
    from embedome.common.outputs import check_output

    form = SUFFIXES.get(out.suffix.lower())
    if form and form != "hdf5":
        check_output(out)
    return (out.with_suffix(".parquet"), form) if form else (out, None)


def check_suffix(out: Path) -> None:
    """Refuse a name that promises a format which is not written."""
    if out.name == "-" or (out.suffix and out.suffix.lower() != ".parquet" and out.suffix.lower() not in SUFFIXES):
        what = "vectors are not written to standard output" if out.name == "-" else "cannot tell the format"
        raise UserError(f"{out}: {what}; expected a name that ends in .parquet, {', '.join(SUFFIXES)}")
