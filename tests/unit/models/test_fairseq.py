"""Sapiens' fairseq checkpoints, made here by hand, and a forward pass of fairseq's RoBERTa from its description."""

import argparse
import json
import math
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from embedome.cli.main import main
from embedome.common.errors import UserError
from embedome.common.json_files import file_sha256
from embedome.decoding.masked_lm import load_masked_lm
from embedome.models.directory import load_model, model_identity
from embedome.models.fairseq import import_sapiens
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer, RobertaForMaskedLM

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
TOKENS = {"vh": 144, "vl": 128}
DECODER, ENCODER = "decoder.", "decoder.sentence_encoder."
CHAIN = "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVAR"


def arguments(tokens: int = 144, **changes: object) -> argparse.Namespace:
    """Some of what a run of fairseq's was given."""
    own = {
        "arch": "roberta_small",
        "max_positions": tokens,
        "encoder_layers": 4,
        "encoder_embed_dim": 128,
        "encoder_ffn_embed_dim": 256,
        "encoder_attention_heads": 8,
        "activation_fn": "gelu",
        "lr": [0.001],
        "tokenizer": None,
    }
    return argparse.Namespace(**{**own, **changes})


def random_state(tokens: int = 144, seed: int = 0) -> dict[str, Tensor]:
    """A state dict in fairseq's names, every tensor random."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, center: float = 0.0) -> Tensor:
        return center + 0.2 * torch.randn(*shape, generator=generator)

    d, f = 128, 256
    shapes = {f"{DECODER}lm_head.dense": (d, d)}
    norms = [f"{ENCODER}emb_layer_norm", f"{DECODER}lm_head.layer_norm"]
    for i in range(4):
        layer = f"{ENCODER}layers.{i}."
        shapes |= {f"{layer}self_attn.{name}_proj": (d, d) for name in ("q", "k", "v", "out")}
        shapes |= {f"{layer}fc1": (f, d), f"{layer}fc2": (d, f)}
        norms += [f"{layer}self_attn_layer_norm", f"{layer}final_layer_norm"]
    state = {f"{name}.weight": draw(*shape) for name, shape in shapes.items()}
    state |= {f"{name}.bias": draw(shape[0]) for name, shape in shapes.items()}
    state |= {f"{name}.weight": draw(d, center=1.0) for name in norms} | {f"{name}.bias": draw(d) for name in norms}
    words = draw(25, d)
    state |= {f"{ENCODER}embed_tokens.weight": words, f"{DECODER}lm_head.weight": words}
    return state | {f"{ENCODER}embed_positions.weight": draw(tokens + 2, d), f"{DECODER}lm_head.bias": draw(25)}


def checkpoint(state: dict[str, Tensor], given: object = None) -> dict[str, object]:
    """What a run of fairseq's saves."""
    return {
        "args": arguments() if given is None else given,
        "model": state,
        "optimizer_history": [{"optimizer_name": "NAG", "num_updates": 5}],
        "extra_state": {"best": 1.4},
        "last_optimizer_state": {"state": {0: {"momentum_buffer": torch.zeros(3)}}},
    }


def write(path: Path, content: object, letters: str = RESIDUES, zipped: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    path.with_name("dict.txt").write_text("".join(f"{letter} 1\n" for letter in letters))
    return path


def write_chain(folder: Path, chain: str = "vh") -> Path:
    count = TOKENS[chain]
    return write(folder / f"checkpoint_{chain}.pt", checkpoint(random_state(count), arguments(count)))


def fairseq(state: dict[str, Tensor], tokens: list[int]) -> tuple[Tensor, Tensor]:
    """Hidden states [T, 128] and logits [T, 25] of one sequence, in float64, head by head."""
    w = {name: tensor.double() for name, tensor in state.items()}

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    # Positions are counted from after the padding's, 1.
    positions = w[f"{ENCODER}embed_positions.weight"][2 : 2 + len(tokens)]
    x = norm(f"{ENCODER}emb_layer_norm", w[f"{ENCODER}embed_tokens.weight"][tokens] + positions)
    for i in range(4):
        layer = f"{ENCODER}layers.{i}."
        q, k, v = (linear(f"{layer}self_attn.{part}_proj", x).split(16, -1) for part in "qkv")
        heads = [torch.softmax(a @ b.T / math.sqrt(16), -1) @ c for a, b, c in zip(q, k, v, strict=True)]
        x = norm(f"{layer}self_attn_layer_norm", x + linear(f"{layer}self_attn.out_proj", torch.cat(heads, -1)))
        x = norm(f"{layer}final_layer_norm", x + linear(f"{layer}fc2", functional.gelu(linear(f"{layer}fc1", x))))
    dense = norm(f"{DECODER}lm_head.layer_norm", functional.gelu(linear(f"{DECODER}lm_head.dense", x)))
    return x, dense @ w[f"{DECODER}lm_head.weight"].T + w[f"{DECODER}lm_head.bias"]


def assert_near(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).abs().max() < 2e-5 * expected.abs().max()


# What is converted


@pytest.mark.parametrize("chain", TOKENS)
def test_hidden_states_and_logits_are_fairseq_s(tmp_path: Path, chain: str) -> None:
    path = write_chain(tmp_path / "released", chain)
    assert import_sapiens(path, tmp_path / "model") == [tmp_path / "model"]
    ours, head = load_model(tmp_path / "model"), load_masked_lm(tmp_path / "model")
    assert ours.max_residues == TOKENS[chain] - 2
    for sequence in (CHAIN, (3 * CHAIN)[: TOKENS[chain] - 2]):
        ids = [0, *(4 + RESIDUES.index(residue) for residue in sequence), 2]
        tokens = torch.from_numpy(ours.tokenizer.tokens(np.frombuffer(sequence.encode(), np.uint8)[None]))
        assert tokens[0].tolist() == ids == AutoTokenizer.from_pretrained(tmp_path / "model")(sequence).input_ids
        hidden, logits = fairseq(random_state(TOKENS[chain]), ids)
        with torch.inference_mode():
            assert_near(ours.encoder(tokens)[0], hidden)
            assert_near(head.logits(tokens)[0], logits)
            theirs = RobertaForMaskedLM.from_pretrained(tmp_path / "model").eval()
            assert_near(theirs(tokens).logits[0], logits)


def test_the_directory_says_what_it_is_and_under_which_licence(tmp_path: Path) -> None:
    path = write_chain(tmp_path / "released", "vl")
    import_sapiens(path, tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["embedome"] == {
        "name": "sapiens-vl",
        "trained": True,
        "licence": "MIT",
        "source": "the wheel sapiens==1.0.5, checkpoint_vl.pt (fairseq)",
        "checkpoint_sha256": file_sha256(path),
    }
    identity = model_identity(tmp_path / "model")
    assert (identity["name"], identity["trained"]) == ("sapiens-vl", True)


def test_of_a_folder_each_model_gets_a_directory(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for chain in TOKENS:
        write_chain(tmp_path / "wheel" / "sapiens" / "models" / "v1", chain)
    main(["models", "import", str(tmp_path / "wheel"), str(tmp_path / "models")])
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        str(tmp_path / "models" / f"sapiens-{chain}") for chain in TOKENS
    ]
    assert [load_model(tmp_path / "models" / f"sapiens-{chain}").max_residues for chain in TOKENS] == [142, 126]


def test_a_checkpoint_saved_by_a_newer_torch_or_in_half_precision_is_the_same(tmp_path: Path) -> None:
    state = {name: tensor.half().float() for name, tensor in random_state().items()}
    half = {name: tensor.half() for name, tensor in state.items()}
    import_sapiens(write(tmp_path / "a" / "x.pt", checkpoint(state)), tmp_path / "one")
    import_sapiens(write(tmp_path / "b" / "x.pt", checkpoint(half), zipped=True), tmp_path / "two")
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


# What is refused


def refused(tmp_path: Path, source: Path) -> str:
    with pytest.raises(UserError) as excinfo:
        import_sapiens(source, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    assert "\n" not in str(excinfo.value)
    return str(excinfo.value)


def refused_state(tmp_path: Path, change: Callable[[dict[str, Tensor]], object]) -> str:
    state = random_state()
    change(state)
    return refused(tmp_path, write(tmp_path / "checkpoint_vh.pt", checkpoint(state)))


def test_missing_left_over_and_misshapen_tensors_are_listed(tmp_path: Path) -> None:
    name = f"{ENCODER}layers.3.fc1.bias"
    message = refused_state(tmp_path, lambda state: state.update({f"{DECODER}pooler.weight": state.pop(name)}))
    assert message.startswith(f"{tmp_path / 'checkpoint_vh.pt'}: not the tensors of sapiens-vh; missing: sentence_enc")
    assert message.endswith("layers.3.fc1.bias; left over: pooler.weight")
    message = refused_state(tmp_path, lambda state: state.update({name: torch.zeros(255)}))
    assert "layers.3.fc1.bias has shape (255,); expected (256,)" in message
    message = refused_state(tmp_path, lambda state: state.update({name: torch.zeros(256, dtype=torch.int8)}))
    assert "layers.3.fc1.bias is of type torch.int8" in message


def test_a_tensor_under_two_names_must_be_one(tmp_path: Path) -> None:
    message = refused_state(tmp_path, lambda state: state.update({f"{DECODER}lm_head.weight": torch.zeros(25, 128)}))
    assert "lm_head.weight is not sentence_encoder.embed_tokens.weight" in message
    message = refused_state(tmp_path, lambda state: state.update({"lm_head.bias": torch.zeros(25)}))
    assert "lm_head.bias is there twice" in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_positions": 512}, "max_positions is 512; expected 144 (sapiens-vh) or 128 (sapiens-vl)"),
        ({"max_positions": torch.ones(2)}, "max_positions is tensor([1., 1.]); expected 144"),
        ({"encoder_layers": 12}, "encoder_layers is 12; expected 4, as sapiens-vh has"),
        ({"encoder_attention_heads": True}, "encoder_attention_heads is True; expected 8"),
        ({"encoder_attention_heads": 4}, "encoder_attention_heads is 4; expected 8"),
        ({"activation_fn": "relu"}, "activation_fn is 'relu'; expected 'gelu'"),
        ({"arch": "roberta_base"}, "arch is 'roberta_base'; expected 'roberta_small'"),
    ],
)
def test_another_model_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    given = arguments(**changes)
    assert message in refused(tmp_path, write(tmp_path / "x.pt", checkpoint(random_state(), given)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": torch.zeros(2)}, "not a checkpoint of fairseq's, which has args and model"),
        ([1, 2], "not a checkpoint of fairseq's"),
        ({"args": {"arch": "roberta_small"}, "model": {}}, "args is a dict; expected the arguments of a fairseq run"),
        ({"args": arguments(), "model": {}, "ema": {}}, "holds 'ema'; expected args, model, extra_state"),
        ({"args": arguments(), "model": [1]}, "model: holds more than tensors, a list"),
        ({"args": arguments(), "model": {"x": 1}}, "model: holds more than tensors, 'x' is a int"),
    ],
)
def test_what_fairseq_did_not_save_is_refused(tmp_path: Path, content: object, message: str) -> None:
    assert message in refused(tmp_path, write(tmp_path / "x.pt", content))


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    content = checkpoint(random_state())
    message = refused(tmp_path, write(tmp_path / "x.pt", content, letters="LAGVSERTIDPKQNFYMHWC"))
    assert message.startswith(f"{tmp_path / 'dict.txt'}: has the tokens L A G V S E R T")
    (tmp_path / "dict.txt").write_bytes(b"\xff\xfe")
    assert "dict.txt: has the tokens" in refused(tmp_path, tmp_path / "x.pt")
    (tmp_path / "dict.txt").unlink()
    assert "dict.txt: no such file; it says which residue each row of x.pt is" in refused(tmp_path, tmp_path / "x.pt")


class Evil:
    """Makes a folder when unpickled."""

    def __reduce__(self) -> tuple:
        return os.mkdir, (os.environ["EVIL_FOLDER"],)


def test_nothing_of_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVIL_FOLDER", str(tmp_path / "evil"))
    for content in (
        checkpoint(random_state(), arguments(lr=Evil())),
        {**checkpoint(random_state()), "extra_state": Evil()},
        {**checkpoint({"x": Evil()})},
    ):
        for zipped in (True, False):
            assert "not a file of plain tensors" in refused(tmp_path, write(tmp_path / "x.pt", content, zipped=zipped))
    (tmp_path / "x.pt").write_bytes(pickle.dumps(Evil(), protocol=2))
    assert "not a file of plain tensors" in refused(tmp_path, tmp_path / "x.pt")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_broken_file_is_refused(tmp_path: Path, share: float) -> None:
    path = write_chain(tmp_path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert str(path) in refused(tmp_path, path)


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "none.pt: no such file" in refused(tmp_path, tmp_path / "none.pt")
    (tmp_path / "empty").mkdir()
    message = refused(tmp_path, tmp_path / "empty")
    assert "has no checkpoint_vh.pt or checkpoint_vl.pt; expected the unpacked wheel sapiens==1.0.5" in message


def test_of_a_folder_all_models_are_written_or_none(tmp_path: Path) -> None:
    for chain in TOKENS:
        write_chain(tmp_path / "wheel", chain)
    (tmp_path / "models" / "sapiens-vl").mkdir(parents=True)
    (tmp_path / "models" / "sapiens-vl" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="sapiens-vl: is there already"):
        import_sapiens(tmp_path / "wheel", tmp_path / "models")
    assert not (tmp_path / "models" / "sapiens-vh").exists()
    write_chain(tmp_path / "wheel" / "again", "vh")
    with pytest.raises(UserError, match="are both sapiens-vh; name one"):
        import_sapiens(tmp_path / "wheel", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_the_command_says_it_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "x.pt").write_bytes(b"no checkpoint")
    with pytest.raises(SystemExit) as excinfo:
        main(["models", "import", str(tmp_path / "x.pt"), str(tmp_path / "model")])
    assert excinfo.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / 'x.pt'}: not a file of plain tensors" in line
