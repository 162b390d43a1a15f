"""docs/antibodies.md, block by block, with the trained weights of Sapiens and AntiBERTy."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from embedome.dataset import open_dataset
from embedome.decoding.masked_lm import load_masked_lm
from embedome.models.directory import load_model
from helpers import documents
from helpers.paths import ROOT
from helpers.small_run import assert_within_one_ulp
from torch import Tensor
from transformers import BertModel, BertTokenizer, RobertaForMaskedLM

# The whole module runs the workflow once: minutes.
pytestmark = pytest.mark.slow

DOCUMENT = ROOT / "docs" / "antibodies.md"
SECOND = "## A larger model"
DOWNLOAD = re.compile(r"^python -m (pip download .+)\n", re.MULTILINE)


def download(folder: Path, command: str) -> None:
    """Run `pip download`; skip the tests where the wheel cannot be fetched."""
    quick = [sys.executable, "-m", *command.split(), "--retries", "1", "--timeout", "20", "--quiet"]
    try:
        subprocess.run(quick, cwd=folder, capture_output=True, text=True, timeout=300, check=True)
    except subprocess.TimeoutExpired:
        pytest.skip(f"`{command}` took more than five minutes")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"`{command}` failed: {(error.stderr.strip().splitlines() or ['no message'])[-1]}")


def follow(folder: Path, text: str) -> None:
    """Do what a part of the document says; what it shows must be what is printed."""
    for command in DOWNLOAD.findall(text):
        download(folder, command)
    documents.follow(folder, text, {"python -m pip download": ""})


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a user who has followed the first part."""
    folder = tmp_path_factory.mktemp("antibodies")
    follow(folder, DOCUMENT.read_text().split(SECOND)[0])
    return folder


def perplexities(path: Path) -> list[float]:
    with open(path) as stream:
        return [float(row["perplexity"]) for row in csv.DictReader(stream, delimiter="\t")]


def chains(folder: Path) -> dict[str, str]:
    return dict(re.findall(r">(\w+)\n(\w+)", (folder / "heavy.fasta").read_text()))


def assert_real_chains_are_known(folder: Path) -> None:
    real, shuffled = perplexities(folder / "real.tsv"), perplexities(folder / "shuffled.tsv")
    assert len(real) == len(shuffled) == 7
    assert max(real) <= 4
    assert min(shuffled) >= 15


def assert_near(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).abs().max() < 2e-5 * expected.abs().max()


def assert_vectors(path: Path, means: dict[str, np.ndarray]) -> None:
    """The vectors of a file are the means of the class's hidden states over residues."""
    [(ids, vectors)] = open_dataset(path).matrix()
    assert set(ids) == means.keys()
    assert_within_one_ulp(vectors, np.stack([means[name] for name in ids]))


def test_sapiens_knows_real_heavy_chains(followed: Path) -> None:
    assert_real_chains_are_known(followed)
    real, shuffled = (perplexities(followed / f"{name}.tsv") for name in ("real", "shuffled"))
    said = f"is from {min(real):.1f} (ipilimumab) to {max(real):.1f} (bevacizumab) in `real.tsv`, and from "
    assert f"{said}{min(shuffled):.0f} to {max(shuffled):.0f} in `shuffled.tsv`" in DOCUMENT.read_text()


def test_sapiens_vectors_tell_the_species_of_a_germline_segment_better_than_baselines(followed: Path) -> None:
    found = {}
    for row in csv.DictReader((followed / "evaluation" / "table.tsv").open(), delimiter="\t"):
        if row["metric"] == "accuracy":
            found[row["method"]] = float(row["value"])
            assert (row["train"], row["test"]) == ("554", "147")
    assert found.keys() == {"frozen", "random", "one-hot", "composition"}
    assert found["frozen"] >= max(found["random"], found["one-hot"], found["composition"]) + 0.05
    said = f"vectors is right for {found['frozen']:.2f} (95"
    assert said in DOCUMENT.read_text()


def test_sapiens_is_what_the_hugging_face_class_makes_of_the_weights(followed: Path) -> None:
    folder = followed / "models" / "sapiens-vh"
    ours, head = load_model(folder), load_masked_lm(folder)
    theirs = RobertaForMaskedLM.from_pretrained(folder).eval()
    means = {}
    with torch.inference_mode():
        for name, chain in chains(followed).items():
            tokens = head.tokens(chain.encode())[None]
            found = theirs(tokens, output_hidden_states=True)
            assert_near(ours.encoder(tokens), found.hidden_states[-1])
            assert_near(head.logits(tokens), found.logits)
            means[name] = found.hidden_states[-1][0, 1:-1].mean(0).numpy()
    assert_vectors(followed / "heavy.parquet", means)


def test_the_model_of_light_chains_knows_one(followed: Path) -> None:
    """Trastuzumab's; the model of heavy chains does not."""
    chain = (
        b"DIQMTQSPSSLSASVGDRVTITCRASQDVNTAVAWYQQKPGKAPKLLIYSASFLYSGVPSRFSGSRSGTDFTLTISSLQPEDFATYYCQQHYTTPPTFGQGTKVEIK"
    )
    light, heavy = (
        np.exp(-load_masked_lm(followed / "models" / f"sapiens-{name}").log_likelihoods(chain).mean())
        for name in ("vl", "vh")
    )
    assert light <= 4
    assert heavy >= 10


def test_antiberty_knows_real_heavy_chains_too(followed: Path) -> None:
    follow(followed, DOCUMENT.read_text().split(SECOND)[1])
    assert_real_chains_are_known(followed)
    folder = followed / "models" / "antiberty"
    ours = load_model(folder)
    theirs = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    tokenizer = BertTokenizer(str(folder / "vocab.txt"), do_lower_case=False)
    means = {}
    with torch.inference_mode():
        for name, chain in chains(followed).items():
            tokens = tokenizer(" ".join(chain), return_tensors="pt").input_ids
            hidden = theirs(tokens).last_hidden_state
            assert_near(ours.encoder(tokens), hidden)
            means[name] = hidden[0, 1:-1].mean(0).numpy()
    assert_vectors(followed / "heavy-antiberty.parquet", means)
