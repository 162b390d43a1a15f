"""Tokenising protein sequences: one token per residue, by table look-up over bytes."""

import json
import os
import string
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from embedome.common.errors import UserError
from embedome.models.hugging_face_tokenizer import SAVE_JSON, SPACE, HuggingFaceTokenizer, open_tokenizer, read_object
from embedome.models.registry import AS_IT_IS, CONFIG_KEY, REGISTRY, Preprocessing, preprocessings

STANDARD = "ACDEFGHIKLMNPQRSTVWY"
CHARACTERS = string.ascii_letters + string.digits + string.punctuation
# Of these, one that a vocabulary lacks shows what becomes of unknown characters.
SYMBOLS = tuple(map(chr, range(0x2600, 0x2700)))
# A table of embeddings may have rows to spare, up to a multiple of one of these.
MULTIPLES = (8, 64, 128)


class ResidueTokenizer:
    """Maps residues to token ids, each character to one token, unknown ones to the unknown token.

    Parameters
    ----------
    vocabulary : mapping of str to int
        Token to id; residues are its tokens of one character.
    unknown : str
        The unknown token.
    first, last : str or None
        Tokens put before and after every sequence.
    preprocessing : Preprocessing
        What the ids of residues stand for.

    Attributes
    ----------
    preparation : dict
        All of that, for the provenance.
    """

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        unknown: str,
        first: str | None,
        last: str | None,
        preprocessing: Preprocessing = AS_IT_IS,
    ) -> None:
        self.ids = dict(vocabulary)
        self.preparation = {**asdict(preprocessing), "first": first, "last": last}
        if not preprocessing.after:
            # Most models have none, and what identifies them says nothing of it.
            del self.preparation["after"]
        self.table = np.full(256, vocabulary[unknown], np.int64)
        for token, index in vocabulary.items():
            if len(token) == 1 and token.isascii():
                self.table[ord(token)] = index
        self.first = [] if first is None else [vocabulary[first]]
        self.last = [] if last is None else [vocabulary[last]]
        self.size = int(max([self.table.max(), *self.first, *self.last])) + 1

    @property
    def used(self) -> set[int]:
        """Ids that tokens of sequences have."""
        return {*self.table.tolist(), *self.first, *self.last}

    @property
    def n_special(self) -> int:
        """Number of tokens added to a sequence."""
        return len(self.first) + len(self.last)

    @property
    def letters(self) -> dict[int, str]:
        """The residue of each id; X where several have the id of X."""
        residues = [token for token in self.ids if len(token) == 1 and token.isascii() and token.isalpha()]
        return {self.ids[token]: token for token in sorted(residues, key="X".__eq__)}

    def look_up(self, residues: np.ndarray, states: np.ndarray | None = None) -> np.ndarray:
        """Return the token of each ASCII residue, uint8 [R]; of one byte where ids are that small.

        Structure states of the residues, uint8 [R], are for `structure_tokenizer.StructureTokenizer`.
        """
        if states is not None:
            raise ValueError("structure states for a model that reads residues alone")
        if self.size > 256:
            return self.table.astype(np.int32)[residues]
        # Look-up in NumPy would make an index of 8 bytes a residue first.
        return np.frombuffer(residues.tobytes().translate(self.table.astype(np.uint8).tobytes()), np.uint8)

    def tokens(self, residues: np.ndarray) -> np.ndarray:
        """Map ASCII residues, uint8 [B, L], to token ids with the special tokens, int64 [B, L + n_special]."""
        batch, length = residues.shape
        tokens = np.empty((batch, length + self.n_special), np.int64)
        tokens[:, : len(self.first)] = self.first
        tokens[:, len(self.first) : len(self.first) + length] = self.table[residues]
        tokens[:, len(self.first) + length :] = self.last
        return tokens


def load_tokenizer(
    directory: str | os.PathLike,
    first: str | None,
    last: str | None,
    *,
    other_ends: Sequence[tuple[str, str]] | None = (),
    tasks: Sequence[str] = (),
) -> ResidueTokenizer:
    """Read the vocabulary of a model directory, by asking its Hugging Face tokenizer.

    Every character gets the id that it has for the tokenizer inside a sequence, prepared as the model's authors
    prepare theirs (`registry.Preprocessing`).

    Parameters
    ----------
    directory : path
    first, last : str or None
        As in `ResidueTokenizer`.
    other_ends : sequence of (str, str), optional
        Tokens that take the place of `first` and `last` where the vocabulary has no such; None for whatever the
        tokenizer puts around sequences.
    tasks : sequence of str
        Tokens that take the place of `first` where the vocabulary has one.

    Raises
    ------
    UserError
        Where it is missing or cannot be read, is no vocabulary of single residues, lacks a special token or has others
        around a sequence, or leaves rows of the embedding unexplained.
    """
    path = Path(directory) / "config.json"
    config = read_object(path) if path.is_file() else {}
    tokenizer = open_tokenizer(directory, config)
    letters = read_letters(tokenizer, config.get("model_type"))
    if other_ends is None:
        first, last = ask_ends(tokenizer, letters)
    else:
        first, last = find_ends(tokenizer, (first, last), other_ends)
    task = next((token for token in tasks if token in tokenizer.ids), None)
    first = task or first
    unknown = check_vocabulary(tokenizer, letters, first, last)
    if task is None:
        check_task(tokenizer, letters, config, tasks)
    check_rows(tokenizer, config)
    vocabulary = {token: index for token, index in tokenizer.ids.items() if len(token) > 1}
    vocabulary |= {unknown: tokenizer.ids[unknown], **letters.ids}
    table = ResidueTokenizer(vocabulary, unknown, first, last, letters.preprocessing)
    check_in_context(tokenizer, table, letters, task)
    return table


def find_ends(
    tokenizer: HuggingFaceTokenizer, ends: tuple[str | None, str | None], others: Sequence[tuple[str, str]]
) -> tuple[str | None, str | None]:
    """Return the first pair of tokens around a sequence that a vocabulary has; the first of all if it has none."""
    return next((pair for pair in (ends, *others) if tokenizer.ids.keys() >= set(pair) - {None}), ends)


def ask_ends(tokenizer: HuggingFaceTokenizer, letters: "Letters") -> tuple[str | None, str | None]:
    """Return the tokens that a tokenizer puts around every sequence, one or none on either side.

    Raises
    ------
    UserError
        Where it puts more.
    """
    around, names = tokenizer.around(letters.preprocessing), {index: token for token, index in tokenizer.ids.items()}
    if around is None:
        return None, None
    if max(map(len, around)) > 1:
        raise UserError(f"{tokenizer.path}: expected one token before a sequence and one after it, or none")
    first, last = ([names[index] for index in side] for side in around)
    return next(iter(first), None), next(iter(last), None)


@dataclass(frozen=True, slots=True)
class Letters:
    """What a tokenizer makes of single characters inside a sequence.

    Parameters
    ----------
    preprocessing : Preprocessing
        Letters that were added to the vocabulary stay what they are.
    ids : mapping of str to int
        Of those that it knows.
    unknown : str or None
        The token of all others.
    """

    preprocessing: Preprocessing
    ids: Mapping[str, int]
    unknown: str | None


def read_letters(tokenizer: HuggingFaceTokenizer, model_type: str | None) -> Letters:
    """Ask a tokenizer for the ids of characters, under the preprocessing by which it knows most residues."""
    found = [try_preprocessing(tokenizer, preprocessing) for preprocessing in preprocessings(model_type)]
    return max(found, key=lambda letters: len(letters.ids.keys() & set(STANDARD)))


def try_preprocessing(tokenizer: HuggingFaceTokenizer, preprocessing: Preprocessing) -> Letters:
    """Ask a tokenizer for the ids of characters under a preprocessing."""
    replaced = "".join(letter for letter in preprocessing.as_x if letter not in tokenizer.added)
    preprocessing = replace(preprocessing, as_x=replaced)
    known = "".join(tokenizer.ids)
    stranger = next((symbol for symbol in SYMBOLS if symbol not in known), SYMBOLS[0])
    ids = tokenizer.ids_inside([*CHARACTERS, stranger], preprocessing)
    index = ids.pop(stranger, None)
    unknown = next((token for token, each in tokenizer.ids.items() if each == index), None)
    return Letters(preprocessing, {letter: each for letter, each in ids.items() if each != index}, unknown)


def check_vocabulary(tokenizer: HuggingFaceTokenizer, letters: Letters, first: str | None, last: str | None) -> str:
    """Check that a vocabulary has the standard residues, each once and by itself, and the special tokens.

    Returns
    -------
    str
        The unknown token.

    Raises
    ------
    UserError
    """
    path, own = tokenizer.path, tokenizer.ids.keys() - tokenizer.added
    twice = [letter for letter in STANDARD if letter in own and SPACE + letter in own]
    if twice:
        raise UserError(
            f"{path}: {twice[0]} is in the vocabulary twice, with a space before it and without; {SAVE_JSON}"
        )
    pieces = {token: token.replace(SPACE, "").replace(" ", "") for token in tokenizer.ids}
    words = {token: piece.removeprefix("##") for token, piece in pieces.items()}
    longer = [token for token, word in words.items() if word.isalpha() and len(word) > (1 if word.isupper() else 2)]
    if longer:
        raise UserError(f"{path}: expected a vocabulary of single residues, but it has {longer[0]!r}")
    missing = [letter for letter in STANDARD if letter not in letters.ids]
    missing += [token for token in (first, last) if token is not None and token not in tokenizer.ids]
    if missing:
        raise UserError(f"{path}: the vocabulary lacks {', '.join(missing)}; is this a protein model?")
    if letters.unknown is None:
        raise UserError(f"{path}: expected a vocabulary with an unknown token; {SAVE_JSON}")
    return letters.unknown


def check_task(
    tokenizer: HuggingFaceTokenizer, letters: Letters, config: Mapping[str, Any], tasks: Sequence[str]
) -> None:
    """Check that a model whose vocabulary has no task token was trained without.

    Raises
    ------
    UserError
        Where it has ProstT5's structure states, config.json names a task token, or the model bears the name of a
        registered one that has one.
    """
    directory, about = tokenizer.path.resolve().parent, config.get(CONFIG_KEY) or {}
    text = json.dumps(config)
    wanted = [task for task in tasks if task in text]
    if any(letter.islower() for letter in letters.ids):
        wanted += tasks[:1]
    called = {base_name(name) for name in (directory, config.get("_name_or_path"), about.get("name"))}
    for entry in REGISTRY.values():
        if entry.first is not None and entry.first in tasks and called & {entry.name, base_name(entry.source)}:
            wanted.append(entry.first)
    if wanted:
        raise UserError(f"{tokenizer.path}: the vocabulary lacks {wanted[0]}; copy the model's added_tokens.json, too")


def base_name(name: object) -> str:
    """Return the last part of a path or of a name on the Hugging Face hub, in small letters."""
    return str(name).rpartition("/")[2].lower()


def check_rows(tokenizer: HuggingFaceTokenizer, config: Mapping[str, Any]) -> None:
    """Check that every row of the embedding is some token's, but for rows to spare at its end.

    Raises
    ------
    UserError
        Names the first row that is no token's, and a registered model with as many rows.
    """
    rows = config.get("vocab_size")
    if not isinstance(rows, int):
        return
    ids = sorted({index for index in tokenizer.ids.values() if index < rows})
    end = next((row for row, index in enumerate(ids) if row != index), len(ids))
    if end == rows:
        return
    alike = [entry for entry in REGISTRY.values() if entry.model_type == config.get("model_type")]
    alike = [entry for entry in alike if entry.config["vocab_size"] == rows]
    lacking = [entry for entry in alike if entry.first is not None and entry.first not in tokenizer.ids]
    to_spare = end == len(ids) and rows in [-(-end // multiple) * multiple for multiple in MULTIPLES]
    # Of a registered model without a task, such rows are those of sentinels, of which Ankh has 116 and T5 100.
    if not lacking and (to_spare or (end == len(ids) and alike and all(entry.first is None for entry in alike))):
        return
    like = f"; {lacking[0].name} has {lacking[0].first} there" if lacking else ""
    raise UserError(
        f"{tokenizer.path}: no token has id {end}, but the embedding has {rows} rows{like}; copy all of the model's "
        "tokenizer files, added_tokens.json too"
    )


def check_in_context(
    tokenizer: HuggingFaceTokenizer, table: ResidueTokenizer, letters: Letters, task: str | None
) -> None:
    """Check that sequences have the tokens of the table, special ones included, wherever in them a residue stands.

    An unknown token that SentencePiece puts before the first residue is passed over: it stands for no residue.

    Raises
    ------
    UserError
    """
    preprocessing = letters.preprocessing
    known = [letter for letter in string.ascii_uppercase if letter in letters.ids or letter in preprocessing.as_x]
    texts = [form.format(letter) for letter in string.ascii_uppercase for form in ("{}", "{}A", "A{}", "A{}A")]
    texts += ["".join(known), "".join(reversed(known)), "".join(2 * letter for letter in known)]
    puts_task = tokenizer.encode(preprocessing.text("A"))[:1] == table.first
    before = "" if task is None or puts_task else task + preprocessing.between
    spare = {tokenizer.ids.get(token) for token in (letters.unknown, SPACE) if token}
    start = len(table.first)
    for text in texts:
        expected = table.tokens(np.frombuffer(text.encode(), np.uint8)[None])[0].tolist()
        found = tokenizer.encode(before + preprocessing.text(text))
        if len(found) > len(expected) and found[start] in spare:
            del found[start]
        if found != expected:
            raise UserError(
                f"{tokenizer.path}: {text} has tokens {found} by transformers' tokenizer; expected {expected}, one for "
                "each residue and the model's own around them"
            )
