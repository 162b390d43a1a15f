"""Optimisers: which weights decay, which are Muon's, and Adafactor against torch's own where the two are one."""

import pytest
import torch
from embedome.training.optimisers import AdafactorOptimiser, MuonOptimiser, make_optimisers, orthogonal, set_rate
from embedome.training.recipes import RECIPES
from helpers.training_models import small_model
from torch import nn


@pytest.mark.parametrize("shape", [(6,), (5, 7), (3, 40)])
def test_adafactor_is_torch_s_as_long_as_that_does_not_bound_the_rate(shape):
    torch.manual_seed(0)
    start = torch.randn(shape)
    own, other = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    ours = AdafactorOptimiser([own])
    # torch adds to the second moments what is nearly nothing, as the paper does.
    theirs = torch.optim.Adafactor([other], lr=0.01, eps=(1e-30, 1e-3), weight_decay=0.0)
    set_rate([ours], 0.01)
    for _ in range(20):
        own.grad = torch.randn(shape)
        other.grad = own.grad.clone()
        ours.step()
        theirs.step()
    assert torch.allclose(own, other, rtol=1e-4, atol=1e-6)
    assert (own - start).abs().max() > 0.02


def test_adafactor_goes_on_from_its_state():
    torch.manual_seed(0)
    gradients = [torch.randn(4, 6) for _ in range(6)]

    def run(parameter, optimiser, steps):
        set_rate([optimiser], 0.01)
        for gradient in steps:
            parameter.grad = gradient.clone()
            optimiser.step()

    whole = nn.Parameter(torch.ones(4, 6))
    run(whole, AdafactorOptimiser([whole]), gradients)
    half = nn.Parameter(torch.ones(4, 6))
    first = AdafactorOptimiser([half])
    run(half, first, gradients[:3])
    second = AdafactorOptimiser([half])
    second.load_state_dict(first.state_dict())
    run(half, second, gradients[3:])
    assert torch.equal(whole, half)


@pytest.mark.parametrize("name", ["esm1nv", "prott5nv"])
def test_weights_decay_on_matrices_and_tables_alone(name):
    model = small_model(name)
    [adam] = make_optimisers(model, RECIPES[name].optimiser)
    decay = {id(p): group["weight_decay"] for group in adam.param_groups for p in group["params"]}
    for key, parameter in model.named_parameters():
        assert decay[id(parameter)] == (0.0 if "norm" in key or "bias" in key else 0.01), key
    assert adam.defaults["betas"] == RECIPES[name].optimiser.betas


def test_muon_has_the_matrices_of_layers_and_adam_the_rest():
    model = small_model("esm1nv")
    muon, adam = make_optimisers(model, RECIPES["demo"].optimiser)
    mine = {id(p) for group in muon.param_groups for p in group["params"]}
    rest = {id(p) for group in adam.param_groups for p in group["params"]}
    assert not mine & rest
    assert mine | rest == {id(p) for p in model.parameters()}
    expected = {"qkv", "attention_out", "mlp_in", "mlp_out"}
    names = {key for key, p in model.named_parameters() if id(p) in mine}
    assert {key.split(".")[-2] for key in names} == expected
    assert len(names) == 2 * 4


def test_muon_is_torch_s_but_for_its_rounding():
    torch.manual_seed(0)
    starts = [torch.randn(shape) for shape in ((12, 30), (30, 12), (12, 30))]
    own, other = ([nn.Parameter(start.clone()) for start in starts] for _ in range(2))
    ours = MuonOptimiser(own, 0.1)
    theirs = torch.optim.Muon(other, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    set_rate([ours], 0.02)
    for _ in range(5):
        for mine, reference in zip(own, other, strict=True):
            mine.grad = torch.randn(mine.shape)
            reference.grad = mine.grad.clone()
        ours.step()
        theirs.step()
    for mine, reference, start in zip(own, other, starts, strict=True):
        assert (mine - reference).abs().max() < 0.02 * (mine - start).abs().max()


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (16, 16)])
def test_updates_keep_singular_vectors_and_make_singular_values_about_one(shape):
    torch.manual_seed(1)
    matrices = torch.randn(3, *shape)
    found = orthogonal(matrices)
    for matrix, update in zip(matrices, found, strict=True):
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        rotated = left.T @ update @ right.T
        off = rotated - rotated.diagonal().diag()
        assert off.abs().max() < 1e-3
        large = values > 0.1 * values.max()
        assert ((rotated.diagonal()[large] > 0.6) & (rotated.diagonal()[large] < 1.3)).all()
