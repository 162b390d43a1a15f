"""Structure states from a 3Di FASTA to a data set: what is keyed on what the model reads, and what is not changed."""

import hashlib
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from embedome.catalog.criteria import Criteria
from embedome.catalog.filter import filter_records, source_identity
from embedome.catalog.reading import ReadSettings
from embedome.common.errors import UserError
from embedome.dataset.open import open_dataset
from embedome.dataset.reuse import Reuse
from embedome.embedding.part_pipeline import Machine
from embedome.embedding.settings import EmbedSettings
from embedome.embedding.single_file import embed_fasta
from helpers import small_run as line
from helpers.small_run import Line
from transformers import AutoTokenizer, EsmModel

SIZE = {"layers": 2, "hidden": 40, "heads": 4, "feed_forward": 48}
RECORDS = line.random_records(5, [*range(1, 31), *range(5, 35)])
RNG = random.Random(6)
STATES = {name: line.random_sequence(RNG, len(sequence)) for name, sequence in RECORDS}
# One sequence three times: with one structure twice, and with another.
FIRST, COPY, OTHER = (name for name, _ in sorted(RECORDS)[10:13])
SEQUENCE = dict(RECORDS)[FIRST]
RECORDS = [(name, SEQUENCE if name in (COPY, OTHER) else sequence) for name, sequence in RECORDS]
STATES[COPY] = STATES[FIRST]
STATES[OTHER] = STATES[FIRST][::-1]


def write_states(path: Path, states: dict[str, str]) -> Path:
    path.write_text("".join(f">{name}\n{text.lower()}\n" for name, text in reversed(states.items())))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("structure")


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return line.rough_model(folder / "model", like="saprot-35m", sizes=SIZE)


@pytest.fixture(scope="module")
def states(folder: Path) -> Path:
    return write_states(folder / "3di.fasta", {**STATES, "stranger": "DV"})


@pytest.fixture(scope="module")
def run(folder: Path, model: Path, states: Path) -> Line:
    return make(folder / "run", model, states)


def make(folder: Path, model: Path, states: Path | None, earlier: Path | None = None) -> Line:
    made = line.prepare(folder, RECORDS, structure=states, earlier=earlier)
    made.embed(model, source=source_identity(folder / "filter.json"))
    reuse = None
    if earlier:
        reuse = Reuse.of_files([str(folder / name) for name in ("reused.parquet", "reuse.json")], earlier)
    made.merge(reuse=reuse)
    return made


def vectors(dataset: Path) -> dict[str, np.ndarray]:
    rows = [row for table in open_dataset(dataset).tables(["id", "embedding"]) for row in table.to_pylist()]
    return {row["id"]: np.array(row["embedding"], np.float16) for row in rows}


def test_vectors_equal_hugging_face_and_differ_by_structure(run: Line, model: Path) -> None:
    found, tokenizer = vectors(run.dataset), AutoTokenizer.from_pretrained(model)
    reference = EsmModel.from_pretrained(model, add_pooling_layer=False).eval()
    assert found.keys() == STATES.keys()
    for name, sequence in RECORDS:
        text = "".join(pair for pair in map("".join, zip(sequence, STATES[name].lower(), strict=True)))
        with torch.inference_mode():
            hidden = reference(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        line.assert_within_one_ulp(found[name], hidden[1:-1].double().mean(0).numpy())
    assert (found[COPY] == found[FIRST]).all()
    assert np.abs(found[OTHER] - found[FIRST]).max() > 0.01


def test_only_equal_pairs_are_duplicates(run: Line) -> None:
    rows = {row["id"]: row for file in (run.folder / "catalog").iterdir() for row in pq.read_table(file).to_pylist()}
    assert {name for name, row in rows.items() if row["duplicate_of"]} == {COPY}
    assert rows[COPY]["duplicate_of"] == FIRST
    assert rows[FIRST]["digest"] == rows[COPY]["digest"] != rows[OTHER]["digest"]
    assert all(row["digest"].startswith("S3.") for row in rows.values())
    assert {name: row["structure"] for name, row in rows.items()} == STATES


def test_manifest_and_summary_say_what_was_read(run: Line, states: Path) -> None:
    provenance = json.loads((run.dataset / "_manifest.json").read_text())["provenance"]
    sha256 = hashlib.sha256(states.read_bytes()).hexdigest()
    assert provenance["source"]["structure"] == {"file": "3di.fasta", "sha256": sha256, "missing": "error"}
    assert provenance["structure"] is True
    assert provenance["model"]["preprocessing"]["structure"] == "pairs"
    account = json.loads((run.folder / "filter.json").read_text())["structure"]
    assert (account["records"], account["without_sequence"]) == (len(STATES) + 1, 1)


def test_the_same_run_gives_the_same_bytes(run: Line, model: Path, states: Path, tmp_path: Path) -> None:
    again = make(tmp_path / "again", model, states)
    for path in sorted(run.folder.rglob("*")):
        if path.is_file() and path.name != "reuse.json":
            assert (again.folder / path.relative_to(run.folder)).read_bytes() == path.read_bytes(), path


def test_a_killed_run_goes_on_from_its_parts(run: Line, model: Path, tmp_path: Path) -> None:
    own = run.copy(tmp_path / "own")
    manifest = own.manifest("train")
    parts = sorted(manifest.parent.glob(f"{manifest.stem}-*.parquet"))
    before, kept = [path.read_bytes() for path in parts], parts[0].stat().st_mtime_ns
    manifest.unlink()
    parts[1].unlink()
    own.embed(model, source=source_identity(own.folder / "filter.json"))
    assert [path.read_bytes() for path in parts] == before
    assert parts[0].stat().st_mtime_ns == kept


def test_other_structures_make_other_parts(run: Line, model: Path, tmp_path: Path) -> None:
    changed = {**STATES, FIRST: STATES[FIRST][1:] + STATES[FIRST][:1]}
    other = make(tmp_path / "other", model, write_states(tmp_path / "3di.fasta", changed))
    mine, found = vectors(run.dataset), vectors(other.dataset)
    assert [name for name in mine if (mine[name] != found[name]).any()] == [FIRST]


def test_a_data_set_with_structure_donates_to_none_without(
    run: Line, model: Path, states: Path, tmp_path: Path
) -> None:
    for given in (None, states):
        earlier = run.dataset if given is None else make(tmp_path / "alone", model, None).dataset
        line.prepare(tmp_path / f"{given is None}", RECORDS, structure=given, earlier=earlier)
        assert json.loads((tmp_path / f"{given is None}" / "reuse.json").read_text())["reused"] == 0
        with pytest.raises(UserError, match=r"made with another model, structure; its vectors cannot be mixed"):
            Line(tmp_path / f"{given is None}", line.SHARDS).embed(
                model, source=source_identity(tmp_path / f"{given is None}" / "filter.json")
            )


def test_pairs_are_reused_and_other_structures_embedded(run: Line, model: Path, tmp_path: Path) -> None:
    changed = {**STATES, OTHER: STATES[OTHER][1:] + STATES[OTHER][:1]}
    later = make(tmp_path / "later", model, write_states(tmp_path / "3di.fasta", changed), earlier=run.dataset)
    assert json.loads((later.folder / "reuse.json").read_text())["reused"] == len(RECORDS) - 2
    mine, found = vectors(run.dataset), vectors(later.dataset)
    assert [name for name in mine if (mine[name] != found[name]).any()] == [OTHER]


def test_without_structure_nothing_is_said_of_it(model: Path, tmp_path: Path) -> None:
    alone = make(tmp_path / "alone", model, None)
    assert "structure" not in json.loads((alone.dataset / "_manifest.json").read_text())["provenance"]
    assert "structure" not in json.loads((alone.folder / "filter.json").read_text())
    assert "structure" not in pq.read_schema(next((alone.folder / "catalog").iterdir())).names
    rows = {row["id"]: row for file in (alone.folder / "catalog").iterdir() for row in pq.read_table(file).to_pylist()}
    assert {name for name, row in rows.items() if row["duplicate_of"]} == {COPY, OTHER}


# One file


def run_filter(folder: Path, reading: ReadSettings, **limits: Any) -> None:
    """Filter in.fasta of a folder into catalog, rejects and summary there."""
    files = {name: folder / name for name in ("catalog", "rejects", "summary")}
    filter_records([folder / "in.fasta"], Criteria(**limits), reading=reading, **files)


def reads(states: Path, missing: str = "error") -> ReadSettings:
    return ReadSettings(structure=str(states), missing_structure=missing)


def write_fasta(path: Path, records: list[tuple[str, str]]) -> Path:
    path.write_text(line.fasta_text(records))
    return path


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_one_file_has_the_vectors_of_the_data_set(
    run: Line, model: Path, states: Path, tmp_path: Path, workers: int
) -> None:
    fasta, out = write_fasta(tmp_path / "in.fasta", RECORDS), tmp_path / "out.parquet"
    settings, machine = EmbedSettings(), Machine(workers=workers)
    embed_fasta([fasta], model, out, settings=settings, machine=machine, reading=reads(states))
    table, expected = pq.read_table(out), vectors(run.dataset)
    for name, vector in zip(table["id"].to_pylist(), table["embedding"].to_pylist(), strict=True):
        assert (np.array(vector, np.float16) == expected[name]).all()
    assert not (tmp_path / "out.parquet.work").exists()


def test_missing_structures_may_be_unknown(model: Path, tmp_path: Path) -> None:
    records = [("a", "MKVA"), ("b", "MKVL")]
    fasta, states = write_fasta(tmp_path / "in.fasta", records), write_states(tmp_path / "s", {"a": "DVPD"})
    arguments = {"settings": EmbedSettings(), "machine": Machine()}
    with pytest.raises(UserError, match=f"{states}: no 3Di record has the id 'b', of record 2 of {fasta}; add it"):
        embed_fasta([fasta], model, tmp_path / "out", **arguments, reading=reads(states))
    embed_fasta([fasta], model, tmp_path / "out", **arguments, reading=reads(states, "unknown"))
    embed_fasta([fasta], model, tmp_path / "alone", settings=EmbedSettings(), machine=Machine())
    both = [pq.read_table(tmp_path / name)["embedding"].to_pylist() for name in ("out", "alone")]
    assert both[0][1] == both[1][1]
    assert both[0][0] != both[1][0]


def test_prostt5_reads_states_alone_and_knows_all(tmp_path: Path) -> None:
    size = {"layers": 2, "decoder_layers": 1, "hidden": 32, "heads": 4, "feed_forward": 48}
    model = line.rough_model(tmp_path / "model", like="prostt5", sizes=size)
    fasta = write_fasta(tmp_path / "in.fasta", [("a", "MKVA"), ("b", "MKVL"), ("c", "MKVL")])
    arguments = {"settings": EmbedSettings(), "machine": Machine()}
    states = write_states(tmp_path / "s", {"a": "DVPD", "b": "DVPD", "c": "DVPV"})
    embed_fasta([fasta], model, tmp_path / "out", reading=reads(states), **arguments)
    a, b, c = pq.read_table(tmp_path / "out")["embedding"].to_pylist()
    assert a == b != c
    states = write_states(tmp_path / "s", {"a": "DVPD", "b": "D#PD", "c": "DVPV"})
    with pytest.raises(UserError, match=r"structure state 2 of 'b' is not known, for which the model has no token"):
        embed_fasta([fasta], model, tmp_path / "out", reading=reads(states), **arguments)


def test_records_stay_aligned_whatever_the_filter_does(tmp_path: Path) -> None:
    text = ">short\nMK\n>stop\nMKVAMKVA*\n>masked\nMKBVAMKVA\n>gap\nMK-VA\n>low\nmkvamkvl\n"
    (tmp_path / "in.fasta").write_text(text)
    states = write_states(tmp_path / "s", {"stop": "DVPDDVPD", "masked": "DVADDVPDV", "gap": "D", "low": "PPPPPPPV"})
    run_filter(tmp_path, reads(states), min_length=5, mask_residues="B")
    rows = pq.read_table(tmp_path / "catalog").select(["id", "sequence", "structure"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("low", "MKVAMKVL", "PPPPPPPV"),
        ("masked", "MKXVAMKVA", "DVADDVPDV"),
        ("stop", "MKVAMKVA", "DVPDDVPD"),
    ]
    # Those that were rejected are no strangers.
    assert json.loads((tmp_path / "summary").read_text())["structure"]["without_sequence"] == 0


def test_a_record_that_is_there_twice_has_one_structure(tmp_path: Path) -> None:
    (tmp_path / "in.fasta").write_text(">a\nMKVA\n>b\nMKVL\n>a again\nMKVA\n")
    run_filter(tmp_path, reads(write_states(tmp_path / "s", {"a": "DVPD", "b": "DVPV", "c": "D"})))
    account = json.loads((tmp_path / "summary").read_text())
    assert (account["kept"], account["structure"]["without_sequence"]) == (2, 1)


def test_ids_of_both_files_are_the_same_part_of_the_header(tmp_path: Path) -> None:
    (tmp_path / "in.fasta").write_text(">sp|P1|X\nMKVA\n")
    run_filter(
        tmp_path, replace(reads(write_states(tmp_path / "s", {"af|P1|F1 of AlphaFold": "DVPD"})), id=r"\|(\w+)\|")
    )
    assert pq.read_table(tmp_path / "catalog").select(["id", "structure"]).to_pylist() == [
        {"id": "P1", "structure": "DVPD"}
    ]
