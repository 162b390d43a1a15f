"""NeMo archives of ESM-1nv and ProtT5nv: converted to a Hugging Face directory, and written from one."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from embedome.common.errors import UserError, quote_value
from embedome.common.json_files import file_sha256
from embedome.models.architectures import ARCHITECTURES
from embedome.models.config_fields import MOST, MOST_LAYERS
from embedome.models.create import FIELDS, make_config, save_directory
from embedome.models.directory import check_model_directory, open_checkpoint, read_config
from embedome.models.foreign_tensors import TensorName, check_names, plain_names, to_hugging_face
from embedome.models.nemo.archive import CONFIG, open_archive, read_ranks, read_vocabularies, write_archive
from embedome.models.nemo.archive import read_config as read_nemo_config
from embedome.models.nemo.tensor_names import LAYOUTS, ArchiveLayout
from embedome.models.registry import BLENDERBOT, CONFIG_KEY, MEGATRON_BERT, find_entry
from embedome.models.tensors import LAYER_NORMS, TensorMap
from embedome.models.vocabularies import ESM1NV_PIECES

# Megatron's fields that must have one value, as the encoders compute nothing else.
EXPECTED = {
    "position_embedding_type": "learned_absolute",
    "normalization": "layernorm",
    "transformer_block_type": "pre_ln",
    "activation": "gelu",
    "bias": True,
    "megatron_legacy": False,
}
EPSILON = "layernorm_epsilon"
# Fields of config.json that an archive does not have.
COMPUTED = {"layer_norm_eps", "hidden_act", "activation_function", "vocab_size", "tie_word_embeddings"}
TANH_GELU = {"gelu_new", "gelu_pytorch_tanh"}
POSITIONS, TOKEN_TYPES = "embeddings.position_embeddings.weight", "embeddings.token_type_embeddings.weight"
# Tensors of Hugging Face that an archive has not, or under one name.
NOT_IN_ARCHIVE = {
    MEGATRON_BERT: (
        r"embeddings\.(position_ids|token_type_embeddings\.weight)",
        r"pooler\..+",
        r"cls\.seq_relationship\..+",
    ),
    BLENDERBOT: (r"encoder\.version",),
}
SECOND_NAMES = {
    MEGATRON_BERT: (
        *LAYER_NORMS,
        (r"^cls\.predictions\.decoder\.weight$", "embeddings.word_embeddings.weight"),
        (r"^cls\.predictions\.decoder\.bias$", "cls.predictions.bias"),
    ),
    BLENDERBOT: ((r"^((encoder|decoder)\.embed_tokens|lm_head)\.weight$", "shared.weight"),),
}
SIZES = {
    "layers": "num_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "feed_forward": "ffn_hidden_size",
    "positions": "max_position_embeddings",
}
# A value that stands for another field's, as ${.encoder_seq_length} or ${model.seq_length}.
REFERENCE = re.compile(r"\$\{(?:\w*\.)*(\w+)\}")


def import_nemo(archive: str | os.PathLike, directory: str | os.PathLike, *, other_vocabulary: bool = False) -> None:
    """Convert an archive to a Hugging Face directory in float32.

    Parameters
    ----------
    archive : path
        The .nemo file, of NeMo 1.11 to 1.20.
    directory : path
        Put in place whole.
    other_vocabulary : bool
        Take an archive of another vocabulary, too, and of its embedding the first rows: a model to go on training.

    Raises
    ------
    UserError
        Where the archive is damaged or unsafe, is of another architecture or vocabulary, or lacks a tensor, has one
        too many, or one of another shape.
    """
    with open_archive(archive) as members:
        config = read_nemo_config(archive, members)
        for name, pieces in read_vocabularies(members).items():
            if pieces != ESM1NV_PIECES and not other_vocabulary:
                raise UserError(f"{archive}: the vocabulary in {quote_value(name)} is not ESM-1nv's (docs/models.md)")
        ranks = read_ranks(archive, members)
    layout = find_layout(archive, ranks)
    sizes = read_sizes(archive, config, layout)
    rows = layout.rows(sizes)
    weights = merge_ranks(archive, rows, [plain_names(archive, rank, layout.prefix) for rank in ranks])
    check_names(archive, layout.like, rows, weights)
    # An archive of our own says what it was made from; all others hold what somebody trained.
    about = {
        "name": layout.like,
        "trained": True,
        **read_section(archive, config, CONFIG_KEY),
        "archive_sha256": file_sha256(archive),
    }
    save_directory(
        directory, layout.like, make_config(layout.like, sizes, about), to_hugging_face(rows, weights, sizes["heads"])
    )


def find_layout(archive: str | os.PathLike, ranks: Sequence[Mapping[str, Tensor]]) -> ArchiveLayout:
    """Find the layout whose prefix the tensors' names have."""
    for layout in LAYOUTS:
        if any(name.startswith(layout.prefix) for name in ranks[0]):
            return layout
    known = " or ".join(layout.prefix for layout in LAYOUTS)
    raise UserError(f"{archive}: not ESM-1nv's or ProtT5nv's tensors, no name begins with {known}")


def read_sizes(archive: str | os.PathLike, config: Mapping[str, Any], layout: ArchiveLayout) -> dict[str, int]:
    """Read the model's sizes; refuse an architecture that is another one.

    NeMo 1.11 has the fields of encoder and decoder side by side, 1.20 in a section of each.
    """
    halves = {half: {**config, **read_section(archive, config, half)} for half in ("encoder", "decoder")}
    for half in halves.values():
        for name, expected in EXPECTED.items():
            if half.get(name, expected) != expected:
                raise UserError(
                    f"{archive}: {name} is {quote_value(half[name])}; expected {expected!r}, as {layout.like} has"
                )
        fused = [half.get(name, True) for name in ("bias_gelu_fusion", "bias_activation_fusion")]
        if not all(fused) and not half.get("openai_gelu"):
            raise UserError(
                f"{archive}: bias_gelu_fusion or bias_activation_fusion is False: GELU is then not that by tanh, which "
                f"{layout.like} has"
            )
        if not is_epsilon(half.get(EPSILON, 1e-5)):
            raise UserError(f"{archive}: {EPSILON} is {quote_value(half[EPSILON])}; expected 1e-5")
    encoder, decoder = ({ours: size(archive, half, SIZES[ours]) for ours in SIZES} for half in halves.values())
    layers = decoder.pop("layers")
    if "decoder_layers" not in find_entry(layout.like).sizes:
        return encoder
    if any(decoder[name] != encoder[name] for name in decoder):
        raise UserError(f"{archive}: the decoder's sizes {decoder} are not the encoder's; expected both alike")
    return {**encoder, "decoder_layers": layers}


def read_section(archive: str | os.PathLike, config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a section of an archive's configuration, empty where it has none."""
    section = config.get(name) or {}
    if not isinstance(section, Mapping):
        raise UserError(f"{archive}: {name} is {quote_value(section)} in {CONFIG}; expected a mapping")
    return section


def is_epsilon(value: Any) -> bool:
    """Return whether a value is 1e-5, which YAML takes for a text."""
    try:
        return abs(float(value) - 1e-5) < 1e-12
    except (TypeError, ValueError, OverflowError):
        return False


def size(archive: str | os.PathLike, config: Mapping[str, Any], name: str) -> int:
    """Read a field that is a size, or stands for another field that is one."""
    value = config.get(name)
    if isinstance(value, str) and (reference := REFERENCE.fullmatch(value)):
        value = config.get(reference[1])
    most = MOST_LAYERS if name == SIZES["layers"] else MOST
    if type(value) is not int or not 1 <= value <= most:
        raise UserError(
            f"{archive}: {name} is {quote_value(value)} in {CONFIG}; expected a positive integer, {most} at most"
        )
    return value


def merge_ranks(
    archive: str | os.PathLike, rows: Sequence[TensorName], ranks: Sequence[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Join the tensors that tensor parallelism cut; the others must be the same on every rank."""
    if any(rank.keys() != ranks[0].keys() for rank in ranks):
        raise UserError(f"{archive}: the ranks do not hold the same tensors")
    cuts = {name: row.cut for row in rows for name in (row.name, *row.aliases)}
    merged = {}
    for name in ranks[0]:
        pieces = [rank[name] for rank in ranks]
        dimension = cuts.get(name)
        if dimension is not None:
            merged[name] = torch.cat(pieces, dimension)
        elif all(torch.equal(pieces[0], piece) for piece in pieces):
            merged[name] = pieces[0]
        else:
            raise UserError(f"{archive}: {name} differs between ranks; the archive is damaged")
    return merged


def to_nemo(rows: Sequence[TensorName], tensors: Mapping[str, Tensor], heads: int) -> dict[str, Tensor]:
    """Rename tensors back, and stack them: the inverse of `to_hugging_face`.

    Raises
    ------
    ValueError
        Names two tensors that must be the same and are not.
    """
    weights: dict[str, Tensor] = {}
    for row in rows:
        parts = [tensors[name] for name in row.parts]
        for name in row.copies:
            if not torch.equal(tensors[name], parts[0]):
                raise ValueError(f"{name} is not {row.parts[0]}")
        if len(parts) > 1:
            tensor = torch.stack([part.unflatten(0, (heads, -1)) for part in parts], 1).flatten(0, 2)
        else:
            tensor = parts[0].reshape(row.shape)
        weights |= dict.fromkeys((row.name, *row.aliases), tensor.contiguous())
    return weights


def check_computed_alike(
    directory: str | os.PathLike, config: Mapping[str, Any], layout: ArchiveLayout, sizes: Mapping[str, int]
) -> None:
    """Refuse a directory whose config.json asks for what an archive of the layout cannot say."""
    own = make_config(layout.like, sizes, {}).to_dict()
    for name in COMPUTED & own.keys():
        found, expected = config.get(name, own[name]), own[name]
        if found != expected and {found, expected} != TANH_GELU:
            raise UserError(f"{directory}: {name} is {quote_value(found)}; expected {expected!r}, as {layout.like} has")


def read_tensors(
    directory: str | os.PathLike, config: Mapping[str, Any], rows: Sequence[TensorName]
) -> dict[str, Tensor]:
    """Read the tensors of a directory that go into an archive, the first token type added to the positions.

    Raises
    ------
    UserError
        As `tensors.Checkpoint`, and where one is missing, has another shape, or holds NaN or infinity.
    """
    kind = config["model_type"]
    encoder = ARCHITECTURES[kind].encoder().tensor_map(config)
    names = {name: row for row in rows for name in (*row.parts, *row.copies)}
    expected = TensorMap(
        {name: [encoder.base_name(name)] for name in names},
        prefix=encoder.prefix,
        unused=NOT_IN_ARCHIVE[kind],
        layers=encoder.layers,
        renamed=SECOND_NAMES[kind],
    )
    checkpoint = open_checkpoint(directory, expected)
    tensors = {}
    for name, row in names.items():
        rows_each = row.shape[0] // len(row.parts)
        shape = (1, rows_each) if name == "final_logits_bias" else (rows_each, *row.shape[1:])
        checkpoint.check(encoder.base_name(name), shape)
        tensors[name] = checkpoint.read(encoder.base_name(name)).float()
    if kind == MEGATRON_BERT and checkpoint.find(TOKEN_TYPES):
        tensors[encoder.prefix + POSITIONS] = tensors[encoder.prefix + POSITIONS] + checkpoint.read(TOKEN_TYPES)[0]
    return tensors


def export_nemo(directory: str | os.PathLike, archive: str | os.PathLike) -> None:
    """Write a Hugging Face directory of ESM-1nv or ProtT5nv as a plain, single-rank archive in float32.

    Raises
    ------
    UserError
        Where the directory is not a whole model of one of these architectures.
    """
    check_model_directory(directory)
    config = read_config(directory)
    layout = next((each for each in LAYOUTS if find_entry(each.like).model_type == config["model_type"]), None)
    if layout is None:
        raise UserError(
            f"{directory}: model_type is {config['model_type']!r}; only ESM-1nv and ProtT5nv can be written as .nemo"
        )
    fields = FIELDS[config["model_type"]]
    sizes = {name: config[fields[name][0]] for name in find_entry(layout.like).sizes}
    check_computed_alike(directory, config, layout, sizes)
    rows = layout.rows(sizes)
    try:
        weights = to_nemo(rows, read_tensors(directory, config, rows), sizes["heads"])
    except ValueError as error:
        raise UserError(f"{directory}: {error}; an archive has one table for both") from None
    about = {
        **{theirs: sizes[ours] for ours, theirs in SIZES.items()},
        "encoder_seq_length": sizes["positions"],
        EPSILON: 1e-5,
        "make_vocab_size_divisible_by": 128,
        "tensor_model_parallel_size": 1,
        CONFIG_KEY: config.get(CONFIG_KEY, {}),
        **EXPECTED,
    }
    if "decoder_layers" in sizes:
        about["decoder"] = {"num_layers": sizes["decoder_layers"]}
    write_archive(archive, about, {layout.prefix + name: weights[name] for name in sorted(weights)})
