"""Which encoder class and special tokens belong to which model_type."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedome.models.registry import BLENDERBOT, ESM, MEGATRON_BERT, T5

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


def t5_encoder() -> "type[StreamEncoder]":
    """Return the encoder class of ProtT5-XL, ProstT5 and Ankh."""
    from embedome.models.encoders.t5 import T5Encoder

    return T5Encoder


def t5_decoder() -> "type[StreamEncoder]":
    """Return the class for their decoder features."""
    from embedome.models.encoders.t5_decoder import T5Decoder

    return T5Decoder


ARCHITECTURES = {
    MEGATRON_BERT: Architecture(preln_encoder, "<s>", "</s>"),
    BLENDERBOT: Architecture(blenderbot_encoder, None, None),
    ESM: Architecture(esm2_encoder, "<cls>", "<eos>"),
    # The tasks are of ProstT5 and of Ankh3.
    T5: Architecture(t5_encoder, None, "</s>", tasks=("<AA2fold>", "[NLU]"), decoder=t5_decoder),
}
