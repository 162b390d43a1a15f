"""Which files of a Hub repository a model needs, and whether they came whole."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from embedome.common.errors import UserError, quote_value
from embedome.common.json_files import file_sha256, read_json
from embedome.models.checkpoint import INDEX, WEIGHT_FILES
from embedome.models.directory import ADAPTER_FILES, CONFIG
from embedome.models.hugging_face_tokenizer import BESIDE, VOCABULARY_FILES

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

# Files for other versions of transformers, see `hugging_face_tokenizer.vocabulary_files`.
OTHER_TOKENIZER = re.compile(r"tokenizer\.[\w.-]+\.json")


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository at one commit.

    Parameters
    ----------
    name : str
    size : int
        Bytes.
    sha256 : str, optional
        Of a file that Git LFS keeps.
    blob : str, optional
        Git's digest of any other file: the SHA-1 of a header and its bytes.
    """

    name: str
    size: int
    sha256: str | None
    blob: str | None

    @classmethod
    def of(cls, sibling: "RepoSibling") -> "HubFile":
        """Take what the Hub says of a file."""
        sha256 = sibling.lfs.sha256 if sibling.lfs else None
        return cls(sibling.rfilename, sibling.size or 0, sha256, None if sha256 else sibling.blob_id)

    def is_whole(self, path: Path) -> bool:
        """Return whether a file has the size and the digest of this one."""
        if path.stat().st_size != self.size:
            return False
        if self.sha256 is not None:
            return file_sha256(path) == self.sha256
        data = path.read_bytes()
        return self.blob in (None, hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest())


def choose_small_files(model: str, files: Mapping[str, HubFile]) -> list[HubFile]:
    """Return what says which model it is: configuration, vocabulary, and the index of weights in several files.

    Raises
    ------
    UserError
        Where there is an adapter, no configuration, or no weights in a form that is read.
    """
    if adapter := next((name for name in ADAPTER_FILES if name in files), None):
        raise UserError(f"{model}: holds {adapter}, an adapter (LoRA) of another model; fetch a merged model")
    if CONFIG not in files:
        raise UserError(f"{model}: has no {CONFIG}; expected a model as transformers saves it")
    first = find_weights(model, files)
    vocabulary = [name for name in files if name in (*VOCABULARY_FILES, *BESIDE) or OTHER_TOKENIZER.fullmatch(name)]
    return [files[name] for name in (CONFIG, *vocabulary, *([first] if first.endswith(INDEX) else []))]


def find_weights(model: str, files: Iterable[str]) -> str:
    """Return the file of weights, or the index of several: safetensors rather than a pickle."""
    for name in WEIGHT_FILES:
        if name in files:
            return name
    raise UserError(f"{model}: has no {', '.join(WEIGHT_FILES[:-1])} or {WEIGHT_FILES[-1]}")


def choose_weights(model: str, files: Mapping[str, HubFile], folder: Path) -> list[HubFile]:
    """Return the files of weights, of which an index has been fetched to the folder.

    Raises
    ------
    UserError
        Where the index names a file that the repository has not.
    """
    first = find_weights(model, files)
    if not first.endswith(INDEX):
        return [files[first]]
    index = read_json(folder / first)
    listed = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(listed, dict) or not listed:
        raise UserError(f"{model}: {first} has no weight_map; fetch another revision")
    names = sorted(set(map(str, listed.values())))
    if absent := next((name for name in names if name not in files or "/" in name), None):
        raise UserError(f"{model}: {first} names {quote_value(absent)}, which it has not; fetch another revision")
    return [files[name] for name in names]
