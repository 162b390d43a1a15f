"""3Di FASTA files: states by id, in any order, and what is wrong in them."""

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from embedome.common.errors import UserError
from embedome.sequences import structures as module
from embedome.sequences.structures import Structures, index_structures


def index(folder: Path, text: str, missing: str = "error") -> Structures:
    path = folder / "s.fasta"
    path.write_text(text)
    return index_structures(path, missing, folder)


def test_states_are_found_by_id_in_any_order_and_case(tmp_path: Path) -> None:
    structures = index(tmp_path, ">b of b\r\ndv\r\np#\r\n>a\nAC DE\n>c\nY")
    assert structures.of_ids(pa.array(["a", "x", "c", "b"])) == [b"ACDE", None, b"Y", b"DVPX"]
    assert structures.records == 3
    structures.remove()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.fasta"]


def test_a_second_file_is_not_taken_for_the_first(tmp_path: Path) -> None:
    for states in ("DD", "VV"):
        structures = index(tmp_path, f">a\n{states}\n")
        assert structures.of_ids(pa.array(["a"])) == [states.encode()]
        structures.remove()


def test_compressed_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "s.fasta.gz"
    path.write_bytes(gzip.compress(b">a\ndv\n"))
    assert index_structures(path, "error", tmp_path).of_ids(pa.array(["a"])) == [b"DV"]


def test_ids_with_one_hash_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "hash_ids", lambda ids, seed: np.zeros(len(ids), np.uint64))
    found = index(tmp_path, ">a\nd\n>b\nv\n>c\np\n").of_ids(pa.array(["c", "a", "d", "b"]))
    assert found == [b"P", b"D", None, b"V"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (">a\ndd\n>b\ndvzd\n", "record 2, 'b': 'Z' at 3 is no structure state; expected the 20 letters of 3Di, or #"),
        (">a\ndd\n>b\ndv-d\n", "record 2, 'b': '-' at 3 is no structure state"),
        (">a\ndd\n>b\nd>v\n", "record 2, 'b': '>' at 2 is no structure state"),
        (">a\ndd\n>b\n>c\nd\n", "record 2, 'b', has no structure states below its header"),
        (">a\ndd\n> \ndd\n", "record 2 has no id"),
        (">a x\ndd\n>b\nd\n>a y\ndd\n", "records 1 and 3 have the id 'a'; remove one"),
        ("dvd\n", "expected a FASTA header"),
    ],
)
def test_a_fault_names_the_file_and_the_record(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(UserError) as excinfo:
        index(tmp_path, text)
    message = str(excinfo.value)
    assert message.startswith(f"{tmp_path / 's.fasta'}: ")
    assert fault in message
    assert "\n" not in message


def test_states_fit_a_sequence_or_its_record_is_named(tmp_path: Path) -> None:
    structures = index(tmp_path, ">a\nddd\n")
    assert structures.fit("a", b"DDD", 3, "record 1 of x") == b"DDD"
    with pytest.raises(UserError, match=r"3 structure states of 'a', but 4 residues in record 7 of x.fasta"):
        structures.fit("a", b"DDD", 4, "record 7 of x.fasta")
    with pytest.raises(UserError, match=r"no 3Di record has the id 'b', of record 2 of x.fasta; add it"):
        structures.fit("b", None, 4, "record 2 of x.fasta")
    assert index(tmp_path, ">a\nddd\n", "unknown").fit("b", None, 4, "record 2") == b"XXXX"
