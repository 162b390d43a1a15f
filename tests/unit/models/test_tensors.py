"""What each tensor of a checkpoint is: used as the Hugging Face class uses it, left aside, or refused by name."""

import json
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from embedome.common.errors import UserError
from embedome.decoding.masked_lm import load_masked_lm
from embedome.decoding.seq2seq import load_seq2seq
from embedome.models.directory import load_model, model_identity
from embedome.models.nemo.convert import export_nemo
from helpers.saved_models import KINDS, by_class, compare, make, ours
from safetensors.torch import load_file, save_file, save_model
from torch import Tensor

TOKENS = torch.tensor([[*range(3, 23), 5, 5, 7]])
Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Directories of all kinds, each made once."""
    folder = tmp_path_factory.mktemp("whole")

    def directory(name: str) -> Path:
        path = folder / re.sub(r"\W+", "-", name)
        return path if path.exists() else make(KINDS[name], path)

    return directory


@pytest.fixture
def copy(whole: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: shutil.copytree(whole(name), tmp_path / "model")


def edit(folder: Path, change: Callable[[Weights], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def configure(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def refusal(folder: Path, load: Callable[[Path], object] = load_model) -> str:
    with pytest.raises(UserError) as excinfo:
        load(folder)
    message = str(excinfo.value)
    assert message.isprintable()
    assert len(message) < 600
    return message


def matrices(weights: Weights) -> list[str]:
    return [name for name, tensor in weights.items() if re.search(r"\.\d+\..+weight$", name) and tensor.ndim == 2]


# Quantised


def quantise(weights: Weights) -> None:
    """As bitsandbytes saves linear layers in 8 bits."""
    for name in matrices(weights):
        scale = weights[name].abs().amax(1)
        weights[name.replace("weight", "SCB")] = scale
        weights[name] = (weights[name] / scale[:, None] * 127).round().to(torch.int8)


@pytest.mark.parametrize("kind", ["esm", "megatron", "blenderbot", "t5", "t5, decoder"])
@pytest.mark.parametrize("says_so", [True, False])
def test_eight_bit_weights_are_refused(copy: Callable[[str], Path], kind: str, says_so: bool) -> None:
    folder = copy(kind)
    edit(folder, quantise)
    if says_so:
        configure(folder, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    message = refusal(folder, lambda path: load_model(path, KINDS[kind].features))
    assert ("config.json: quantization_config" if says_so else "SCB is of a quantised model") in message
    assert "dequantize().save_pretrained(NEW)" in message


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.uint8, torch.int32, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2]
)
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_weights_that_are_not_plain_floats_are_refused(
    copy: Callable[[str], Path], dtype: torch.dtype, form: str
) -> None:
    folder = copy("esm")
    name = "encoder.layer.1.output.dense.weight"
    edit(folder, lambda weights: weights.update({name: weights[name].to(dtype)}))
    if form == "bin":
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    assert re.search(
        rf"{re.escape(name)} is of type \w+, expected float64, float32, float16, bfloat16", refusal(folder)
    )


@pytest.mark.parametrize(
    "end", ["qweight", "qzeros", "scales", "weight.absmax", "weight.quant_state.bitsandbytes__nf4"]
)
def test_what_is_beside_quantised_weights_is_told(copy: Callable[[str], Path], end: str) -> None:
    folder = copy("t5")
    edit(folder, lambda weights: weights.update({f"encoder.block.0.layer.0.SelfAttention.q.{end}": torch.ones(4)}))
    assert "is of a quantised model" in refusal(folder)


# Adapters


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"])
def test_an_adapter_beside_the_weights_is_refused(copy: Callable[[str], Path], file: str) -> None:
    folder = copy("esm")
    (folder / file).write_text('{"peft_type": "LORA"}')
    for load in (load_model, model_identity, load_masked_lm):
        assert re.search(rf"{file}: an adapter .*embedome models merge-adapter", refusal(folder, load))


@pytest.mark.parametrize("prefix", ["", "base_model.model."])
@pytest.mark.parametrize("kind", ["esm", "megatron, head", "blenderbot", "t5, whole"])
def test_tensors_of_an_adapter_among_the_weights_are_refused(
    copy: Callable[[str], Path], kind: str, prefix: str
) -> None:
    """As the state dict of a PeftModel has them."""
    folder = copy(kind)

    def adapt(weights: Weights) -> None:
        for name in matrices(weights):
            stem = name.removesuffix(".weight")
            weights[f"{stem}.base_layer.weight"] = weights.pop(name)
            weights[f"{stem}.lora_A.default.weight"] = weights[f"{stem}.lora_B.default.weight"] = torch.ones(4, 4)
        for name in list(weights):
            weights[prefix + name] = weights.pop(name).clone()

    edit(folder, adapt)
    assert "is of an adapter (LoRA), which would not be applied; merge it by `embedome models merge-adapter" in refusal(
        folder
    )


@pytest.mark.parametrize("name", ["lora_A", "lora_embedding_A", "hada_w1_a", "ia3_l", "lora_magnitude_vector"])
def test_an_adapter_s_tensors_beside_whole_weights_are_refused(copy: Callable[[str], Path], name: str) -> None:
    folder = copy("esm, head")
    edit(
        folder,
        lambda weights: weights.update({f"esm.encoder.layer.0.attention.self.query.{name}.default": torch.ones(1)}),
    )
    assert "is of an adapter" in refusal(folder)


# Layers


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("esm", "num_hidden_layers"),
        ("megatron, head", "num_hidden_layers"),
        ("blenderbot", "encoder_layers"),
        ("t5", "num_layers"),
        ("t5, decoder", "num_layers"),
        ("t5, decoder", "num_decoder_layers"),
    ],
)
def test_another_number_of_layers_than_config_json_says_is_refused(
    copy: Callable[[str], Path], kind: str, size: str
) -> None:
    folder, features = copy(kind), KINDS[kind].features
    count = json.loads((folder / "config.json").read_text())[size]
    configure(folder, **{size: count + 1})
    assert re.search(
        rf"\.{count} is missing, {size} is {count + 1} in config\.json",
        refusal(folder, lambda path: load_model(path, features)),
    )
    edit(folder, lambda weights: weights.update({name: weights[name].clone() for name in list(weights)}))
    configure(folder, **{size: count - 1 or 1})
    if count > 1:
        message = refusal(folder, lambda path: load_model(path, features))
        assert re.search(rf"\S+ is of layer {count}, but {size} is {count - 1} in config\.json", message)


def test_more_layers_of_the_decoder_are_no_matter_to_the_encoder(copy: Callable[[str], Path]) -> None:
    folder = copy("t5, whole")
    configure(folder, num_decoder_layers=7)
    assert compare(KINDS["t5, whole"], folder) is None


@pytest.mark.parametrize("value", [2**40, 2**62, 10**30, 0, -1, 2.0, "2", True, None, [2], {"a": "\x1b[1m" * 9999}])
@pytest.mark.parametrize("kind", ["esm", "t5"])
def test_sizes_are_checked_before_anything_is_built(copy: Callable[[str], Path], kind: str, value: object) -> None:
    folder = copy(kind)
    for size in ("num_hidden_layers", "num_attention_heads", "vocab_size") if kind == "esm" else ("num_layers", "d_ff"):
        before = (folder / "config.json").read_text()
        configure(folder, **{size: value})
        for load in (load_model, model_identity):
            assert re.search(rf"config\.json: {size} is .+; expected a whole number from 1 to", refusal(folder, load))
        (folder / "config.json").write_text(before)


# What an encoder may leave aside


def released_esm2(weights: Weights) -> None:
    """What checkpoints on the Hugging Face hub have beside the encoder, and where they have it."""
    frequencies = weights.pop("esm.encoder.layer.*.attention.self.rotary_embeddings.inv_freq")
    for name in [name for name in weights if "LayerNorm" in name]:
        weights[name.replace("gamma", "weight").replace("beta", "bias")] = weights.pop(name)
    for layer in range(2):
        weights[f"esm.encoder.layer.{layer}.attention.self.rotary_embeddings.inv_freq"] = frequencies.clone()
    weights["esm.embeddings.position_embeddings.weight"] = torch.randn(1026, 16)
    weights["esm.embeddings.position_ids"] = torch.arange(1026)[None]
    weights["esm.pooler.dense.weight"], weights["esm.pooler.dense.bias"] = torch.randn(16, 16), torch.randn(16)
    weights["lm_head.decoder.weight"] = weights["esm.embeddings.word_embeddings.weight"].clone()
    weights["esm.encoder._extra_state"] = torch.empty(0, dtype=torch.uint8)


def test_released_esm2_checkpoints_are_read(copy: Callable[[str], Path]) -> None:
    folder = copy("esm, head")
    edit(folder, released_esm2)
    assert compare(KINDS["esm, head"], folder) is None
    load_masked_lm(folder)


@pytest.mark.parametrize("form", ["bin", "shards", "safetensors"])
@pytest.mark.parametrize("kind", ["t5, whole", "t5, decoder"])
@pytest.mark.slow
def test_released_t5_checkpoints_are_read(copy: Callable[[str], Path], kind: str, form: str) -> None:
    """Whole, in half precision, tables under several names, as ProtT5, ProstT5 and Ankh are published."""
    folder = copy(kind)
    weights = {name: tensor.half() for name, tensor in load_file(folder / "model.safetensors").items()}
    weights["encoder.embed_tokens.weight"] = weights["decoder.embed_tokens.weight"] = weights["shared.weight"].clone()
    weights["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = torch.ones(8, 2).half()
    weights.setdefault("lm_head.weight", weights["shared.weight"].clone())
    (folder / "model.safetensors").unlink()
    if form == "bin":
        torch.save(weights, folder / "pytorch_model.bin")
    elif form == "safetensors":
        save_file(
            {name: tensor.clone() for name, tensor in weights.items()}, folder / "model.safetensors", {"format": "pt"}
        )
    else:
        files = {name: f"pytorch_model-0000{1 + number % 2}-of-00002.bin" for number, name in enumerate(weights)}
        for file in set(files.values()):
            torch.save({name: weights[name] for name, owner in files.items() if owner == file}, folder / file)
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    assert compare(KINDS[kind], folder) is None
    load_seq2seq(folder)


def test_a_head_for_classes_is_left_aside(tmp_path: Path, copy: Callable[[str], Path]) -> None:
    folder = copy("esm")
    torch.manual_seed(0)
    of_class = transformers.EsmForSequenceClassification
    of_class.from_pretrained(folder).save_pretrained(folder)
    assert any("classifier" in name for name in load_file(folder / "model.safetensors"))
    assert compare(KINDS["esm"], folder) is None


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("extra.weight", "is no part of this model"),
        ("encoder.layer.0.attention.self.query.extra", "is no part of this model"),
        ("encoder.layer.0.attention.self.query.weight_orig", "is of a weight that is computed"),
        ("encoder.layer.0.output.dense.parametrizations.weight.original0", "is of a weight that is computed"),
        ("encoder._orig_mod.layer.0.output.dense.weight", "is named by a wrapper"),
        ("encoder._extra_state", "is no part of this model"),
        ("x" * 10_000, "x…"),
        ("\x1b[1m\n", r"\\x1b\[1m\\n"),
    ],
)
def test_what_is_left_over_is_named(copy: Callable[[str], Path], name: str, what: str) -> None:
    folder = copy("esm")
    edit(folder, lambda weights: weights.update({name: torch.ones(2)}))
    assert re.search(what, refusal(folder))


@pytest.mark.parametrize("kind", ["esm, head", "t5"])
def test_names_of_another_program_are_told(copy: Callable[[str], Path], kind: str) -> None:
    folder = copy(kind)
    edit(folder, lambda weights: weights.update({f"net.{name}": weights.pop(name) for name in list(weights)}))
    assert re.search(r"is missing, as is every other tensor looked for; the first there is net\.", refusal(folder))


# One tensor of several names


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "_orig_mod.module.", "base_model.model."])
@pytest.mark.parametrize("kind", ["esm, head", "megatron", "blenderbot, head", "t5, whole", "t5, decoder"])
@pytest.mark.slow
def test_what_wrappers_put_before_all_names_is_taken_away(copy: Callable[[str], Path], kind: str, wrapper: str) -> None:
    folder = copy(kind)
    expected = by_class(KINDS[kind], folder, TOKENS)
    edit(folder, lambda weights: weights.update({f"{wrapper}{name}": weights.pop(name) for name in list(weights)}))
    assert torch.allclose(ours(KINDS[kind], folder, TOKENS), expected, atol=1e-4)
    edit(folder, lambda weights: weights.update({"lm_head.bias": torch.ones(1)}))
    assert re.search("is missing|is named by|is no part", refusal(folder))


@pytest.mark.parametrize("kind", ["t5", "t5, decoder", "t5, gated decoder", "blenderbot, head"])
@pytest.mark.parametrize(
    "tables", [("shared", "encoder"), ("shared", "decoder"), ("shared", "encoder", "decoder"), ("encoder", "decoder")]
)
def test_tables_that_differ_are_used_as_the_class_uses_them(
    copy: Callable[[str], Path], kind: str, tables: tuple[str, ...]
) -> None:
    folder = copy(kind)
    prefix = "model." if kind == "blenderbot, head" else ""

    def part(weights: Weights) -> None:
        shared = weights.pop(f"{prefix}shared.weight")
        for number, table in enumerate(tables):
            name = f"{prefix}{table}.weight" if table == "shared" else f"{prefix}{table}.embed_tokens.weight"
            weights[name] = shared + number

    edit(folder, part)
    assert compare(KINDS[kind], folder) is None


@pytest.mark.parametrize("kind", ["t5, decoder", "blenderbot, head"])
def test_translation_uses_the_tables_as_the_class_uses_them(copy: Callable[[str], Path], kind: str) -> None:
    folder = copy(kind)
    prefix = "model." if kind == "blenderbot, head" else ""

    def part(weights: Weights) -> None:
        shared = weights[f"{prefix}shared.weight"]
        weights[f"{prefix}encoder.embed_tokens.weight"] = shared + 0.3
        weights["lm_head.weight"] = shared - 0.2

    edit(folder, part)
    expected = getattr(transformers, KINDS[kind].saved_by).from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        found = load_seq2seq(folder).model(input_ids=TOKENS, decoder_input_ids=TOKENS).logits
        exact = expected(input_ids=TOKENS, decoder_input_ids=TOKENS).logits
    assert (found - exact).abs().max() < 1e-4 * exact.abs().max()


def test_an_untied_blenderbot_must_have_its_table(copy: Callable[[str], Path]) -> None:
    """The class fills it at random."""
    folder = copy("blenderbot")
    configure(folder, tie_word_embeddings=False)
    assert "encoder.embed_tokens.weight is missing" in refusal(folder)


@pytest.mark.parametrize("kind", ["t5, whole", "t5, decoder", "blenderbot, head"])
def test_names_that_safetensors_left_out_are_found(copy: Callable[[str], Path], kind: str) -> None:
    """`safetensors.torch.save_model` keeps one name of a tied tensor and lists the others in the file's metadata."""
    folder = copy(kind)
    model = getattr(transformers, KINDS[kind].saved_by).from_pretrained(folder, dtype=torch.float32)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(folder)
    expected = by_class(KINDS[kind], folder, TOKENS)
    save_model(model, str(folder / "model.safetensors"))
    assert not {"shared.weight", "model.shared.weight"} & set(load_file(folder / "model.safetensors"))
    assert torch.allclose(ours(KINDS[kind], folder, TOKENS), expected, atol=1e-4)


def test_two_names_of_one_tensor_must_agree(copy: Callable[[str], Path]) -> None:
    folder = copy("esm, head")
    name = "esm.encoder.layer.1.output.dense.bias"
    edit(folder, lambda weights: weights.update({name.removeprefix("esm."): weights[name].clone()}))
    assert compare(KINDS["esm, head"], folder) is None
    edit(folder, lambda weights: weights.update({name.removeprefix("esm."): weights[name] + 1}))
    assert re.search(rf"{re.escape(name)} and \S+ differ|and {re.escape(name)} differ", refusal(folder))


def test_queries_and_keys_must_have_their_own_shapes(copy: Callable[[str], Path]) -> None:
    """Stacked, they would fit."""
    folder = copy("megatron")

    def shift(weights: Weights) -> None:
        for kind in ("weight", "bias"):
            query, key = (f"encoder.layer.0.attention.self.{part}.{kind}" for part in ("query", "key"))
            weights[query], weights[key] = torch.cat([weights[query], weights[key][:1]]), weights[key][1:].clone()

    edit(folder, shift)
    assert "query.weight has shape (17, 16); expected (16, 16) by config.json" in refusal(folder)


# config.json


@pytest.mark.parametrize(
    ("kind", "changes", "what"),
    [
        ("megatron", {"is_decoder": True}, "is_decoder is True; expected false"),
        ("t5", {"is_decoder": True}, "is_decoder is True; expected false"),
        ("t5", {"num_hidden_layers": 1}, "num_hidden_layers is 1, but num_layers, which means the same, is 2"),
        ("blenderbot", {"hidden_size": 8}, "hidden_size is 8, but d_model, which means the same, is 16"),
        ("megatron", {"layer_norm_eps": "1e-5"}, "layer_norm_eps is '1e-5'; expected a number from 0 to 1"),
        ("megatron", {"hidden_act": ["gelu"]}, r"hidden_act is \['gelu'\]; expected a text"),
        ("esm", {"pad_token_id": None}, "pad_token_id is None; expected the id of a token"),
        ("esm", {"token_dropout": "yes"}, "token_dropout is 'yes'; expected true or false"),
        ("esm", {"rope_theta": 0}, "rope_theta is 0; expected a number above 0"),
        ("t5", {"is_gated_act": 1}, "is_gated_act is 1; expected true or false"),
        ("t5", {"feed_forward_proj": 1}, "feed_forward_proj is 1; expected a text"),
        ("t5", {"model_type": "x" * 10_000}, "model_type is 'x+…; expected one of"),
        ("t5", {"dense_act_fn": "x" * 10_000}, "feed_forward_proj is 'relu' with activation 'x+…; expected one of"),
        ("megatron", {"hidden_act": "x" * 10_000}, "the activation is 'x+…; expected one of"),
        ("esm", {"max_position_embeddings": 4}, "max_position_embeddings has no place for a residue"),
        ("t5", dict.fromkeys(("d_model", "d_kv", "num_heads"), 2**24), "sizes beyond every model"),
        ("t5", {"embedome": [1]}, r"embedome is \[1\]; expected an object"),
    ],
)
def test_fields_of_another_kind_or_meaning_are_refused(
    copy: Callable[[str], Path], kind: str, changes: dict[str, Any], what: str
) -> None:
    folder = copy(kind)
    configure(folder, **changes)
    assert re.search(what, refusal(folder))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 50_000, '{"hidden_size": ' + "1" * 5000 + "}", "\x1b[1m"])
def test_a_config_json_that_cannot_be_read_is_refused(copy: Callable[[str], Path], text: str) -> None:
    folder = copy("esm")
    (folder / "config.json").write_text(text)
    assert "config.json: not valid JSON" in refusal(folder)


# Files


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "shard"])
def test_a_pointer_of_git_lfs_is_told(copy: Callable[[str], Path], file: str) -> None:
    folder = copy("esm")
    (folder / "model.safetensors").unlink()
    if file == "shard":
        file = "model-00001-of-00001.safetensors"
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": file}}))
    (folder / file).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    for load in (load_model, model_identity):
        assert f"{file}: a pointer of Git LFS, not the file itself; run `git lfs pull`" in refusal(folder, load)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (lambda model: model, r"it holds transformers\.models\.esm\S+; save what `state_dict\(\)`"),
        (lambda model: {"model": model.state_dict(), "epoch": 3}, "holds more than tensors, 'model' is a OrderedDict"),
        (lambda model: {1: torch.ones(1)}, "holds more than tensors, 1 is a Tensor"),
        (lambda model: list(model.parameters()), "holds more than tensors, a list"),
        (lambda model: {"a": torch.ones(2, 2).to_sparse()}, "a is a tensor without values, or a sparse one"),
        (lambda model: {"a": torch.ones(2, device="meta")}, "a is a tensor without values, or a sparse one"),
    ],
)
def test_a_pickle_of_something_else_is_told_without_advice_to_run_it(
    copy: Callable[[str], Path], content: Callable[[torch.nn.Module], object], what: str
) -> None:
    folder = copy("esm")
    model = transformers.EsmModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(content(model), folder / "pytorch_model.bin")
    message = refusal(folder)
    assert re.search(rf"pytorch_model\.bin: .*{what}", message)
    assert "weights_only" not in message


def test_a_compressed_pickle_is_not_unpacked(copy: Callable[[str], Path]) -> None:
    folder = copy("esm")
    (folder / "model.safetensors").unlink()
    path = folder / "pytorch_model.bin"
    torch.save({"a": torch.zeros(30_000_000)}, path)
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in members.items():
            new.writestr(name, data)
    assert path.stat().st_size < 1_000_000
    assert "pytorch_model.bin: not a file of plain tensors as torch writes it, it is compressed" in refusal(folder)


# An archive made of a directory


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda w: w.update({"bert.encoder.layer.0.output.dense.lora_A.weight": torch.ones(1)}), "is of an adapter"),
        (lambda w: w.update({"bert.encoder.layer.2.output.dense.weight": torch.ones(1)}), "is of layer 3"),
        (lambda w: w.update({"bert.encoder.ln.bias": torch.ones(16).to(torch.int8)}), "is of type I8"),
        (lambda w: w.update({"bert.encoder.ln.bias": torch.ones(17)}), r"has shape \(17,\); expected \(16,\)"),
        (lambda w: w.pop("cls.predictions.bias"), r"cls\.predictions\.bias is missing"),
    ],
)
def test_an_archive_is_made_of_whole_float_models_alone(
    copy: Callable[[str], Path], tmp_path: Path, change: Callable[[Weights], object], what: str
) -> None:
    folder = copy("megatron, head")
    configure(folder, layer_norm_eps=1e-5)
    edit(folder, change)
    assert re.search(what, refusal(folder, lambda path: export_nemo(path, tmp_path / "x.nemo")))
    assert not (tmp_path / "x.nemo").exists()
