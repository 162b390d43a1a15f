"""The vocabularies of the registered models, and writing them as Hugging Face fast tokenizers.

Every character is one token, an unknown one too: SentencePiece would make one unknown token of a run of them, and
residues and tokens would no longer be side by side.
"""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedome.models.hugging_face_tokenizer import SPACE

# The 30 pieces of the SentencePiece model that ESM-1nv and ProtT5nv share, in id order (docs/models.md).
ESM1NV_PIECES = ("<unk>", "<s>", "</s>", "<pad>", "<mask>", *"LASGVERTDIPKNFQYHMCWXBZUO")
# ProtT5's and Ankh's. The order of X, B, O, U, Z is not established for Ankh.
T5_PIECES = ("<pad>", "</s>", "<unk>", *"ALGVSREDTIPKFQNYMHWC", *"XBOUZ")
# The alphabet of structure states (van Kempen et al. 2023, doi:10.1038/s41587-023-01773-0), in lower case in ProstT5.
THREE_DI = tuple("acdefghiklmnpqrstvwy")
# SaProt's residues and structure states, in the order of its pairs; # is one that is not known.
KNOWN, STATES = "ACDEFGHIKLMNPQRSTVWY#", "pynwrqhgdlvtmfsaeikc#"


def sentinels(count: int) -> tuple[str, ...]:
    """Return the tokens that stand for masked residues."""
    return tuple(f"<extra_id_{number}>" for number in range(count))


CHARACTERS, PIECES, WORDS, PAIRS = "characters", "pieces", "words", "pairs"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A vocabulary and what a tokenizer does with it.

    Parameters
    ----------
    tokens : tuple of str
        In id order.
    first, last : str or None
        Tokens before and after every sequence.
    names : mapping of str to str
        Which tokens are bos_token, eos_token, pad_token, mask_token.
    form : str
        What a residue is to the tokenizer: a character; a piece after a space, as in ProtT5, or a word, as in ProtBERT,
        which want spaces between residues; or a pair of characters, as in SaProt.
    unknown : str
        Token of what is not in the vocabulary.
    """

    tokens: tuple[str, ...]
    first: str | None
    last: str | None
    names: Mapping[str, str]
    form: str = CHARACTERS
    unknown: str = "<unk>"


ESM1NV_NAMES = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "mask_token": "<mask>"}
T5_NAMES = {"eos_token": "</s>", "pad_token": "<pad>"}
ANKH_NAMES = {**T5_NAMES, "mask_token": "<extra_id_0>"}
ESM2_TOKENS = ("<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-")
ESM2_NAMES = {"cls_token": "<cls>", "pad_token": "<pad>", "eos_token": "<eos>", "mask_token": "<mask>"}
BERT_NAMES = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "mask_token": "[MASK]"}
VOCABULARIES = {
    "esm1nv": Vocabulary(ESM1NV_PIECES, "<s>", "</s>", ESM1NV_NAMES),
    "prott5nv": Vocabulary((*ESM1NV_PIECES, "<cls>", "<sep>", *sentinels(96)), None, None, ESM1NV_NAMES),
    "ankh": Vocabulary((*T5_PIECES, *reversed(sentinels(116))), None, "</s>", ANKH_NAMES),
    "ankh3": Vocabulary((*T5_PIECES, "[NLU]", "[S2S]", *reversed(sentinels(226))), "[NLU]", "</s>", ANKH_NAMES),
    "esm2": Vocabulary((*ESM2_TOKENS, "<null_1>", "<mask>"), "<cls>", "<eos>", ESM2_NAMES),
    # Its chains are parted by a token of their own.
    "esmc": Vocabulary((*ESM2_TOKENS, "|", "<mask>"), "<cls>", "<eos>", ESM2_NAMES),
    "saprot": Vocabulary(
        ("<cls>", "<pad>", "<eos>", "<unk>", "<mask>", *(residue + state for residue in KNOWN for state in STATES)),
        "<cls>",
        "<eos>",
        ESM2_NAMES,
        form=PAIRS,
    ),
    "protbert": Vocabulary(
        ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"LAGVESIKRDTPNQFYMHWCXUBZO"),
        *("[CLS]", "[SEP]"),
        BERT_NAMES,
        form=WORDS,
        unknown="[UNK]",
    ),
    "antiberty": Vocabulary(
        ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"ACDEFGHIKLMNPQRSTVWY"),
        *("[CLS]", "[SEP]"),
        BERT_NAMES,
        form=WORDS,
        unknown="[UNK]",
    ),
    "sapiens": Vocabulary(
        ("[CLS]", "[PAD]", "[SEP]", "[UNK]", *"ACDEFGHIKLMNPQRSTVWY", "[MASK]"),
        *("[CLS]", "[SEP]"),
        BERT_NAMES,
        unknown="[UNK]",
    ),
    "prott5": Vocabulary(
        (*T5_PIECES[:3], *(SPACE + residue for residue in T5_PIECES[3:])), None, "</s>", T5_NAMES, form=PIECES
    ),
    "prostt5": Vocabulary(
        (*T5_PIECES[:3], *(SPACE + residue for residue in (*T5_PIECES[3:], *THREE_DI)), "<fold2AA>", "<AA2fold>"),
        "<AA2fold>",
        "</s>",
        T5_NAMES,
        form=PIECES,
    ),
}
# Sentinels that T5's own tokenizer adds.
T5_SENTINELS = 100


def save_tokenizer(directory: str | os.PathLike, name: str, max_tokens: int | None) -> None:
    """Write a vocabulary as a Hugging Face fast tokenizer.

    Parameters
    ----------
    directory : path
    name : str
        Of `VOCABULARIES`.
    max_tokens : int, optional
        Tokens of the longest sequence.
    """
    vocabulary = VOCABULARIES[name]
    options = {} if max_tokens is None else {"model_max_length": max_tokens}
    SAVED_BY[vocabulary.form](directory, vocabulary, options)


def save_characters(directory: str | os.PathLike, vocabulary: Vocabulary, options: Mapping[str, Any]) -> None:
    """Write a vocabulary of characters."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {token: index for index, token in enumerate(vocabulary.tokens)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=vocabulary.unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    around = [token for token in (vocabulary.first, "$A", vocabulary.last) if token]
    special = [(token, ids[token]) for token in around if token != "$A"]
    tokenizer.post_processor = processors.TemplateProcessing(single=" ".join(around), special_tokens=special)
    named = {vocabulary.unknown, *vocabulary.names.values()}
    extra = [token for token in vocabulary.tokens if len(token) > 1 and token not in named]
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=vocabulary.unknown,
        **vocabulary.names,
        extra_special_tokens=extra,
        **options,
    ).save_pretrained(directory)


def save_spaced(directory: str | os.PathLike, vocabulary: Vocabulary, options: Mapping[str, Any]) -> None:
    """Write a vocabulary of pieces after spaces, as T5's own tokenizer class has it."""
    from transformers import T5Tokenizer

    pieces = [token for token in vocabulary.tokens if len(token) == 2 or token in T5_PIECES]
    tasks = [token for token in vocabulary.tokens if token not in pieces]
    tokenizer = T5Tokenizer(
        vocab=[(piece, 0.0 if piece in T5_PIECES else -2.0) for piece in pieces], extra_ids=T5_SENTINELS, **options
    )
    tokenizer.add_tokens(tasks, special_tokens=True)
    tokenizer.save_pretrained(directory)


def save_words(directory: str | os.PathLike, vocabulary: Vocabulary, options: Mapping[str, Any]) -> None:
    """Write a vocabulary of words, as BERT's own tokenizer class has it."""
    from transformers import BertTokenizer

    ids = {token: index for index, token in enumerate(vocabulary.tokens)}
    BertTokenizer(vocab=ids, do_lower_case=False, **options).save_pretrained(directory)


def save_pairs(directory: str | os.PathLike, vocabulary: Vocabulary, options: Mapping[str, Any]) -> None:
    """Write a vocabulary of pairs, as ESM's own tokenizer class has it."""
    from transformers import EsmTokenizer

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.txt"
        path.write_text("\n".join(vocabulary.tokens), encoding="utf-8")
        EsmTokenizer(str(path), **options).save_pretrained(directory)


SAVED_BY = {CHARACTERS: save_characters, PIECES: save_spaced, WORDS: save_words, PAIRS: save_pairs}
