"""ProtT5nv's archives, and its encoder and decoder in NumPy, written from the description of Megatron's T5."""

import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from embedome.common.errors import UserError
from embedome.decoding.seq2seq import load_seq2seq
from embedome.models.create import make_untrained
from embedome.models.directory import load_model
from embedome.models.nemo.convert import export_nemo, import_nemo
from helpers.nemo_files import PIECES, Weights, archive, attend, by_head, saved
from safetensors.torch import load_file, save_file

D, F, HEAD, LAYERS, DECODER_LAYERS, POSITIONS = 24, 40, 8, 3, 2, 20
SIZES = {
    "hidden_size": D,
    "ffn_hidden_size": F,
    "num_attention_heads": 3,
    "layernorm_epsilon": 1e-5,
    "transformer_block_type": "pre_ln",
    "position_embedding_type": "learned_absolute",
}
# NeMo 1.20 has the halves' fields apart; 1.11 has one number of layers for both, and no sections.
NEW = {
    "seq_length": POSITIONS,
    "max_position_embeddings": "${.seq_length}",
    "encoder": {**SIZES, "num_layers": LAYERS},
    "decoder": {**SIZES, "num_layers": DECODER_LAYERS},
}
MODEL = "enc_dec_model.enc_dec_model"


def random_state(seed: int, layers: int = LAYERS, decoder_layers: int = DECODER_LAYERS) -> dict[str, torch.Tensor]:
    """A state dict in NeMo's names, every tensor random."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, center: float = 0.0) -> torch.Tensor:
        return center + 0.3 * torch.randn(*shape, generator=generator)

    state = {"enc_dec_model.tokens_head.bias": draw(128)}
    for name, shape in (("word", (128, D)), ("position", (POSITIONS, D))):
        table = draw(*shape)
        for half in ("encoder", "decoder"):
            state[f"enc_dec_model.{half}_embedding.{name}_embeddings.weight"] = table
    matrices = {
        "self_attention.query_key_value": (3 * D, D),
        "self_attention.dense": (D, D),
        "mlp.dense_h_to_4h": (F, D),
        "mlp.dense_4h_to_h": (D, F),
    }
    cross = {
        "inter_attention.query": (D, D),
        "inter_attention.key_value": (2 * D, D),
        "inter_attention.dense": (D, D),
    }
    norms = ["input_layernorm", "post_attention_layernorm"]
    for half, count, shapes, names in (
        ("encoder", layers, matrices, norms),
        ("decoder", decoder_layers, matrices | cross, [*norms, "post_inter_attention_layernorm"]),
    ):
        places = [f"{MODEL}.{half}.model.layers.{i}" for i in range(count)]
        for place in places:
            for name, shape in shapes.items():
                state[f"{place}.{name}.weight"], state[f"{place}.{name}.bias"] = draw(*shape), draw(shape[0])
        for name in [f"{place}.{name}" for place in places for name in names] + [
            f"{MODEL}.{half}.model.final_layernorm"
        ]:
            state[f"{name}.weight"], state[f"{name}.bias"] = draw(D, center=1.0), draw(D)
    return state


def self_attention(w: Weights, layer: str, x: np.ndarray, causal: bool) -> np.ndarray:
    qkv = w.linear(f"{layer}.self_attention.query_key_value", w.norm(f"{layer}.input_layernorm", x))
    context = [attend(*head, causal=causal) for head in by_head(qkv, 3, HEAD)]
    return w.linear(f"{layer}.self_attention.dense", np.concatenate(context, -1))


def encode(state: dict[str, torch.Tensor], tokens: list[int], layers: int = LAYERS) -> np.ndarray:
    """Hidden states [L, D] of the encoder, in float64."""
    w = Weights(state, "enc_dec_model.")
    x = w.tensors["encoder_embedding.word_embeddings.weight"][tokens]
    x = x + w.tensors["encoder_embedding.position_embeddings.weight"][: len(tokens)]
    for i in range(layers):
        layer = f"enc_dec_model.encoder.model.layers.{i}"
        x = x + self_attention(w, layer, x, causal=False)
        x = x + w.mlp(layer, w.norm(f"{layer}.post_attention_layernorm", x))
    return w.norm("enc_dec_model.encoder.model.final_layernorm", x)


def decode(
    state: dict[str, torch.Tensor], encoded: np.ndarray, tokens: list[int], layers: int = DECODER_LAYERS
) -> np.ndarray:
    """Logits [T, 128] of the decoder, in float64."""
    w = Weights(state, "enc_dec_model.")
    words = w.tensors["decoder_embedding.word_embeddings.weight"]
    x = words[tokens] + w.tensors["decoder_embedding.position_embeddings.weight"][: len(tokens)]
    for i in range(layers):
        layer = f"enc_dec_model.decoder.model.layers.{i}"
        x = x + self_attention(w, layer, x, causal=True)
        query = w.linear(f"{layer}.inter_attention.query", w.norm(f"{layer}.post_attention_layernorm", x))
        key_value = w.linear(f"{layer}.inter_attention.key_value", encoded)
        context = [
            attend(q, k, v) for (q,), (k, v) in zip(by_head(query, 1, HEAD), by_head(key_value, 2, HEAD), strict=True)
        ]
        x = x + w.linear(f"{layer}.inter_attention.dense", np.concatenate(context, -1))
        x = x + w.mlp(layer, w.norm(f"{layer}.post_inter_attention_layernorm", x))
    return w.norm("enc_dec_model.decoder.model.final_layernorm", x) @ words.T + w.tensors["tokens_head.bias"]


def members(state: dict, config: dict | None = None) -> dict[str, bytes]:
    return {
        "./model_config.yaml": yaml.safe_dump(config or NEW).encode(),
        "./9f_protein_sequence_sentencepiece.vocab": "".join(f"{piece}\t0\n" for piece in PIECES).encode(),
        "./model_weights.ckpt": saved(state),
    }


def split_ranks(state: dict[str, torch.Tensor], ranks: int) -> list[dict[str, torch.Tensor]]:
    """Cut a state dict as tensor parallelism does, the vocabulary padded to 128 rows per rank."""
    cut_rows = re.compile(
        r"(query_key_value|inter_attention\.query|key_value|dense_h_to_4h|word_embeddings|tokens_head)\."
    )
    cut_columns = re.compile(r"(attention\.dense|dense_4h_to_h)\.weight")
    found: list[dict[str, torch.Tensor]] = [{} for _ in range(ranks)]
    for name, tensor in state.items():
        if "word_embeddings" in name or "tokens_head" in name:
            tensor = torch.cat([tensor, torch.full((128 * (ranks - 1), *tensor.shape[1:]), 9.0)])
        cut = 0 if cut_rows.search(name) else 1 if cut_columns.search(name) else None
        for rank, piece in enumerate([tensor] * ranks if cut is None else tensor.chunk(ranks, cut)):
            found[rank][name] = piece.clone()
    return found


TEXT = "MKTAYIAKQRXBZUOLW"
TARGET = "GVERT"


def assert_is(
    directory: Path, state: dict[str, torch.Tensor], layers: int = LAYERS, decoder_layers: int = DECODER_LAYERS
) -> None:
    """The imported model has the reference's hidden states, and its likelihood of a target."""
    tokens = [PIECES.index(residue) for residue in TEXT]
    hidden = encode(state, tokens, layers)
    with torch.inference_mode():
        ours = load_model(directory).encoder(torch.tensor([tokens]))[0].numpy()
    np.testing.assert_allclose(ours, hidden, atol=2e-6 * np.abs(hidden).max())
    target = [*(PIECES.index(residue) for residue in TARGET), PIECES.index("</s>")]
    logits = decode(state, hidden, [PIECES.index("<s>"), *target[:-1]], decoder_layers)
    expected = (logits - np.log(np.exp(logits).sum(-1, keepdims=True)))[range(len(target)), target]
    found = load_seq2seq(directory).log_likelihoods([TEXT.encode()], [TARGET.encode()])[0]
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_archives_agree_with_the_reference(tmp_path: Path, mode: str) -> None:
    state = random_state(1)
    import_nemo(archive(tmp_path / "m.nemo", members(state), mode), tmp_path / "model")
    assert_is(tmp_path / "model", state)


def test_the_flat_configuration_of_older_releases(tmp_path: Path) -> None:
    config = {**SIZES, "num_layers": 2, "seq_length": POSITIONS, "max_position_embeddings": POSITIONS}
    state = random_state(2, 2, 2)
    import_nemo(archive(tmp_path / "m.nemo", members(state, config)), tmp_path / "model")
    assert_is(tmp_path / "model", state, 2, 2)


def test_tensor_parallel_ranks_are_merged(tmp_path: Path) -> None:
    state = random_state(3)
    files = members(state)
    del files["./model_weights.ckpt"]
    files |= {
        f"mp_rank_{rank:02d}/model_weights.ckpt": saved(piece) for rank, piece in enumerate(split_ranks(state, 3))
    }
    import_nemo(archive(tmp_path / "m.nemo", files), tmp_path / "model")
    assert_is(tmp_path / "model", state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_with_their_wrappers_names(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {name: tensor.to(dtype) for name, tensor in random_state(4).items()}
    wrapped = {name.replace("enc_dec_model.", "enc_dec_model.module.", 1): tensor for name, tensor in state.items()}
    import_nemo(archive(tmp_path / "m.nemo", members(wrapped)), tmp_path / "model")
    assert {tensor.dtype for tensor in load_file(tmp_path / "model" / "model.safetensors").values()} == {torch.float32}
    assert_is(tmp_path / "model", state)


def test_round_trip_is_exact(tmp_path: Path) -> None:
    state = random_state(5)
    import_nemo(archive(tmp_path / "a.nemo", members(state)), tmp_path / "model")
    export_nemo(tmp_path / "model", tmp_path / "b.nemo")
    with tarfile.open(tmp_path / "b.nemo") as tar:
        again = torch.load(tar.extractfile("model_weights.ckpt"), weights_only=True)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)
    import_nemo(tmp_path / "b.nemo", tmp_path / "again")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    found = load_file(tmp_path / "again" / "model.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_two_tables_of_positions_cannot_be_exported(tmp_path: Path) -> None:
    import_nemo(archive(tmp_path / "a.nemo", members(random_state(6))), tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    weights = load_file(path)
    weights["model.decoder.embed_positions.weight"][3, 2] += 1
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(UserError, match=r"embed_positions\.weight; an archive has one table for both"):
        export_nemo(tmp_path / "model", tmp_path / "b.nemo")
    assert not (tmp_path / "b.nemo").exists()


def without_cross_attention(state: dict[str, torch.Tensor]) -> None:
    for name in [name for name in state if ".1.inter_attention.query." in name]:
        del state[name]


def own_decoder_embedding(state: dict[str, torch.Tensor]) -> None:
    name = "enc_dec_model.decoder_embedding.word_embeddings.weight"
    state[name] = state[name] + 1


def misshapen(state: dict[str, torch.Tensor]) -> None:
    state[f"{MODEL}.decoder.model.layers.0.inter_attention.key_value.weight"] = torch.zeros(2 * D, D - 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_cross_attention, "not the tensors of prott5nv; missing: .*inter_attention.query.bias"),
        (own_decoder_embedding, "expected one tensor under both names"),
        (misshapen, r"key_value.weight has shape \(48, 23\); expected \(48, 24\)"),
        (lambda state: state.update({"enc_dec_model.pooler.weight": torch.zeros(2)}), "left over: pooler.weight"),
    ],
)
def test_tensors_that_are_not_prott5nvs_are_refused(tmp_path: Path, change: Callable, message: str) -> None:
    state = random_state(7)
    change(state)
    with pytest.raises(UserError, match=message):
        import_nemo(archive(tmp_path / "m.nemo", members(state)), tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("half", "changes", "message"),
    [
        ("decoder", {"hidden_size": 48}, "the decoder's sizes .* are not the encoder's"),
        ("decoder", {"transformer_block_type": "post_ln"}, "transformer_block_type is 'post_ln'"),
        ("encoder", {"position_embedding_type": "relative"}, "position_embedding_type is 'relative'"),
        ("encoder", {"normalization": "rmsnorm"}, "normalization is 'rmsnorm'"),
    ],
)
def test_another_architecture_is_refused(tmp_path: Path, half: str, changes: dict, message: str) -> None:
    config = {**NEW, half: {**NEW[half], **changes}}
    with pytest.raises(UserError, match=message):
        import_nemo(archive(tmp_path / "m.nemo", members(random_state(8), config)), tmp_path / "model")


@pytest.mark.parametrize("name", ["esm1nv", "prott5nv"])
def test_a_fresh_model_can_be_written_as_an_archive_and_read_back(tmp_path: Path, name: str) -> None:
    made, archived, back = tmp_path / "made", tmp_path / "x.nemo", tmp_path / "back"
    make_untrained(made, name, name, {"layers": 2, "hidden": 32, "heads": 4, "feed_forward": 64}, 0)
    export_nemo(made, archived)
    import_nemo(archived, back)
    one, other = (load_file(folder / "model.safetensors") for folder in (made, back))
    assert set(one) == set(other)
    assert all(torch.equal(one[each], other[each]) for each in one)
