"""Which encoder class and special tokens belong to which model_type."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedome.models.registry import BERT, BLENDERBOT, ESM, ESMC, MEGATRON_BERT, ROBERTA, T5

if TYPE_CHECKING:
    from embedome.models.encoders.grouped import StreamEncoder

ENCODER, DECODER = "encoder", "decoder"


@dataclass(frozen=True, slots=True)
class Architecture:
    """What the engine has to know of a model family, found by config.json's model_type."""

    encoder: "Callable[[], type[StreamEncoder]]"
    """Imports and returns the encoder class."""
    first: str | None
    """Token before every sequence."""
    last: str | None
    """Token after every sequence."""
    other_ends: tuple[tuple[str, str], ...] = ()
    """Tokens that some of its models have in their place."""
    ends_of_tokenizer: bool = False
    """Whether `first` and `last` are what the tokenizer puts around sequences."""
    tasks: tuple[str, ...] = ()
    """Tokens that say what to encode: the one that is in the vocabulary, if any, is put before every sequence."""
    decoder: "Callable[[], type[StreamEncoder]] | None" = None
    """Imports and returns the class for decoder features."""


def preln_encoder() -> "type[StreamEncoder]":
    """Return the encoder class of Megatron BERT."""
    from embedome.models.encoders.prenorm import PreLNEncoder

    return PreLNEncoder


def blenderbot_encoder() -> "type[StreamEncoder]":
    """Return the encoder class of ProtT5nv."""
    from embedome.models.encoders.prenorm import BlenderbotEncoder

    return BlenderbotEncoder


def esm2_encoder() -> "type[StreamEncoder]":
    """Return the encoder class of ESM-2."""
    from embedome.models.encoders.esm2 import ESM2Encoder

    return ESM2Encoder


def any_encoder() -> "type[StreamEncoder]":
    """Return the class that runs what embedome has no encoder for by transformers' own class."""
    from embedome.models.encoders.any_encoder import AnyEncoder

    return AnyEncoder


def esmc_encoder() -> "type[StreamEncoder]":
    """Return the encoder class of ESM-C."""
    from embedome.models.encoders.esmc import ESMCEncoder

    return ESMCEncoder


def bert_encoder() -> "type[StreamEncoder]":
    """Return the encoder class of ProtBERT and AntiBERTy."""
    from embedome.models.encoders.postnorm import BERTEncoder

    return BERTEncoder


def roberta_encoder() -> "type[StreamEncoder]":
    """Return the encoder class of Sapiens."""
    from embedome.models.encoders.postnorm import RoBERTaEncoder

    return RoBERTaEncoder


def t5_encoder() -> "type[StreamEncoder]":
    """Return the encoder class of ProtT5-XL, ProstT5 and Ankh."""
    from embedome.models.encoders.t5 import T5Encoder

    return T5Encoder


def t5_decoder() -> "type[StreamEncoder]":
    """Return the class for their decoder features."""
    from embedome.models.encoders.t5_decoder import T5Decoder

    return T5Decoder


ESM_ENDS, BERT_ENDS, ROBERTA_ENDS = ("<cls>", "<eos>"), ("[CLS]", "[SEP]"), ("<s>", "</s>")
ARCHITECTURES = {
    MEGATRON_BERT: Architecture(preln_encoder, "<s>", "</s>"),
    BLENDERBOT: Architecture(blenderbot_encoder, None, None),
    ESM: Architecture(esm2_encoder, *ESM_ENDS),
    ESMC: Architecture(esmc_encoder, *ESM_ENDS),
    BERT: Architecture(bert_encoder, *BERT_ENDS, other_ends=(ROBERTA_ENDS, ESM_ENDS)),
    ROBERTA: Architecture(roberta_encoder, *ROBERTA_ENDS, other_ends=(BERT_ENDS, ESM_ENDS)),
    # The tasks are of ProstT5 and of Ankh3.
    T5: Architecture(t5_encoder, None, "</s>", tasks=("<AA2fold>", "[NLU]"), decoder=t5_decoder),
}
# Any other that transformers knows.
OTHER = Architecture(any_encoder, None, None, ends_of_tokenizer=True)
