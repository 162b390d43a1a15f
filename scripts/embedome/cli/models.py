"""The commands `embedome models`: list, init, fetch, import, merge-adapter, export, score, fill."""

import argparse
from dataclasses import asdict
from pathlib import Path

from embedome.cli.answer import Answer, describe_counts
from embedome.cli.options import FASTA_HELP, add_machine_options, choose_device
from embedome.cli.parser import Commands
from embedome.models.registry import REGISTRY, RegisteredModel

SIZES = {
    "layers": "layers, of the decoder too",
    "decoder_layers": "decoder layers",
    "hidden": "model dimension",
    "heads": "attention heads",
    "feed_forward": "dimension of the feed-forward layer",
    "positions": "tokens of the longest sequence",
}


def add_models(commands: Commands) -> None:
    """Add the parsers of `models`."""
    parser = commands.add_parser(
        "models",
        help="list, make and convert models",
        examples=(
            "embedome models",
            "embedome models fetch esm2-650m",
            "embedome models fill 'MKT<mask>YIAK' -m models/esm2-650m",
        ),
    )
    parser.set_defaults(run=run_list)
    actions = parser.add_subparsers(metavar="ACTION")
    show = actions.add_parser(
        "list",
        help="list the models known by name (the default)",
        description="List the models known by name. With --json: all that is known of each.",
        examples=("embedome models list", "embedome models list --json"),
    )
    show.set_defaults(run=run_list)
    init = actions.add_parser(
        "init",
        help="make a model directory with random weights, full size or shrunk",
        examples=("embedome models init esm1nv small --layers 2 --hidden 64 --heads 4 --feed-forward 256",),
    )
    init.add_argument("name", metavar="NAME", help="whose architecture and vocabulary: a name of `embedome models`")
    init.add_argument("directory", metavar="DIR", help="the model directory to write")
    for name, what in SIZES.items():
        init.add_argument(option(name), type=int, metavar="N", help=f"{what}, where not the model's own")
    init.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the weights (default: 0)")
    init.set_defaults(run=run_init)
    fetch = actions.add_parser(
        "fetch",
        help="fetch a model from the Hugging Face Hub",
        description="Fetch a model's weights, configuration and vocabulary from the Hugging Face Hub, at one commit. "
        "Run again after a broken connection: it goes on. Of gated models accept the terms and set HF_TOKEN.",
        examples=(
            "embedome models fetch esm2-650m",
            "embedome models fetch facebook/esm2_t6_8M_UR50D models/esm2-8m --revision main",
        ),
    )
    fetch.add_argument("name", metavar="NAME", help="a name of `embedome models`, or an id of the Hub, org/name")
    fetch.add_argument("directory", metavar="DIR", nargs="?", help="the directory to write (default: models/NAME)")
    fetch.add_argument("--revision", metavar="REV", help="commit, tag or branch (default: the newest commit)")
    fetch.set_defaults(run=run_fetch)
    load = actions.add_parser(
        "import",
        help="convert a NeMo archive, or a checkpoint of Sapiens, to a Hugging Face directory",
        description="Convert a NeMo archive of ESM-1nv or ProtT5nv, or a fairseq checkpoint of Sapiens, to a Hugging "
        "Face directory. Of a folder, the unpacked wheel of Sapiens, each model gets a directory in DIR.",
        examples=("embedome models import esm1nv.nemo models/esm1nv",),
    )
    load.add_argument(
        "source", metavar="SOURCE", help="FILE.nemo, checkpoint_vh.pt, checkpoint_vl.pt, or the folder of the last two"
    )
    load.add_argument("directory", metavar="DIR", help="the model directory to write")
    load.set_defaults(run=run_import)
    merge = actions.add_parser(
        "merge-adapter",
        help="merge an adapter (LoRA) into its base model, in float32",
        description="Add what an adapter in peft's form adds to a model's matrices, and write a model directory.",
        examples=("embedome models merge-adapter models/esm2-650m tuned/adapter models/merged",),
    )
    merge.add_argument("base", metavar="BASE", help="the model directory that the adapter is of")
    merge.add_argument("adapter", metavar="ADAPTER", help="folder of the adapter: adapter_config.json and weights")
    merge.add_argument("directory", metavar="DIR", help="the model directory to write")
    merge.set_defaults(run=run_merge)
    save = actions.add_parser(
        "export",
        help="write a model directory of ESM-1nv or ProtT5nv as a NeMo archive",
        examples=("embedome models export models/esm1nv esm1nv.nemo",),
    )
    save.add_argument("directory", metavar="DIR", help="the model directory")
    save.add_argument("archive", metavar="FILE.nemo", help="the archive to write")
    save.set_defaults(run=run_export)
    add_score(actions)
    add_fill(actions)


def add_score(actions: Commands) -> None:
    """Add the parser of `models score`."""
    score = actions.add_parser(
        "score",
        help="pseudo-log-likelihood of sequences, by a masked language model",
        description="Mask each residue in turn, and write the sum and mean of the log-probabilities that the model "
        "assigns to them (Salazar et al. 2020): the model runs once for each residue.",
        examples=("embedome models score proteins.fasta -m models/esm2-650m -o scores.tsv",),
    )
    score.add_argument("fasta", metavar="FASTA", nargs="+", help=FASTA_HELP)
    score.add_argument("-o", "--out", required=True, metavar="FILE", help="the table to write, separated by tabs")
    add_machine_options(score)
    score.set_defaults(run=run_score)


def add_fill(actions: Commands) -> None:
    """Add the parser of `models fill`."""
    guess = actions.add_parser(
        "fill",
        help="guess masked residues",
        examples=("embedome models fill 'MKT<mask>YIAK' -m models/esm2-650m --top 3",),
    )
    guess.add_argument("sequence", metavar="SEQUENCE", help="with <mask> in the place of residues, in quotes")
    guess.add_argument("--top", type=int, default=5, metavar="K", help="guesses for each (default: 5)")
    add_machine_options(guess)
    guess.set_defaults(run=run_fill)


def option(size: str) -> str:
    """Return the command line's option for a size."""
    return f"--{size.replace('_', '-')}"


def run_list(options: argparse.Namespace) -> Answer:
    """List the registry."""
    rows: list[tuple[str, ...]] = [
        ("NAME", "ARCHITECTURE", "LAYERS", "WIDTH", "PARAMETERS", "RESIDUES", "LICENCE", "WEIGHTS")
    ]
    rows += [list_row(entry) for entry in REGISTRY.values()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return Answer([asdict(entry) for entry in REGISTRY.values()], lines)


def list_row(entry: RegisteredModel) -> tuple[str, ...]:
    """Return a model's line in the list."""
    sizes = entry.sizes
    layers = f"{sizes['layers']}+{sizes['decoder_layers']}" if "decoder_layers" in sizes else str(sizes["layers"])
    return (
        entry.name,
        entry.model_type,
        layers,
        str(sizes["hidden"]),
        f"{entry.parameters:,}",
        "any" if entry.residues is None else str(entry.residues),
        entry.licence,
        entry.source,
    )


def run_init(options: argparse.Namespace) -> Answer:
    """Make a model directory with random weights."""
    from embedome.common.errors import UserError
    from embedome.common.outputs import check_new_folder
    from embedome.models.create import make_untrained

    check_new_folder(options.directory)
    sizes = {name: getattr(options, name) for name in SIZES if getattr(options, name) is not None}
    for name, value in sizes.items():
        if value < 1:
            raise UserError(f"{option(name)} is {value}; expected 1 or more")
    if options.seed < 0:
        raise UserError(f"--seed is {options.seed}; expected 0 or more")
    make_untrained(options.directory, options.name, options.name, sizes, options.seed)
    used = {**sizes, "seed": options.seed}
    words = ", ".join(f"{name.replace('_', '-')} {value}" for name, value in used.items())
    line = f"{options.directory}: {options.name} with random weights, {words}"
    return Answer({"directory": options.directory, "name": options.name, **used}, [line])


def run_fetch(options: argparse.Namespace) -> Answer:
    """Fetch a model from the Hub."""
    from embedome.models.hub import fetch_model

    directory, model = fetch_model(options.name, options.directory, options.revision)
    data = {"directory": str(directory), "id": model.id, "revision": model.revision, "licence": model.licence}
    return Answer(data, [f"{directory}: {model.id} at {model.revision}, licence: {model.licence}"])


def run_import(options: argparse.Namespace) -> Answer:
    """Convert an archive or checkpoints to model directories."""
    from embedome.common.outputs import check_new_folder
    from embedome.models.fairseq import SUFFIX, import_sapiens
    from embedome.models.nemo.convert import import_nemo

    source = Path(options.source)
    if source.is_dir() or source.suffix == SUFFIX:
        written = import_sapiens(source, options.directory)
    else:
        check_new_folder(options.directory)
        import_nemo(source, options.directory)
        written = [options.directory]
    data = {"directories": list(map(str, written)), "source": options.source}
    return Answer(data, [f"{directory}: made from {options.source}" for directory in written])


def run_merge(options: argparse.Namespace) -> Answer:
    """Merge an adapter into its base."""
    from embedome.models.merge_adapter import merge_adapter

    merge_adapter(options.base, options.adapter, options.directory)
    data = {"directory": options.directory, "base": options.base, "adapter": options.adapter}
    return Answer(data, [f"{options.directory}: {options.base} with {options.adapter}"])


def run_export(options: argparse.Namespace) -> Answer:
    """Convert a model directory to an archive."""
    from embedome.common.outputs import check_output
    from embedome.models.nemo.convert import export_nemo

    check_output(options.archive)
    export_nemo(options.directory, options.archive)
    data = {"file": options.archive, "directory": options.directory}
    return Answer(data, [f"{options.archive}: made from {options.directory}"])


def run_score(options: argparse.Namespace) -> Answer:
    """Write the pseudo-log-likelihoods of sequences."""
    from embedome.decoding.likelihood import check_table, score_masked
    from embedome.decoding.masked_lm import load_masked_lm

    check_table(options.out, options.fasta)
    model = load_masked_lm(options.model, choose_device(options), options.dtype)
    account = score_masked(options.fasta, model, options.out)
    return Answer({"file": options.out, **account}, [f"{options.out}: {describe_counts(account)}"])


def run_fill(options: argparse.Namespace) -> Answer:
    """Give guesses at masked residues, a line each: position, residue, probability."""
    from embedome.common.errors import UserError
    from embedome.decoding.masked_lm import load_masked_lm

    if options.top < 1:
        raise UserError(f"--top is {options.top}; expected 1 or more")
    model = load_masked_lm(options.model, choose_device(options), options.dtype)
    guesses = [
        {"position": found.position, "residue": residue, "probability": float(probability)}
        for found in model.fill(options.sequence, options.top)
        for residue, probability in zip(found.residues, found.probabilities, strict=True)
    ]
    return Answer(guesses, [f"{each['position']}\t{each['residue']}\t{each['probability']:.4f}" for each in guesses])
