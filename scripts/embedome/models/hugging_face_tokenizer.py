"""A model directory's Hugging Face tokenizer, opened and asked what it makes of residues.

Transformers decides which of the files in the directory count, and how tokens that were added change a vocabulary: its
answers are taken, so that a residue's id is the one that the model's authors gave it.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedome.common.errors import UserError
from embedome.common.json_files import read_json
from embedome.models.registry import BERT, ESM, Preprocessing

# A model directory must have one of these; if it has none, messages name the first.
VOCABULARY_FILES = ("tokenizer.json", "vocab.txt", "spiece.model")
# What transformers reads beside them, or in their place, for the tokenizers that it knows.
BESIDE = (
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "tekken.json",
    "tiktoken.model",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)
SAVE_JSON = "load it with AutoTokenizer where it works, and save_pretrained it into the model directory"
# SentencePiece's mark for a space.
SPACE = "▁"
# A residue that every vocabulary of proteins has, and the length of a run that is not there by chance.
PROBE, RUN = "A", 4
# The classes that take a tokenizer.json as it is, and the one that takes ESM's vocab.txt so, with its special tokens.
PLAIN_CLASSES = ("TokenizersBackend", "PreTrainedTokenizerFast")
ESM_CLASS = "EsmTokenizer"
ESM_TOKENS = {f"{name}_token": f"<{name}>" for name in ("cls", "pad", "eos", "unk", "mask")}
# What may stand in tokenizer_config.json without changing that.
TOKEN_NAMES = (*ESM_TOKENS, "bos_token", "sep_token")
OTHER_KEYS = {"backend", "clean_up_tokenization_spaces", "is_local", "local_files_only", "model_max_length"}
PLAIN_KEYS = {*TOKEN_NAMES, *OTHER_KEYS, "tokenizer_class", "extra_special_tokens"}
PLAIN_ESM_KEYS = {*ESM_TOKENS, *OTHER_KEYS, "tokenizer_class", "added_tokens_decoder"}


def vocabulary_file(directory: str | os.PathLike) -> Path:
    """Return the first of `VOCABULARY_FILES` that a model directory has, or the path of the first if it has none."""
    paths = [Path(directory) / name for name in VOCABULARY_FILES]
    return next((path for path in paths if path.is_file()), paths[0])


def vocabulary_files(directory: str | os.PathLike) -> list[Path]:
    """List every file of a model directory that may have a say in its vocabulary, by name; not config.json."""
    named = {Path(directory) / name for name in (*VOCABULARY_FILES, *BESIDE)}
    # Files for other versions of transformers, which tokenizer_config.json lists.
    named.update(Path(directory).glob("tokenizer.*.json"))
    return sorted(path for path in named if path.is_file()) or [vocabulary_file(directory)]


@dataclass(frozen=True, slots=True)
class HuggingFaceTokenizer:
    """A tokenizer, as far as it is asked.

    Parameters
    ----------
    path : Path
        What to name in messages.
    ids : mapping of str to int
        Of all tokens, with those that were added.
    added : set of str
        Those that were added.
    answer : callable
        Returns the ids of a text, with special tokens.
    """

    path: Path
    ids: Mapping[str, int]
    added: frozenset[str]
    answer: Callable[[str], list[int]]

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, with special tokens.

        Raises
        ------
        UserError
            Where the library has none.
        """
        with one_line(self.path):
            return self.answer(text)

    def around(self, preprocessing: Preprocessing) -> tuple[list[int], list[int]] | None:
        """Return the ids before and after every sequence; None where residues are not a token each."""
        ids = self.encode(preprocessing.text(PROBE * RUN))
        for start in range(len(ids) - RUN + 1):
            if len(set(ids[start : start + RUN])) == 1:
                return ids[:start], ids[start + RUN :]
        return None

    def ids_inside(self, residues: Sequence[str], preprocessing: Preprocessing) -> dict[str, int]:
        """Return the id of each residue between two others; those that are no token of their own are left out."""
        around = self.around(preprocessing)
        if around is None:
            return {}
        start, after = map(len, around)
        found = {}
        for residue in residues:
            ids = self.encode(preprocessing.text((PROBE, residue, PROBE)))
            inside = ids[start : len(ids) - after]
            if len(inside) == 3 and inside[0] == inside[2]:
                found[residue] = inside[1]
        return found


def open_tokenizer(directory: str | os.PathLike, config: Mapping[str, Any]) -> HuggingFaceTokenizer:
    """Open a model directory's tokenizer.

    Parameters
    ----------
    directory : path
    config : mapping
        What it says in the directory's config.json.

    Raises
    ------
    UserError
        Where transformers cannot read it, or has another id for a token than the directory's files.
    """
    path = vocabulary_file(directory)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    files = vocabulary_files(directory)
    contents = {each.name: read_object(each) if each.suffix == ".json" else None for each in files}
    with one_line(path):
        if is_plain(contents):
            tokenizer = open_plain(path)
        elif is_plain_esm(contents, config) and not has_pairs(path):
            tokenizer = open_plain_esm(path)
        else:
            tokenizer = open_by_transformers(path, contents, config)
        check_stated(tokenizer, contents)
    return tokenizer


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object; copy it again")
    return content


@contextmanager
def one_line(path: Path) -> Iterator[None]:
    """Make one line of whatever a library says of a file that it cannot read."""
    try:
        yield
    except UserError:
        raise
    except BaseException as error:  # a PanicException of tokenizers is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        what = " ".join(f"{type(error).__name__}: {error}".split())
        what = "".join(filter(str.isprintable, what))[:200]
        raise UserError(f"{path}: transformers cannot read this ({what}); copy it again, or {SAVE_JSON}") from None


def is_plain(contents: Mapping[str, Any]) -> bool:
    """Return whether transformers would take a tokenizer.json as it is: `tokenizers` then reads it a second sooner."""
    if contents.keys() != {"tokenizer.json", "tokenizer_config.json"}:
        return False
    about, content = contents["tokenizer_config.json"], contents["tokenizer.json"]
    if about.get("tokenizer_class") not in PLAIN_CLASSES or not PLAIN_KEYS.issuperset(about):
        return False
    listed = [token["content"] for token in content.get("added_tokens") or ()]
    named = [about[name] for name in TOKEN_NAMES if about.get(name) is not None]
    # Transformers adds those that are not listed.
    return content.get("post_processor") is not None and all(
        token in listed for token in [*named, *(about.get("extra_special_tokens") or ())]
    )


def open_plain(path: Path) -> HuggingFaceTokenizer:
    """Open a tokenizer.json as it is."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    added = frozenset(token.content for token in tokenizer.get_added_tokens_decoder().values())
    return HuggingFaceTokenizer(path, tokenizer.get_vocab(), added, lambda text: tokenizer.encode(text).ids)


def is_plain_esm(contents: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Return whether transformers would take ESM's vocab.txt as it is, with no token added: most have it so."""
    about = [content for content in contents.values() if content is not None]
    added = [token["content"] for each in about for token in (each.get("added_tokens_decoder") or {}).values()]
    return (
        config.get("model_type") == ESM
        and not config.get("tokenizer_class")
        and contents.keys() <= {"vocab.txt", "special_tokens_map.json", "tokenizer_config.json"}
        and all(each.get("tokenizer_class") in (None, ESM_CLASS) for each in about)
        and all(PLAIN_ESM_KEYS.issuperset(each) for each in about)
        and set(ESM_TOKENS.values()).issuperset(added)
        and all(each.get(name, token) == token for each in about for name, token in ESM_TOKENS.items())
    )


def has_pairs(path: Path) -> bool:
    """Return whether tokens of a vocab.txt are pairs of a residue and a structure state, as SaProt's."""
    return any(len(token) == 2 for token in path.read_text(encoding="utf-8").split())


def open_plain_esm(path: Path) -> HuggingFaceTokenizer:
    """Open a vocab.txt as it is, one token a line; special tokens that it lacks come after the others."""
    tokens = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    tokens += [token for token in ESM_TOKENS.values() if token not in tokens]
    ids = {token: index for index, token in enumerate(tokens)}
    first, unknown, last = (ids[ESM_TOKENS[name]] for name in ("cls_token", "unk_token", "eos_token"))
    return HuggingFaceTokenizer(
        path,
        ids,
        frozenset(ESM_TOKENS.values()),
        lambda text: [first, *(ids.get(character, unknown) for character in text), last],
    )


def open_by_transformers(path: Path, contents: Mapping[str, Any], config: Mapping[str, Any]) -> HuggingFaceTokenizer:
    """Open a tokenizer by `AutoTokenizer`; given the model's kind, it does not load half of torch's compiler."""
    from transformers import AutoTokenizer, PreTrainedConfig

    if path.name == "spiece.model":
        check_sentencepiece(path)
    kind, named = config.get("model_type"), config.get("tokenizer_class")
    if kind and not named and not contents.get("tokenizer_config.json", {}).get("tokenizer_class"):
        options: dict[str, Any] = {"tokenizer_type": kind}
    else:
        options = {"config": PreTrainedConfig.from_dict({"tokenizer_class": named, "model_type": kind})}
    if kind == BERT and keeps_capitals(path, contents):
        options["do_lower_case"] = False
    tokenizer = AutoTokenizer.from_pretrained(path.parent, local_files_only=True, trust_remote_code=False, **options)
    return HuggingFaceTokenizer(path, tokenizer.get_vocab(), frozenset(tokenizer.get_added_vocab()), tokenizer.encode)


def keeps_capitals(path: Path, contents: Mapping[str, Any]) -> bool:
    """Return whether BERT's tokenizer must not lower letters: a vocab.txt of capitals, and no word of it elsewhere."""
    if path.name != "vocab.txt" or "do_lower_case" in contents.get("tokenizer_config.json", {}):
        return False
    return PROBE.lower() not in path.read_text(encoding="utf-8").split()


def check_sentencepiece(path: Path) -> None:
    """Raise what is wrong with a spiece.model: transformers says of any fault that the package tiktoken is missing."""
    import google.protobuf  # noqa: F401
    from sentencepiece import SentencePieceProcessor

    SentencePieceProcessor(model_file=str(path))


def check_stated(tokenizer: HuggingFaceTokenizer, contents: Mapping[str, Any]) -> None:
    """Check that added tokens have the ids that the directory's files state.

    Raises
    ------
    UserError
        Names the first that has another: transformers renumbers some, and ignores some files if it finds others.
    """
    for name, stated in stated_ids(contents):
        for token, index in stated.items():
            if (found := tokenizer.ids.get(token)) != index:
                raise UserError(
                    f"{tokenizer.path.with_name(name)}: {token!r} has id {index} here, but {found} in transformers' "
                    "tokenizer; copy all of the model's tokenizer files again"
                )


def stated_ids(contents: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, int]]]:
    """Yield the ids that files state for added tokens, by the file's name."""
    yield "added_tokens.json", contents.get("added_tokens.json", {})
    added = contents.get("tokenizer_config.json", {}).get("added_tokens_decoder") or {}
    yield "tokenizer_config.json", {token["content"]: int(index) for index, token in added.items()}
    added = contents.get("tokenizer.json", {}).get("added_tokens") or ()
    yield "tokenizer.json", {token["content"]: token["id"] for token in added}
