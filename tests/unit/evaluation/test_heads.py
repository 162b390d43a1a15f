"""Heads compute what their authors' do: compared with plain formulas and with the classes that they are built of."""

import numpy as np
import pytest
import torch
from embedome.common.errors import UserError
from embedome.evaluation.head_recipes import HEADS, RECIPES, check_head, heads_for
from embedome.evaluation.heads import make_head
from torch import nn
from torch.nn import functional
from transformers import ConvBertConfig, ConvBertModel

LENGTHS = [5, 12, 9]


@pytest.fixture
def batch():
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(3, 12, 8, generator=draw)
    for row, length in zip(features, LENGTHS, strict=True):
        row[length:] = 0
    return features


def head(name, outputs=3, level="protein"):
    torch.manual_seed(0)
    return make_head(RECIPES[name], 8, outputs, level).eval()


def test_convolutions_are_bionemos_in_a_batch_padded_to_512(batch):
    """Two Conv2d with kernels (7, 1), padding (3, 0) and ReLU between, over 512 tokens of each protein."""
    mine = head("convolutions", level="residue")
    first, second = nn.Conv2d(8, 32, (7, 1), padding=(3, 0)), nn.Conv2d(32, 3, (7, 1), padding=(3, 0))
    for theirs, ours in ((first, mine.first), (second, mine.second)):
        theirs.weight.data, theirs.bias.data = ours.weight.data[..., None], ours.bias.data
    padded = functional.pad(batch, (0, 0, 0, 500))
    expected = second(functional.relu(first(padded.transpose(1, 2)[..., None])))[..., 0].transpose(1, 2)
    edged = functional.pad(batch, (0, 0, 0, mine.edge))
    found = mine(edged, torch.tensor(LENGTHS))
    for place, length in enumerate(LENGTHS):
        assert torch.allclose(found[place, :length], expected[place, :length], atol=1e-5)
        alone = mine(functional.pad(batch[place : place + 1, :length], (0, 0, 0, mine.edge)), torch.tensor([length]))
        assert torch.allclose(found[place, :length], alone[0, :length], atol=1e-6)


def test_the_perceptron_has_one_hidden_layer(batch):
    mine = head("mlp-256")
    vectors = batch[:, :1]
    hidden = np.maximum(
        0, vectors[:, 0].numpy() @ mine.first.weight.detach().numpy().T + mine.first.bias.detach().numpy()
    )
    expected = hidden @ mine.second.weight.detach().numpy().T + mine.second.bias.detach().numpy()
    assert hidden.shape == (3, 256)
    assert np.allclose(mine(vectors, torch.ones(3, dtype=torch.int64)).detach().numpy(), expected, atol=1e-5)


def test_light_attention_weighs_residues_by_their_softmax_beside_their_maximum(batch):
    mine = head("light-attention")
    found = mine.finish(mine(batch, torch.tensor(LENGTHS)))
    expected = []
    for row, length in zip(batch, LENGTHS, strict=True):
        turned = row[:length].T[None]
        values = functional.conv1d(turned, mine.features.weight, mine.features.bias, padding=4)[0]
        weights = functional.conv1d(turned, mine.attention.weight, mine.attention.bias, padding=4)[0].exp()
        expected.append(torch.cat([(values * weights).sum(1) / weights.sum(1), values.max(1).values]))
    linear, _, _, norm = mine.hidden
    hidden = functional.relu(torch.stack(expected) @ linear.weight.T + linear.bias)
    hidden = (hidden - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    assert torch.allclose(found, hidden @ mine.output.weight.T + mine.output.bias, atol=1e-5)
    assert [module.__class__.__name__ for module in mine.hidden] == ["Linear", "Dropout", "ReLU", "BatchNorm1d"]


@pytest.mark.parametrize("level", ["residue", "protein"])
def test_convbert_is_one_layer_of_the_hugging_face_class(batch, level):
    mine = head("convbert", level=level)
    config = ConvBertConfig(
        vocab_size=4, hidden_size=8, num_attention_heads=4, intermediate_size=4, conv_kernel_size=7, num_hidden_layers=1
    )
    reference = ConvBertModel(config).eval()
    reference.encoder.layer[0].load_state_dict(mine.layer.state_dict())
    states = reference.encoder(batch[1:2]).last_hidden_state
    states = states.amax(1) if level == "protein" else states
    found = mine(batch[1:2], torch.tensor([12]))
    assert torch.allclose(found, states @ mine.output.weight.T + mine.output.bias, atol=1e-5)
    assert mine.output.weight.abs().max() <= 0.1
    assert mine.output.bias.abs().max() == 0
    dense = mine.layer.intermediate.dense
    assert dense.weight.shape == (4, 8)
    # As the class initialises it, N(0, 0.02), and not as torch does.
    assert 0.005 < dense.weight.std() < 0.05


def test_convbert_needs_a_dimension_that_its_heads_divide():
    with pytest.raises(UserError, match="convbert needs a dimension that 4 divides, but it is 21"):
        make_head(RECIPES["convbert"], 21, 3, "protein")


def test_heads_are_for_their_levels_and_kinds():
    assert heads_for("residue", "classes") == ["convolutions", "convbert", "linear", "ridge"]
    assert heads_for("protein", "numbers") == ["mlp-256", "mlp-128", "light-attention", "convbert", "ridge"]
    assert set(HEADS) >= set(heads_for("protein", "labels"))
    with pytest.raises(UserError, match="--head is mlp-256; expected for classes of a residue one of convolutions"):
        check_head("mlp-256", "residue", "classes")


def test_settings_are_those_published():
    convolutions, scl, meltome = (RECIPES[name] for name in ("convolutions", "mlp-256", "mlp-128"))
    assert (convolutions.hidden, convolutions.dropout, convolutions.batch, convolutions.epochs) == (32, 0.25, 128, 10)
    assert (scl.hidden, scl.dropout, scl.batch, scl.epochs) == (256, 0.1, 128, 20)
    assert (meltome.hidden, meltome.dropout, meltome.batch, meltome.epochs) == (128, 0.1, 64, 20)
    assert all(
        (each.lr, each.weight_decay, each.decoupled) == (5e-4, 0.01, True) for each in (convolutions, scl, meltome)
    )
    rate = convolutions.schedule.rate
    assert [rate(0), rate(10), rate(11)] == pytest.approx([5e-4 / 11, 5e-4, 5e-4], rel=1e-5)
    assert rate(1_000_000) == 1e-5
    light, ankh = RECIPES["light-attention"], RECIPES["convbert"]
    assert (light.lr, light.batch, light.patience, light.dropout, light.hidden) == (5e-5, 150, 80, 0.25, 32)
    assert (ankh.lr, ankh.batch, ankh.epochs, ankh.weight_decay, ankh.schedule.warm_up) == (1e-3, 16, 5, 0, 1000)
