"""Adapters on embedome's encoders: read by peft with the same output, and nothing else of the model trained."""

import pytest
import torch
from embedome.common.errors import UserError
from embedome.evaluation.lora import AdaptedLinear, Half, adapt, draw_kept, matrices_of
from embedome.models.adapters import AdapterSettings, read_adapter, write_adapter
from embedome.models.directory import load_model, read_config
from helpers.adapters import ADAPTED, base_class, hidden_states
from helpers.saved_models import KINDS, make

SETTINGS = AdapterSettings(rank=4, alpha=6, dropout=0.0)
TOKENS = [torch.tensor([[5, 6, 7, 8, 9, 10, 11]]), torch.tensor([[5, 5, 7, 9], [8, 6, 5, 7]])]


def adapted_model(kind, folder, settings=SETTINGS, targets=()):
    """An encoder with adapters that are not zero."""
    model = load_model(make(kind, folder))
    halves = adapt(model.encoder, read_config(folder), settings, targets)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for half in halves.values():
            half.b.copy_(0.3 * torch.randn(half.b.shape, generator=draw))
    return model.encoder.eval(), halves


@pytest.mark.parametrize("kind", ADAPTED, ids=lambda kind: kind.name)
def test_peft_reads_an_adapter_and_gives_the_same_output(kind, tmp_path):
    from peft import PeftModel

    encoder, halves = adapted_model(kind, tmp_path / "base")
    (tmp_path / "adapter").mkdir()
    write_adapter(tmp_path / "adapter", matrices_of(halves, SETTINGS), SETTINGS, tmp_path / "base")
    base = base_class(kind, tmp_path / "base")
    theirs = PeftModel.from_pretrained(base, tmp_path / "adapter").eval().base_model.model
    for half in halves.values():
        half.eval()
    with torch.inference_mode():
        for tokens, found in zip(TOKENS, encoder.stream(TOKENS), strict=True):
            expected = hidden_states(kind, theirs, tokens)
            assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("kind", ADAPTED, ids=lambda kind: kind.name)
def test_training_begins_with_the_base_and_leaves_it_as_it_is(kind, tmp_path):
    make(kind, tmp_path)
    base, model = load_model(tmp_path).encoder, load_model(tmp_path)
    halves = adapt(model.encoder, read_config(tmp_path), AdapterSettings(rank=4, alpha=6, dropout=0.5))
    before = {name: tensor.clone() for name, tensor in model.encoder.state_dict().items()}
    with torch.inference_mode():
        assert all(map(torch.equal, base.stream(TOKENS), model.encoder.stream(TOKENS)))
    trained = torch.nn.ModuleList(halves.values())
    optimiser = torch.optim.AdamW(trained.parameters(), lr=0.1)
    for _ in range(3):
        loss = sum(each.square().mean() for each in model.encoder.stream(TOKENS))
        optimiser.zero_grad()
        loss.backward()
        assert all(parameter.grad.abs().max() > 0 for half in halves.values() for parameter in [half.b])
        optimiser.step()
    after = model.encoder.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert all(parameter.grad is None for parameter in model.encoder.parameters())
    assert any(half.a.grad.abs().max() > 0 for half in halves.values())


def test_gradients_are_those_of_peft(tmp_path):
    """One step without dropout, of a loss on hidden states."""
    from peft import PeftModel

    kind = KINDS["megatron, head"]
    encoder, halves = adapted_model(kind, tmp_path / "base")
    (tmp_path / "adapter").mkdir()
    write_adapter(tmp_path / "adapter", matrices_of(halves, SETTINGS), SETTINGS, tmp_path / "base")
    theirs = PeftModel.from_pretrained(base_class(kind, tmp_path / "base"), tmp_path / "adapter", is_trainable=True)
    theirs.eval()
    sum(each.sin().sum() for each in encoder.stream(TOKENS)).backward()
    for tokens in TOKENS:
        theirs.base_model.model(tokens).last_hidden_state.sin().sum().backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters() if parameter.grad is not None}
    assert len(gradients) == 2 * len(halves)
    for name, half in halves.items():
        for part, mine in (("A", half.a.grad), ("B", half.b.grad)):
            expected = gradients[f"base_model.model.{name}.lora_{part}.default.weight"]
            assert (mine - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("places", [(0, 2), (1,), (0, 1, 2)])
@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_gradients_with_dropout_are_those_of_torch_s_own_graph(places, dropout):
    torch.manual_seed(0)
    base = torch.nn.Linear(8, 12).requires_grad_(False)
    settings = AdapterSettings(3, 4.5, dropout)
    halves = {place: Half(8, 4, settings) for place in places}
    for half in halves.values():
        torch.nn.init.normal_(half.b)
    x = torch.randn(50, 8, requires_grad=True)
    wanted = [x, *(matrix for half in halves.values() for matrix in (half.a, half.b))]

    torch.manual_seed(1)
    mine = AdaptedLinear(base, 3, halves, settings)(x)
    torch.manual_seed(1)
    kept = draw_kept(x, dropout) if dropout else torch.ones_like(x)
    parts = [base(x)[:, 4 * place : 4 * place + 4] for place in range(3)]
    for place, half in halves.items():
        parts[place] = parts[place] + 1.5 * (x * kept) @ half.a.T @ half.b.T
    expected = torch.cat(parts, 1)

    torch.testing.assert_close(mine, expected)
    for one, other in zip(
        torch.autograd.grad(mine.sin().sum(), wanted), torch.autograd.grad(expected.sin().sum(), wanted), strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.9999999])
def test_dropout_drops_at_its_rate_and_keeps_the_mean(dropout):
    torch.manual_seed(0)
    kept = draw_kept(torch.empty(1001, 999), dropout)
    count = kept.numel()
    dropped = (kept == 0).double().mean()
    assert abs(dropped - dropout) <= 5 * (dropout * (1 - dropout) / count) ** 0.5 + 2**-16
    assert len(kept.unique()) == 2
    if dropout <= 0.5:
        assert kept.mean() == pytest.approx(1, abs=0.01)


def test_what_is_written_is_read_again(tmp_path):
    _, halves = adapted_model(KINDS["esm"], tmp_path / "base")
    (tmp_path / "adapter").mkdir()
    write_adapter(tmp_path / "adapter", matrices_of(halves, SETTINGS), SETTINGS, tmp_path / "base")
    found = read_adapter(tmp_path / "adapter")
    assert not found.replaced
    assert found.matrices.keys() == halves.keys()
    for name, matrix in found.matrices.items():
        assert torch.equal(matrix.product(), 1.5 * (halves[name].b @ halves[name].a))


def test_other_targets_can_be_named(tmp_path):
    _, halves = adapted_model(KINDS["esm"], tmp_path, targets=("key", "dense"))
    assert {name.rpartition(".")[2] for name in halves} == {"key", "dense"}
    assert len(halves) == 2 * 4


def test_a_target_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    with pytest.raises(UserError, match="no linear layer wq; expected of dense, key, query, value"):
        adapted_model(KINDS["esm"], tmp_path, targets=("query", "wq"))
