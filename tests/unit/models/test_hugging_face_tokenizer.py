"""The ids of residues and special tokens are those of the Hugging Face tokenizer, whatever files they come from."""

import json
import random
import string
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from embedome.common.errors import UserError
from embedome.engine.engine import Engine
from embedome.engine.windows import Sequences
from embedome.models.directory import load_model, model_identity, read_tokenizer
from embedome.models.hugging_face_tokenizer import vocabulary_files
from embedome.models.tokenizer import ResidueTokenizer
from helpers import released_directories as released
from helpers.paths import SCRIPTS
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, T5Config, T5EncoderModel

LETTERS = string.ascii_uppercase


def task(tokenizer: PreTrainedTokenizerBase) -> str:
    """The token that ProstT5 and Ankh3 have before a sequence of residues."""
    return next((each for each in ("<AA2fold>", "[NLU]") if each in tokenizer.get_vocab()), "")


def as_it_is(tokenizer: PreTrainedTokenizerBase, residues: str) -> str:
    """ESM's sequences."""
    return residues


def after_its_task(tokenizer: PreTrainedTokenizerBase, residues: str) -> str:
    """Ankh's and Ankh3's."""
    return task(tokenizer) + residues


def spaced(tokenizer: PreTrainedTokenizerBase, residues: str) -> str:
    """ProtT5's and ProstT5's, as their authors prepare them; letters that were added to the vocabulary are kept."""
    replaced = set("UZOB") - tokenizer.get_added_vocab().keys()
    return " ".join([task(tokenizer), *("X" if residue in replaced else residue for residue in residues)]).strip()


Prepare = Callable[[PreTrainedTokenizerBase, str], str]
FAMILIES: dict[str, tuple[Callable[..., Path], Prepare]] = {
    "prott5": (released.write_prott5, spaced),
    "prostt5": (released.write_prostt5, spaced),
    "ankh": (released.write_ankh, after_its_task),
    "ankh3": (released.write_ankh3, after_its_task),
    "esm1nv": (released.write_esm1nv, as_it_is),
    "esm2": (released.write_esm2, as_it_is),
}


def ids(table: ResidueTokenizer, residues: str) -> list[int]:
    return table.tokens(np.frombuffer(residues.encode(), np.uint8)[None])[0].tolist()


def assert_equal_ids(folder: Path, prepare: Prepare) -> None:
    """Compare all letters, by themselves and between others, with the special tokens around them."""
    table, theirs = read_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    unknown = theirs.encode("☃", add_special_tokens=False)[-1]
    for letter in LETTERS:
        for residues in (letter, f"A{letter}A", f"L{letter}"):
            found = theirs(prepare(theirs, residues)).input_ids
            if len(found) > len(residues) + table.n_special:
                # SentencePiece's own unknown token before the first residue.
                assert found.pop(len(table.first)) == unknown
            assert ids(table, residues) == found, residues


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as excinfo:
        read_tokenizer(folder)
    assert "\n" not in str(excinfo.value)
    return str(excinfo.value)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_released_directory_has_the_ids_of_its_tokenizer(tmp_path: Path, name: str) -> None:
    write, prepare = FAMILIES[name]
    assert_equal_ids(write(tmp_path), prepare)


@pytest.mark.parametrize("name", FAMILIES)
def test_without_the_files_beside_the_vocabulary(tmp_path: Path, name: str) -> None:
    write, prepare = FAMILIES[name]
    for path in write(tmp_path).glob("*token*.json"):
        if path.name not in ("added_tokens.json", "tokenizer.json"):
            path.unlink()
    if name == "esm1nv":
        assert "transformers cannot read this" in refusal(tmp_path)
        return
    if name == "ankh3":
        # Without a list of them, there are T5's 100 sentinels: the tasks get other ids.
        assert "'[NLU]' has id 254 here, but 128 in transformers'" in refusal(tmp_path)
        return
    assert_equal_ids(tmp_path, prepare)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_directory_that_transformers_saved_again(tmp_path: Path, name: str) -> None:
    write, prepare = FAMILIES[name]
    AutoTokenizer.from_pretrained(write(tmp_path)).save_pretrained(tmp_path)
    assert_equal_ids(tmp_path, prepare)


@pytest.mark.parametrize("name", ["esm1nv", "esm2"])
def test_plain_vocabularies_are_read_without_transformers(tmp_path: Path, name: str) -> None:
    """A second sooner."""
    folder = FAMILIES[name][0](tmp_path)
    if name == "esm2":
        AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    program = f"import sys, embedome.models.directory as d; d.read_tokenizer({str(folder)!r}); print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={"PYTHONPATH": str(SCRIPTS)}
    )
    assert "transformers" not in result.stdout.split()
    assert "embedome.models.tokenizer" in result.stdout.split()


@pytest.mark.parametrize(("name", "rows"), [("prott5", 128), ("prostt5", 150), ("ankh", 144)])
def test_a_spiece_model_has_the_ids_of_sentencepiece_itself(tmp_path: Path, name: str, rows: int) -> None:
    table = read_tokenizer(FAMILIES[name][0](tmp_path))
    theirs = SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
    space = "" if name == "ankh" else "▁"
    for letter in LETTERS:
        known = "X" if space and letter in "UZOB" else letter
        assert table.table[ord(letter)] == theirs.piece_to_id(space + known)
    assert table.last == [theirs.eos_id()]
    assert table.first == ([149] if name == "prostt5" else [])
    assert table.size <= rows


def test_released_order(tmp_path: Path) -> None:
    table = read_tokenizer(released.write_prostt5(tmp_path))
    assert ids(table, "ALGVSREDTIPKFQNYMHWCX") == [149, *range(3, 24), 1]
    assert ids(table, "UZOBJ") == [149, 23, 23, 23, 23, 2, 1]
    assert ids(table, "acdefghiklmnpqrstvwy") == [149, *range(128, 148), 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_released_prott5_is_embedded(tmp_path: Path, dtype: torch.dtype) -> None:
    """Spiece.model and pytorch_model.bin, nothing else."""
    torch.manual_seed(1)
    config = T5Config(vocab_size=128, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    reference = T5EncoderModel(config).to(dtype).float().eval()
    config.save_pretrained(released.write_prott5(tmp_path))
    torch.save(
        {name: tensor.to(dtype) for name, tensor in reference.state_dict().items()}, tmp_path / "pytorch_model.bin"
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = "MKTUZOBJAYIAKQR"
    with torch.inference_mode():
        tokens = tokenizer(spaced(tokenizer, text), return_tensors="pt").input_ids
        expected = reference(tokens).last_hidden_state[0, :-1].double().mean(0).numpy()
    found = Engine(load_model(tmp_path)).embed(Sequences.join([text.encode()])).vectors["mean"][0]
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)


# Tokens that were added


def add_to_list(folder: Path, letter: str, index: int) -> None:
    released.edit_json(folder / "added_tokens.json", **{letter: index})


def add_to_config(folder: Path, letter: str, index: int) -> None:
    """As transformers does it since 2023: all special tokens with their ids, and what was added."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([letter])
    known = tokenizer.added_tokens_decoder
    assert str(known[index]) == letter
    flags = ("lstrip", "normalized", "rstrip", "single_word", "special")
    decoder = {
        str(each): {"content": str(token), **{flag: getattr(token, flag) for flag in flags}}
        for each, token in known.items()
    }
    released.edit_json(folder / "tokenizer_config.json", added_tokens_decoder=decoder)


def add_and_save(folder: Path, letter: str, index: int) -> None:
    """As transformers does it now, with a tokenizer.json where it can."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([letter])
    assert tokenizer.convert_tokens_to_ids(letter) == index
    tokenizer.save_pretrained(folder)


ADDED = [
    *((name, end, letter) for name, end in (("prott5", 128), ("prostt5", 150)) for letter in "JUX"),
    ("esm2", 33, "J"),
    ("esm1nv", 30, "J"),
]


@pytest.mark.parametrize("add", [add_to_list, add_to_config, add_and_save])
@pytest.mark.parametrize(("name", "end", "letter"), ADDED)
@pytest.mark.slow
def test_an_added_letter_has_its_own_id(
    tmp_path: Path, name: str, end: int, letter: str, add: Callable[[Path, str, int], None]
) -> None:
    write, prepare = FAMILIES[name]
    folder = write(tmp_path)
    before = read_tokenizer(folder).table.copy()
    add(folder, letter, end)
    released.edit_json(folder / "config.json", vocab_size=end + 1)
    assert_equal_ids(folder, prepare)
    after = read_tokenizer(folder).table
    assert after[ord(letter)] == end
    others = [ord(each) for each in LETTERS if each != letter and not (letter == "X" and each in "UZOB")]
    assert np.array_equal(before[others], after[others])


def test_a_letter_that_transformers_sets_apart_is_refused(tmp_path: Path) -> None:
    """After a letter that was added to Ankh's, its T5Tokenizer has an unknown token more."""
    folder = released.write_ankh(tmp_path)
    add_to_list(folder, "J", 144)
    released.edit_json(folder / "config.json", vocab_size=145)
    assert "has tokens" in refusal(folder)


def test_preprocessing_is_told_in_the_identity(tmp_path: Path) -> None:
    about = {name: read_tokenizer(write(tmp_path / name)).preparation for name, (write, _) in FAMILIES.items()}
    assert about["prostt5"] == {"between": " ", "as_x": "UZOB", "first": "<AA2fold>", "last": "</s>"}
    assert about["prott5"] == about["prostt5"] | {"first": None}
    assert about["ankh"] == {"between": "", "as_x": "", "first": None, "last": "</s>"}
    assert about["esm2"] == {"between": "", "as_x": "", "first": "<cls>", "last": "<eos>"}
    folder = released.write_prott5(tmp_path / "more", rows=129, added={"U": 128})
    assert read_tokenizer(folder).preparation["as_x"] == "ZOB"
    torch.save({"x": torch.zeros(1)}, folder / "pytorch_model.bin")
    assert model_identity(folder)["preprocessing"] == about["prott5"] | {"as_x": "ZOB"}


def files_read(folder: Path, call: Callable[[Path], object]) -> set[str]:
    """Names of the files in a folder that are opened."""
    found, watching = set(), True

    def watch(event: str, arguments: tuple) -> None:
        if watching and event == "open" and isinstance(arguments[0], str | Path):
            path = Path(arguments[0])
            found.update([path.name] if path.parent == folder else [])

    sys.addaudithook(watch)
    call(folder)
    watching = False
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_the_digest_covers_every_file_that_is_read(tmp_path: Path, name: str) -> None:
    folder = FAMILIES[name][0](tmp_path)
    torch.save({"x": torch.zeros(1)}, folder / "pytorch_model.bin")
    read = files_read(folder, AutoTokenizer.from_pretrained) - {"config.json"}
    assert read <= {path.name for path in vocabulary_files(folder)}
    before = model_identity(folder)["tokenizer_sha256"]
    for path in vocabulary_files(folder):
        content = path.read_bytes()
        path.write_bytes(content + b"\n")
        try:
            assert model_identity(folder)["tokenizer_sha256"] != before
        except UserError:
            assert path.name == "spiece.model"
        path.write_bytes(content)
    assert model_identity(folder)["tokenizer_sha256"] == before
    released.write_json(
        folder / "added_tokens.json",
        json.loads((folder / "added_tokens.json").read_text()) if (folder / "added_tokens.json").is_file() else {},
    )
    assert (model_identity(folder)["tokenizer_sha256"] == before) == (name in ("prostt5", "ankh3"))


# Rows of the embedding, and task tokens


@pytest.mark.parametrize("rows", [150, 152, 192, 256])
def test_prostt5_without_its_added_tokens_is_refused(tmp_path: Path, rows: int) -> None:
    folder = released.write_prott5(tmp_path, rows=rows)
    found = refusal(folder)
    assert f"no token has id 128, but the embedding has {rows} rows" in found
    assert "added_tokens.json" in found


def test_prostt5_without_its_tasks_is_refused(tmp_path: Path) -> None:
    states = {token: index for token, index in released.PROSTT5_ADDED.items() if index < 148}
    folder = released.write_prott5(tmp_path, rows=152, added=states)
    assert "lacks <AA2fold>; copy the model's added_tokens.json, too" in refusal(folder)
    released.edit_json(folder / "config.json", vocab_size=150)
    assert "<AA2fold>" in refusal(folder)


def test_tasks_without_the_states_are_refused(tmp_path: Path) -> None:
    """Transformers renumbers them."""
    tasks = {token: index for token, index in released.PROSTT5_ADDED.items() if index >= 148}
    assert "'<fold2AA>' has id 148 here, but 128 in" in refusal(released.write_prott5(tmp_path, rows=150, added=tasks))


@pytest.mark.parametrize(
    "config",
    [
        {"_name_or_path": "Rostlab/ProstT5"},
        {"embedome": {"name": "prostt5"}},
        {"task_specific_params": {"embedding": {"prefix": "<AA2fold> "}}},
        {"prefix": "[NLU]"},
    ],
)
def test_a_model_that_wants_a_task_and_has_none_is_refused(tmp_path: Path, config: dict[str, object]) -> None:
    folder = released.write_prott5(tmp_path)
    read_tokenizer(folder)
    released.edit_json(folder / "config.json", **config)
    assert "lacks" in refusal(folder)


def test_a_folder_is_called_as_the_model(tmp_path: Path) -> None:
    assert "lacks <AA2fold>" in refusal(released.write_prott5(tmp_path / "ProstT5"))
    assert "lacks [NLU]" in refusal(released.write_ankh(tmp_path / "ankh3-large", rows=144))


def test_ankh3_without_its_tasks_is_refused(tmp_path: Path) -> None:
    """Though 254 tokens in 256 rows would be padding."""
    folder = released.write_ankh3(tmp_path)
    (folder / "added_tokens.json").unlink()
    assert "no token has id 254, but the embedding has 256 rows; ankh3-large has [NLU] there" in refusal(folder)


@pytest.mark.parametrize(("rows", "accepted"), [(33, 1), (40, 1), (64, 1), (128, 1), (34, 0), (48, 0), (256, 0)])
def test_rows_to_spare(tmp_path: Path, rows: int, accepted: int) -> None:
    folder = released.write_esm2(tmp_path, rows=rows)
    if accepted:
        assert_equal_ids(folder, as_it_is)
    else:
        assert f"vocab.txt: no token has id 33, but the embedding has {rows} rows" in refusal(folder)


def test_a_token_twice_leaves_a_row_unexplained(tmp_path: Path) -> None:
    tokens = ["-" if token == "." else token for token in released.ESM2_TOKENS]
    assert "no token has id 29" in refusal(released.write_esm2(tmp_path, tokens))


def test_other_special_tokens_are_refused(tmp_path: Path) -> None:
    folder = released.write_esm2(tmp_path)
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        released.edit_json(folder / name, eos_token="<null_1>")
    assert "A has tokens [0, 5, 31] by transformers' tokenizer; expected [0, 5, 2]" in refusal(folder)


# Any directory


def damaged(folder: Path, chance: random.Random, name: str) -> None:
    """Write a released directory with another order of residues, and change a few things about it."""
    write, _ = FAMILIES[name]
    residues = list(released.T5_RESIDUES)
    chance.shuffle(residues)
    for _ in range(chance.choice([0, 0, 1, 2])):
        residues[chance.randrange(25)] = chance.choice([*LETTERS, "a", "AL", "▁A", "", "☃"])
    if name == "esm2":
        tokens = [*released.ESM2_TOKENS[:4], *residues, ".", "-", "<null_1>", "<mask>"]
        write(folder, tokens)
    elif name == "esm1nv":
        write(folder, residues)
    else:
        write(folder, residues if name.startswith("ankh") else "".join(residues))
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    for change in chance.choices(CHANGES, k=chance.choice([0, 1, 1, 2, 3])):
        change(folder, chance, rows)


def drop_a_file(folder: Path, chance: random.Random, rows: int) -> None:
    chance.choice(sorted(path for path in folder.iterdir() if path.name != "config.json")).unlink()


def add_a_token(folder: Path, chance: random.Random, rows: int) -> None:
    token = chance.choice([*LETTERS, *LETTERS, "a", "<AA2fold>", "[NLU]", "<cls>", "</s>", "A A", "KK", "<new>"])
    released.edit_json(folder / "added_tokens.json", **{token: chance.choice([rows, rows, rows + 1, 30, 0])})


def add_by_config(folder: Path, chance: random.Random, rows: int) -> None:
    token = {"content": chance.choice(LETTERS), "special": chance.choice([True, False])}
    token |= {
        flag: chance.choice([True, False, False, False]) for flag in ("single_word", "lstrip", "rstrip", "normalized")
    }
    index = str(chance.choice([rows, rows, rows + 1, 30, 128]))
    released.edit_json(folder / "tokenizer_config.json", added_tokens_decoder={index: token})


def rename_a_special_token(folder: Path, chance: random.Random, rows: int) -> None:
    name = chance.choice(["eos_token", "cls_token", "unk_token", "bos_token", "pad_token"])
    file = chance.choice(["tokenizer_config.json", "special_tokens_map.json"])
    released.edit_json(folder / file, **{name: chance.choice(["<unk>", "<s>", "X", "<eos>", "J", None])})


def list_a_special_token(folder: Path, chance: random.Random, rows: int) -> None:
    name = chance.choice(["additional_special_tokens", "extra_special_tokens"])
    file = chance.choice(["tokenizer_config.json", "special_tokens_map.json"])
    released.edit_json(folder / file, **{name: [chance.choice(["J", "U", "A", "<new>", "<AA2fold>"])]})


def save_again(folder: Path, chance: random.Random, rows: int) -> None:
    with suppress(Exception):
        AutoTokenizer.from_pretrained(folder).save_pretrained(folder)


def change_the_rows(folder: Path, chance: random.Random, rows: int) -> None:
    more = [rows + 1, rows + 1, rows + 2, -(-rows // 8) * 8, -(-rows // 64) * 64, rows + 40, rows - 1, 4]
    released.edit_json(folder / "config.json", vocab_size=chance.choice(more))


def change_the_class(folder: Path, chance: random.Random, rows: int) -> None:
    kinds = [
        "T5Tokenizer",
        "T5TokenizerFast",
        "EsmTokenizer",
        "PreTrainedTokenizerFast",
        "TokenizersBackend",
        "BertTokenizer",
        "Nothing",
    ]
    released.edit_json(folder / "tokenizer_config.json", tokenizer_class=chance.choice(kinds))


def spoil_a_file(folder: Path, chance: random.Random, rows: int) -> None:
    path = chance.choice(sorted(path for path in folder.iterdir() if path.name != "config.json"))
    content = path.read_bytes()
    path.write_bytes(chance.choice([b"", b"{}", b"[]", b"\xff\xfe", content[: len(content) // 2], content + content]))


CHANGES = (
    drop_a_file,
    add_a_token,
    add_a_token,
    add_by_config,
    rename_a_special_token,
    list_a_special_token,
    save_again,
    change_the_rows,
    change_the_rows,
    change_the_class,
    spoil_a_file,
)


@settings(max_examples=200, deadline=None)
@given(name=st.sampled_from(sorted(FAMILIES)), seed=st.integers(0, 2**32))
@pytest.mark.slow
def test_equal_or_refused(tmp_path_factory: pytest.TempPathFactory, name: str, seed: int) -> None:
    folder = tmp_path_factory.mktemp("any")
    damaged(folder, random.Random(seed), name)
    try:
        read_tokenizer(folder)
    except UserError:
        refusal(folder)
    else:
        assert_equal_ids(folder, FAMILIES[name][1])
