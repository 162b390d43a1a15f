"""The optimisers of recipes, over the parameters of a model."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from embedome.training.recipes import Adafactor, Adam, Optimiser
from embedome.training.sharding import is_split, mean_of_all, mean_of_rows, own_part, split_like

# Of Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon): momentum, and a polynomial that pulls singular
# values to about 1, with the number of times it is applied. Times 0.2 sqrt(longer side) an update is as large as Adam's
# (Liu et al. 2025, arXiv:2502.16982).
MOMENTUM, POLYNOMIAL, TIMES, LIKE_ADAM = 0.95, (3.4445, -4.7750, 2.0315), 5, 0.2
# Adafactor's constants (Shazeer and Stern 2018, arXiv:1804.04235, section 9): the decay of second moments is
# 1 - t^-0.8, updates are clipped at a root mean square of 1, and scaled by the parameter's, at least 1e-3.
DECAY, CLIPPED, LEAST_SCALE, TINY = -0.8, 1.0, 1e-3, 1e-30


def make_optimisers(model: nn.Module, recipe: Optimiser) -> list[torch.optim.Optimizer]:
    """Return the optimisers of a recipe; their learning rate is set before each step."""
    if isinstance(recipe, Adafactor):
        return [AdafactorOptimiser(list(model.parameters()))]
    if isinstance(recipe, Adam):
        return [make_adam([*decayed_parameters(model)], [*undecayed_parameters(model)], recipe)]
    inner = muon_matrices(model)
    apart = {id(parameter) for parameter in inner}
    outer = [parameter for parameter in decayed_parameters(model) if id(parameter) not in apart]
    muon = MuonOptimiser(inner, recipe.adam.weight_decay)
    return [muon, make_adam(outer, [*undecayed_parameters(model)], recipe.adam)]


def muon_matrices(model: nn.Module) -> list[nn.Parameter]:
    """Matrices of layers, which Muon updates."""
    return [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]


def decayed_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """Matrices and tables, on which weights decay."""
    return (parameter for parameter in model.parameters() if not is_bias(parameter))


def undecayed_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """Biases and norms, on which they do not."""
    return filter(is_bias, model.parameters())


def is_bias(parameter: nn.Parameter) -> bool:
    """Whether a parameter is a vector, or a row as ProtT5nv's output bias is."""
    return parameter.ndim < 2 or parameter.shape[0] == 1


def make_adam(decayed: list[nn.Parameter], others: list[nn.Parameter], recipe: Adam) -> torch.optim.AdamW:
    """Return Adam with decoupled weight decay on some of the parameters."""
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=recipe.betas, eps=recipe.eps, fused=True)


class MuonOptimiser(torch.optim.Optimizer):
    """Muon with Nesterov's momentum, updates as large as Adam's; matrices of one shape at once.

    torch's own works in bfloat16, which takes ten times as long on CPUs that have no instructions for it.

    Parameters
    ----------
    parameters : sequence of torch.nn.Parameter
        Matrices.
    weight_decay : float
    """

    def __init__(self, parameters: Sequence[nn.Parameter], weight_decay: float) -> None:
        super().__init__(parameters, {"lr": 0.0, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update the parameters."""
        for group in self.param_groups:
            for shape in dict.fromkeys(parameter.shape for parameter in group["params"]):
                same = (each for each in group["params"] if each.shape == shape)
                alike = [(each, each.grad) for each in same if each.grad is not None]
                if not alike:
                    continue
                updates = orthogonal_alike([self.moved(each, gradient) for each, gradient in alike])
                for (parameter, _), update in zip(alike, updates, strict=True):
                    parameter *= 1 - group["lr"] * group["weight_decay"]
                    parameter -= group["lr"] * LIKE_ADAM * math.sqrt(max(shape)) * update

    def moved(self, parameter: nn.Parameter, gradient: Tensor) -> Tensor:
        """Return a parameter's gradient with momentum."""
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        return gradient.lerp(state["momentum"].lerp_(gradient, 1 - MOMENTUM), MOMENTUM)


def orthogonal_alike(matrices: Sequence[Tensor]) -> Iterator[Tensor]:
    """Return what `orthogonal` makes of matrices of one shape; those that are split are gathered, one at a time."""
    if not is_split(matrices[0]):
        yield from orthogonal(torch.stack(list(matrices)))
        return
    for matrix in matrices:
        yield split_like(orthogonal(matrix.full_tensor()[None])[0], matrix)  # type: ignore[attr-defined]


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices [n, A, B] of the same singular vectors, whose singular values are about 1 (0.7 to 1.2).

    The polynomial is applied to the square matrix ``x x^T`` of the shorter side, and to x once in the end: of a matrix
    four times as long as wide half the operations. In bfloat16 what is rounded in ``x x^T`` would grow too large.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonal(matrices.mT).mT
    x = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    gram = x @ x.mT
    product = factor = polynomial(gram)
    for _ in range(TIMES - 1):
        gram = factor @ gram @ factor
        factor = polynomial(gram)
        product = factor @ product
    return product @ x


def polynomial(gram: Tensor) -> Tensor:
    """Return what `POLYNOMIAL` multiplies x by, given ``x x^T`` [n, A, A]."""
    a, b, c = POLYNOMIAL
    factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    factor.diagonal(dim1=1, dim2=2).add_(a)
    return factor


class AdafactorOptimiser(torch.optim.Optimizer):
    """Adafactor with a schedule of its own, without momentum, updates scaled by the parameter, as optax has it.

    torch's bounds the rate by ``1 / sqrt(t)``, which would cut Ankh's after 250,000 steps.

    Parameters
    ----------
    parameters : sequence of torch.nn.Parameter
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        super().__init__(parameters, {"lr": 0.0})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update the parameters."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    values = own_part(parameter)
                    values -= group["lr"] * self.update(parameter, own_part(parameter.grad))

    def update(self, parameter: nn.Parameter, gradient: Tensor) -> Tensor:
        """Return what is subtracted from a parameter at a learning rate of 1; of one that is split its rows here."""
        state = self.state[parameter]
        step = state["step"] = state.get("step", 0) + 1
        beta, squares = 1 - math.pow(step, DECAY), gradient.square() + TINY
        if parameter.ndim < 2:
            mean = decay(state, "mean", squares, beta)
        else:
            rows = decay(state, "rows", squares.mean(-1, keepdim=True), beta)
            columns = decay(state, "columns", mean_of_rows(squares, parameter), beta)
            mean = rows * columns / mean_of_rows(rows, parameter)
        update = gradient * mean.rsqrt()
        update /= max(1.0, root_mean_square(update, parameter).item() / CLIPPED)
        return update * max(LEAST_SCALE, root_mean_square(own_part(parameter), parameter).item())


def decay(state: dict, name: str, values: Tensor, beta: float) -> Tensor:
    """Take new values into a moving average, and return it."""
    state[name] = values if name not in state else own_part(state[name]).lerp_(values, 1 - beta)
    return state[name]


def root_mean_square(values: Tensor, parameter: nn.Parameter) -> Tensor:
    """Return the root of the mean of squares over a parameter, given those of its rows that are here."""
    return mean_of_all(values.square(), parameter).sqrt()


def set_rate(optimisers: Sequence[torch.optim.Optimizer], rate: float) -> None:
    """Set the learning rate of the next step."""
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = rate
