"""Adapters merged into their base: against peft's own model, and refused where they would be merged wrong."""

import json
from pathlib import Path

import pytest
import torch
from embedome.common.errors import UserError
from embedome.models import merge_adapter as module
from embedome.models.directory import load_model, model_identity
from embedome.models.merge_adapter import merge_adapter
from helpers.adapters import ADAPTED, base_class, hidden_states, peft_adapter
from helpers.saved_models import KINDS, make
from safetensors.torch import load_file, save_file

TOKENS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 5, 5, 7]])
ESM = KINDS["esm"]


def embedded(folder: Path) -> torch.Tensor:
    with torch.inference_mode():
        return load_model(folder).encoder(TOKENS)


def is_close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((found - expected).abs().max() <= 1e-5 * expected.abs().max())


@pytest.fixture(scope="module")
def esm(tmp_path_factory):
    """A base, an adapter of it, and what peft's model gives."""
    folder = tmp_path_factory.mktemp("esm")
    make(ESM, folder / "base")
    return folder, hidden_states(ESM, peft_adapter(ESM, folder / "base", folder / "adapter"), TOKENS)


@pytest.mark.parametrize("kind", ADAPTED, ids=lambda kind: kind.name)
def test_a_merged_model_gives_what_peft_gives(kind, tmp_path):
    base = make(kind, tmp_path / "base")
    before = embedded(base)
    expected = hidden_states(kind, peft_adapter(kind, base, tmp_path / "adapter").base_model.model, TOKENS)
    merge_adapter(base, tmp_path / "adapter", tmp_path / "merged")
    assert is_close(embedded(tmp_path / "merged"), expected)
    assert not is_close(before, expected)


@pytest.mark.parametrize(
    "options",
    [{"use_rslora": True}, {"target_modules": ["key", "dense"]}, {"rank_pattern": {"query": 2}}],
    ids=["rank-stabilised", "other modules", "ranks by module"],
)
def test_other_adapters_of_peft_are_merged_as_peft_does(esm, options, tmp_path):
    base = esm[0] / "base"
    expected = hidden_states(ESM, peft_adapter(ESM, base, tmp_path / "adapter", **options), TOKENS)
    merge_adapter(base, tmp_path / "adapter", tmp_path / "merged")
    assert is_close(embedded(tmp_path / "merged"), expected)


def test_an_adapter_of_a_class_with_a_head_is_merged_into_a_model_without_one(esm, tmp_path):
    """peft's names have what the class with a head puts before them; its head is left aside, and said to be."""
    from transformers import EsmForSequenceClassification

    model = EsmForSequenceClassification.from_pretrained(esm[0] / "base", num_labels=3).eval()
    adapted = peft_adapter(ESM, esm[0] / "base", tmp_path / "adapter", model, task_type="SEQ_CLS")
    merge_adapter(esm[0] / "base", tmp_path / "adapter", tmp_path / "merged")
    with torch.inference_mode():
        expected = adapted.base_model.model.esm(TOKENS).last_hidden_state
    assert is_close(embedded(tmp_path / "merged"), expected)


def test_every_other_tensor_stays_and_half_floats_become_whole(tmp_path):
    kind = KINDS["esm, head"]
    base = make(kind, tmp_path / "base")
    peft_adapter(kind, base, tmp_path / "adapter")
    merge_adapter(base, tmp_path / "adapter", tmp_path / "merged")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("base", "merged"))
    assert after.keys() == before.keys()
    changed = {name for name in before if not torch.equal(before[name].float(), after[name].float())}
    ends = ("query.weight", "value.weight")
    assert changed == {name for name in before if name.endswith(ends)}
    assert all(tensor.dtype == torch.float32 for tensor in after.values() if tensor.is_floating_point())
    assert json.loads((tmp_path / "merged/config.json").read_text())["dtype"] == "float32"


def test_a_large_model_is_written_in_several_files(esm, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHARD_BYTES", 3000)
    folder, expected = esm
    merge_adapter(folder / "base", folder / "adapter", tmp_path / "merged")
    assert len(list((tmp_path / "merged").glob("model-*.safetensors"))) > 3
    assert is_close(embedded(tmp_path / "merged"), expected)
    assert is_close(hidden_states(ESM, base_class(ESM, tmp_path / "merged"), TOKENS), expected)


def test_the_provenance_has_base_and_adapter(esm, tmp_path):
    folder, _ = esm
    merge_adapter(folder / "base", folder / "adapter", tmp_path / "merged", {"task": "mine"})
    found = model_identity(tmp_path / "merged")
    assert found["trained"] is True
    assert found["adapter"]["base"] == model_identity(folder / "base")
    assert found["adapter"]["task"] == "mine"
    assert set(found["adapter"]["sha256"]) == {"adapter_config.json", "adapter_model.safetensors"}
    assert found["weights_sha256"] != found["adapter"]["base"]["weights_sha256"]


def change(folder: Path, **fields) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def rename(folder: Path, old: str, new: str) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({name.replace(old, new): tensor for name, tensor in load_file(path).items()}, path)


def scale_to_infinity(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({name: tensor * float("inf") for name, tensor in load_file(path).items()}, path)


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda folder: change(folder, use_dora=True), "use_dora is True"),
        (lambda folder: change(folder, bias="all"), "bias is 'all'"),
        (lambda folder: change(folder, alpha_pattern={"query": 3}), "alpha_pattern"),
        (lambda folder: change(folder, something_new=1), "something_new is 1"),
        (lambda folder: change(folder, init_lora_weights="pissa_niter_4"), "changed base"),
        (lambda folder: change(folder, peft_type="IA3"), "peft_type is 'IA3'"),
        (lambda folder: change(folder, lora_alpha=None), "lora_alpha is None"),
        (lambda folder: (folder / "adapter_config.json").unlink(), "no adapter_config.json"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "no adapter_model.safetensors"),
        (lambda folder: rename(folder, "layer.1", "layer.7"), "layer.7"),
        (lambda folder: rename(folder, "layer.1.attention.self.query.lora_A", "other.lora_A"), "has no lora_A"),
        (lambda folder: rename(folder, "lora_A.weight", "lora_embedding_A"), "lora_embedding_A"),
        (lambda folder: rename(folder, "attention.self.query", "intermediate.dense"), "is it its base?"),
        (scale_to_infinity, "NaN or infinity"),
    ],
)
@pytest.mark.slow
def test_what_would_be_merged_wrong_is_refused_in_a_line(esm, damage, what, tmp_path):
    peft_adapter(ESM, esm[0] / "base", tmp_path / "adapter")
    damage(tmp_path / "adapter")
    with pytest.raises(UserError) as refused:
        merge_adapter(esm[0] / "base", tmp_path / "adapter", tmp_path / "merged")
    assert what in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "merged").exists()


def test_what_is_there_is_never_replaced(esm, tmp_path):
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged/mine").touch()
    with pytest.raises(UserError, match="is there already"):
        merge_adapter(esm[0] / "base", esm[0] / "adapter", tmp_path / "merged")
    assert [path.name for path in (tmp_path / "merged").iterdir()] == ["mine"]
