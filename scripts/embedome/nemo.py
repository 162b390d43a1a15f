"""NeMo archives (.nemo) of ESM-1nv: read into a Hugging Face directory, and written from one.

An archive is a tar file, plain or gzipped, of ``model_config.yaml``, ``model_weights.ckpt`` (a pickled state dict)
and artefacts; with tensor parallelism the weights are in folders ``mp_rank_XX`` or ``tp_rank_XX``. Nothing but plain
tensors is unpickled, and no member is written under a name of its own.
"""

import io
import os
import pickle
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from embedome.errors import UserError
from embedome.esm1nv import Size, make_config, save_directory
from embedome.files import atomic_path, file_sha256, read_json
from embedome.models import CONFIG_KEY, check_model_directory
from embedome.tables import first_line
from embedome.tokenizer import ESM1NV_PIECES

CONFIG, WEIGHTS = "model_config.yaml", "model_weights.ckpt"
RANK_FOLDER = re.compile(r"(?:mp|tp)_rank_(\d+)")
PREFIX = "model."
BLOCK_BYTES = 1 << 20
# Megatron's fields that must have one value, as the encoder computes nothing else.
EXPECTED = {
    "position_embedding_type": "learned_absolute",
    "normalization": "layernorm",
    "transformer_block_type": "pre_ln",
    "activation": "gelu",
    "bias": True,
    "megatron_legacy": False,
}
# NeMo name of a layer's module: Hugging Face name, and the dimension that tensor parallelism cuts its weight along.
LAYER = {
    "input_layernorm": ("attention.ln", None),
    "self_attention.dense": ("attention.output.dense", 1),
    "post_attention_layernorm": ("ln", None),
    "mlp.dense_h_to_4h": ("intermediate.dense", 0),
    "mlp.dense_4h_to_h": ("output.dense", 1),
}
QKV = "self_attention.query_key_value"
PARTS = ("query", "key", "value")
HEAD = {
    "language_model.encoder.final_layernorm": "bert.encoder.ln",
    "lm_head.dense": "cls.predictions.transform.dense",
    "lm_head.layernorm": "cls.predictions.transform.LayerNorm",
}
TABLES = {
    "language_model.embedding.word_embeddings.weight": "bert.embeddings.word_embeddings.weight",
    "language_model.embedding.position_embeddings.weight": "bert.embeddings.position_embeddings.weight",
    "lm_head.bias": "cls.predictions.bias",
}
CUT_TABLES = ("language_model.embedding.word_embeddings.weight", "lm_head.bias")


def import_nemo(archive: str | os.PathLike, directory: str | os.PathLike) -> None:
    """Convert an archive of ESM-1nv to a Hugging Face directory in float32.

    Parameters
    ----------
    archive : path
        The .nemo file, of NeMo 1.11 to 1.20.
    directory : path
        Put in place whole.

    Raises
    ------
    UserError
        Where the archive is damaged or unsafe, is of another architecture or vocabulary, or lacks a tensor, has one
        too many, or one of another shape.

    References
    ----------
    Layout and names: NeMo 1.20, save_restore_connector.py; BioNeMo 1.7, ESM-1nv configuration (docs/models.md).
    """
    with open_archive(archive) as members:
        config = read_config(archive, members)
        check_vocabulary(archive, members)
        size = read_size(archive, config)
        ranks = [load_weights(archive, member) for member in weight_members(archive, members)]
    weights = merge_ranks(archive, ranks)
    check_names(archive, weights, size)
    tensors = to_hugging_face(weights, size)
    # An archive of our own says what it was made from; all others hold what somebody trained.
    about = {"name": "esm1nv", "trained": True, **config.get(CONFIG_KEY, {}), "archive_sha256": file_sha256(archive)}
    save_directory(directory, make_config(size, about), tensors)


@contextmanager
def open_archive(archive: str | os.PathLike) -> Iterator[dict[str, Path]]:
    """Unpack the members that are used to files of our own naming; give these by the members' names.

    Raises
    ------
    UserError
        Where the file is no tar archive, or a member is a link, a device or leaves the archive's folder.
    """
    with tempfile.TemporaryDirectory(prefix="embedome-nemo-") as folder:
        found: dict[str, Path] = {}
        try:
            with tarfile.open(archive, "r:*") as tar:
                for number, member in enumerate(tar):
                    name = safe_name(archive, member)
                    if not member.isdir() and (name.endswith((CONFIG, WEIGHTS, ".vocab"))):
                        found[name] = Path(folder, str(number))
                        with open(found[name], "wb") as target:
                            shutil.copyfileobj(tar.extractfile(member), target, BLOCK_BYTES)
        except FileNotFoundError:
            raise UserError(f"{archive}: no such file") from None
        except (tarfile.TarError, EOFError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise UserError(f"{archive}: not a readable .nemo archive ({error}); copy it again") from None
        yield found


def safe_name(archive: str | os.PathLike, member: tarfile.TarInfo) -> str:
    """A member's name without a leading ``./``; refuses what has no business in an archive."""
    name = member.name.removeprefix("./")
    if not (member.isfile() or member.isdir()):
        raise UserError(f"{archive}: member {member.name!r} is a link or a device; the archive is not to be trusted")
    if name.startswith("/") or ".." in name.split("/"):
        raise UserError(f"{archive}: member {member.name!r} would leave the folder; the archive is not to be trusted")
    return name


def read_config(archive: str | os.PathLike, members: Mapping[str, Path]) -> dict[str, Any]:
    """The archive's model_config.yaml."""
    import yaml

    path = next((path for name, path in members.items() if name.rpartition("/")[2] == CONFIG), None)
    if path is None:
        raise UserError(f"{archive}: holds no {CONFIG}; is this a .nemo archive?")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{archive}: {CONFIG} is not valid YAML ({first_line(error)})") from None
    if not isinstance(config, dict):
        raise UserError(f"{archive}: {CONFIG} is no mapping")
    return config


def read_size(archive: str | os.PathLike, config: Mapping[str, Any]) -> Size:
    """The model's size; refuses an architecture that is not ESM-1nv's."""
    for name, expected in EXPECTED.items():
        if config.get(name, expected) != expected:
            raise UserError(f"{archive}: {name} is {config[name]!r}; expected {expected!r}, as ESM-1nv has")
    fields = {
        "layers": "num_layers",
        "hidden": "hidden_size",
        "heads": "num_attention_heads",
        "feed_forward": "ffn_hidden_size",
        "positions": "max_position_embeddings",
    }
    values = {}
    for ours, theirs in fields.items():
        values[ours] = config.get(theirs)
        if not isinstance(values[ours], int) or values[ours] < 1:
            raise UserError(f"{archive}: {theirs} is {values[ours]!r} in {CONFIG}; expected a positive integer")
    if abs(float(config.get("layernorm_epsilon", 1e-5)) - 1e-5) > 1e-12:
        raise UserError(f"{archive}: layernorm_epsilon is {config['layernorm_epsilon']!r}; expected 1e-5")
    return Size(**values)


def check_vocabulary(archive: str | os.PathLike, members: Mapping[str, Path]) -> None:
    """Refuse an archive whose vocabulary artefact, if it has one, is not ESM-1nv's."""
    for name, path in members.items():
        if not name.endswith(".vocab"):
            continue
        pieces = tuple(line.split("\t")[0] for line in path.read_text(encoding="utf-8").splitlines())
        if pieces != ESM1NV_PIECES:
            raise UserError(f"{archive}: the vocabulary in {name!r} is not ESM-1nv's (docs/models.md)")


def weight_members(archive: str | os.PathLike, members: Mapping[str, Path]) -> list[Path]:
    """The files of weights, in the order of their tensor-parallel ranks."""
    found: dict[int, Path] = {}
    for name, path in members.items():
        if name.rpartition("/")[2] != WEIGHTS:
            continue
        folder = name.rpartition("/")[0].rpartition("/")[2]
        rank = RANK_FOLDER.fullmatch(folder)
        if folder and not rank:
            raise UserError(f"{archive}: weights in {folder!r}; pipeline-parallel archives are not supported")
        found[int(rank[1]) if rank else 0] = path
    if sorted(found) != list(range(len(found))) or not found:
        raise UserError(
            f"{archive}: weights of ranks {sorted(found)}; expected {WEIGHTS}, or ranks from 0 without a gap"
        )
    return [found[rank] for rank in sorted(found)]


def load_weights(archive: str | os.PathLike, path: Path) -> dict[str, Tensor]:
    """Unpickle a state dict, tensors and nothing else; names without their common prefix."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = first_line(error) or type(error).__name__
        raise UserError(f"{archive}: {WEIGHTS} is not a file of plain tensors ({reason})") from None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{archive}: {WEIGHTS} holds more than tensors; it is not loaded")
    return {name.removeprefix(PREFIX): tensor.float() for name, tensor in state.items()}


def merge_ranks(archive: str | os.PathLike, ranks: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Join the tensors that tensor parallelism cut; the others must be the same on every rank."""
    if any(rank.keys() != ranks[0].keys() for rank in ranks):
        raise UserError(f"{archive}: the ranks do not hold the same tensors")
    merged = {}
    for name in ranks[0]:
        pieces = [rank[name] for rank in ranks]
        dimension = cut_dimension(name)
        if dimension is not None:
            merged[name] = torch.cat(pieces, dimension)
        elif all(torch.equal(pieces[0], piece) for piece in pieces):
            merged[name] = pieces[0]
        else:
            raise UserError(f"{archive}: {name} differs between ranks; the archive is damaged")
    return merged


def cut_dimension(name: str) -> int | None:
    """The dimension along which tensor parallelism cuts a tensor (Shoeybi et al. 2019, section 3), if any."""
    if name in CUT_TABLES or f".{QKV}." in name:
        return 0
    for module, (_, dimension) in LAYER.items():
        if f".{module}." in name:
            # The bias of a matrix that is cut along its inputs is added after the sum over ranks, so it is whole.
            return None if dimension == 1 and name.endswith("bias") else dimension
    return None


def expected_shapes(size: Size) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the archive; the vocabulary may have more rows."""
    d, f = size.hidden, size.feed_forward
    shapes = {
        "language_model.embedding.word_embeddings.weight": (128, d),
        "language_model.embedding.position_embeddings.weight": (size.positions, d),
        "lm_head.bias": (128,),
    }
    matrices = {
        QKV: (3 * d, d),
        "self_attention.dense": (d, d),
        "mlp.dense_h_to_4h": (f, d),
        "mlp.dense_4h_to_h": (d, f),
    }
    modules = {
        f"language_model.encoder.layers.{i}.{name}": shape
        for i in range(size.layers)
        for name, shape in matrices.items()
    }
    modules["lm_head.dense"] = (d, d)
    norms = [
        f"language_model.encoder.layers.{i}.{name}"
        for i in range(size.layers)
        for name in ("input_layernorm", "post_attention_layernorm")
    ]
    for name in [*norms, "language_model.encoder.final_layernorm", "lm_head.layernorm"]:
        modules[name] = (d,)
    for name, shape in modules.items():
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]
    return shapes


def check_names(archive: str | os.PathLike, weights: dict[str, Tensor], size: Size) -> None:
    """Refuse missing, alien and misshapen tensors; cut the vocabulary's padding to 128 rows."""
    shapes = expected_shapes(size)
    missing, left_over = sorted(shapes.keys() - weights.keys()), sorted(weights.keys() - shapes.keys())
    if missing or left_over:
        lists = [
            f"{what}: {', '.join(names)}" for what, names in (("missing", missing), ("left over", left_over)) if names
        ]
        raise UserError(f"{archive}: not the tensors of ESM-1nv; {'; '.join(lists)}")
    for name, shape in shapes.items():
        if name in CUT_TABLES and len(weights[name]) > len(ESM1NV_PIECES):
            weights[name] = weights[name][:128]
        if tuple(weights[name].shape) != shape:
            raise UserError(f"{archive}: {name} has shape {tuple(weights[name].shape)}; expected {shape}")


def to_hugging_face(weights: Mapping[str, Tensor], size: Size) -> dict[str, Tensor]:
    """Rename tensors to MegatronBertForMaskedLM's; query, key and value are apart there."""
    tensors = {theirs: weights[ours] for ours, theirs in TABLES.items()}
    for kind in ("weight", "bias"):
        tensors |= {f"{theirs}.{kind}": weights[f"{ours}.{kind}"] for ours, theirs in HEAD.items()}
        for i in range(size.layers):
            ours, theirs = f"language_model.encoder.layers.{i}", f"bert.encoder.layer.{i}"
            tensors |= {
                f"{theirs}.{name}.{kind}": weights[f"{ours}.{module}.{kind}"] for module, (name, _) in LAYER.items()
            }
            # Rows are ordered [head, q/k/v, dimension of the head].
            rows = weights[f"{ours}.{QKV}.{kind}"].unflatten(0, (size.heads, 3, -1))
            for part, name in enumerate(PARTS):
                tensors[f"{theirs}.attention.self.{name}.{kind}"] = rows[:, part].flatten(0, 1)
    return tensors


def to_nemo(tensors: Mapping[str, Tensor], size: Size) -> dict[str, Tensor]:
    """The inverse of `to_hugging_face`, with the archive's prefix."""
    weights = {ours: tensors[theirs] for ours, theirs in TABLES.items()}
    for kind in ("weight", "bias"):
        weights |= {f"{ours}.{kind}": tensors[f"{theirs}.{kind}"] for ours, theirs in HEAD.items()}
        for i in range(size.layers):
            ours, theirs = f"language_model.encoder.layers.{i}", f"bert.encoder.layer.{i}"
            weights |= {
                f"{ours}.{module}.{kind}": tensors[f"{theirs}.{name}.{kind}"] for module, (name, _) in LAYER.items()
            }
            rows = [tensors[f"{theirs}.attention.self.{name}.{kind}"].unflatten(0, (size.heads, -1)) for name in PARTS]
            weights[f"{ours}.{QKV}.{kind}"] = torch.stack(rows, 1).flatten(0, 2)
    return {PREFIX + name: tensor.contiguous() for name, tensor in sorted(weights.items())}


def export_nemo(directory: str | os.PathLike, archive: str | os.PathLike) -> None:
    """Write a Hugging Face directory of ESM-1nv as a plain, single-rank archive in float32.

    Raises
    ------
    UserError
        Where the directory is not a whole model of this architecture.
    """
    import yaml
    from safetensors.torch import load_file

    size, about = read_directory(directory)
    tensors = load_file(Path(directory) / "model.safetensors")
    try:
        weights = to_nemo(tensors, size)
    except KeyError as error:
        raise UserError(f"{directory}: {error.args[0]} is missing; the masked-LM head is part of an archive") from None
    config = {
        "num_layers": size.layers,
        "hidden_size": size.hidden,
        "num_attention_heads": size.heads,
        "ffn_hidden_size": size.feed_forward,
        "max_position_embeddings": size.positions,
        "encoder_seq_length": size.positions,
        "layernorm_epsilon": 1e-5,
        "make_vocab_size_divisible_by": 128,
        "tensor_model_parallel_size": 1,
        CONFIG_KEY: about,
        **EXPECTED,
    }
    state = io.BytesIO()
    torch.save(weights, state)
    with atomic_path(archive) as temporary, tarfile.open(temporary, "w") as tar:
        for name, content in ((CONFIG, yaml.safe_dump(config).encode()), (WEIGHTS, state.getvalue())):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def read_directory(directory: str | os.PathLike) -> tuple[Size, dict[str, Any]]:
    """The size that a directory's config.json tells, and what embedome says of the model."""
    check_model_directory(directory)
    config = read_json(Path(directory) / "config.json")
    if config["model_type"] != "megatron-bert":
        raise UserError(f"{directory}: model_type is {config['model_type']!r}; only ESM-1nv can be written as .nemo")
    size = Size(
        config["num_hidden_layers"],
        config["hidden_size"],
        config["num_attention_heads"],
        config["intermediate_size"],
        config["max_position_embeddings"],
    )
    return size, config.get(CONFIG_KEY, {})
