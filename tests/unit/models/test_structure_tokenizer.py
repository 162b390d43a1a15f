"""SaProt and ProstT5 with structure states, against transformers' tokenizers and classes, one sequence at a time."""

from pathlib import Path

import numpy as np
import pytest
import torch
from embedome.common.errors import UserError
from embedome.engine.engine import Engine
from embedome.engine.tolerances import tolerance
from embedome.engine.windows import LongPolicy, Sequences
from embedome.models.directory import load_model, model_identity
from embedome.models.vocabularies import VOCABULARIES, save_tokenizer
from helpers.rough_encoders import ESM2, randoms, rough
from transformers import AutoTokenizer, EsmConfig, EsmForMaskedLM, EsmTokenizer, T5Config, T5EncoderModel

STANDARD = "ACDEFGHIKLMNPQRSTVWY"
LENGTHS = [1, 2, 3, 17, 64, 301, 1022]
T5 = {
    "vocab_size": 150,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "feed_forward_proj": "relu",
}


class SaProt:
    """The class of SaProt, and what its authors give to its tokenizer."""

    def __init__(self, folder: Path) -> None:
        rough(EsmForMaskedLM, EsmConfig(**{**ESM2, "vocab_size": 446, "mask_token_id": 4})).save_pretrained(folder)
        (folder / "vocab.txt").write_text("\n".join(VOCABULARIES["saprot"].tokens))
        self.folder, self.tokenizer = folder, EsmTokenizer(str(folder / "vocab.txt"))
        self.model = EsmForMaskedLM.from_pretrained(folder).float().eval().esm

    def ids(self, sequence: str, states: str) -> list[int]:
        return self.tokenizer(
            "".join(residue + state for residue, state in zip(sequence, states, strict=True))
        ).input_ids


class ProstT5:
    """The class of ProstT5's encoder, and what its authors give to its tokenizer for 3Di: no residue at all."""

    def __init__(self, folder: Path) -> None:
        rough(T5EncoderModel, T5Config(**T5)).save_pretrained(folder)
        save_tokenizer(folder, "prostt5", None)
        self.folder, self.tokenizer = folder, AutoTokenizer.from_pretrained(folder)
        self.model = T5EncoderModel.from_pretrained(folder).float().eval()
        self.prefix = self.tokenizer.convert_tokens_to_ids("<fold2AA>")

    def ids(self, sequence: str, states: str) -> list[int]:
        found = self.tokenizer("<fold2AA> " + " ".join(states)).input_ids
        # The tokenizer that is written for random models puts its own task first.
        return [self.prefix, *found[found.index(self.prefix) + 1 :]]


@pytest.fixture(scope="module", params=[SaProt, ProstT5])
def reference(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> "SaProt | ProstT5":
    return request.param(tmp_path_factory.mktemp(request.param.__name__))


@pytest.fixture(scope="module")
def saprot(tmp_path_factory: pytest.TempPathFactory) -> SaProt:
    return SaProt(tmp_path_factory.mktemp("pairs"))


def tokens(folder: Path, sequence: str, states: str) -> list[int]:
    tokenizer = load_model(folder, structure=True).tokenizer
    residues, letters = (np.frombuffer(text.encode(), np.uint8) for text in (sequence, states.upper()))
    return [*tokenizer.first, *tokenizer.look_up(residues, letters).tolist(), *tokenizer.last]


def residues(reference: "SaProt | ProstT5", sequence: str, states: str) -> np.ndarray:
    with torch.inference_mode():
        hidden = reference.model(torch.tensor([reference.ids(sequence, states)])).last_hidden_state[0]
    return hidden[1 : 1 + len(sequence)].double().numpy()


def join(sequences: list[str], states: list[str]) -> Sequences:
    return Sequences.join([each.encode() for each in sequences], [each.upper().encode() for each in states])


def test_ids_are_those_of_transformers_tokenizer(reference: "SaProt | ProstT5") -> None:
    every = [(residue, state) for residue in STANDARD for state in STANDARD.lower()]
    one, two = ("".join(letters) for letters in zip(*every, strict=True))
    for sequence, states in [
        ("M", "d"),
        (one, two),
        *zip(randoms(1, [30]), map(str.lower, randoms(2, [30])), strict=True),
    ]:
        assert tokens(reference.folder, sequence, states) == reference.ids(sequence, states)


def test_states_that_are_not_known_and_other_residues(saprot: SaProt) -> None:
    assert tokens(saprot.folder, "MKV", "dxp") == saprot.ids("MKV", "d#p")
    # As in sequences alone, a residue beyond the 20 is the unknown token, with a state too.
    assert tokens(saprot.folder, "MXV", "dpp") == saprot.ids("MXV", "dpp")
    assert saprot.tokenizer.unk_token_id == tokens(saprot.folder, "MXV", "dpp")[2]


def test_hidden_states_equal_hugging_face(reference: "SaProt | ProstT5") -> None:
    sequences, states = randoms(3, LENGTHS), [each.lower() for each in randoms(4, LENGTHS)]
    found = Engine(load_model(reference.folder, structure=True), per_residue=True).embed(join(sequences, states))
    for index, (sequence, each) in enumerate(zip(sequences, states, strict=True)):
        expected = residues(reference, sequence, each)
        # Half floats: what the engine gives is float32 before it is rounded.
        np.testing.assert_allclose(found.residues[index], expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@torch.inference_mode()
def test_the_encoder_is_exact_in_float32(reference: "SaProt | ProstT5") -> None:
    model = load_model(reference.folder, structure=True)
    for sequence, states in zip(randoms(5, LENGTHS), map(str.lower, randoms(6, LENGTHS)), strict=True):
        hidden = model.encoder(torch.tensor([tokens(reference.folder, sequence, states)]))[0].numpy()
        expected = residues(reference, sequence, states)
        assert np.abs(hidden[1 : 1 + len(sequence)] - expected).max() < 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_narrow_types_are_close(reference: "SaProt | ProstT5", dtype: str) -> None:
    sequences, states = randoms(7, LENGTHS[:-1]), [each.lower() for each in randoms(8, LENGTHS[:-1])]
    try:
        engine = Engine(load_model(reference.folder, structure=True), dtype=dtype)
    except UserError as error:
        pytest.skip(str(error))
    found = engine.embed(join(sequences, states)).vectors["mean"].astype(np.float64)
    expected = np.stack([residues(reference, *each).mean(0) for each in zip(sequences, states, strict=True)])
    cosines = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() >= tolerance(dtype, 2).cosine


@pytest.mark.parametrize("policy", ["truncate", "window"])
def test_long_sequences_are_cut_with_their_states(reference: "SaProt | ProstT5", policy: str) -> None:
    (sequence,), (states,) = randoms(9, [50]), [each.lower() for each in randoms(10, [50])]
    engine = Engine(load_model(reference.folder, structure=True), policy=LongPolicy(policy, 0, 25))
    found = engine.embed(join([sequence], [states])).vectors["mean"][0]
    halves = [residues(reference, sequence[cut], states[cut]).mean(0) for cut in (slice(25), slice(25, 50))]
    expected = halves[0] if policy == "truncate" else np.mean(halves, axis=0)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)


def test_the_identity_says_what_is_read(saprot: SaProt, tmp_path: Path) -> None:
    about = {"between": "", "structure": "pairs", "first": "<cls>", "last": "<eos>"}
    assert model_identity(saprot.folder, structure=True)["preprocessing"] == about
    prostt5 = ProstT5(tmp_path)
    about = {"between": " ", "structure": "states", "first": "<fold2AA>", "last": "</s>"}
    assert model_identity(prostt5.folder, structure=True)["preprocessing"] == about


def test_a_model_that_reads_no_structure_is_refused(tmp_path: Path) -> None:
    rough(EsmForMaskedLM, EsmConfig(**ESM2)).save_pretrained(tmp_path)
    save_tokenizer(tmp_path, "esm2", None)
    with pytest.raises(UserError, match=r"reads no structure, but a 3Di FASTA is given; leave it out") as excinfo:
        load_model(tmp_path, structure=True)
    assert str(tmp_path) in str(excinfo.value)


def test_states_and_none_are_not_taken_for_each_other(saprot: SaProt) -> None:
    alone = Sequences.join([b"MKV"])
    with pytest.raises(ValueError, match="no structure states"):
        Engine(load_model(saprot.folder, structure=True)).embed(alone)
    with pytest.raises(ValueError, match="residues alone"):
        Engine(load_model(saprot.folder)).embed(join(["MKV"], ["dvp"]))
    with pytest.raises(ValueError, match="2 structure states of 3 residues"):
        join(["MKV"], ["dv"])
