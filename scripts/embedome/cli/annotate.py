"""The command `embedome annotate`."""

import argparse
import os
from typing import Any

from embedome.cli.answer import Answer, describe_counts
from embedome.cli.parser import Commands

METRICS = ("euclidean", "cosine")
# As `label_tables.EXPERIMENTAL`, whose packages are imported when there is something to do.
EXPERIMENTAL = ("EXP", "IDA", "IPI", "IMP", "IGI", "IEP", "TAS", "IC")
EPILOG = """\
The table has a row for each id, or several: .tsv, .csv (also .gz) or .parquet; several labels in one row are separated
by semicolons, or by what --separator says. A GAF file of GO annotations (.gaf, .gaf.gz) is read as it is: what is
denied (NOT) is left out, and so is what has no evidence of --evidence. Ids are those of the FASTA headers, or the
accessions in them: P12345 of sp|P12345|AATM_RABIT or UniRef50_P12345.
To see how good the result is, hold splits out (--hold-out val test). Their labels are not used, and are compared with
what was carried over. With --max-identity, proteins that an alignment would have found do not count. The workflow does
the same with one job for each shard (annotate in config.yaml). See docs/annotation.md.
"""
EXAMPLES = (
    "embedome annotate vectors.parquet --labels go.tsv -o annotation",
    "embedome annotate results/dataset/esm1nv-demo --labels goa.gaf --ontology go-basic.obo --hold-out test -o go",
)


def add_annotate(commands: Commands) -> None:
    """Add the parser of `annotate`."""
    parser = commands.add_parser(
        "annotate",
        help="carry labels over from annotated proteins to their neighbours",
        description="Carry labels (GO terms, EC numbers, locations, …) over from annotated proteins to those whose "
        "vectors are near, with a reliability, as goPredSim does. Writes a folder of Parquet files and a summary.",
        epilog=EPILOG,
        examples=EXAMPLES,
    )
    parser.add_argument("dataset", metavar="DATASET", help="folder of a data set, or a file of `embedome embed`")
    parser.add_argument("-l", "--labels", required=True, metavar="FILE", help="table of ids and labels")
    parser.add_argument("-o", "--out", required=True, metavar="DIR", help="the folder to write")
    parser.add_argument("--id-column", default="id", metavar="NAME", help="column of the ids (default: id)")
    parser.add_argument("--label-column", default="label", metavar="NAME", help="column of the labels (default: label)")
    parser.add_argument(
        "--separator",
        default=";",
        metavar="TEXT",
        help="what separates several labels in one row (default: ;); '' where a row has one label, whatever is in it",
    )
    parser.add_argument(
        "--evidence",
        nargs="+",
        default=list(EXPERIMENTAL),
        metavar="CODE",
        help=f"of a GAF file: evidence codes that count, or all (default: {' '.join(EXPERIMENTAL)})",
    )
    parser.add_argument(
        "--ontology", metavar="OBO", help="OBO file, as go-basic.obo: a label implies its ancestors, in the score too"
    )
    parser.add_argument(
        "-k", "--neighbours", type=int, default=5, metavar="K", help="nearest annotated proteins to take (default: 5)"
    )
    parser.add_argument(
        "--pooling", metavar="NAME", help="which vectors, e.g. max or layer_12_mean (default: the data set's first)"
    )
    parser.add_argument("--metric", choices=METRICS, default="euclidean", help="distance (default: euclidean)")
    parser.add_argument(
        "--hold-out", nargs="+", default=[], metavar="SPLIT", help="splits whose labels are kept to score the result"
    )
    parser.add_argument(
        "--skip-identical", action="store_true", help="leave out annotated proteins with the query's own sequence"
    )
    parser.add_argument(
        "--max-identity", type=float, metavar="X", help="leave out those of a larger sequence identity, 0 to 1"
    )
    parser.add_argument("--catalog", metavar="DIR", help="for --max-identity: the run's sequences, results/catalog")
    parser.add_argument(
        "--fasta", nargs="+", metavar="FILE", help="for --max-identity, in place of it: the files that were embedded"
    )
    parser.add_argument(
        "--min-reliability", type=float, default=0.0, metavar="R", help="leave out less reliable labels (default: 0)"
    )
    parser.add_argument(
        "--exact-up-to",
        type=int,
        default=1_000_000,
        metavar="N",
        help="look through all annotated proteins up to N; of more, through the nearest lists (default: 1000000)",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the search (default: cores)")
    parser.set_defaults(run=run_annotate)


def run_annotate(options: argparse.Namespace) -> Answer:
    """Annotate a data set and give the summary."""
    from embedome.annotation.annotate import annotate_dataset
    from embedome.annotation.labels import LabelSource
    from embedome.annotation.reference_set import AnnotateSettings
    from embedome.annotation.sequence_source import FastaSequences

    check_options(options)
    summary = annotate_dataset(
        options.dataset,
        LabelSource(
            options.labels,
            options.id_column,
            options.label_column,
            options.separator,
            evidence=tuple(dict.fromkeys(options.evidence)),
            ontology=options.ontology,
        ),
        options.out,
        AnnotateSettings(
            neighbours=options.neighbours,
            metric=options.metric,
            hold_out=tuple(dict.fromkeys(options.hold_out)),
            skip_identical=options.skip_identical,
            max_identity=options.max_identity,
            min_reliability=options.min_reliability,
            exact_up_to=options.exact_up_to,
            pooling=options.pooling,
        ),
        catalog=FastaSequences(options.fasta) if options.fasta else options.catalog,
        threads=options.threads or len(os.sched_getaffinity(0)),
    )
    return Answer(summary, [f"{options.out}: annotated", *summary_lines(summary)])


def summary_lines(summary: dict[str, Any]) -> list[str]:
    """Return the counts of each split, and the score where labels were held out."""
    lines = [f"split {split}: {describe_counts(readable(counts))}" for split, counts in summary["splits"].items()]
    score = summary["score"]
    if score:
        lines.append(f"held-out labels: {score_words(score)}")
        lines += [f"of {space}: {score_words(each)}" for space, each in score.get("namespaces", {}).items() if each]
    return lines


def score_words(score: dict[str, Any]) -> str:
    """Return accuracy and Fmax of the labels carried over, and those of the baselines in brackets."""
    found = []
    for name, values in (
        ("accuracy", score["accuracy"]),
        ("Fmax", {name: each["fmax"] for name, each in score["fmax"].items()}),
    ):
        others = ", ".join(
            f"{other.replace('_', ' ')} {value:.3f}" for other, value in values.items() if other != "carried_over"
        )
        found.append(f"{name} {values['carried_over']:.3f} ({others})")
    return f"{score['proteins']:,} proteins, {', '.join(found)}"


def readable(counts: dict[str, Any]) -> dict[str, Any]:
    """Return counts with their names as words."""
    return {name.replace("_", " "): count for name, count in counts.items() if name != "left_out" or count}


def check_options(options: argparse.Namespace) -> None:
    """Refuse numbers out of their range."""
    from embedome.common.errors import UserError

    for name, least in (("neighbours", 1), ("exact_up_to", 0), ("threads", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} is {value}; expected {least} or more")
    if options.fasta and options.catalog:
        raise UserError("--fasta and --catalog both name the sequences; give one of them")
    if options.max_identity is not None and not 0 <= options.max_identity <= 1:
        raise UserError(f"--max-identity is {options.max_identity:g}; expected 0 to 1")
