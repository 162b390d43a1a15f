"""The command `embedome translate`."""

import argparse
from pathlib import Path

from embedome.cli.answer import Answer, describe_counts
from embedome.cli.options import FASTA_HELP, add_machine_options, choose_device
from embedome.cli.parser import Commands


def add_translate(commands: Commands) -> None:
    """Add the parser of `translate`."""
    parser = commands.add_parser(
        "translate",
        help="translate sequences with an encoder-decoder, or score given translations",
        description="Translate sequences with a whole encoder-decoder (ProtT5nv, ProtT5-XL, ProstT5, Ankh): FASTA in, "
        "FASTA out, in the same order. With --target nothing is generated: the likelihood of the given translations is "
        "written as a table.",
        examples=(
            "embedome translate proteins.fasta -m models/prostt5 -o translated.fasta",
            "embedome translate proteins.fasta -m models/prott5nv --target targets.fasta -o likelihoods.tsv",
        ),
    )
    parser.add_argument("fasta", metavar="FASTA", help=FASTA_HELP)
    parser.add_argument("-o", "--out", required=True, metavar="FILE", help="the FASTA file, or table, to write")
    add_machine_options(parser)
    parser.add_argument("--beams", type=int, default=1, metavar="N", help="beams of the search (default: 1, greedy)")
    parser.add_argument(
        "--max-length",
        type=int,
        metavar="N",
        help="tokens to generate at most (default: by the model's positions, or else twice the source's)",
    )
    parser.add_argument("--target", metavar="FASTA", help="translations to score: the same ids in the same order")
    parser.set_defaults(run=run_translate)


def run_translate(options: argparse.Namespace) -> Answer:
    """Translate or score a FASTA file."""
    from embedome.common.errors import UserError
    from embedome.common.outputs import check_output
    from embedome.decoding.likelihood import check_table, score_targets
    from embedome.decoding.seq2seq import Decoding, load_seq2seq
    from embedome.decoding.translate import translate_fasta
    from embedome.sequences.dropped_records import check_dropped

    if options.target and (options.beams != 1 or options.max_length is not None):
        raise UserError("--beams and --max-length say how to generate; with --target nothing is generated")
    for name, value in (("--beams", options.beams), ("--max-length", options.max_length)):
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}; expected 1 or more")
    if options.target:
        check_table(options.out, [options.fasta, options.target])
    else:
        check_output(options.out, [options.fasta])
        check_dropped(Path(options.out))
    model = load_seq2seq(options.model, choose_device(options), options.dtype)
    if options.target:
        account = score_targets(options.fasta, options.target, model, options.out)
    else:
        account = translate_fasta([options.fasta], model, options.out, Decoding(options.beams, options.max_length))
    return Answer({"file": options.out, **account}, [f"{options.out}: {describe_counts(account)}"])
