"""Any other encoder that transformers knows, run by its own class: exact, but slower than an encoder of embedome's.

The class runs groups of one length one after the other, without padding and without a mask.

Shapes: B sequences, L tokens, T tokens of all groups (`stream`), D model dimension.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from embedome.common.errors import cut, first_line
from embedome.models.encoders.grouped import StreamEncoder, join, split
from embedome.models.other_encoders import own_config
from embedome.models.tensors import LAYER_NORMS, TensorMap

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# What the encoder is tried on: few sequences, and what differs beyond rounding, of the largest value.
PROBE_SEQUENCES, PROBE_TOKENS, ROUNDING = 3, 9, 1e-4
# Classes with a head, whose tensors beside the encoder are known.
HEADS = (
    "AutoModelForPreTraining",
    "AutoModelForMaskedLM",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoModelForQuestionAnswering",
    "AutoModelForMultipleChoice",
)
# Poolers, and buffers of older releases.
UNUSED = (r"pooler\..+", r"(.+\.)?(position_ids|token_type_ids|inv_freq)")
ATTENTION = ("sdpa", "eager")


class Known(nn.Module):
    """Stands for a layer of the class, whose hidden states [T, D] are known already, to be watched or cut."""

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Return the hidden states after the layer."""
        return after


class AnyEncoder(StreamEncoder):
    """The class that `transformers.AutoModel` has for a config.json.

    Parameters
    ----------
    config : mapping
        The fields of a Hugging Face config.json, see `other_encoders.complete_fields`.

    Raises
    ------
    ValueError
        Where the class does not take the fields; by `settle` where a sequence has other hidden states beside others
        than alone, or those of a token do not depend on what comes after it, or are not given for each layer.
    """

    int8_safe = False

    def __init__(self, config: Mapping) -> None:
        super().__init__()
        self.config = dict(config)
        self.model = build(self.config)
        own = self.model.config
        self.dimension, self.n_layers = own.hidden_size, own.num_hidden_layers
        longest, table = getattr(own, "max_position_embeddings", None), find_positions(self.model)
        self.max_tokens = longest
        if table is not None:
            self.max_tokens = table.num_embeddings - first_position(table)
        self.layers = nn.ModuleList(Known() for _ in range(self.n_layers))
        self.final_norm = nn.Identity()

    @property
    def words(self) -> nn.Embedding:  # type: ignore[override]
        """The embedding of the tokens, which is the class's."""
        return cast("nn.Embedding", self.model.get_input_embeddings())

    def stream(self, groups: Sequence[Tensor]) -> list[Tensor]:
        """As `StreamEncoder.stream`."""
        watched = any(layer._forward_hooks or layer._forward_pre_hooks for layer in self.layers)
        inner = watched or len(self.layers) < self.n_layers
        found = [self.model(input_ids=tokens.long(), output_hidden_states=inner) for tokens in groups]
        last = [each.last_hidden_state for each in found]
        if not inner:
            return last
        rows = [join(parts) for parts in zip(*(each.hidden_states[:-1] for each in found), strict=True)]
        x = rows[0]
        for layer, after in zip(self.layers, [*rows[1:], join(last)], strict=False):
            x = layer(x, after)
        return split(x, [tokens.shape for tokens in groups])

    @staticmethod
    def tensor_map(config: Mapping) -> TensorMap:
        """As `StreamEncoder.tensor_map`, of the class; heads are those that transformers has classes for."""
        with torch.device("meta"):
            model = build(config)
        prefix = f"{model.base_model_prefix}."
        names = model.state_dict()
        heads = {name for name in head_names(model.config) if not name.startswith(prefix)} - names.keys()
        return TensorMap(
            {f"model.{name}": [name] for name in names},
            prefix=prefix,
            unused=(*UNUSED, *map(re.escape, sorted(heads))),
            renamed=LAYER_NORMS,
        )

    def settle(self) -> None:
        """Make what the class computes for itself, and try it on a few sequences."""
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            real = build(self.config)
        real.load_state_dict(self.model.state_dict(), assign=True)
        self.model = real.eval()
        self.probe()

    @torch.inference_mode()
    def probe(self) -> None:
        """Run a few sequences, and refuse an encoder that is none.

        Raises
        ------
        ValueError
            As `AnyEncoder`.
        """
        own, name = self.model.config, type(self.model).__name__
        others = {getattr(own, "pad_token_id", None), getattr(own, "mask_token_id", None)}
        ids = torch.tensor([index for index in range(min(own.vocab_size, 1000)) if index not in others])
        chance = torch.Generator().manual_seed(1)
        length = min(PROBE_TOKENS, self.max_tokens or PROBE_TOKENS)
        batch = ids[torch.randint(len(ids), (PROBE_SEQUENCES, length), generator=chance)]
        try:
            self.check_positions(batch)
            together, alone = self(batch), self(batch[:1])
        except (TypeError, AttributeError, RuntimeError, IndexError) as error:
            raise ValueError(f"{name} does not run on tokens alone ({cut(first_line(error))})") from None
        scale = ROUNDING * float(alone.abs().max())
        if together.shape != (*batch.shape, self.dimension) or not torch.allclose(
            together[:1], alone, rtol=0, atol=scale
        ):
            raise ValueError(
                f"{name} gives a sequence other hidden states beside others than alone; it is not supported"
            )
        layers = self.model(input_ids=batch[:1], output_hidden_states=True).hidden_states
        if layers is None or len(layers) != self.n_layers + 1:
            raise ValueError(
                f"{name} does not give the hidden states of its {self.n_layers} layers; it is not supported"
            )
        other = batch[:1].clone()
        other[0, -1] = ids[(int(torch.searchsorted(ids, other[0, -1])) + 1) % len(ids)]
        if length > 1 and torch.allclose(self(other)[:, :-1], alone[:, :-1], rtol=0, atol=1e-3 * scale):
            raise ValueError(f"{name} is causal: residues do not see what comes after them; it is no encoder")

    def check_positions(self, batch: Tensor) -> None:
        """Refuse a class that does not count learned positions from where `max_tokens` says."""
        table = find_positions(self.model)
        if table is None:
            return
        places: list[Tensor] = []
        watch = table.register_forward_hook(lambda module, given, found: places.append(given[0]))
        self(batch)
        watch.remove()
        if not places or int(places[0].min()) != first_position(table):
            name = type(self.model).__name__
            raise ValueError(
                f"{name} counts positions in a way that is not known; expected from 0, or after the padding"
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "AnyEncoder":
        """Apply to all parameters, as torch does; what the class computes for itself keeps its precision, as angles."""
        saved = {f"model.{name}" for name in self.model.state_dict()}
        kept = {name: buffer for name, buffer in self.named_buffers() if name not in saved}
        super()._apply(fn, recurse)
        for name, buffer in kept.items():
            owner, _, own = name.rpartition(".")
            module = self.get_submodule(owner)
            setattr(module, own, buffer.to(module.get_buffer(own).device))
        return self


def build(config: Mapping) -> "PreTrainedModel":
    """Build the class for a config.json, without a pooler.

    Raises
    ------
    ValueError
        Where it does not take the fields.
    """
    from transformers import AutoModel

    fault = ""
    for attention in ATTENTION:
        for options in ({"add_pooling_layer": False}, {}):
            try:
                return AutoModel.from_config(own_config(config), attn_implementation=attention, **options)
            except TypeError as error:  # it has no such option
                fault = cut(first_line(error))
            except Exception as error:  # whatever a class says, that it has no such attention, too
                fault = cut(first_line(error))
                break
    raise ValueError(f"transformers does not take it ({fault})")


def find_positions(model: "PreTrainedModel") -> nn.Embedding | None:
    """Return the table of learned positions of a model, if it has one."""
    rows, words = getattr(model.config, "max_position_embeddings", None), model.get_input_embeddings()
    tables = [each for each in model.modules() if isinstance(each, nn.Embedding) and each is not words]
    return next((each for each in tables if each.num_embeddings == rows), None)


def first_position(table: nn.Embedding) -> int:
    """Return the row of the first position: that after the padding's, where a table has one."""
    return 0 if table.padding_idx is None else table.padding_idx + 1


def head_names(own: "PreTrainedConfig") -> set[str]:
    """Return the names of all tensors of the classes with a head that transformers has for a model."""
    import transformers

    names: set[str] = set()
    for head in HEADS:
        kind: Any = getattr(transformers, head)
        if type(own) in kind._model_mapping:
            with torch.device("meta"):
                names |= kind.from_config(own).state_dict().keys()
    return names
