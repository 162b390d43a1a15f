"""Training of heads: the steps of a plain torch loop, the same each time, and something learnt."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from embedome.common.errors import UserError
from embedome.evaluation import head_data
from embedome.evaluation.examples import Labelling
from embedome.evaluation.fit import TorchFit
from embedome.evaluation.head_data import HeadData
from embedome.evaluation.head_recipes import RECIPES, features_of, heads_for
from embedome.evaluation.metrics import better
from embedome.evaluation.runs import scores_of
from helpers.made_tasks import example_set, random_features
from torch.nn import functional

CLASSES = Labelling("residue", "classes", tuple("CEH"))
ALL = [
    Labelling(level, kind, ("C", "E", "H") if (level, kind) == ("residue", "classes") else ())
    for level in ("residue", "protein")
    for kind in ("classes", "labels", "numbers")
]


def data_of(labelling, head, longest=10**6):
    examples = example_set(labelling)
    return HeadData(random_features(examples, features_of(head, labelling.level), longest=longest), examples)


def without_dropout(name, **changes):
    return replace(RECIPES[name], dropout=0.0, **changes)


def fit(recipe, data, seed=0, metric="accuracy"):
    trained = TorchFit(recipe, data, seed)
    val = data.of_split("val")
    trained.fit(lambda outputs: better(metric, scores_of(data, val, outputs)[metric]))
    return trained


def test_steps_are_those_of_a_plain_loop_with_bionemos_loss():
    """AdamW, clipped, on the mean over 512 tokens of each protein of the batch."""
    data = data_of(CLASSES, "convolutions")
    recipe = without_dropout("convolutions", batch=16, epochs=3)
    mine = fit(recipe, data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = TorchFit(recipe, data, 0).head
    optimiser = torch.optim.AdamW(head.parameters(), lr=5e-4, weight_decay=0.01)
    train, step = data.of_split("train"), 0
    for epoch in range(3):
        order = train[np.random.default_rng([0, epoch]).permutation(len(train))]
        for begin in range(0, len(order), 16):
            batch = order[begin : begin + 16]
            for group in optimiser.param_groups:
                group["lr"] = 5e-4 * min(1, (step + 1) / 11) if step <= 10 else 5e-4
            features, target, mask = (torch.zeros(len(batch), 512, *shape) for shape in ((8,), (3,), ()))
            for row, index in enumerate(batch):
                part, length = data.labels(index), int(data.features.counts[index])
                features[row, :length] = torch.from_numpy(data.features.of_protein(index).astype(np.float32))
                target[row, :length] = functional.one_hot(torch.from_numpy(data.examples.targets[part]), 3).float()
                mask[row, :length] = torch.from_numpy(data.examples.mask[part]).float()
            # Logits that do not count are zeros, and so is the target of padding.
            found = head(features, torch.full((len(batch),), 509)) * mask[..., None]
            loss = functional.cross_entropy(found.permute(0, 2, 1), target.permute(0, 2, 1))
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
            optimiser.step()
            step += 1
    for name, tensor in head.state_dict().items():
        assert torch.allclose(tensor, mine.head.state_dict()[name], atol=1e-5), name


@pytest.mark.parametrize("labelling", ALL, ids=lambda each: f"{each.level} {each.kind}")
@pytest.mark.slow
def test_every_head_learns_every_kind_that_it_is_for(labelling):
    metric = {"classes": "accuracy", "labels": "macro_f1", "numbers": "mse"}[labelling.kind]
    for name in heads_for(labelling.level, labelling.kind):
        if name not in RECIPES:
            continue
        data = data_of(labelling, name)
        quick = without_dropout(name, lr=1e-2, schedule=None, batch=8, epochs=6, weight_decay=0.0, patience=None)
        trained, train = fit(quick, data, metric=metric), data.of_split("train")
        before = TorchFit(quick, data, 0)
        found, start = (scores_of(data, train, each.predict(train))[metric] for each in (trained, before))
        assert better(metric, found) > better(metric, start), name
        assert trained.epochs == 6


def test_the_same_seed_has_the_same_weights_and_another_one_others():
    data = data_of(CLASSES, "convolutions")
    recipe = replace(RECIPES["convolutions"], epochs=2)
    torch.manual_seed(1)
    first = fit(recipe, data).head.state_dict()
    torch.manual_seed(2)
    again, other = fit(recipe, data).head.state_dict(), fit(recipe, data, seed=1).head.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["first.weight"], other["first.weight"])


@pytest.mark.parametrize("name", ["convolutions", "light-attention", "convbert"])
def test_how_a_batch_is_cut_into_chunks_changes_rounding_alone(name, monkeypatch):
    labelling = CLASSES if name == "convolutions" else Labelling("protein", "classes")
    data = data_of(labelling, name)
    recipe = without_dropout(name, batch=16, epochs=2)
    whole = fit(recipe, data)
    monkeypatch.setattr(head_data, "CHUNK_ROWS", 40)
    cut = fit(recipe, data)
    test = data.of_split("test")
    assert np.abs(whole.predict(test) - cut.predict(test)).max() < 1e-4


def test_predictions_are_in_the_order_that_is_asked_for():
    data = data_of(CLASSES, "convolutions", longest=15)
    trained, test = TorchFit(RECIPES["convolutions"], data, 0), data.of_split("test")
    parts = [trained.predict(test[place : place + 1]) for place in range(len(test))]
    assert np.abs(np.concatenate(parts) - trained.predict(test)).max() < 1e-5
    assert [len(part) for part in parts] == np.minimum(15, data.examples.lengths[test]).tolist()


def test_the_weights_of_the_best_epoch_are_kept():
    data = data_of(Labelling("protein", "classes"), "light-attention")
    scores = iter([0.5, 0.9, 0.9, 0.1, 0.2])
    trained = TorchFit(replace(RECIPES["light-attention"], batch=10, epochs=5), data, 0)
    trained.fit(lambda outputs: next(scores))
    second = TorchFit(replace(RECIPES["light-attention"], batch=10, epochs=2, best=False, patience=None), data, 0)
    second.fit(lambda outputs: 0.0)
    assert trained.epochs == 5
    for name, tensor in second.head.state_dict().items():
        assert torch.equal(tensor, trained.head.state_dict()[name]), name


def test_patience_ends_the_training():
    data = data_of(Labelling("protein", "classes"), "light-attention")
    recipe = without_dropout("light-attention", lr=1e-2, batch=10, epochs=200, patience=3)
    seen = []
    trained = TorchFit(recipe, data, 0)

    def score(outputs):
        seen.append(scores_of(data, data.of_split("val"), outputs)["accuracy"])
        return seen[-1]

    trained.fit(score)
    assert trained.epochs == len(seen) < 200
    assert max(seen[-3:]) <= max(seen[:-3])


def test_a_head_that_diverges_is_an_error_of_one_line():
    data = data_of(Labelling("protein", "numbers"), "mlp-128")
    data.examples.targets[:] = 1e30
    with pytest.raises(UserError, match="the head mlp-128 diverged"):
        fit(RECIPES["mlp-128"], data, metric="mse")
