"""NeMo archives (.nemo) as files: reading one safely, and writing one.

An archive is a tar file, plain or gzipped, of ``model_config.yaml``, ``model_weights.ckpt`` (a pickled state dict)
and artefacts; with tensor parallelism the weights are in folders ``mp_rank_XX`` or ``tp_rank_XX``. Nothing but plain
tensors is unpickled, and no member is written under a name of its own.
"""

import io
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedome.common.atomic_files import atomic_path
from embedome.common.errors import UserError, cut, first_line, quote_value
from embedome.common.inputs import BoundedHeader, check_input
from embedome.common.yaml_aliases import check_aliases
from embedome.models.checkpoint import load_plain_tensors

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, WEIGHTS, VOCABULARY = "model_config.yaml", "model_weights.ckpt", ".vocab"
RANK_FOLDER = re.compile(r"(?:mp|tp)_rank_(\d+)")
BLOCK_BYTES = 1 << 20
# Weights are compressed to half their size at best, where their type is wider than they are precise.
MOST_EXPANSION, MOST_OTHER_BYTES = 10, 1 << 26
MOST_TEXT_BYTES, MOST_MEMBERS = 1 << 26, 10_000


@contextmanager
def open_archive(archive: str | os.PathLike) -> Iterator[dict[str, Path]]:
    """Unpack the members that are used to files of our own naming; yield these by the members' names.

    Raises
    ------
    UserError
        Where the file is no tar archive, or a member is a link, a device or leaves the archive's folder.
    """
    check_input(archive, "a .nemo archive")
    with tempfile.TemporaryDirectory(prefix="embedome-nemo-") as folder:
        found: dict[str, Path] = {}
        try:
            with tarfile.open(archive, "r:*", tarinfo=BoundedHeader) as tar:
                budget = Budget(archive)
                for number, member in enumerate(tar):
                    name = safe_name(archive, member)
                    budget.spend(name, member.size)
                    if not member.isdir() and name.endswith((CONFIG, WEIGHTS, VOCABULARY)):
                        found[name] = Path(folder, str(number))
                        source = tar.extractfile(member)
                        assert source is not None, "a member that is no folder is a file"
                        with open(found[name], "wb") as target:
                            shutil.copyfileobj(source, target, BLOCK_BYTES)
        except (tarfile.TarError, EOFError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise UserError(
                f"{archive}: not a readable .nemo archive ({cut(first_line(error))}); copy it again"
            ) from None
        yield found


class Budget:
    """Limits on what an archive unpacks to, in proportion to its size on disk.

    Parameters
    ----------
    archive : path
    """

    def __init__(self, archive: str | os.PathLike) -> None:
        self.archive, self.members = archive, 0
        self.left = MOST_OTHER_BYTES + MOST_EXPANSION * os.path.getsize(archive)

    def spend(self, name: str, size: int) -> None:
        """Count a member of `size` bytes against the limits.

        Raises
        ------
        UserError
            Where it is too large for what it is, or the members together are.
        """
        self.members += 1
        self.left -= size
        if self.left < 0 or self.members > MOST_MEMBERS or (size > MOST_TEXT_BYTES and not name.endswith(WEIGHTS)):
            raise UserError(
                f"{self.archive}: member {quote_value(name)} of {size:,} bytes makes it far larger than a model's "
                "archive; it is not to be trusted"
            )


def safe_name(archive: str | os.PathLike, member: tarfile.TarInfo) -> str:
    """Return a member's name without a leading ``./``; refuse what has no business in an archive."""
    name = member.name.removeprefix("./")
    if not (member.isfile() or member.isdir()):
        raise UserError(
            f"{archive}: member {quote_value(member.name)} is a link or a device; the archive is not to be trusted"
        )
    if name.startswith("/") or ".." in name.split("/"):
        raise UserError(
            f"{archive}: member {quote_value(member.name)} would leave the folder; the archive is not to be trusted"
        )
    return name


def read_config(archive: str | os.PathLike, members: Mapping[str, Path]) -> dict[str, Any]:
    """Read the archive's model_config.yaml."""
    import yaml

    path = next((path for name, path in members.items() if name.rpartition("/")[2] == CONFIG), None)
    if path is None:
        raise UserError(f"{archive}: holds no {CONFIG}; is this a .nemo archive?")
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        document = loader.get_single_node()
        # Before values are made of it, as those of merge keys are copied.
        check_aliases(document, f"{archive}: {CONFIG}")
        config = loader.construct_document(document) if document else None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{archive}: {CONFIG} is not valid YAML ({cut(first_line(error))})") from None
    if not isinstance(config, dict):
        raise UserError(f"{archive}: {CONFIG} is no mapping")
    return config


def read_vocabularies(members: Mapping[str, Path]) -> dict[str, tuple[str, ...]]:
    """Read the pieces in id order of each SentencePiece vocabulary among the artefacts."""
    return {
        name: tuple(line.split("\t")[0] for line in path.read_text(encoding="utf-8").splitlines())
        for name, path in members.items()
        if name.endswith(VOCABULARY)
    }


def read_ranks(archive: str | os.PathLike, members: Mapping[str, Path]) -> "list[dict[str, Tensor]]":
    """Read the state dict of each tensor-parallel rank, in order.

    Raises
    ------
    UserError
        Where ranks are missing, there are pipeline stages, or a file is damaged or holds more than tensors.
    """
    found: dict[int, Path] = {}
    for name, path in members.items():
        if name.rpartition("/")[2] != WEIGHTS:
            continue
        folder = name.rpartition("/")[0].rpartition("/")[2]
        rank = RANK_FOLDER.fullmatch(folder)
        if folder and not rank:
            raise UserError(
                f"{archive}: weights in {quote_value(folder)}; pipeline-parallel archives are not supported"
            )
        found[int(rank[1]) if rank else 0] = path
    if sorted(found) != list(range(len(found))) or not found:
        raise UserError(
            f"{archive}: weights of ranks {sorted(found)}; expected {WEIGHTS}, or ranks from 0 without a gap"
        )
    return [load_plain_tensors(found[rank], f"{archive}: {WEIGHTS}") for rank in sorted(found)]


def write_archive(archive: str | os.PathLike, config: Mapping[str, Any], state: "Mapping[str, Tensor]") -> None:
    """Write a plain archive of one rank."""
    import torch
    import yaml

    weights = io.BytesIO()
    torch.save(dict(state), weights)
    with atomic_path(archive) as temporary, tarfile.open(temporary, "w") as tar:
        for name, content in ((CONFIG, yaml.safe_dump(dict(config)).encode()), (WEIGHTS, weights.getvalue())):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
