"""Model directories: what is written opens in Hugging Face, and what is damaged is refused by name."""

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from embedome.common.errors import UserError
from embedome.models import create, directory
from helpers import small_run as line
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

TINY = line.SIZE


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    create.make_untrained(folder, "tiny-name", "esm1nv", TINY, 5)
    return folder


@pytest.fixture
def copy(untrained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(untrained, tmp_path / "copy")


def config(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def one_line(excinfo: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(excinfo.value)
    return str(excinfo.value)


# Making one


def test_hugging_face_opens_it_for_masked_language_modelling(untrained: Path) -> None:
    model, info = AutoModelForMaskedLM.from_pretrained(untrained, output_loading_info=True)
    assert type(model).__name__ == "MegatronBertForMaskedLM"
    assert not any(info.values())
    logits = model(torch.tensor([[1, 5, 6, 7, 2]])).logits
    assert logits.shape == (1, 5, 128)
    assert logits.isfinite().all()


def test_hugging_face_opens_it_as_an_encoder(untrained: Path) -> None:
    model, info = AutoModel.from_pretrained(untrained, output_loading_info=True)
    assert type(model).__name__ == "MegatronBertModel"
    # ESM-1nv has no pooler, the class always makes one.
    assert all(name.startswith("pooler.") for name in info["missing_keys"])
    assert all(name.startswith("cls.") for name in info["unexpected_keys"])
    assert not info["mismatched_keys"]


def test_config_says_untrained_and_what_esm1nv_is(untrained: Path) -> None:
    found = config(untrained)
    assert found["embedome"] == {"name": "tiny-name", "trained": False, "seed": 5}
    assert found["layer_norm_eps"] == 1e-5
    assert found["hidden_act"] == "gelu_pytorch_tanh"
    assert (found["vocab_size"], found["pad_token_id"], found["bos_token_id"], found["eos_token_id"]) == (128, 3, 1, 2)
    assert found["hidden_dropout_prob"] == found["attention_probs_dropout_prob"] == 0.1
    weights = load_file(untrained / "model.safetensors")
    assert weights["bert.embeddings.word_embeddings.weight"].shape == (128, 32)
    assert weights["bert.embeddings.position_embeddings.weight"].shape == (64, 32)
    assert not weights["bert.embeddings.token_type_embeddings.weight"].any()


@pytest.mark.parametrize(
    ("positions", "published"), [(512, 43_612_544), (256, 43_415_936), (1024, 44_005_760)]
)  # BioNeMo's own counts
def test_full_size_has_the_published_number_of_parameters(untrained: Path, positions: int, published: int) -> None:
    full = AutoConfig.from_pretrained(
        untrained,
        hidden_size=768,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=3072,
        max_position_embeddings=positions,
    )
    with torch.device("meta"):
        model = AutoModelForMaskedLM.from_config(full)
    # The class counts its tied decoder matrix and the two names of its bias once, but has token types: 2 x 768.
    predictions = model.cls.predictions
    assert predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    assert predictions.decoder.bias is predictions.bias
    assert sum(parameter.numel() for parameter in model.parameters()) == published + 1536


def test_same_seed_gives_the_same_bytes_and_another_seed_others(untrained: Path, tmp_path: Path) -> None:
    torch.manual_seed(99)
    before = torch.get_rng_state()
    create.make_untrained(tmp_path / "same", "tiny-name", "esm1nv", TINY, 5)
    create.make_untrained(tmp_path / "other", "tiny-name", "esm1nv", TINY, 6)
    assert torch.equal(torch.get_rng_state(), before)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "same" / name).read_bytes() == (untrained / name).read_bytes()
    weights = load_file(untrained / "model.safetensors")
    others = load_file(tmp_path / "other" / "model.safetensors")
    random = [name for name, tensor in weights.items() if tensor.ndim == 2 and "token_type" not in name]
    assert len(random) == 2 + 6 * 2 + 1
    assert not any(torch.equal(weights[name], others[name]) for name in random)


@pytest.mark.parametrize("layers", [1, 3])
def test_weights_are_initialised_as_megatron_does(tmp_path: Path, layers: int) -> None:
    size = {**TINY, "layers": layers, "hidden": 64, "feed_forward": 256}
    create.make_untrained(tmp_path / "model", "x", "esm1nv", size, 5)
    checked = 0
    for name, tensor in load_file(tmp_path / "model" / "model.safetensors").items():
        if "token_type" in name or name.endswith("bias"):
            assert not tensor.any(), name
        elif tensor.ndim == 1:
            assert (tensor == 1).all(), name
        else:
            output = name.endswith("output.dense.weight")
            expected = 0.02 / math.sqrt(2 * layers) if output else 0.02
            assert float(tensor.std()) == pytest.approx(expected, rel=0.06), name
            assert abs(float(tensor.mean())) < 0.002, name
            checked += 1
    assert checked == 2 + 6 * layers + 1


def test_heads_must_divide_the_hidden_size(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="model dimension is 32; expected a multiple of the heads, 5"):
        create.make_untrained(tmp_path / "model", "x", "esm1nv", {**TINY, "heads": 5}, 5)
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_the_old_directory(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("full")

    before = line.snapshot(copy.parent)
    monkeypatch.setattr(create, "save_tokenizer", fail)
    with pytest.raises(OSError, match="full"):
        create.make_untrained(copy, "x", "esm1nv", TINY, 6)
    assert line.snapshot(copy.parent) == before


def test_an_old_directory_is_replaced_whole(copy: Path, untrained: Path) -> None:
    (copy / "pytorch_model.bin").write_bytes(b"of something else")
    with pytest.raises(UserError, match=r"holds 'pytorch_model\.bin', which embedome did not make"):
        create.make_untrained(copy, "tiny-name", "esm1nv", TINY, 5)
    assert (copy / "pytorch_model.bin").read_bytes() == b"of something else"
    (copy / "pytorch_model.bin").unlink()
    create.make_untrained(copy, "tiny-name", "esm1nv", TINY, 5)
    assert line.snapshot(copy) == line.snapshot(untrained)
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


# Its identity


def test_identity_is_the_digest_of_each_file(untrained: Path) -> None:
    identity = directory.model_identity(untrained)
    assert identity["name"] == "tiny-name"
    assert identity["trained"] is False
    for key, name in (("weights", "model.safetensors"), ("config", "config.json")):
        assert identity[f"{key}_sha256"] == hashlib.sha256((untrained / name).read_bytes()).hexdigest()
    vocabulary = {
        name: hashlib.sha256((untrained / name).read_bytes()).hexdigest()
        for name in ("tokenizer.json", "tokenizer_config.json")
    }
    text = json.dumps(vocabulary, sort_keys=True, separators=(",", ":"))
    assert identity["tokenizer_sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert identity["preprocessing"] == {"between": "", "as_x": "", "first": "<s>", "last": "</s>"}


def test_identity_of_a_directory_made_elsewhere(copy: Path) -> None:
    edit_config(lambda found: found.pop("embedome"))(copy)
    identity = directory.model_identity(copy)
    assert identity["name"] == "copy"
    assert identity["trained"] is None


# Loading one


def test_loads(untrained: Path) -> None:
    model = directory.load_model(untrained)
    assert model.max_residues == 62
    assert model.encoder.dimension == 32
    assert not model.encoder.training
    assert {parameter.dtype for parameter in model.encoder.parameters()} == {torch.float32}


def test_weights_in_half_precision_load_as_float32(copy: Path) -> None:
    edit_weights(lambda w: w.update({name: tensor.half() for name, tensor in w.items()}))(copy)
    model = directory.load_model(copy)
    words = load_file(copy / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
    assert words.dtype == torch.float16
    assert torch.equal(model.encoder.words.weight, words.float())


def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent: no such model directory") as excinfo:
        directory.load_model(tmp_path / "absent")
    one_line(excinfo)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_missing_file(copy: Path, name: str) -> None:
    (copy / name).unlink()
    for check in (directory.load_model, directory.model_identity):
        with pytest.raises(UserError, match=f"copy: the model directory has no {name}") as excinfo:
            check(copy)
        one_line(excinfo)


Edit = Callable[[Path], None]


def edit_weights(change: Callable[[dict], object]) -> Edit:
    def edit(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors")

    return edit


def edit_config(change: Callable[[dict], object]) -> Edit:
    def edit(folder: Path) -> None:
        found = config(folder)
        change(found)
        (folder / "config.json").write_text(json.dumps(found))

    return edit


def write(name: str, data: bytes) -> Edit:
    return lambda folder: (folder / name).write_bytes(data)


def cut(share: float) -> Edit:
    def edit(folder: Path) -> None:
        data = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(data[: int(len(data) * share)])

    return edit


def grown_vocabulary(folder: Path) -> None:
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["vocab"]["J"] = 128
    path.write_text(json.dumps(tokenizer))


WORDS = "bert.embeddings.word_embeddings.weight"
KEY = "bert.encoder.layer.1.attention.self.key.weight"


@pytest.mark.parametrize(
    ("edit", "file", "what"),
    [
        (edit_config(lambda c: c.update(model_type="gpt-9")), "config.json", "model_type is 'gpt-9'; expected one of"),
        (edit_config(lambda c: c.pop("model_type")), "config.json", "model_type is None"),
        (edit_config(lambda c: c.pop("hidden_size")), "config.json", "hidden_size"),
        (edit_config(lambda c: c.pop("vocab_size")), "config.json", "vocab_size"),
        (edit_config(lambda c: c.pop("layer_norm_eps")), "config.json", "layer_norm_eps"),
        (
            edit_config(lambda c: c.update(hidden_act="relu")),
            "config.json",
            "the activation is 'relu'; expected one of gelu",
        ),
        (write("config.json", b"{"), "config.json", "not valid JSON"),
        (write("config.json", b"[]"), "config.json", "expected"),
        (write("tokenizer.json", b"[]"), "tokenizer.json", "expected"),
        (grown_vocabulary, "copy", "tokenizer has 129 tokens, but the model only 128"),
        (cut(0), "model.safetensors", "not a readable safetensors file"),
        (cut(0.05), "model.safetensors", "not a readable safetensors file"),
        (cut(0.9), "model.safetensors", "not a readable safetensors file"),
        (write("model.safetensors", b"\x80\x02pickle" * 99), "model.safetensors", "not a readable safetensors file"),
        (edit_weights(lambda w: w.pop(WORDS)), "model.safetensors", f"{WORDS} is missing"),
        (edit_weights(lambda w: w.pop("bert.encoder.ln.bias")), "model.safetensors", "bert.encoder.ln.bias is missing"),
        (edit_weights(lambda w: w.clear()), "model.safetensors", "is missing"),
        (edit_weights(lambda w: w[KEY][3, 4].fill_(math.nan)), "model.safetensors", "holds NaN or infinity"),
        (edit_weights(lambda w: w[WORDS][20, 1].fill_(-math.inf)), "model.safetensors", "holds NaN or infinity"),
    ],
)
def test_bad_directory_is_refused_by_file_and_fault(copy: Path, edit: Edit, file: str, what: str) -> None:
    edit(copy)
    with pytest.raises(UserError) as excinfo:
        directory.load_model(copy)
    message = one_line(excinfo)
    assert f"{file}: " in message
    assert what in message


def used_tensors() -> list[str]:
    layer = [
        f"{module}.{kind}"
        for module in (
            "attention.ln",
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
            "attention.output.dense",
            "ln",
            "intermediate.dense",
            "output.dense",
        )
        for kind in ("weight", "bias")
    ]
    tables = [f"embeddings.{table}_embeddings.weight" for table in ("word", "position", "token_type")]
    return [*tables, "encoder.ln.weight", "encoder.ln.bias", *(f"encoder.layer.1.{name}" for name in layer)]


@pytest.mark.parametrize("name", used_tensors())
@pytest.mark.slow
def test_wrong_shape_of_any_tensor_is_refused(copy: Path, name: str) -> None:
    for dimension in (0, -1):

        def grow(weights: dict, dimension: int = dimension) -> None:
            tensor = weights[f"bert.{name}"]
            weights[f"bert.{name}"] = torch.cat([tensor, tensor], dimension)

        if "token_type" in name and dimension == 0:
            continue  # a third type does no harm: type 0 is the one used
        shutil.rmtree(copy.parent / "grown", ignore_errors=True)
        edit_weights(grow)(shutil.copytree(copy, copy.parent / "grown"))
        with pytest.raises(UserError, match=r"model\.safetensors: ") as excinfo:
            directory.load_model(copy.parent / "grown")
        assert "shape" in one_line(excinfo)


def test_all_used_tensors_are_needed(copy: Path) -> None:
    whole = load_file(copy / "model.safetensors")
    for name in used_tensors():
        save_file({n: t for n, t in whole.items() if n != f"bert.{name}"}, copy / "model.safetensors")
        with pytest.raises(UserError, match=rf"model\.safetensors: bert\.{name} is missing"):
            directory.load_model(copy)
