"""How heads are built and trained, as data: every figure with its source, every open choice marked.

Sources: BioNeMo 1.7, `examples/protein/esm1nv/conf/downstream_flip_*.yaml` and `base_config.yaml`, and what its code
does with them; light attention (Stärk et al. 2021, doi:10.1093/bioadv/vbab035) and its repository's `configs/`; Ankh
(Elnaggar et al. 2023, arXiv:2301.06568), its repository's `src/ankh/models` and `examples`.
"""

from dataclasses import dataclass, replace

from embedome.common.errors import UserError
from embedome.evaluation.tasks import CLASSES, LABELS, NUMBERS, PROTEIN, RESIDUE
from embedome.training.schedules import Linear, WarmedUp

ALL_KINDS = (CLASSES, LABELS, NUMBERS)
# Heads of scikit-learn, and those that are trained by torch.
LINEAR, RIDGE = "linear", "ridge"
CONVOLUTIONS, MLP, LIGHT_ATTENTION, CONVBERT = "convolutions", "mlp", "light-attention", "convbert"


@dataclass(frozen=True, slots=True)
class Annealing(WarmedUp):
    """Linear warm-up ``peak (step + 1) / (warm_up + 1)``, then down to `lowest` at `steps`, in a straight line.

    NeMo's WarmupAnnealing.

    Parameters
    ----------
    lowest : float
    """

    lowest: float

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        if step <= self.warm_up:
            return self.peak * (step + 1) / (self.warm_up + 1)
        left = max(0.0, 1 - (step - self.warm_up) / max(1, self.steps - self.warm_up))
        return self.lowest + left * (self.peak - self.lowest)


@dataclass(frozen=True, slots=True)
class HeadRecipe:
    """A head that torch trains.

    Parameters
    ----------
    name : str
    module : str
        Of `heads.MODULES`.
    levels, kinds : tuple of str
        Of the tasks that it can solve.
    features : str
        ``residue``, ``protein``, or ``task`` for as the task has it.
    dropout : float
    lr : float
    batch : int
        Proteins of a step.
    epochs : int
        At most.
    hidden : int
        Dimension inside, of heads that have one to choose.
    decoupled : bool
        Weight decay apart from the gradient (AdamW), not as a part of it (Adam).
    weight_decay : float
    schedule : Annealing, Linear or None
        Of the rate; None: it stays. Of 0 steps: over all that are made.
    clip : float or None
        Largest norm of all gradients together.
    loss_tokens : int or None
        Tokens of each protein over which the loss is averaged, padding too; None: residues with a label.
    patience : int or None
        Epochs without a better validation score after which it ends, and the best epoch's weights are taken; None: all
        epochs, and the last one's weights.
    best : bool
        Take the weights of the epoch with the best validation score.
    source : str
    open : tuple of str
        What the sources leave open, or what is done otherwise.
    """

    name: str
    module: str
    levels: tuple[str, ...]
    kinds: tuple[str, ...]
    features: str
    dropout: float
    lr: float
    batch: int
    epochs: int
    source: str
    hidden: int = 0
    decoupled: bool = False
    weight_decay: float = 0.0
    schedule: Annealing | Linear | None = None
    clip: float | None = None
    loss_tokens: int | None = None
    patience: int | None = None
    best: bool = False
    open: tuple[str, ...] = ()


# finetuning_optim: adam, lr 5e-4, betas 0.9, 0.999, eps 1e-8, weight_decay 0.01; WarmupAnnealing, warmup_steps 10,
# min_lr 1e-5, over trainer.max_steps, which the base configuration sets to 1,000,000: the rate hardly falls.
# gradient_clip_val 1.0. 2 devices, so batches are twice micro_batch_size.
BIONEMO = "BioNeMo 1.7, examples/protein/esm1nv/conf/downstream_flip_{}.yaml"
BIONEMO_OPEN = (
    "order: proteins are shuffled in each epoch; BioNeMo's batches keep the order of the file, or one shuffling of it",
    "arithmetic: float32, where BioNeMo has 16-mixed",
    "weight decay apart from the gradient: in it, as torch.optim.Adam has it, one-hot falls short of the published "
    "figures (docs/evaluation.md)",
)
BIONEMO_ANNEALING = Annealing(peak=5e-4, warm_up=10, steps=1_000_000, lowest=1e-5)
MLP_256 = HeadRecipe(
    name="mlp-256",
    module=MLP,
    levels=(PROTEIN,),
    kinds=ALL_KINDS,
    features=PROTEIN,
    # hidden_layer_size 256, dropout_rate 0.1, micro_batch_size 64, max_epochs 20.
    hidden=256,
    dropout=0.1,
    batch=2 * 64,
    epochs=20,
    source=BIONEMO.format("scl"),
    open=BIONEMO_OPEN,
    lr=5e-4,
    weight_decay=0.01,
    decoupled=True,
    schedule=BIONEMO_ANNEALING,
    clip=1.0,
)
RECIPES = {
    recipe.name: recipe
    for recipe in (
        HeadRecipe(
            name=CONVOLUTIONS,
            module=CONVOLUTIONS,
            levels=(RESIDUE,),
            kinds=ALL_KINDS,
            features=RESIDUE,
            # cnn_dim 32, dropout_rate 0.25, micro_batch_size 64, max_epochs 10; kernels of 7 in its ConvNet.
            hidden=32,
            dropout=0.25,
            batch=2 * 64,
            epochs=10,
            # Its loss is the mean over seq_length tokens of each protein, those that do not count as zeros.
            loss_tokens=512,
            source=BIONEMO.format("sec_str"),
            open=BIONEMO_OPEN,
            lr=5e-4,
            weight_decay=0.01,
            decoupled=True,
            schedule=BIONEMO_ANNEALING,
            clip=1.0,
        ),
        MLP_256,
        replace(
            MLP_256,
            name="mlp-128",
            # hidden_layer_size 128, dropout_rate 0.1, micro_batch_size 32 (of ProtT5nv 16), max_epochs 20.
            hidden=128,
            batch=2 * 32,
            source=BIONEMO.format("meltome"),
            open=(*BIONEMO_OPEN, "GB1: BioNeMo has no configuration of it; that of meltome is taken"),
        ),
        HeadRecipe(
            name=LIGHT_ATTENTION,
            module=LIGHT_ATTENTION,
            levels=(PROTEIN,),
            kinds=ALL_KINDS,
            features=RESIDUE,
            hidden=32,
            dropout=0.25,
            # configs: lr 5.0e-5, batch_size 150, num_epochs 5000, patience 80.
            lr=5e-5,
            batch=150,
            epochs=5000,
            patience=80,
            best=True,
            source="HannesStark/protein-localization, models/light_attention.py and configs/",
            open=(
                "the optimiser: Adam with torch's settings",
                "the maximum is over residues alone; the authors' is over the padding of a batch, too",
                "patience counts from the first epoch; the authors' min_train_acc is left aside",
            ),
        ),
        HeadRecipe(
            name=CONVBERT,
            module=CONVBERT,
            levels=(RESIDUE, PROTEIN),
            kinds=ALL_KINDS,
            features=RESIDUE,
            # One layer, 4 heads, kernel 7, dropout 0.2, hidden_dim half of the input's; decoder uniform +-0.1.
            dropout=0.2,
            # lr 1e-3, 5 epochs, warm-up 1000, batch 1 x 16, weight decay 0, AdamW; the best epoch's weights.
            lr=1e-3,
            batch=16,
            epochs=5,
            decoupled=True,
            schedule=Linear(peak=1e-3, warm_up=1000, steps=0),
            clip=1.0,
            best=True,
            source="agemagician/Ankh, src/ankh/models and examples; schedule and clipping of transformers.Trainer",
            open=(
                "the loss is the mean over the labels of all 16 proteins; transformers.Trainer's of that time was the "
                "mean of the means of each",
                "warm-up 1,000 steps, of which a small task makes fewer: its rate is still rising at the end",
            ),
        ),
    )
}
HEADS = (*RECIPES, LINEAR, RIDGE)


def check_head(name: str, level: str, kind: str) -> None:
    """Check that a head can solve a kind of task.

    Raises
    ------
    UserError
        Names those that can.
    """
    if name not in heads_for(level, kind):
        raise UserError(
            f"--head is {name}; expected for {kind} of a {level} one of {', '.join(heads_for(level, kind))}"
        )


def heads_for(level: str, kind: str) -> list[str]:
    """List the heads that can solve a kind of task."""
    trained = [recipe.name for recipe in RECIPES.values() if level in recipe.levels and kind in recipe.kinds]
    return [*trained, *([] if kind == NUMBERS else [LINEAR]), RIDGE]


def features_of(name: str, level: str) -> str:
    """Return whether a head takes vectors of residues or of proteins."""
    return RECIPES[name].features if name in RECIPES else level
