"""Training modules against the Hugging Face classes, padded there: loss, gradients, parameters; and what is saved."""

from copy import deepcopy

import pytest
import torch
from embedome.models.create import make_config
from embedome.models.directory import load_model
from embedome.models.registry import find_entry
from embedome.training.device_batch import to_device
from embedome.training.model_files import empty_model, hugging_face_tensors, save_model
from embedome.training.objectives import IGNORED
from helpers.training_models import CPU, SIZES, class_of, corrupted, guesses_of_model, logits_of_class, small_model
from torch.nn import functional

NAMES = ["esm1nv", "prott5nv", "ankh2-ext2"]
ABOUT = {"name": "small", "trained": True, "pretraining": {}}


@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradients_of_a_step_are_those_of_the_class(name, tmp_path):
    model, groups = small_model(name), corrupted(name)
    save_model(tmp_path / "model", name, SIZES[name], model, ABOUT)
    reference = class_of(name, tmp_path / "model")
    logits, labels = logits_of_class(reference, groups)
    expected = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    expected.backward()
    scores = model(to_device(groups, CPU))
    scores.loss.backward()
    assert scores.loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert scores.labels == (labels != IGNORED).sum()
    theirs = gradients_of_class(reference)
    ours = gradients(model, name)
    assert ours.keys() <= theirs.keys()
    largest = max(each.abs().max() for each in theirs.values())
    for key, gradient in ours.items():
        assert (gradient - theirs[key]).abs().max() < 1e-5 * largest, key
        assert gradient.abs().max() > 1e-4 * largest or "key.bias" in key or "k_proj.bias" in key, key


def gradients(model, name):
    """The gradients of a model by their names in the class."""
    twin = deepcopy(model)
    with torch.no_grad():
        for parameter, own in zip(twin.parameters(), model.parameters(), strict=True):
            parameter.copy_(own.grad)
    found = hugging_face_tensors(twin, make_config(name, SIZES[name], {}).to_dict())
    return {key: tensor for key, tensor in found.items() if key not in model.copies}


def gradients_of_class(reference):
    """The gradients of a class; those of a table that is there twice are added up."""
    found = {key: tensor.grad for key, tensor in reference.named_parameters()}
    if hasattr(reference, "final_logits_bias"):
        found["final_logits_bias"] = reference.final_logits_bias.grad
        found["model.encoder.embed_positions.weight"] += found["model.decoder.embed_positions.weight"]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_dropout_changes_the_loss_in_training_alone(name):
    model, batch = small_model(name, dropout=0.3), to_device(corrupted(name), CPU)
    plain = small_model(name)(batch).loss.item()
    assert model.eval()(batch).loss.item() == plain
    model.train()
    losses = [seeded_loss(model, batch, seed) for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]
    assert abs(losses[0] - plain) > 1


def seeded_loss(model, batch, seed):
    torch.manual_seed(seed)
    return model(batch).loss.item()


@pytest.mark.parametrize("name", NAMES)
def test_saved_weights_give_the_same_in_the_class_and_in_the_engine(name, tmp_path):
    model, groups = small_model(name).eval(), corrupted(name)
    save_model(tmp_path / "model", name, SIZES[name], model, ABOUT)
    with torch.inference_mode():
        logits, labels = logits_of_class(class_of(name, tmp_path / "model"), groups)
        expected = logits[labels != IGNORED]
        assert (guesses_of_model(model, groups) - expected).abs().max() < 1e-5 * expected.abs().max()
        encoder = load_model(tmp_path / "model").encoder
        for group in groups:
            batch = to_device([group], CPU)
            tokens = batch.tokens[0] if name == "esm1nv" else batch.sources[0]
            hidden = encoder(tokens)
            expected = model.encoder(tokens)
            assert (hidden - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize(
    ("name", "count"),
    [("esm1nv", 43_612_544), ("esm1nv-1024", 44_005_760), ("prott5nv", 198_970_496), ("ankh2-ext2", 1_878_705_152)],
)
def test_parameters_that_are_trained(name, count):
    model = empty_model(make_config(name, {}, {}), 0.1)
    idle = sum(parameter.numel() for key, parameter in model.named_parameters() if "token_types" in key)
    assert sum(parameter.numel() for parameter in model.parameters()) - idle == count == find_entry(name).parameters
    assert all(parameter.is_meta and parameter.requires_grad for parameter in model.parameters())


def test_a_window_s_tokens_have_the_positions_of_their_place():
    model = small_model("esm1nv").eval()
    groups = corrupted("esm1nv", shortest=30)
    whole = guesses_of_model(model, groups)
    moved = [type(group)(group.tokens, group.labels, group.starts + 5) for group in groups]
    shifted = guesses_of_model(model, moved)
    assert (whole - shifted).abs().max() > 0.1
    with torch.no_grad():
        positions = model.encoder.positions.weight
        positions[:-5] = positions[5:].clone()
    assert torch.allclose(guesses_of_model(model, groups), shifted, atol=1e-5)


def test_scores_tell_residues_from_sentinels():
    model, groups = small_model("ankh2-ext2").eval(), corrupted("ankh2-ext2")
    scores = model(to_device(groups, CPU))
    residues = sum(group.labels.shape[0] * (group.labels.shape[1] // 2) for group in groups)
    assert scores.residues == residues
    assert scores.labels == sum(group.labels.size for group in groups)
    with torch.inference_mode():
        logits = guesses_of_model(model, groups).log_softmax(-1)
    begin, loss, right = 0, 0.0, 0
    for group in groups:
        for row in group.labels:
            for place, label in enumerate(row.tolist()):
                if place % 2:
                    loss -= logits[begin + place, label].item()
                    right += int(logits[begin + place].argmax() == label)
            begin += len(row)
    assert scores.residue_loss.item() == pytest.approx(loss, rel=1e-5)
    assert scores.right == right


def test_a_micro_batch_without_hidden_residues_has_no_loss_and_gradients_of_zero():
    model = small_model("esm1nv")
    groups = [type(group)(group.tokens, group.labels * 0 + IGNORED, group.starts) for group in corrupted("esm1nv")]
    scores = model(to_device(groups, CPU))
    scores.loss.backward()
    assert (scores.loss.item(), scores.labels.item()) == (0, 0)
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())


def test_a_group_without_hidden_residues_leaves_the_others_as_they_are():
    model, groups = small_model("esm1nv").eval(), corrupted("esm1nv", shortest=30)
    expected = guesses_of_model(model, [groups[0], groups[2]])
    without = type(groups[1])(groups[1].tokens, groups[1].labels * 0 + IGNORED, groups[1].starts)
    found = guesses_of_model(model, [groups[0], without, groups[2]])
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
