"""Masked language modelling: logits, likelihood of sequences, filling of masks.

Shapes: B sequences, T tokens, L residues, D model dimension, V vocabulary.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from embedome.common.errors import UserError
from embedome.decoding.length_batches import Batches
from embedome.engine.device import TOKEN_BUDGET, use_device
from embedome.engine.engine import DTYPES, check_dtype
from embedome.models.directory import Model, load_model, open_checkpoint, read_config
from embedome.models.encoders.layers import ACTIVATIONS
from embedome.models.registry import BERT, ESM, ESMC, MEGATRON_BERT, ROBERTA
from embedome.models.tensors import LAYER_NORMS, Checkpoint, TensorMap, fill
from embedome.models.tokenizer import ResidueTokenizer
from embedome.sequences.records import UPPER_CASE, WHITE_SPACE, sequence_fault

# What a mask is called in vocabularies; the first is what sequences may hold.
MASKS = ("<mask>", "[MASK]")
MASK = MASKS[0]


@dataclass(frozen=True, slots=True)
class HeadNames:
    """What a head's parts are called in a checkpoint."""

    dense: str
    norm: str
    bias: str
    output: str
    """The matrix of outputs."""
    tied: bool = True
    """Whether that is the embedding of the tokens."""


BERT_HEAD = HeadNames(
    "cls.predictions.transform.dense",
    "cls.predictions.transform.LayerNorm",
    "cls.predictions.bias",
    "cls.predictions.decoder",
)
ESM_HEAD = HeadNames("lm_head.dense", "lm_head.layer_norm", "lm_head.bias", "lm_head.decoder")
ESMC_HEAD = HeadNames("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder.bias", "lm_head.decoder", tied=False)
HEADS = {MEGATRON_BERT: BERT_HEAD, BERT: BERT_HEAD, ESM: ESM_HEAD, ROBERTA: ESM_HEAD, ESMC: ESMC_HEAD}
# Of ESM-C's two other layouts, whose head is a sequence of modules; its eps is torch's.
NUMBERED = tuple(
    (rf"^(lm|sequence)_head\.{number}\.", f"lm_head.{name}.")
    for number, name in ((0, "dense"), (2, "layer_norm"), (3, "decoder"))
)
LAYER_NORM_EPS = 1e-5
WORDS = "embeddings.word_embeddings.weight"


class Head(nn.Module):
    """``LayerNorm(gelu(x W + b)) E^T + c`` with the embedding E of the tokens (Devlin et al. 2019, arXiv:1810.04805).

    ESM-C's has a matrix of its own in the place of E.

    Parameters
    ----------
    config : mapping
        The fields of a Hugging Face config.json.

    Notes
    -----
    The GELU is exact, in ESM-1nv too, whose layers have its approximation by tanh; BERT's is that of its layers.
    """

    def __init__(self, config: Mapping) -> None:
        super().__init__()
        dimension = config["hidden_size"]
        self.dense = nn.Linear(dimension, dimension)
        self.norm = nn.LayerNorm(dimension, config.get("layer_norm_eps", LAYER_NORM_EPS))
        self.bias = nn.Parameter(torch.empty(config["vocab_size"]))
        self.output: nn.Parameter | None = None
        if not HEADS[config["model_type"]].tied:
            self.output = nn.Parameter(torch.empty(config["vocab_size"], dimension))
        self.activation = ACTIVATIONS[config["hidden_act"] if config["model_type"] == BERT else "gelu"]

    def forward(self, hidden: Tensor, words: Tensor) -> Tensor:
        """Map hidden states [..., D] to logits [..., V], given the embedding [V, D]."""
        output = words if self.output is None else self.output
        return functional.linear(self.norm(self.activation(self.dense(hidden))), output, self.bias)

    @staticmethod
    def tensor_map(config: Mapping) -> TensorMap:
        """Return what the tensors of a Hugging Face checkpoint are to this module.

        A matrix of outputs that is the embedding is one tensor of two names, and so are the biases of the two.
        """
        names = HEADS[config["model_type"]]
        both = {"dense": names.dense, "norm": names.norm}
        parts = {f"{ours}.{end}": [f"{name}.{end}"] for ours, name in both.items() for end in ("weight", "bias")}
        parts |= {"bias": [names.bias]}
        renamed = [*LAYER_NORMS, (r"^(bert|esm|roberta|esmc)\.", ""), *NUMBERED]
        if names.tied:
            renamed += [(rf"^{re.escape(names.output)}\.weight$", WORDS)]
            renamed += [(rf"^{re.escape(names.output)}\.bias$", names.bias)]
        else:
            parts |= {"output": [f"{names.output}.weight"]}
        return TensorMap(parts, unused=(".+",), renamed=renamed)


@dataclass(frozen=True, slots=True)
class Filled:
    """A model's guess at a masked residue."""

    position: int
    """In the sequence, from 1."""
    residues: list[str]
    """Most probable first."""
    probabilities: list[float]


class MaskedLM:
    """A masked language model on one device.

    Parameters
    ----------
    model : Model
    head : Head
    device : str
        ``cpu`` or ``cuda``.
    dtype : str
        Of `engine.DTYPES`; logits are turned into probabilities in float32.

    Raises
    ------
    UserError
        Where the vocabulary has no mask, or the device is missing.
    """

    def __init__(self, model: Model, head: Head, device: str = "cpu", dtype: str = "float32") -> None:
        self.tokenizer: ResidueTokenizer = model.tokenizer
        self.max_residues = model.max_residues
        after = self.tokenizer.preparation.get("after", "")
        masks = [self.tokenizer.ids[name] for name in (2 * after, *MASKS) if name in self.tokenizer.ids]
        if not masks:
            raise UserError(f"the model's vocabulary has no {' or '.join(MASKS)}")
        self.mask = masks[0]
        self.alike = alike_tokens(self.tokenizer) if after else {}
        self.device = use_device(device)
        check_dtype(model.encoder, dtype, self.device)
        self.batches = Batches(TOKEN_BUDGET[device])
        self.encoder = model.encoder.to(self.device, DTYPES[dtype])
        self.head = head.to(self.device, DTYPES[dtype])

    @torch.inference_mode()
    def logits(self, tokens: Tensor) -> Tensor:
        """Map token ids int64 [B, T] to logits float32 [B, T, V]."""
        return self.predict(self.encoder(tokens.to(self.device)))

    def predict(self, hidden: Tensor) -> Tensor:
        """Map hidden states to logits in float32."""
        return self.head(hidden, self.encoder.words.weight).float()

    def log_probabilities(self, hidden: Tensor) -> Tensor:
        """Map hidden states [..., D] to log-probabilities of tokens, float32 [..., V].

        Of tokens that are a residue and its structure, that of a residue is of all tokens with it, as SaProt's
        authors add them up (Su et al. 2024, doi:10.1101/2023.10.01.560349).
        """
        every = self.predict(hidden).log_softmax(-1)
        found = every.clone() if self.alike else every
        for token, alike in self.alike.items():
            found[..., token] = every[..., alike].logsumexp(-1)
        return found

    @torch.inference_mode()
    def log_likelihoods(self, sequence: bytes) -> np.ndarray | None:
        """Return the log-probability of each residue, natural logarithm, with that residue masked and no other.

        Their sum is the pseudo-log-likelihood of the sequence (Salazar et al. 2020,
        doi:10.18653/v1/2020.acl-main.240). The model runs once for each residue.

        Returns
        -------
        numpy.ndarray, dtype=float64, shape=(L,)
            None where the device's memory does not hold the sequence once.

        Raises
        ------
        UserError
            Where the sequence is too long.
        """
        tokens, first = self.tokens(sequence), len(self.tokenizer.first)
        found = self.batches.run(
            range(first, first + len(sequence)),
            lambda _: (len(tokens),),
            lambda positions: self.score_positions(tokens, torch.tensor(positions)),
        )
        return None if None in found else np.array(found)

    def score_positions(self, tokens: Tensor, positions: Tensor) -> list[float]:
        """Return log-probabilities of the tokens at B positions of int64 [T], each masked in a copy of its own."""
        rows = torch.arange(len(positions))
        batch = tokens.repeat(len(positions), 1)
        batch[rows, positions] = self.mask
        hidden = self.encoder(batch.to(self.device))[rows, positions]
        right = tokens[positions].to(self.device)
        return self.log_probabilities(hidden).gather(1, right[:, None])[:, 0].tolist()

    @torch.inference_mode()
    def fill(self, sequence: str, top: int = 5) -> list[Filled]:
        """Guess the residues that are ``<mask>`` in a sequence, all at once.

        Probabilities are over the whole vocabulary; those of tokens that are no residues are left out.

        Raises
        ------
        UserError
            Where nothing is masked, the sequence is too long, or holds anything but letters and white space.
        """
        parts = [
            part.encode().translate(UPPER_CASE, WHITE_SPACE) for part in sequence.replace(MASKS[1], MASK).split(MASK)
        ]
        if len(parts) == 1:
            raise UserError(f"nothing to fill in {sequence[:40]!r}; expected {MASK} in the place of a residue")
        for part in filter(None, parts):
            if fault := sequence_fault(part):
                raise UserError(f"{part[:40].decode(errors='replace')!r}: {': '.join(fault)}; expected residues")
        # The stand-in for a mask is one byte, as residues are.
        tokens = self.tokens(b"X".join(parts))
        positions = torch.tensor(np.cumsum([len(part) + 1 for part in parts[:-1]]) - 1)
        tokens[len(self.tokenizer.first) + positions] = self.mask
        hidden = self.encoder(tokens[None].to(self.device))[0, len(self.tokenizer.first) + positions]
        rows = self.log_probabilities(hidden).exp().cpu()
        letters = self.tokenizer.letters
        ids = torch.tensor(list(letters))
        found = []
        for position, row in zip(positions.tolist(), rows, strict=True):
            best = row[ids].topk(min(top, len(ids)))
            residues = [letters[int(ids[index])] for index in best.indices]
            found.append(Filled(position + 1, residues, best.values.tolist()))
        return found

    def tokens(self, sequence: bytes) -> Tensor:
        """Return the token ids of a sequence, int64 [T].

        Raises
        ------
        UserError
            Where it is longer than the model's positions.
        """
        if self.max_residues is not None and len(sequence) > self.max_residues:
            raise UserError(f"a sequence has {len(sequence)} residues; the model's positions hold {self.max_residues}")
        residues = np.frombuffer(sequence, np.uint8)[None]
        return torch.from_numpy(self.tokenizer.tokens(residues)[0])


def alike_tokens(tokenizer: ResidueTokenizer) -> dict[int, list[int]]:
    """Return the tokens of two characters whose first is a residue, by the id of that residue."""
    pairs = {token: index for token, index in tokenizer.ids.items() if len(token) == 2}
    return {
        index: [other for token, other in pairs.items() if token.startswith(letter)]
        for index, letter in tokenizer.letters.items()
    }


def load_masked_lm(directory: str | os.PathLike, device: str = "cpu", dtype: str = "float32") -> MaskedLM:
    """Load a model directory with its head for masked residues.

    Raises
    ------
    UserError
        As `directory.load_model`, and where the architecture or the checkpoint has no such head.
    """
    config = read_config(directory)
    if config["model_type"] not in HEADS:
        raise UserError(
            f"{directory}: {config['model_type']} is no masked language model; expected one of {', '.join(HEADS)}"
        )
    model = load_model(directory)
    with torch.device("meta"):
        head = Head(config)
    checkpoint = open_checkpoint(directory, head.tensor_map(config))
    if head.output is None:
        checkpoint.check(WORDS, model.encoder.words.weight.shape)
        check_tied(directory, config, checkpoint)
    fill(head, checkpoint)
    return MaskedLM(model, head.eval(), device, dtype)


def check_tied(directory: str | os.PathLike, config: Mapping, checkpoint: Checkpoint) -> None:
    """Check that the head's matrix is the embedding of the tokens.

    Raises
    ------
    UserError
        Where it is a matrix of its own, or should be one.
    """
    output = f"{HEADS[config['model_type']].output}.weight"
    first, *others = checkpoint.owners[WORDS]
    if any((checkpoint.weights[first] != checkpoint.weights[other]).any() for other in others):
        raise UserError(f"{directory}: {output} is a matrix of its own; expected the embedding, as the head has it")
    if config.get("tie_word_embeddings") is False and not others:
        raise UserError(f"{directory}: {output} is missing, but tie_word_embeddings is false in config.json")
