"""NeMo archives, made here by hand from the layout's description, and a Megatron forward pass in NumPy."""

import json
import math
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from embedome.common.errors import UserError
from embedome.decoding.masked_lm import load_masked_lm
from embedome.models.directory import load_model
from embedome.models.nemo.convert import export_nemo, import_nemo
from helpers.nemo_files import PIECES, Weights, archive, attend, by_head, saved
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, MegatronBertForMaskedLM

CONFIG = {
    "num_layers": 2,
    "hidden_size": 24,
    "num_attention_heads": 3,
    "ffn_hidden_size": 40,
    "max_position_embeddings": 32,
    "encoder_seq_length": 32,
    "layernorm_epsilon": 1e-5,
    "transformer_block_type": "pre_ln",
    "tokenizer": {"model": "nemo:0123abc_protein_sequence_sentencepiece.model"},
}
LAYERS = "model.language_model.encoder.layers"


def random_state(seed: int = 0) -> dict[str, torch.Tensor]:
    """A state dict in NeMo's names, every tensor random."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, center: float = 0.0) -> torch.Tensor:
        return center + 0.2 * torch.randn(*shape, generator=generator)

    d, f = 24, 40
    state = {
        "model.language_model.embedding.word_embeddings.weight": draw(128, d),
        "model.language_model.embedding.position_embeddings.weight": draw(32, d),
        "model.lm_head.bias": draw(128),
        "model.lm_head.dense.weight": draw(d, d),
        "model.lm_head.dense.bias": draw(d),
    }
    norms = ["model.language_model.encoder.final_layernorm", "model.lm_head.layernorm"]
    for i in range(2):
        norms += [f"{LAYERS}.{i}.input_layernorm", f"{LAYERS}.{i}.post_attention_layernorm"]
        shapes = {
            "self_attention.query_key_value": (3 * d, d),
            "self_attention.dense": (d, d),
            "mlp.dense_h_to_4h": (f, d),
            "mlp.dense_4h_to_h": (d, f),
        }
        for name, shape in shapes.items():
            state[f"{LAYERS}.{i}.{name}.weight"] = draw(*shape)
            state[f"{LAYERS}.{i}.{name}.bias"] = draw(shape[0])
    for name in norms:
        state[f"{name}.weight"] = draw(d, center=1.0)
        state[f"{name}.bias"] = draw(d)
    return state


def megatron(state: dict[str, torch.Tensor], tokens: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Hidden states [L, D] and masked-LM logits [L, 128] of one sequence, in float64, head by head."""
    w = Weights(state, "model.")
    embedding = w.tensors["language_model.embedding.word_embeddings.weight"]
    x = embedding[tokens] + w.tensors["language_model.embedding.position_embeddings.weight"][: len(tokens)]
    for i in range(2):
        layer = f"language_model.encoder.layers.{i}"
        qkv = w.linear(f"{layer}.self_attention.query_key_value", w.norm(f"{layer}.input_layernorm", x))
        context = [attend(*head) for head in by_head(qkv, 3, 8)]
        x = x + w.linear(f"{layer}.self_attention.dense", np.concatenate(context, -1))
        x = x + w.mlp(layer, w.norm(f"{layer}.post_attention_layernorm", x))
    hidden = w.norm("language_model.encoder.final_layernorm", x)
    dense = w.linear("lm_head.dense", hidden)
    exact = 0.5 * dense * (1 + np.vectorize(math.erf)(dense / math.sqrt(2)))
    return hidden, w.norm("lm_head.layernorm", exact) @ embedding.T + w.tensors["lm_head.bias"]


def members(state: dict, config: dict | None = None, prefix: str = "./") -> dict[str, bytes]:
    """The members of a one-rank archive."""
    return {
        f"{prefix}model_config.yaml": yaml.safe_dump(config or CONFIG).encode(),
        f"{prefix}0123abc_protein_sequence_sentencepiece.model": b"not read",
        f"{prefix}0123abc_protein_sequence_sentencepiece.vocab": "".join(f"{p}\t0\n" for p in PIECES).encode(),
        f"{prefix}model_weights.ckpt": saved(state),
    }


def split_ranks(state: dict[str, torch.Tensor], ranks: int) -> list[dict[str, torch.Tensor]]:
    """Cut a state dict as tensor parallelism does, the vocabulary padded to 128 rows per rank."""
    rows, columns = ("query_key_value", "dense_h_to_4h"), ("self_attention.dense.weight", "dense_4h_to_h.weight")
    found: list[dict[str, torch.Tensor]] = [{} for _ in range(ranks)]
    for name, tensor in state.items():
        if name.endswith(("word_embeddings.weight", "lm_head.bias")):
            tensor = torch.cat([tensor, torch.full((128 * (ranks - 1), *tensor.shape[1:]), 9.0)])
        cut = 0 if any(part in name for part in (*rows, "word_embeddings", "lm_head.bias")) else None
        cut = 1 if name.endswith(columns) else cut
        for rank, piece in enumerate([tensor] * ranks if cut is None else tensor.chunk(ranks, cut)):
            found[rank][name] = piece.clone()
    return found


def assert_is(directory: Path, state: dict[str, torch.Tensor], tolerance: float = 2e-6) -> None:
    """The imported model has the reference's results, in the Hugging Face class and in the engine."""
    sequence = "MKTAYIAKQRXBZUOLW"
    tokens = AutoTokenizer.from_pretrained(directory)(sequence)["input_ids"]
    hidden, _ = megatron(state, tokens)
    model = MegatronBertForMaskedLM.from_pretrained(directory).eval()
    with torch.inference_mode():
        theirs = model.bert(torch.tensor([tokens])).last_hidden_state[0].numpy()
        ours = load_model(directory).encoder(torch.tensor([tokens]))[0].numpy()
    np.testing.assert_allclose(theirs, hidden, atol=tolerance * np.abs(hidden).max())
    np.testing.assert_allclose(ours, hidden, atol=tolerance * np.abs(hidden).max())


@pytest.mark.parametrize(("mode", "prefix"), [("w", "./"), ("w", ""), ("w:gz", "./")])
def test_plain_and_gzipped_archives_agree_with_the_reference(tmp_path, mode, prefix):
    state = random_state()
    import_nemo(archive(tmp_path / "m.nemo", members(state, prefix=prefix), mode), tmp_path / "model")
    assert_is(tmp_path / "model", state)


@pytest.mark.parametrize("folder", ["mp_rank_{:02d}", "tp_rank_{:02d}"])
def test_tensor_parallel_ranks_are_merged(tmp_path, folder):
    state = random_state(1)
    files = members(state)
    del files["./model_weights.ckpt"]
    for rank, piece in reversed(list(enumerate(split_ranks(state, 3 if "mp" in folder else 1)))):
        files[f"./{folder.format(rank)}/model_weights.ckpt"] = saved(piece)
    import_nemo(archive(tmp_path / "m.nemo", files), tmp_path / "model")
    assert_is(tmp_path / "model", state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_become_float32(tmp_path, dtype):
    state = {name: tensor.to(dtype) for name, tensor in random_state(2).items()}
    import_nemo(archive(tmp_path / "m.nemo", members(state)), tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert_is(tmp_path / "model", state)


def test_masked_lm_logits_agree(tmp_path):
    """Hugging Face has one activation for layers and head; tanh for exact GELU differs by less than 0.1 %."""
    state = random_state(3)
    import_nemo(archive(tmp_path / "m.nemo", members(state)), tmp_path / "model")
    tokens = torch.tensor([AutoTokenizer.from_pretrained(tmp_path / "model")("MKTAYIAKQR")["input_ids"]])
    _, logits = megatron(state, tokens[0].tolist())
    ours = load_masked_lm(tmp_path / "model").logits(tokens)[0].numpy()
    np.testing.assert_allclose(ours, logits, atol=2e-6 * np.abs(logits).max())
    model = MegatronBertForMaskedLM.from_pretrained(tmp_path / "model").eval()
    with torch.inference_mode():
        found = model(tokens).logits[0].numpy()
    np.testing.assert_allclose(found, logits, atol=1e-3 * np.abs(logits).max())


def test_the_directory_says_where_it_comes_from(tmp_path):
    import_nemo(archive(tmp_path / "m.nemo", members(random_state())), tmp_path / "model")
    about = yaml.safe_load((tmp_path / "model" / "config.json").read_text())["embedome"]
    assert about["trained"] is True
    assert len(about["archive_sha256"]) == 64


def test_round_trip_is_exact(tmp_path):
    state = random_state(4)
    import_nemo(archive(tmp_path / "a.nemo", members(state)), tmp_path / "model")
    export_nemo(tmp_path / "model", tmp_path / "b.nemo")
    with tarfile.open(tmp_path / "b.nemo") as tar:
        again = torch.load(tar.extractfile("model_weights.ckpt"), weights_only=True)
        config = yaml.safe_load(tar.extractfile("model_config.yaml"))
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)
    assert {name: config[name] for name in CONFIG if name != "tokenizer"} == {
        name: value for name, value in CONFIG.items() if name != "tokenizer"
    }
    import_nemo(tmp_path / "b.nemo", tmp_path / "again")
    for name, tensor in load_file(tmp_path / "model" / "model.safetensors").items():
        assert torch.equal(load_file(tmp_path / "again" / "model.safetensors")[name], tensor)


def test_token_types_that_were_trained_are_part_of_the_positions(tmp_path):
    import_nemo(archive(tmp_path / "a.nemo", members(random_state(5))), tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    weights = load_file(path)
    weights["bert.embeddings.token_type_embeddings.weight"][0] += 0.3
    save_file(weights, path, {"format": "pt"})
    export_nemo(tmp_path / "model", tmp_path / "b.nemo")
    import_nemo(tmp_path / "b.nemo", tmp_path / "again")
    tokens = torch.tensor([AutoTokenizer.from_pretrained(tmp_path / "model")("MKTAYIAKQR")["input_ids"]])
    one, other = (load_masked_lm(tmp_path / name).logits(tokens) for name in ("model", "again"))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    "changes", [{"layer_norm_eps": 1e-12}, {"hidden_act": "gelu"}, {"vocab_size": 33}, {"tie_word_embeddings": False}]
)
def test_what_an_archive_cannot_say_is_refused(tmp_path, changes):
    import_nemo(archive(tmp_path / "a.nemo", members(random_state(5))), tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    [name] = changes
    with pytest.raises(UserError, match=rf"{name} is .*; expected .*, as esm1nv"):
        export_nemo(tmp_path / "model", tmp_path / "b.nemo")


def refused(tmp_path: Path, files: dict[str, bytes]) -> str:
    with pytest.raises(UserError) as error:
        import_nemo(archive(tmp_path / "bad.nemo", files), tmp_path / "model")
    assert not (tmp_path / "model").exists()
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_missing_left_over_and_misshapen_tensors_are_listed(tmp_path):
    state = random_state()
    del state[f"{LAYERS}.1.mlp.dense_h_to_4h.bias"]
    state["model.pooler.weight"] = torch.zeros(2)
    message = refused(tmp_path, members(state))
    assert "missing: language_model.encoder.layers.1.mlp.dense_h_to_4h.bias" in message
    assert "left over: pooler.weight" in message
    state = random_state()
    state["model.lm_head.dense.weight"] = torch.zeros(24, 23)
    assert "lm_head.dense.weight has shape (24, 23); expected (24, 24)" in refused(tmp_path, members(state))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transformer_block_type": "post_ln"}, "transformer_block_type is 'post_ln'; expected 'pre_ln'"),
        ({"position_embedding_type": "rope"}, "position_embedding_type is 'rope'"),
        ({"megatron_legacy": True}, "megatron_legacy is True; expected False"),
        ({"hidden_size": "x"}, "hidden_size is 'x' in model_config.yaml; expected a positive integer"),
        ({"layernorm_epsilon": 1e-12}, "layernorm_epsilon is 1e-12; expected 1e-5"),
        ({"bias_gelu_fusion": False}, "GELU is then not that by tanh, which esm1nv"),
    ],
)
def test_another_architecture_is_refused(tmp_path, changes, message):
    assert message in refused(tmp_path, members(random_state(), {**CONFIG, **changes}))


def test_another_vocabulary_is_refused(tmp_path):
    files = members(random_state())
    name = next(name for name in files if name.endswith(".vocab"))
    files[name] = files[name].replace(b"L\t", b"J\t", 1)
    assert "is not ESM-1nv's" in refused(tmp_path, files)


def test_members_that_would_leave_the_folder_and_links_are_refused(tmp_path):
    assert "would leave the folder" in refused(tmp_path, {**members(random_state()), "../evil.vocab": b"x"})
    assert "would leave the folder" in refused(tmp_path, {**members(random_state()), "/evil.vocab": b"x"})
    with tarfile.open(tmp_path / "link.nemo", "w") as tar:
        link = tarfile.TarInfo("model_config.yaml")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(UserError, match="is a link or a device"):
        import_nemo(tmp_path / "link.nemo", tmp_path / "model")
    assert not (tmp_path.parent / "evil.vocab").exists()


class Evil:
    """Runs a command when unpickled."""

    def __reduce__(self) -> tuple:
        return os.mkdir, (os.environ["EVIL_FOLDER"],)


def test_pickles_that_are_not_plain_tensors_are_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.setenv("EVIL_FOLDER", str(tmp_path / "evil"))
    for content in (saved({"a": Evil()}), pickle.dumps(Evil()), saved([1, 2]), saved({"a": 1}), b"garbage", b""):
        message = refused(tmp_path, {**members(random_state()), "./model_weights.ckpt": content})
        assert "model_weights.ckpt" in message
    assert not (tmp_path / "evil").exists()


def test_ranks_with_gaps_or_differences_and_pipeline_stages_are_refused(tmp_path):
    files = members(random_state())
    weights = files.pop("./model_weights.ckpt")
    assert "expected model_weights.ckpt, or ranks from 0" in refused(tmp_path, files)
    assert "ranks [1]" in refused(tmp_path, {**files, "mp_rank_01/model_weights.ckpt": weights})
    stage = {**files, "tp_rank_00_pp_rank_001/model_weights.ckpt": weights}
    assert "pipeline-parallel archives are not supported" in refused(tmp_path, stage)
    pieces = split_ranks(random_state(), 3)
    pieces[1]["model.lm_head.dense.bias"][0] += 1
    ranks = {f"mp_rank_{i:02d}/model_weights.ckpt": saved(piece) for i, piece in enumerate(pieces)}
    assert "lm_head.dense.bias differs between ranks" in refused(tmp_path, {**files, **ranks})


def test_damaged_archives_are_refused(tmp_path):
    (tmp_path / "text.nemo").write_text("no archive")
    with pytest.raises(UserError, match=r"not a readable \.nemo archive"):
        import_nemo(tmp_path / "text.nemo", tmp_path / "model")
    path = archive(tmp_path / "cut.nemo", members(random_state()), "w:gz")
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match=r"not a readable \.nemo archive"):
        import_nemo(path, tmp_path / "model")
    with pytest.raises(UserError, match="no such file"):
        import_nemo(tmp_path / "none.nemo", tmp_path / "model")
    assert "holds no model_config.yaml" in refused(tmp_path, {"readme": b"x"})
