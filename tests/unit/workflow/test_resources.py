"""What jobs ask for."""

import json
from types import SimpleNamespace

import pytest
from embedome.embedding.parts import PART_RESIDUE_BYTES
from embedome.workflow.resources import (
    RESIDUES_MB,
    by_attempt,
    by_attempt_and_records,
    by_attempt_and_size,
    further_vectors_mb,
)


class Input(dict):
    """Snakemake's named inputs."""

    def __getattr__(self, name):
        return self[name]


def test_more_is_asked_for_with_each_attempt():
    assert [by_attempt(100)(wildcards=None, attempt=attempt) for attempt in (1, 2, 3)] == [100, 200, 300]


def test_more_is_asked_for_of_larger_inputs():
    ask = by_attempt_and_size(1000, 0.25)
    assert [ask(None, SimpleNamespace(size_mb=size), attempt=2) for size in (0, 400)] == [2000, 2200]


def test_each_writer_of_residues_has_room_for_a_part():
    ask = by_attempt_and_size(6000, 3, RESIDUES_MB)
    one, four = (ask(None, SimpleNamespace(size_mb=100), attempt=1, threads=threads) for threads in (1, 4))
    assert (one, four - one) == (6300 + RESIDUES_MB, 3 * RESIDUES_MB)
    assert RESIDUES_MB * 10**6 > PART_RESIDUE_BYTES


def test_each_vector_beyond_the_first_has_room():
    """10 bytes of each number, in the largest part: 100,000 vectors of 1280."""
    section = {"layer": -1, "pooling": ["mean"], "part_sequences": 100_000}
    assert further_vectors_mb(section) == further_vectors_mb({**section, "layer": [3]}) == 0
    assert further_vectors_mb({**section, "layer": [6, 12, -1]}) == 2560
    assert further_vectors_mb({**section, "layer": [6, 12], "pooling": ["mean", "max"]}) == 3840


def test_more_is_asked_for_of_more_records_and_rows(tmp_path):
    (tmp_path / "filter.json").write_text(json.dumps({"read": 3_000_000}))
    (tmp_path / "manifest.json").write_text(json.dumps({"rows": 1_000_000}))
    ask = by_attempt_and_records(1500, 80)
    alone = Input(filter=str(tmp_path / "filter.json"))
    assert ask(None, alone, attempt=1) == 1500 + 240
    assert ask(None, Input(alone, earlier=str(tmp_path / "manifest.json")), attempt=1) == 1500 + 320


def test_snakemake_asks_again_once_the_input_is_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        by_attempt_and_records(1500, 80)(None, Input(filter=str(tmp_path / "no.json")), attempt=1)
