"""What is no sequence stops the run; what people have in their FASTA files is read, as Biopython reads it."""

import io
import random
from pathlib import Path

import pytest
from Bio.SeqIO.FastaIO import SimpleFastaParser
from embedome.common.errors import UserError
from embedome.sequences.records import read_records
from embedome.sequences.sequence_lines import strange_line
from helpers.filtered import run_filter
from hypothesis import given
from hypothesis import strategies as st

CHANCE = random.Random(20)
RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
SEQUENCE = "".join(CHANCE.choices(RESIDUES, k=150))
STREAM = "Error encountered when streaming data. Please try again later."
PROSE = [
    "Internal Server Error",
    STREAM,
    "INTERNAL SERVER ERROR",
    "502 Bad Gateway",
    "502",
    "GATEWAY TIMEOUT",
    "Connection reset by peer",
    "connection reset",
    "UNEXPECTED END",
    "upstream connect error or disconnect/reset before headers",
    "curl: (56) Recv failure",
    "Error",
    "error",
    "Timeout!",
    "null",
    "java.lang.NullPointerException",
    "InternalServerError",
    "<html><body><h1>504 Gateway Time-out</h1></body></html>",
    "</html>",
    '{"url":"https://rest/","messages":["Invalid"]}',
    "{'error': 'timeout'}",
    "]}",
    "# truncated",
    "; a comment",
    "--more-- (12%)",
    "エラー",
    "Erreur interne du serveur",
    "        1 mkvlaagivg lllaqwerty acdefghikl",
]


def lines_of(sequence: str, width: int = 60) -> list[str]:
    return [sequence[start : start + width] for start in range(0, len(sequence), width)]


def write(path: Path, *bodies: list[str], end: str = "\n") -> Path:
    text = "".join(end.join([f">P{number}", *body, ""]) for number, body in enumerate(bodies, 1))
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("place", [1, 3, 4])
@pytest.mark.parametrize("prose", PROSE)
def test_prose_within_a_sequence_stops_the_run(tmp_path: Path, prose: str, place: int, end: str) -> None:
    body = lines_of(SEQUENCE)
    body.insert(place - 1, prose)
    path = write(tmp_path / "x.fasta", ["MKV"], body, ["MKVL"], end=end)
    with pytest.raises(UserError) as caught:
        run_filter(tmp_path / "out", path, min_length=1)
    with pytest.raises(UserError) as again:
        list(read_records([path]))
    assert str(caught.value) == str(again.value)
    assert str(caught.value).startswith(f"{path}: record 2: line {place} below its header is no sequence, b")
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "out" / "catalog").exists()


def test_an_answer_that_broke_off_as_uniprots_do(tmp_path: Path) -> None:
    path = write(tmp_path / "x.fasta", lines_of(SEQUENCE), ["MKVL", "", STREAM])
    with pytest.raises(UserError, match="record 2: line 3 below its header is no sequence, b'Error encountered"):
        run_filter(tmp_path / "out", path)


def test_control_codes_are_not_sent_to_the_terminal(tmp_path: Path) -> None:
    path = write(tmp_path / "x.fasta", ["MKV", "\x1b[31mred \x07"])
    with pytest.raises(UserError) as caught:
        list(read_records([path]))
    assert str(caught.value).isprintable()


blocks = [SEQUENCE[start : start + 10] for start in range(0, len(SEQUENCE), 10)]
REAL = {
    "upper case": lines_of(SEQUENCE),
    "lower case": lines_of(SEQUENCE.lower()),
    "lower case to the end of thioredoxin reductase": [*lines_of(SEQUENCE.lower())[:2], "gcug"],
    "masked": lines_of(SEQUENCE[:50] + SEQUENCE[50:130].lower() + SEQUENCE[130:]),
    "a masked line": [SEQUENCE[:60], SEQUENCE[60:120].lower(), SEQUENCE[120:]],
    "masked after the first residue of the last line": [SEQUENCE[:60], "Gsssgsssgg"],
    "all kinds of letters": ["ABCDEFGHIJKLMNOPQRSTUVWXYZ", "OU", "XXXXXXXX"],
    "a stop": [*lines_of(SEQUENCE)[:2], "MKV*"],
    "a stop by itself": [SEQUENCE[:60], "*"],
    "blanks around lines": [f"  {line}\t " for line in lines_of(SEQUENCE)],
    "blank lines": ["", *lines_of(SEQUENCE)[:1], "", " \t", SEQUENCE[60:], ""],
    "blocks of ten": [" ".join(blocks[start : start + 6]) for start in range(0, 15, 6)],
    "blocks of ten, indented": [f"     {'  '.join(blocks[:6])}", f"     {'  '.join(blocks[6:8])}  MKV"],
    "blocks of ten in lower case, and a short line": [" ".join(blocks[:6]).lower(), "acd"],
    "letters apart": [" ".join(SEQUENCE)],
    "ragged lines": ["MKV", "L", SEQUENCE, "AC"],
}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("name", REAL)
def test_real_files_are_read(tmp_path: Path, name: str, end: str) -> None:
    path = write(tmp_path / "x.fasta", ["MKVL"], REAL[name], end=end)
    run = run_filter(tmp_path / "out", path, min_length=1)
    with open(path, encoding="ascii") as stream:
        expected = {title: "".join(text.split()).upper().removesuffix("*") for title, text in SimpleFastaParser(stream)}
    assert dict(run.rows("id, sequence")) == expected


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        ("MK-V", "'-' at 3"),
        ("....MKV", "'.' at 1"),
        ("M*V", "'*' at 2"),
        ("MK1V", "'1' at 3"),
        ("MK?V", "'?' at 3"),
        ("---", "'-' at 1"),
        ("MKV\x1a", "'\\x1a' at 4"),
        ("\x1a", "'\\x1a' at 1"),
        ("1", "'1' at 1"),
        ("MK\x00V", "'\\x00' at 3"),
    ],
)
def test_a_sequence_with_a_sign_is_rejected_by_itself(tmp_path: Path, line: str, detail: str) -> None:
    run = run_filter(tmp_path, write(tmp_path / "x.fasta", ["MKV"], [line], ["MKVL"]), min_length=1)
    assert run.rejected("id, reason, detail") == [("P2", "invalid-residue", detail)]
    assert [name for (name,) in run.rows("id")] == ["P1", "P3"]


@given(
    st.lists(st.text(RESIDUES, min_size=1, max_size=90), min_size=1, max_size=6),
    st.integers(0, 2**30),
    st.sampled_from(["\n", "\r\n"]),
)
def test_no_masked_sequence_is_strange(lines: list[str], seed: int, end: str) -> None:
    """Any stretches in lower case, of any lines of the 20 residues."""
    chance, lower, text = random.Random(seed), False, ""
    for letter in end.join(lines):
        lower ^= chance.random() < 0.1
        text += letter.lower() if lower else letter
    assert strange_line(text.encode()) is None
    assert [entry for _, entry in SimpleFastaParser(io.StringIO(f">a\n{text}"))]


def test_a_hostile_line_takes_no_time() -> None:
    assert strange_line(b"o" * 49 + b"*\n" + b"Ab" * 24 + b"o*\n" + b"a." * 10_000_000) is None
