"""How the founding models were trained, as data: every figure with its source, every open choice marked.

Sources, as in docs/models.md: the model cards; BioNeMo's configurations and code of version 0.3 and of 1.7
(`conf/base_config.yaml`, `conf/pretrain_small.yaml` of ESM-1nv and ProtT5nv); NeMo 1.11 and 1.20; Ankh's README and
paper (Elnaggar et al. 2023, arXiv:2301.06568).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from embedome.common.errors import UserError
from embedome.training.objectives import BertMasks, LegacyMasks, Objective, SpanCorruption
from embedome.training.schedules import Cosine, InverseSquareRoot, Linear, Schedule


@dataclass(frozen=True, slots=True)
class Adam:
    """Adam with decoupled weight decay, as NeMo's fused_adam has it, on matrices and tables alone.

    Parameters
    ----------
    betas : (float, float)
    weight_decay : float
    eps : float
    """

    betas: tuple[float, float]
    weight_decay: float
    eps: float = 1e-8


@dataclass(frozen=True, slots=True)
class Adafactor:
    """Adafactor (Shazeer and Stern 2018, arXiv:1804.04235), updates scaled by the parameter, without momentum."""


@dataclass(frozen=True, slots=True)
class Muon:
    """Muon for the matrices of layers, whose updates are orthogonal; Adam, at the same rate, for all else.

    Parameters
    ----------
    adam : Adam
    """

    adam: Adam


Optimiser = Adam | Adafactor | Muon


@dataclass(frozen=True, slots=True)
class Phase:
    """Steps with batches of one size.

    Parameters
    ----------
    until : int
        The first step that is no longer in it.
    sequences, tokens : int or None
        Of a step, on all devices together: one of the two; of tokens, in the mean.
    window : int or None
        Tokens of a sequence that are seen at once, drawn again in each epoch; None: from its beginning all that the
        positions hold.
    """

    until: int
    sequences: int | None = None
    tokens: int | None = None
    window: int | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is trained.

    Parameters
    ----------
    name : str
    model : str
        Of the registry: architecture, sizes and vocabulary.
    objective : Objective
    optimiser : Optimiser
    schedule : Schedule
    phases : tuple of Phase
    residues : int
        Of the longest sequence; longer ones are cut.
    dropout : float
        Of embeddings, of what attention and feed-forward layers add, and of attention.
    every : int
        Steps from one checkpoint and validation to the next.
    average : int
        Last of these checkpoints whose mean is the result; 1 for the last alone.
    clip : float
        Largest norm of all gradients together.
    validation_tokens : int or None
        Of a sequence, from its beginning, that are seen in validation; None: all that the positions hold.
    sizes : mapping of str to int
        Of the model, where they are not those of the registry.
    like_frequencies : bool
        Whether the output bias starts at the logarithms of the residues' frequencies.
    sinusoids : bool
        Whether learned positions start as sinusoids (Vaswani et al. 2017, arXiv:1706.03762).
    open : tuple of str
        What the sources leave open, and what was chosen.
    """

    name: str
    model: str
    objective: Objective
    optimiser: Optimiser
    schedule: Schedule
    phases: tuple[Phase, ...]
    residues: int
    dropout: float
    every: int
    average: int = 1
    clip: float = 1.0
    validation_tokens: int | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    like_frequencies: bool = False
    sinusoids: bool = False
    open: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.phases[-1].until

    def scaled(self, steps: int) -> "Recipe":
        """Return the recipe over another number of steps: schedule and phases keep their shape."""
        if steps == self.steps:
            return self
        by = steps / self.steps
        phases = tuple(replace(phase, until=round(phase.until * by)) for phase in self.phases)
        schedule = self.schedule.scaled(max(1, round(self.schedule.steps * by)))
        return replace(self, schedule=schedule, phases=phases, every=max(1, round(self.every * by)))

    def with_tokens(self, tokens: int) -> "Recipe":
        """Return the recipe with another number of tokens of a step."""
        return replace(self, phases=tuple(replace(each, sequences=None, tokens=tokens) for each in self.phases))


# BioNeMo `conf/base_config.yaml` of ESM-1nv: fused_adam lr 2e-4, weight decay 0.01, betas 0.9, 0.98; CosineAnnealing,
# warm-up 500, constant_steps 50,000, min_lr 2e-5; max_steps 1,000,000; gradient_clip_val 1.0; dropout 0.1.
ESM1NV_ADAM = Adam((0.9, 0.98), 0.01)
ESM1NV_COSINE = Cosine(peak=2e-4, lowest=2e-5, warm_up=500, steps=1_000_000, tail=50_000)
ESM1NV_OPEN = (
    "how far apart the 47 averaged checkpoints are: 1,500 steps, at which the code validated",
    "the schedule's end: 1,000,000 steps of the configuration, though training ended at 957,610",
    "weight decay: on matrices and tables, not on biases and norms, as Megatron-LM has it",
    "sequences longer than the positions: cut to their first residues, the end token kept, as embedome embeds them; "
    "BioNeMo cut the end token, too",
)
ESM1NV = Recipe(
    name="esm1nv",
    model="esm1nv",
    # Card: 15 %. BioNeMo 1.6 and later: 0.8, 0.1, 0.1, drawn for each residue, at least one.
    objective=BertMasks(rate=0.15, masked=0.8, replaced=0.1),
    optimiser=ESM1NV_ADAM,
    schedule=ESM1NV_COSINE,
    # Card: 349,500 steps on 176 GPUs, then to 957,610 on 144, 370 sequences each.
    phases=(Phase(349_500, sequences=176 * 370), Phase(957_610, sequences=144 * 370)),
    # seq_length 512, two of them special tokens.
    residues=510,
    dropout=0.1,
    # val_check_interval 1500.
    every=1500,
    # Card: the last 47 checkpoints.
    average=47,
    open=(
        "the rate: the card says 15 %, the code of the time 10 % with 50/50/0 (recipe esm1nv-legacy)",
        "another residue: one of the 20 standard ones, all alike likely",
        "X and unknown characters are not hidden",
        *ESM1NV_OPEN,
    ),
)
# embedome's own, for minutes on a laptop; measured in docs/pretraining.md.
DEMO = Recipe(
    name="demo",
    model="esm1nv",
    objective=BertMasks(rate=0.15, masked=0.8, replaced=0.1),
    optimiser=Muon(Adam((0.9, 0.98), 0.01)),
    schedule=Cosine(peak=3e-3, lowest=6e-5, warm_up=40, steps=943),
    phases=(Phase(707, tokens=2048, window=128), Phase(943, tokens=2048, window=384)),
    residues=510,
    dropout=0.0,
    every=100,
    validation_tokens=256,
    sizes={"layers": 3, "hidden": 128, "heads": 4, "feed_forward": 512},
    like_frequencies=True,
    sinusoids=True,
)
RECIPES = {
    recipe.name: recipe
    for recipe in (
        ESM1NV,
        # Card of the first release: sequences cut at 1,024.
        replace(ESM1NV, name="esm1nv-1024", model="esm1nv-1024", residues=1022),
        replace(
            ESM1NV,
            name="esm1nv-legacy",
            # BioNeMo 0.3 to 1.3: modify_percent 0.1, perturb_percent 0.5; the other half becomes other letters.
            objective=LegacyMasks(rate=0.1, masked=0.5),
            open=(
                "which of the chosen tokens become the mask: each with probability one half",
                *ESM1NV_OPEN[:3],
            ),
        ),
        Recipe(
            name="prott5nv",
            model="prott5nv",
            # masked_lm_prob 0.15, max_ngram_size 1.
            objective=SpanCorruption(rate=0.15),
            # fused_adam lr 1e-4, betas 0.9, 0.999, eps 1e-8, weight decay 0.01.
            optimiser=Adam((0.9, 0.999), 0.01),
            # InverseSquareRootAnnealing, warmup_ratio 0.01 of max_steps 1,000,000.
            schedule=InverseSquareRoot(peak=1e-4, warm_up=10_000, steps=1_000_000),
            # Card: 970,189 steps, 224 GPUs, 12 sequences each.
            phases=(Phase(970_189, sequences=224 * 12),),
            # NeMo's t5_dataset.py: seq_length 512, less 2.
            residues=510,
            dropout=0.1,
            # val_check_interval 2000.
            every=2000,
            open=(
                "masks: new ones in every epoch; NeMo's recur, as it seeds them by the sequence alone",
                "the beginning: random weights, or --init with a model of the same shape; the card's began with NeMo's "
                "T5 of 220M parameters, trained on text",
                "order: the whole data set is shuffled; BioNeMo blended 50 files with equal weight",
            ),
        ),
        Recipe(
            name="ankh2-ext2",
            model="ankh2-ext2",
            # Paper, experiments 4 and 8: spans of one residue, only hidden ones in the target, 20 %.
            objective=SpanCorruption(rate=0.2),
            # README: Adafactor, no weight decay.
            optimiser=Adafactor(),
            # README: linear schedule, warm-up 10,000, lr 0.002 of Ankh-large. 45 epochs (card of Ankh2) of
            # 60,000,000 sequences.
            schedule=Linear(peak=2e-3, warm_up=10_000, steps=45 * 60_000_000 // 1024),
            # Card: batch 1k.
            phases=(Phase(45 * 60_000_000 // 1024, sequences=1024),),
            # README: length 512, one of them the end token.
            residues=511,
            dropout=0.0,
            every=2000,
            open=(
                "the learning rate: Ankh-large's 0.002; the card of Ankh2 has none",
                "the batch: 1,024 for the card's 1k; the steps: 45 epochs of the card's 60 million sequences",
                "neighbours that are hidden: each with a sentinel of its own, as the paper's experiment 6 was rejected",
                "checkpoints: every 2,000 steps, and the last one is the result",
                "the beginning: random weights, or --init with Ankh-large, as the card says, its activation read as "
                "silu and its head untied",
            ),
        ),
        DEMO,
        # Half an hour of one core: twice the batch, and a rate to match.
        replace(
            DEMO,
            name="laptop",
            schedule=Cosine(peak=4e-3, lowest=8e-5, warm_up=40, steps=4000),
            phases=(Phase(3000, tokens=4096, window=128), Phase(4000, tokens=4096, window=384)),
            every=500,
        ),
    )
}


def find_recipe(name: str) -> Recipe:
    """Return a recipe.

    Raises
    ------
    UserError
        Where there is none of the name; lists the names.
    """
    if name not in RECIPES:
        raise UserError(f"no recipe is called {name!r}; expected one of {', '.join(RECIPES)}")
    return RECIPES[name]


def describe_recipe(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as JSON: objective, optimiser and schedule with their kinds."""
    kinds = {name: type(getattr(recipe, name)).__name__ for name in ("objective", "optimiser", "schedule")}
    parts = {name: {"kind": kind, **asdict(getattr(recipe, name))} for name, kind in kinds.items()}
    return json.loads(json.dumps({**asdict(recipe), **parts}))
