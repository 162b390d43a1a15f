"""The models embedome knows by name, as data. Sources of the figures: docs/models.md.

Any other directory of one of the architectures works by its config.json alone.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from embedome.common.errors import UserError

# What embedome itself says of a model, in the model's config.json.
CONFIG_KEY = "embedome"
# An id on the Hugging Face Hub: organisation and name.
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
MEGATRON_BERT, BLENDERBOT, ESM, T5 = "megatron-bert", "blenderbot", "esm", "t5"
BERT, ROBERTA, ESMC = "bert", "roberta", "esmc"
NVIDIA = "NVIDIA's terms, with the weights"
NON_COMMERCIAL = "CC BY-NC-SA 4.0 (non-commercial)"
NGC = "NVIDIA NGC, .nemo"
# Newer versions of both hold no weights.
ANTIBERTY_WHEEL, SAPIENS_WHEEL = "antiberty==0.1.3", "sapiens==1.0.5"
MEAN_POOLING = "mean over residues, special tokens left out"


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What a model's authors do to a sequence before the tokenizer has it.

    Parameters
    ----------
    between : str
        What stands between residues.
    as_x : str
        Letters that become X, unless a directory adds them to its vocabulary.
    after : str
        What stands after every residue.
    """

    between: str = ""
    as_x: str = ""
    after: str = ""

    def text(self, residues: Iterable[str]) -> str:
        """Return residues as the tokenizer wants them."""
        return self.between.join(("X" if residue in self.as_x else residue) + self.after for residue in residues)


AS_IT_IS = Preprocessing()
# ProtT5's and ProtBERT's (Elnaggar et al. 2021, doi:10.1109/TPAMI.2021.3095381).
SPACED = Preprocessing(" ", "UZOB")
# SaProt's, of sequences without structures: tokens are pairs of a residue and a structure state, ``#``
# where it is not known (Su et al. 2024, doi:10.1101/2023.10.01.560349).
NO_STRUCTURE = Preprocessing(after="#")


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A model's row.

    Parameters
    ----------
    name : str
    model_type : str
        Architecture, as in config.json.
    sizes : mapping of str to int
        Sizes in words that are the same for all architectures: ``layers``, ``decoder_layers``, ``hidden``,
        ``heads``, ``feed_forward``, ``positions`` (tokens); those that the architecture has.
    config : mapping
        Other fields of config.json that are not the Hugging Face class's defaults.
    vocabulary : str
        Of `vocabularies.VOCABULARIES`.
    first, last : str or None
        Tokens before and after every sequence.
    residues : int or None
        Of the longest sequence; None where positions are relative and have no end.
    parameters : int
        Of the whole model, by its authors' count.
    encoder_parameters : int or None
        Of the encoder alone, where there is a decoder.
    licence, source : str
        Of the weights.
    long_sequences : str
        What is done with longer sequences unless the user says otherwise.
    pooling : str
    preprocessing : Preprocessing
    wheel : str or None
        The Python package, as pip names it with its version, that has the weights where the Hub has not.
    """

    name: str
    model_type: str
    sizes: Mapping[str, int]
    vocabulary: str
    first: str | None
    last: str | None
    residues: int | None
    parameters: int
    licence: str
    source: str
    config: Mapping[str, Any] = field(default_factory=dict)
    encoder_parameters: int | None = None
    long_sequences: str = "truncate"
    pooling: str = MEAN_POOLING
    preprocessing: Preprocessing = AS_IT_IS
    wheel: str | None = None

    @property
    def hub(self) -> str | None:
        """Its id on the Hugging Face Hub, if its weights are there."""
        return self.source if HUB_ID.fullmatch(self.source) else None


ESM1NV_CONFIG = {
    "vocab_size": 128,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-5,
    "pad_token_id": 3,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
PROTT5NV_CONFIG = {
    "vocab_size": 128,
    "activation_function": "gelu_pytorch_tanh",
    "scale_embedding": False,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.0,
    "init_std": 0.015,
    "pad_token_id": 3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
}
ESM2_CONFIG = {
    "vocab_size": 33,
    "mask_token_id": 32,
    "pad_token_id": 1,
    "max_position_embeddings": 1026,
    "layer_norm_eps": 1e-5,
    "position_embedding_type": "rotary",
    "emb_layer_norm_before": False,
    "token_dropout": True,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
SAPROT_CONFIG = {**ESM2_CONFIG, "vocab_size": 446, "mask_token_id": 4}
ESM1B_CONFIG = {**ESM2_CONFIG, "position_embedding_type": "absolute", "emb_layer_norm_before": True}
ESM1V_CONFIG = {**ESM1B_CONFIG, "emb_layer_norm_before": False}
ESMC_CONFIG = {
    "vocab_size": 64,
    "mask_token_id": 32,
    "pad_token_id": 1,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
BERT_CONFIG = {"vocab_size": 30, "layer_norm_eps": 1e-12, "type_vocab_size": 2, "pad_token_id": 0}
SAPIENS_CONFIG = {
    "vocab_size": 25,
    "layer_norm_eps": 1e-5,
    "type_vocab_size": 1,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
PROTT5_CONFIG = {
    "d_kv": 128,
    "feed_forward_proj": "relu",
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
ANKH_CONFIG = {
    "d_kv": 64,
    "relative_attention_num_buckets": 64,
    "relative_attention_max_distance": 128,
    "dropout_rate": 0.0,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}


def esm1nv(name: str, positions: int, parameters: int) -> RegisteredModel:
    """Return the row of ESM-1nv; the card and the code differ in the number of positions."""
    sizes = {"layers": 6, "hidden": 768, "heads": 12, "feed_forward": 3072, "positions": positions}
    return RegisteredModel(
        name, MEGATRON_BERT, sizes, "esm1nv", "<s>", "</s>", positions - 2, parameters, NVIDIA, NGC, ESM1NV_CONFIG
    )


def esm2(name: str, layers: int, hidden: int, heads: int, parameters: int) -> RegisteredModel:
    """Return the row of an ESM-2."""
    sizes = {"layers": layers, "hidden": hidden, "heads": heads, "feed_forward": 4 * hidden}
    source = f"facebook/esm2_t{layers}_{name.partition('-')[2].upper()}_UR50D"
    return RegisteredModel(name, ESM, sizes, "esm2", "<cls>", "<eos>", 1022, parameters, "MIT", source, ESM2_CONFIG)


def saprot(name: str, layers: int, hidden: int, parameters: int, source: str) -> RegisteredModel:
    """Return the row of a SaProt."""
    sizes = {"layers": layers, "hidden": hidden, "heads": 20, "feed_forward": 4 * hidden}
    return RegisteredModel(
        name,
        ESM,
        sizes,
        "saprot",
        "<cls>",
        "<eos>",
        1022,
        parameters,
        "MIT",
        source,
        SAPROT_CONFIG,
        preprocessing=NO_STRUCTURE,
    )


def esm1(name: str, source: str, parameters: int, config: Mapping[str, Any]) -> RegisteredModel:
    """Return the row of ESM-1b, or of one of the five ESM-1v; positions count from after the padding's."""
    sizes = {"layers": 33, "hidden": 1280, "heads": 20, "feed_forward": 5120}
    return RegisteredModel(name, ESM, sizes, "esm2", "<cls>", "<eos>", 1022, parameters, "MIT", source, config)


def esmc(name: str, layers: int, hidden: int, heads: int, feed_forward: int, parameters: int) -> RegisteredModel:
    """Return the row of an ESM-C."""
    sizes = {"layers": layers, "hidden": hidden, "heads": heads, "feed_forward": feed_forward}
    source = f"biohub/ESMC-{name.partition('-')[2].upper()}"
    return RegisteredModel(name, ESMC, sizes, "esmc", "<cls>", "<eos>", 2046, parameters, "MIT", source, ESMC_CONFIG)


def protbert(name: str, source: str) -> RegisteredModel:
    """Return the row of a ProtBERT, by what it was trained on."""
    sizes = {"layers": 30, "hidden": 1024, "heads": 16, "feed_forward": 4096, "positions": 40000}
    return RegisteredModel(
        name,
        BERT,
        sizes,
        "protbert",
        "[CLS]",
        "[SEP]",
        39998,
        419_933_214,
        "MIT",
        source,
        BERT_CONFIG,
        preprocessing=SPACED,
    )


def sapiens(chain: str, residues: int, count: int) -> RegisteredModel:
    """Return the row of Sapiens for heavy or light chains of antibodies; its residues and parameters."""
    sizes = {"layers": 4, "hidden": 128, "heads": 8, "feed_forward": 256}
    # Two tokens around the residues, and two rows before the first position, as positions begin after the padding's.
    config = {**SAPIENS_CONFIG, "max_position_embeddings": residues + 4}
    name, source = f"sapiens-{chain}", f"the wheel {SAPIENS_WHEEL}, checkpoint_{chain}.pt (fairseq)"
    return RegisteredModel(
        name, ROBERTA, sizes, "sapiens", "[CLS]", "[SEP]", residues, count, "MIT", source, config, wheel=SAPIENS_WHEEL
    )


def prott5(
    name: str, vocabulary: str, first: str | None, parameters: int, encoder: int, source: str
) -> RegisteredModel:
    """Return the row of ProtT5-XL, or of a model trained on from it."""
    sizes = {"layers": 24, "decoder_layers": 24, "hidden": 1024, "heads": 32, "feed_forward": 16384}
    config = {**PROTT5_CONFIG, "vocab_size": {"prott5": 128, "prostt5": 150}[vocabulary]}
    return RegisteredModel(
        name,
        T5,
        sizes,
        vocabulary,
        first,
        "</s>",
        None,
        parameters,
        "MIT",
        source,
        config,
        encoder_parameters=encoder,
        preprocessing=SPACED,
    )


def ankh(name: str, hidden: int, activation: str, parameters: int, encoder: int) -> RegisteredModel:
    """Return the row of an Ankh of the first two generations, or of the large one of the third."""
    third = name.startswith("ankh3")
    sizes = {"layers": 48, "decoder_layers": 24, "hidden": hidden, "heads": 12 if hidden == 768 else 16}
    sizes["feed_forward"] = 3072 if hidden == 768 else 3840
    return RegisteredModel(
        name,
        T5,
        sizes,
        "ankh3" if third else "ankh",
        "[NLU]" if third else None,
        "</s>",
        None,
        parameters,
        NON_COMMERCIAL,
        f"ElnaggarLab/{name}",
        {**ANKH_CONFIG, "feed_forward_proj": activation, "vocab_size": 256 if third else 144},
        encoder_parameters=encoder,
    )


PROTT5NV = RegisteredModel(
    "prott5nv",
    BLENDERBOT,
    {"layers": 12, "decoder_layers": 12, "hidden": 768, "heads": 12, "feed_forward": 3072, "positions": 512},
    "prott5nv",
    None,
    None,
    512,
    198_970_496,
    NVIDIA,
    NGC,
    PROTT5NV_CONFIG,
    encoder_parameters=85_547_520,
)
ANTIBERTY = RegisteredModel(
    "antiberty",
    BERT,
    {"layers": 8, "hidden": 512, "heads": 8, "feed_forward": 2048, "positions": 512},
    "antiberty",
    "[CLS]",
    "[SEP]",
    510,
    25_759_769,
    "MIT",
    f"the wheel {ANTIBERTY_WHEEL}, trained_models/AntiBERTy_md_smooth",
    {**BERT_CONFIG, "vocab_size": 25},
    preprocessing=SPACED,
    wheel=ANTIBERTY_WHEEL,
)
REGISTRY = {
    entry.name: entry
    for entry in (
        esm1nv("esm1nv", 512, 43_612_544),
        esm1nv("esm1nv-1024", 1024, 44_005_760),
        PROTT5NV,
        ankh("ankh2-ext2", 1536, "gated-silu", 1_878_705_152, 1_151_707_648),
        esm2("esm2-8m", 6, 320, 20, 7_512_474),
        esm2("esm2-35m", 12, 480, 20, 33_501_394),
        esm2("esm2-150m", 30, 640, 20, 148_140_154),
        esm2("esm2-650m", 33, 1280, 20, 651_043_254),
        esm2("esm2-3b", 36, 2560, 40, 2_839_005_634),
        esm2("esm2-15b", 48, 5120, 40, 15_129_100_194),
        esm1("esm1b", "facebook/esm1b_t33_650M_UR50S", 652_359_094, ESM1B_CONFIG),
        *(
            esm1(f"esm1v-{seed}", f"facebook/esm1v_t33_650M_UR90S_{seed}", 652_356_534, ESM1V_CONFIG)
            for seed in range(1, 6)
        ),
        saprot("saprot-35m", 12, 480, 33_700_047, "westlake-repl/SaProt_35M_AF2"),
        saprot("saprot-650m", 33, 1280, 651_572_307, "westlake-repl/SaProt_650M_AF2"),
        saprot("saprot-1.3b", 66, 1280, 1_300_928_487, "westlake-repl/SaProt_1.3B_AF2"),
        esmc("esmc-300m", 30, 960, 15, 2560, 332_997_184),
        esmc("esmc-600m", 36, 1152, 18, 3072, 575_036_992),
        esmc("esmc-6b", 80, 2560, 40, 6912, 6_352_005_184),
        protbert("protbert", "Rostlab/prot_bert"),
        protbert("protbert-bfd", "Rostlab/prot_bert_bfd"),
        ANTIBERTY,
        sapiens("vh", 142, 568_985),
        sapiens("vl", 126, 566_937),
        prott5("prott5-xl", "prott5", None, 2_818_830_336, 1_208_141_824, "Rostlab/prot_t5_xl_uniref50"),
        prott5("prostt5", "prostt5", "<AA2fold>", 2_818_852_864, 1_208_164_352, "Rostlab/ProstT5"),
        ankh("ankh-base", 768, "gated-gelu", 736_453_632, 453_170_688),
        ankh("ankh-large", 1536, "gated-gelu", 1_878_705_152, 1_151_707_648),
        ankh("ankh3-large", 1536, "gated-silu", 1_879_049_216, 1_151_879_680),
    )
}


def find_entry(name: str) -> RegisteredModel:
    """Find the row of a model.

    Raises
    ------
    UserError
        Where there is none; lists the names.
    """
    if name not in REGISTRY:
        raise UserError(f"no model is called {name!r}; expected one of {', '.join(REGISTRY)}")
    return REGISTRY[name]


def preprocessings(model_type: str | None) -> tuple[Preprocessing, ...]:
    """Return the kinds of preprocessing of an architecture's models, or of all where it has none; the first is none."""
    known = [entry.preprocessing for entry in REGISTRY.values() if entry.model_type == model_type]
    known = known or [entry.preprocessing for entry in REGISTRY.values()]
    return tuple(dict.fromkeys([AS_IT_IS, *known]))
