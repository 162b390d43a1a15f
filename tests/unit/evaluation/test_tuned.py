"""Adapters and a head trained together: features of the model as it is, the steps of a plain loop, something learnt."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from embedome.common.errors import UserError
from embedome.engine.windows import LongPolicy
from embedome.evaluation import tuned as module
from embedome.evaluation.examples import Labelling
from embedome.evaluation.head_recipes import RECIPES
from embedome.evaluation.metrics import better
from embedome.evaluation.runs import scores_of
from embedome.evaluation.tuned import TunedFit, TuneSettings
from embedome.models.adapters import AdapterSettings, write_adapter
from embedome.models.directory import load_model
from embedome.models.merge_adapter import merge_adapter
from helpers.made_tasks import example_set
from helpers.saved_models import KINDS, make

RESIDUES = Labelling("residue", "classes", tuple("CEH"))
PROTEINS = Labelling("protein", "numbers", ())
SETTINGS = TuneSettings(AdapterSettings(rank=4, alpha=8, dropout=0.0), rate=0.02, epochs=3, batch=8)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make(KINDS["megatron, head"], tmp_path_factory.mktemp("model"))


def make_fit(model, labelling=RESIDUES, head="convolutions", settings=SETTINGS, policy=None, **others):
    recipe = replace(RECIPES[head], dropout=others.pop("head_dropout", 0.0))
    return TunedFit(model, recipe, example_set(labelling), policy or LongPolicy(), settings, 0, **others)


def train(fit, metric="accuracy"):
    val = fit.data.of_split("val")
    fit.fit(lambda outputs: better(metric, scores_of(fit.data, val, outputs)[metric]))
    return fit


@pytest.mark.parametrize("head", ["convolutions", "convbert"])
def test_features_are_those_of_the_model_one_protein_at_a_time(model, head, monkeypatch):
    """In any micro-batch; what is beyond the model's positions is cut."""
    monkeypatch.setattr(module, "MICRO_TOKENS", 100)
    fit = make_fit(model, head=head, policy=LongPolicy(max_residues=20))
    loaded, seen = load_model(model), set()
    with torch.inference_mode():
        for indices, chunk in fit.data.chunks(np.arange(len(fit.data.examples)), fit.head.edge, fit.head.alone):
            for row, (index, length) in enumerate(zip(indices.tolist(), chunk.lengths.tolist(), strict=True)):
                residues = fit.data.examples.sequences[index][:20]
                tokens = torch.from_numpy(loaded.tokenizer.tokens(np.frombuffer(residues, np.uint8)[None]))
                expected = loaded.encoder(tokens)[0, 1:-1]
                assert length == len(residues)
                assert torch.allclose(chunk.features[row, :length], expected, atol=1e-5)
                assert not chunk.features[row, length:].any()
                seen.add(index)
    assert seen == set(range(len(fit.data.examples)))


def test_a_step_does_not_depend_on_how_proteins_are_cut_into_micro_batches(model, monkeypatch):
    gradients = []
    for tokens in (10**6, 100, 1):
        monkeypatch.setattr(module, "MICRO_TOKENS", tokens)
        fit = make_fit(model)
        fit.residue_loss(fit.data.of_split("train"), 0.01)
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in fit.trained.parameters()]))
    for other in gradients[1:]:
        assert (other - gradients[0]).abs().max() <= 1e-5 * gradients[0].abs().max()


def test_training_learns_more_than_the_head_alone(model):
    """Labels that depend on residues; the head sees a single number of each vector."""
    frozen = train(make_fit(model, settings=replace(SETTINGS, adapter=AdapterSettings(4, 1e-12, 0.0))))
    tuned = train(make_fit(model))
    losses = []
    for fit in (frozen, tuned):
        train_indices = fit.data.of_split("train")
        with torch.no_grad():
            fit.trained.eval()
            chunks = fit.data.chunks(train_indices, fit.head.edge, fit.head.alone)
            losses.append(sum(fit.loss(fit.head(c.features, c.lengths)[fit_rows(c)], c).item() for _, c in chunks))
    assert losses[1] < 0.8 * losses[0]


def fit_rows(chunk):
    return torch.arange(chunk.features.shape[1])[None, :] < chunk.lengths[:, None]


@pytest.mark.parametrize(
    ("labelling", "head", "metric"), [(RESIDUES, "convbert", "accuracy"), (PROTEINS, "mlp-128", "spearman")]
)
def test_the_merged_model_gives_the_features_that_the_head_was_trained_on(model, labelling, head, metric, tmp_path):
    fit = train(make_fit(model, labelling, head), metric)
    (tmp_path / "adapter").mkdir()
    write_adapter(tmp_path / "adapter", fit.matrices(), SETTINGS.adapter, model)
    merge_adapter(model, tmp_path / "adapter", tmp_path / "merged")
    tokens = torch.tensor([[1, 5, 6, 7, 8, 9, 2]])
    with torch.inference_mode():
        expected, found = fit.data.model.encoder(tokens), load_model(tmp_path / "merged").encoder(tokens)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (load_model(model).encoder(tokens) - expected).abs().max() > 1e-3


class KilledError(Exception):
    """In the place of SIGKILL, after an epoch was kept."""


def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(model, tmp_path):
    settings = replace(SETTINGS, adapter=AdapterSettings(4, 8, 0.3))
    whole = train(make_fit(model, settings=settings, head_dropout=0.2))
    for _ in range(3):
        killed = make_fit(model, settings=settings, head_dropout=0.2, kept=tmp_path / "epoch.pt")
        keep = killed.keep

        def keep_and_die(*given, keep=keep):
            keep(*given)
            raise KilledError

        killed.keep = keep_and_die
        with pytest.raises(KilledError):
            train(killed)
    last = train(make_fit(model, settings=settings, head_dropout=0.2, kept=tmp_path / "epoch.pt"))
    assert last.epochs == 3
    for name, tensor in whole.trained.state_dict().items():
        assert torch.equal(tensor, last.trained.state_dict()[name]), name


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"epochs": 0}, "--epochs is 0"),
        ({"rate": 0.0}, "--rate is 0.0"),
        ({"adapter": AdapterSettings(0, 1, 0)}, "--rank is 0"),
        ({"adapter": AdapterSettings(4, 1, 1.0)}, "--dropout is 1.0"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, what):
    with pytest.raises(UserError, match=what):
        replace(SETTINGS, **change)


def test_windows_are_refused(model):
    with pytest.raises(UserError, match="not trained on windows"):
        make_fit(model, policy=LongPolicy("window", 5, 20))
