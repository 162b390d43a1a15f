"""Whole encoder-decoders, by the Hugging Face classes: generating sequences, and the likelihood of given ones.

Shapes: B sequences, S tokens of the source, T tokens of the target, its end included.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from embedome.common.errors import UserError, cut, first_line
from embedome.engine.device import use_device
from embedome.engine.engine import DTYPES, check_dtype
from embedome.models.architectures import ARCHITECTURES
from embedome.models.directory import CONFIG, open_checkpoint, read_config
from embedome.models.encoders.t5_decoder import UNUSED_BIAS
from embedome.models.registry import BLENDERBOT, CONFIG_KEY, T5
from embedome.models.tensors import TensorMap, fill
from embedome.models.tokenizer import ResidueTokenizer, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CLASSES = {T5: "T5ForConditionalGeneration", BLENDERBOT: "BlenderbotForConditionalGeneration"}
# Tables that are one where a checkpoint does not say otherwise, without the class's prefix.
TABLES = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
OUTPUT = "lm_head.weight"
# What puts ProstT5 and Ankh3 to translating.
TASKS = ("<AA2fold>", "[S2S]")
END = "</s>"


@dataclass(frozen=True, slots=True)
class Decoding:
    """How sequences are generated.

    Parameters
    ----------
    beams : int
        Of a beam search; 1 for greedy decoding.
    max_length : int, optional
        Tokens to generate at most, the end included; None for as many as the positions hold, or, where they have no
        end, twice those of the source.
    """

    beams: int = 1
    max_length: int | None = None


class Seq2Seq:
    """An encoder-decoder on one device.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        With its head for generation.
    tokenizer : ResidueTokenizer
    positions : int or None
        Tokens of the longest source and target; None for any number.
    device : str
        ``cpu`` or ``cuda``.
    dtype : str
        Of `engine.DTYPES`.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: ResidueTokenizer,
        positions: int | None,
        device: str = "cpu",
        dtype: str = "float32",
    ) -> None:
        self.device = use_device(device)
        self.model = model.to(self.device, DTYPES[dtype])  # type: ignore[arg-type]  # its decorator hides that it is a method
        self.tokenizer, self.positions = tokenizer, positions
        self.letters = tokenizer.letters
        self.end = tokenizer.ids[END]
        # ProstT5 distinguishes structure states from residues by their case.
        self.lower_case = TASKS[0] in tokenizer.ids

    @property
    def max_residues(self) -> int | None:
        """Residues of the longest source; None for any number."""
        return None if self.positions is None else self.positions - self.tokenizer.n_special

    @property
    def max_target_residues(self) -> int | None:
        """Residues of the longest target that can be scored; a token starts it."""
        return None if self.positions is None else self.positions - 1

    @torch.inference_mode()
    def translate(self, sources: Sequence[bytes], decoding: Decoding) -> list[str]:
        """Generate a sequence for each source; all must be of one length.

        Tokens that are no residues are left out of the results.
        """
        from transformers import GenerationConfig

        tokens = self.tokens(sources)
        most = decoding.max_length or self.positions or 2 * tokens.shape[1]
        generation = GenerationConfig(
            num_beams=decoding.beams,
            do_sample=False,
            max_new_tokens=most,
            decoder_start_token_id=self.model.config.decoder_start_token_id,
            eos_token_id=self.end,
            pad_token_id=self.model.config.pad_token_id,
        )
        found = self.model.generate(tokens, attention_mask=torch.ones_like(tokens), generation_config=generation)
        return ["".join(self.letters.get(token, "") for token in row) for row in found[:, 1:].tolist()]

    @torch.inference_mode()
    def log_likelihoods(self, sources: Sequence[bytes], targets: Sequence[bytes]) -> np.ndarray:
        """Return the log-probability of each target's tokens, its end included, given its source and the tokens before.

        Natural logarithm. All sources must be of one length, and all targets.

        Returns
        -------
        numpy.ndarray, dtype=float64, shape=(B, T)
        """
        residues = np.array([list(self.match_case(target)) for target in targets], np.uint8)
        labels = torch.from_numpy(self.tokenizer.table[residues.reshape(len(targets), -1)])
        labels = torch.nn.functional.pad(labels, (0, 1), value=self.end).to(self.device)
        start = torch.full((len(targets), 1), self.model.config.decoder_start_token_id, device=self.device)
        decoder = torch.cat([start, labels[:, :-1]], 1)
        logits = self.model(input_ids=self.tokens(sources), decoder_input_ids=decoder).logits.float()
        return logits.log_softmax(-1).gather(2, labels[..., None])[..., 0].double().cpu().numpy()

    def match_case(self, target: bytes) -> bytes:
        """Return a target in the case the vocabulary has it in."""
        return target.lower() if self.lower_case else target

    def tokens(self, sources: Sequence[bytes]) -> Tensor:
        """Return the token ids of sources of one length, int64 [B, S]."""
        residues = np.frombuffer(b"".join(sources), np.uint8).reshape(len(sources), -1)
        return torch.from_numpy(self.tokenizer.tokens(residues)).to(self.device)


def load_seq2seq(directory: str | os.PathLike, device: str = "cpu", dtype: str = "float32") -> Seq2Seq:
    """Load a whole encoder-decoder, checked tensor by tensor.

    Raises
    ------
    UserError
        As `directory.load_model`, and where the architecture or the checkpoint has no decoder.
    """
    config = read_config(directory)
    if config["model_type"] not in CLASSES:
        raise UserError(f"{directory}: {config['model_type']} has no decoder; expected one of {', '.join(CLASSES)}")
    architecture = ARCHITECTURES[config["model_type"]]
    check_dtype(architecture.encoder(), dtype, use_device(device))
    tokenizer = load_tokenizer(directory, architecture.first, architecture.last, tasks=TASKS)
    return Seq2Seq(fill_model(directory, config), tokenizer, config.get("max_position_embeddings"), device, dtype)


def fill_model(directory: str | os.PathLike, config: Mapping[str, Any]) -> "PreTrainedModel":
    """Build the Hugging Face class with the checkpoint's weights, each checked: the library fills gaps at random."""
    import transformers

    fields = {key: value for key, value in config.items() if key != CONFIG_KEY}
    try:
        with torch.device("meta"):
            own = transformers.AutoConfig.for_model(**fields)
            model = getattr(transformers, CLASSES[config["model_type"]])(own)
    except Exception as error:  # of transformers, which has no class for it
        raise UserError(f"{directory}/{CONFIG}: transformers does not take it ({cut(first_line(error))})") from None
    checkpoint = open_checkpoint(directory, tensor_map(model, config))
    if not any(name.startswith("decoder.") for name in checkpoint.owners):
        raise UserError(
            f"{checkpoint.path}: decoder is missing; the checkpoint has no decoder, which translation needs"
        )
    fill(model, checkpoint)
    return model.eval()


def tensor_map(model: "PreTrainedModel", config: Mapping[str, Any]) -> TensorMap:
    """Return what the tensors of a checkpoint are to a Hugging Face class."""
    architecture = ARCHITECTURES[config["model_type"]]
    encoder = architecture.encoder().tensor_map(config)
    # That of a T5 is always tied to the others in transformers 5, unless config.json says otherwise.
    untied = config.get("tie_word_embeddings") is False
    tied = TABLES if untied else (*TABLES, OUTPUT)
    ties = {name: [other for other in tied if other != name] for name in tied}
    return TensorMap(
        parts={name: [encoder.base_name(name)] for name in model.state_dict()},
        prefix=encoder.prefix,
        unused=(UNUSED_BIAS,),
        layers=encoder.layers,
        ties={} if untied and config["model_type"] == BLENDERBOT else ties,
    )
