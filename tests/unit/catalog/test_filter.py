"""The filter stage: bad input, the ledger, the catalog's order and form, real files, and being killed."""

import gzip
import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from backports import zstd
from Bio.SeqIO.FastaIO import SimpleFastaParser
from embedome.catalog import filter as stage
from embedome.catalog.criteria import Criteria
from embedome.catalog.filter import filter_records, source_identity
from embedome.catalog.table import CATALOG, read_catalog
from embedome.common.errors import UserError
from helpers.filtered import Filtered, random_proteins, run_filter, small_groups, tree, write_fasta
from helpers.paths import SCRIPTS, SHARED_DATA
from helpers.processes import kill_at_random, run_python
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

SOUND = b">sound x\nMKV\n"
AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"


def filter_bytes(folder: Path, data: bytes, **limits: int) -> Filtered:
    path = folder / "input.fasta"
    path.write_bytes(data)
    return run_filter(folder / "out", path, **limits)


# Records that are kept, as they are or corrected.


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b">a x\r\nMK\r\nV\r\n>b\r\nMK\r\n", [("a", "x", "MKV"), ("b", "", "MK")]),
        (b">a\nmkv\n", [("a", "", "MKV")]),
        (b">a\nMKV*\n", [("a", "", "MKV")]),
        (b">a\nMJBZXUO\n", [("a", "", "MJBZXUO")]),
        (b"\n\n>a\n\nMK\n\nV\n\n\n>b\nM\n\n", [("a", "", "MKV"), ("b", "", "M")]),
        (b"\xef\xbb\xbf>a\nMKV\n", [("a", "", "MKV")]),
        (b">a\nMKV\n>b\nMK", [("a", "", "MKV"), ("b", "", "MK")]),
        (b">../a/b\nMKV\n", [("../a/b", "", "MKV")]),
        (b'>it\'s "a" b\nMKV\n', [("it's", '"a" b', "MKV")]),
        (b">a,b;c|d\te\nMKV\n", [("a,b;c|d", "e", "MKV")]),
        ("> β-名前 d\nMKV\n".encode(), [("β-名前", "d", "MKV")]),
        (b">big\n" + b"MKVLA\n" * 8000, [("big", "", "MKVLA" * 8000)]),
        (gzip.compress(b">a\nMK", mtime=0) + gzip.compress(b"V\n>b\nM\n", mtime=0), [("a", "", "MKV"), ("b", "", "M")]),
        (gzip.compress(b">a\nMK\n", mtime=0) + bytes(20), [("a", "", "MK")]),  # padded, as on tape
    ],
)
def test_kept(tmp_path: Path, data: bytes, expected: list[tuple[str, str, str]]) -> None:
    run = filter_bytes(tmp_path, data)
    assert run.rows("id, description, sequence") == expected
    assert run.account["read"] == run.account["kept"] == len(expected)
    assert run.account["residues"] == sum(len(sequence) for _, _, sequence in expected)
    assert run.rejected() == []


# Records that are rejected; the sound one beside them is kept.


@pytest.mark.parametrize(
    ("data", "name", "reason", "detail"),
    [
        (b">a\n" + SOUND, "a", "empty-sequence", "no sequence below"),
        (b">a\n\n \r\n" + SOUND, "a", "empty-sequence", "no sequence below"),
        (SOUND + b">a", "a", "empty-sequence", "no sequence below"),
        (SOUND + b">a\n", "a", "empty-sequence", "no sequence below"),
        (b">a\n*\n" + SOUND, "a", "empty-sequence", "no sequence below"),
        (b">a\nMK*V\n" + SOUND, "a", "invalid-residue", "'*' at 3"),
        (b">a\nMK--V\n" + SOUND, "a", "invalid-residue", "'-' at 3"),
        (b">a\nM\nK1V2\n" + SOUND, "a", "invalid-residue", "'1' at 3"),
        (b">a\nMK\x00V\n" + SOUND, "a", "invalid-residue", "at 3"),
        (b">" + b"x" * 10_000 + b" d\nMKV\n" + SOUND, "x" * 10_000, "invalid-id", "10000 characters"),
        (b">a\xfe d\nMKV\n" + SOUND, "a\\xfe", "invalid-id", "not UTF-8"),
        (b">a\x07 d\nMKV\n" + SOUND, "a\x07", "invalid-id", "control"),
        (b">\nMKV\n" + SOUND, "", "no-id", "no word"),
        (b">a\nM\n" + SOUND, "a", "too-short", "1 residues; at least 2"),
        (b">a\nMKVLAA\n" + SOUND, "a", "too-long", "6 residues; at most 5"),
    ],
)
def test_rejected(tmp_path: Path, data: bytes, name: str, reason: str, detail: str) -> None:
    run = filter_bytes(tmp_path, data, min_length=2, max_length=5)
    assert run.rows("id, sequence") == [("sound", "MKV")]
    [(rejected_id, rejected_reason, rejected_detail, file, number)] = run.rejected("id, reason, detail, file, number")
    assert (rejected_id, rejected_reason, file) == (name, reason, "input.fasta")
    assert detail in rejected_detail
    assert number == (2 if data.startswith(SOUND) else 1)
    assert run.account["rejected"] == {reason: 1}
    assert (run.account["read"], run.account["kept"]) == (2, 1)


def test_records_without_an_id_or_with_a_bad_one_are_no_duplicates(tmp_path: Path) -> None:
    run = filter_bytes(tmp_path, b">\nMK\n>\nMK\n" + SOUND + b">\n>a\xff\nM\n>a\xff\nM\n>a\\xff\nM\n> \n")
    assert run.account["rejected"] == {"invalid-id": 2, "no-id": 4}
    assert run.rows("id") == [("a\\xff",), ("sound",)]
    assert [number for (number,) in run.rejected("number")] == [1, 2, 4, 8, 5, 6]


# Files that cannot be used at all.


def damaged_gzip(folder: Path) -> list[bytes]:
    """A gzip file with one bit flipped, here and there."""
    whole = gzip.compress(big_fasta(folder), mtime=0)
    flipped = []
    for position in range(20, len(whole), len(whole) // 25):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        flipped.append(bytes(damaged))
    return flipped


def big_fasta(folder: Path) -> bytes:
    return write_fasta(folder / "big.fasta", random_proteins(300)).read_bytes()


def cut(data: bytes) -> list[bytes]:
    """The beginning of a file, at many lengths; never so short that its format cannot be recognised."""
    return [data[:length] for length in (4, 10, 18, len(data) // 3, len(data) // 2, *range(len(data) - 9, len(data)))]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: [b""], "the file is empty"),
        (
            lambda _: [b"\n \r\n", b"\xef\xbb\xbf", gzip.compress(b"", mtime=0), zstd.compress(b"\n")],
            "white space only",
        ),
        (lambda _: [b"MKV\n>a\nMKV\n"], "begins with b'MKV'; expected a FASTA header"),
        (lambda _: [b"; comment\n>a\nMKV\n"], "begins with b'; comment'; expected a FASTA header"),
        (lambda _: [bytes(range(256)) * 9, b"\x89PNG\r\n", b"BZh"], "expected a FASTA header"),
        (lambda _: [b"PK\x03\x04", b"BZh91AY&SYx"], "the compressed data"),
        (lambda _: [">a\nMKV\n".encode("utf-16")], "expected a FASTA header"),
        (lambda _: [b">a x\rMKV\r>b\rMKV\r"], "record 1 has bare carriage returns"),
        (lambda _: [SOUND + b">a\rMKV\r"], "record 2 has bare carriage returns"),
        (lambda folder: cut(gzip.compress(big_fasta(folder), mtime=0)), "end too early"),
        (lambda folder: cut(zstd.compress(big_fasta(folder))), "end too early"),
        (damaged_gzip, "are damaged"),
        (
            lambda folder: [gzip.compress(SOUND, mtime=0) + b"rest" * 5, zstd.compress(SOUND) + b"rest" * 5],
            "are damaged",
        ),
    ],
    ids=lambda value: value.split(";")[0] if isinstance(value, str) else "",
)
def test_unusable_files(tmp_path: Path, make: Callable[[Path], list[bytes]], message: str) -> None:
    for data in make(tmp_path):
        with pytest.raises(UserError) as caught:
            filter_bytes(tmp_path, data)
        assert message in str(caught.value)
        assert str(tmp_path / "input.fasta") in str(caught.value)
        assert "\n" not in str(caught.value)
        assert tree(tmp_path / "out") == {}


def test_missing_file_folder_and_device(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "none", "no such file"), (tmp_path, "is a folder"), ("/dev/null", "no regular")):
        with pytest.raises(UserError, match=message) as caught:
            run_filter(tmp_path / "out", path)
        assert str(path) in str(caught.value)
    with pytest.raises(UserError, match=r"source\.fasta"):
        run_filter(tmp_path / "out")


def test_duplicate_id_over_two_files_and_with_a_rejected_record(tmp_path: Path) -> None:
    one = write_fasta(tmp_path / "one.fasta", [("a", "MK"), ("b", "MK")])
    two = write_fasta(tmp_path / "two.fasta", [("c", "MK"), ("d", "MK"), ("a", "M-K")])
    with pytest.raises(UserError) as caught:
        run_filter(tmp_path / "out", one, two)
    assert f"id 'a': record 1 of {one} and record 3 of {two}, with" in str(caught.value)


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    paths = []
    for number, folder in enumerate(["GCF_1", "GCF_2"]):
        (tmp_path / folder).mkdir()
        paths.append(write_fasta(tmp_path / folder / "protein.faa", [(f"a{number}", "MK"), (f"b{number}", "M-K")]))
    run = run_filter(tmp_path / "out", *paths)
    names = ["GCF_1/protein.faa", "GCF_2/protein.faa"]
    assert [each["file"] for each in run.account["inputs"]] == names
    assert run.rejected("file, number") == [(name, 2) for name in names]


def test_where_a_release_comes_from_is_not_part_of_what_it_is(tmp_path: Path) -> None:
    found = []
    for name, url in (("one", "https://one/x.gz"), ("two", "https://two/x.gz")):
        path = write_fasta(tmp_path / "x.fasta", [("a", "MK")])
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        record = {"url": url, "release": "2026_01", "date": url, "sha256": sha256}
        (tmp_path / "release.json").write_text(json.dumps(record))
        out = tmp_path / name
        outputs = {"catalog": out / "catalog", "rejects": out / "rejects.parquet", "summary": out / "filter.json"}
        filter_records([path], Criteria(), **outputs, release=tmp_path / "release.json")
        assert json.loads((tmp_path / name / "filter.json").read_text())["release"] == record
        found.append(source_identity(tmp_path / name / "filter.json"))
    assert found[0] == found[1]
    assert found[0]["release"] == {"release": "2026_01", "sha256": sha256}


def test_a_damaged_page_of_the_catalog_is_named(tmp_path: Path) -> None:
    run = run_filter(tmp_path, write_fasta(tmp_path / "x.fasta", random_proteins(500)))
    [path] = (tmp_path / "catalog").iterdir()
    assert run.account["kept"] == 500
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"{re.escape(str(path))}: damaged .*rerun the stage that wrote it"):
        list(read_catalog(tmp_path / "catalog", CATALOG.names))


def test_a_failed_run_leaves_the_last_one_as_it_was(tmp_path: Path) -> None:
    filter_bytes(tmp_path, SOUND + b">a\n")
    before = tree(tmp_path / "out")
    assert set(before) == {"catalog/part-00000.parquet", "rejects.parquet", "members.parquet", "filter.json"}
    with pytest.raises(UserError):
        filter_bytes(tmp_path, SOUND + b">sound\nMKA\n")
    after = tree(tmp_path / "out")
    assert after.pop("rejects.parquet.same_ids.tsv")
    assert after == before


# The ledger, against a slow model of what the filter should do.


def slow_filter(data: bytes, shortest: int) -> tuple[dict[str, str], list[tuple[int, str]]]:
    """Sequences of the kept ids; number and reason of the rejected records."""
    kept: dict[str, str] = {}
    rejected = []
    for number, text in enumerate((b"\n" + data).split(b"\n>")[1:], 1):
        header, *body = text.split(b"\n")
        words = header.split()
        sequence = b"".join(b"".join(body).split()).upper()
        sequence = sequence[:-1] if sequence.endswith(b"*") else sequence
        if not words:
            rejected.append((number, "no-id"))
        elif b"\xff" in words[0] or b"\x07" in words[0]:
            rejected.append((number, "invalid-id"))
        elif not sequence:
            rejected.append((number, "empty-sequence"))
        elif not sequence.isalpha():
            rejected.append((number, "invalid-residue"))
        elif len(sequence) < shortest:
            rejected.append((number, "too-short"))
        else:
            kept[words[0].decode()] = sequence.decode()
    return kept, rejected


def is_no_sequence(line: bytes) -> bool:
    """Of lines of the snippets below: more than one word, unless each is a letter; no letter and no sign at all."""
    words = line.split()
    if len(words) > 1:
        return any(word not in (b"M", b"k", b"*", b"-") for word in words)
    return len(line.strip()) > 2 and not set(line) & set(b"Mk*-")


snippets = st.just(b"\xff") | st.sampled_from("\n|\n>|>| |*|\r\n|-|M|k|1|\x07|é".encode().split(b"|"))


@settings(max_examples=60)
@given(parts=st.lists(snippets, max_size=40))
@pytest.mark.slow
def test_any_file_is_accounted_for(tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]) -> None:
    # A number before each header's text makes ids unique.
    data = (
        SOUND
        + b">"
        + b"".join(
            part + (b"%d" % number if part == b"\n>" and number % 3 else b"") for number, part in enumerate(parts)
        )
    )
    texts = (b"\n" + data).split(b"\n>")[1:]
    ids = [words[0] for text in texts if (words := text.split(b"\n")[0].split())]
    assume(max(Counter(ids).values()) == 1)
    folder = tmp_path_factory.mktemp("any")
    if any(b">" in text.partition(b"\n")[2] for text in texts):
        with pytest.raises(UserError, match="has a '>' in its sequence"):
            filter_bytes(folder, data)
        return
    if any(map(is_no_sequence, (line for text in texts for line in text.partition(b"\n")[2].split(b"\n")))):
        with pytest.raises(UserError, match="below its header is no sequence"):
            filter_bytes(folder, data)
        return
    run = filter_bytes(folder, data, min_length=2)
    kept, rejected = slow_filter(data, 2)
    assert dict(run.rows("id, sequence")) == kept
    assert sorted(run.rejected("number, reason")) == rejected
    assert run.account["read"] == len(kept) + len(rejected) == data.count(b"\n>") + 1
    assert run.account["rejected"] == Counter(reason for _, reason in rejected)


def test_several_files_are_one_input(tmp_path: Path) -> None:
    records = random_proteins(50)
    one = write_fasta(tmp_path / "one.fasta", records[:20])
    two = tmp_path / "two.fasta.gz"
    two.write_bytes(gzip.compress(write_fasta(tmp_path / "two.fasta", [*records[20:], ("bad", "1")]).read_bytes()))
    run = run_filter(tmp_path / "out", one, two)
    whole = run_filter(tmp_path / "whole", write_fasta(tmp_path / "all.fasta", [*records, ("bad", "1")]))
    assert run.rows() == whole.rows()
    by_record = sorted(run.rows("record, id"))
    assert by_record == [(number, header.split()[0]) for number, (header, _) in enumerate(records)]
    assert run.rejected("file, number") == [("two.fasta.gz", 31)]
    assert whole.rejected("file, number") == [("all.fasta", 51)]
    assert run.account == json.loads(run.summary.read_text())
    for entry, path, count in zip(run.account["inputs"], (one, two), (20, 31), strict=True):
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        assert entry == {"file": path.name, "records": count, "bytes": len(data), "sha256": digest}
    for entry in run.account["catalog"]:
        assert entry["sha256"] == hashlib.sha256((run.catalog / entry["file"]).read_bytes()).hexdigest()


# The catalog.


def check_duplicates(run: Filtered) -> None:
    """`duplicate_of` is the smallest id with the same sequence, found by a self-join."""
    wrong = duckdb.sql(f"""
        WITH catalog AS (FROM read_parquet('{run.catalog}/*.parquet')),
             canonical AS (SELECT sequence, min(id) AS id FROM catalog GROUP BY sequence)
        SELECT catalog.id FROM catalog JOIN canonical USING (sequence)
        WHERE duplicate_of IS DISTINCT FROM CASE WHEN catalog.id = canonical.id THEN NULL ELSE canonical.id END
    """).fetchall()
    assert wrong == []
    assert run.account["duplicates"] == sum(duplicate is not None for (duplicate,) in run.rows("duplicate_of"))


def test_rows_are_the_records(tmp_path: Path) -> None:
    records = random_proteins(200)
    run = run_filter(tmp_path, write_fasta(tmp_path / "x.fasta", records))
    expected = []
    for number, (header, sequence) in enumerate(records):
        name, description = header.split(" ", 1)
        taxid = int(re.search(r"TaxID=(\d+)", header)[1])
        fields = (number + 1, taxid, f"Taxon {taxid}", "Protein", f"X{number}")
        expected.append((name, len(sequence), *fields, description, number, sequence))
    columns = "id, length, n_members, taxid, taxon, name, representative, description, record, sequence"
    assert run.rows(columns) == sorted(expected)
    assert run.account["duplicates"] == 200 - len({sequence for _, sequence in records}) > 15
    check_duplicates(run)


def test_digest_column(tmp_path: Path) -> None:
    run = filter_bytes(tmp_path, b">a\nacgt\n>b\nACG\nT*\n>c\nACGA\n")
    assert run.rows("digest")[:2] == [("SQ.aKF498dAxcJAqme6QYQ7EZ07-fiw8Kw2",)] * 2
    assert len(set(run.rows("digest"))) == 2


def test_ids_are_sorted_by_their_utf8_bytes(tmp_path: Path) -> None:
    ids = ["a", "B", "b", "é", "z", "~", "名", "\U0001d54f", "ﬀ", "a|b", "a.b", "a1", "A1", "a10", "a9", "\U0010fffd"]
    run = run_filter(tmp_path, write_fasta(tmp_path / "x.fasta", [(name, "MK") for name in ids[:-1]]))
    assert [name for (name,) in run.rows("id")] == sorted(ids[:-1], key=lambda name: name.encode())
    check_duplicates(run)


SCHEMA = """
    id string not null, digest string not null, length int32 not null, n_members int32, taxid int32, taxon string,
    name string not null, representative string, description string not null, record int64 not null,
    duplicate_of string, sequence large_string not null
"""


def test_files_have_their_schema_statistics_and_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_groups(monkeypatch)
    run = run_filter(tmp_path, write_fasta(tmp_path / "x.fasta", random_proteins(200)))
    files = sorted(run.catalog.iterdir())
    assert [file.name for file in files] == [f"part-{number:05d}.parquet" for number in range(4)]
    ids = []
    for path in files:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            fields = [f"{f.name} {f.type}" + ("" if f.nullable else " not null") for f in file.schema_arrow]
            assert fields == [field.strip() for field in SCHEMA.split(",")]
            for group in range(file.num_row_groups):
                names = file.read_row_group(group, columns=["id"])["id"].to_pylist()
                assert len(names) == 16 or path == files[-1]
                column = file.metadata.row_group(group).column(0)
                assert (column.statistics.min, column.statistics.max) == (names[0], names[-1])
                assert column.has_offset_index
                assert column.has_column_index
                ids += names
    assert len(ids) == 200
    assert ids == sorted(ids)


def small_sort(patch: pytest.MonkeyPatch, run_bytes: int, run_batches: int, block_bytes: int = 100) -> Counter[str]:
    """Have the sort make many runs and ranges; counts both, where it is this process that makes them."""
    made: Counter[str] = Counter()

    def counted(name: str) -> Callable:
        real = getattr(stage, name)

        def count(*arguments: object) -> object:
            made[name] += 1
            return real(*arguments)

        return count

    for name in ("make_run", "sort_range"):
        patch.setattr(stage, name, counted(name))
    # A run is of whole chunks, and a chunk ends with a block.
    patch.setattr("embedome.catalog.filter.RUN_BYTES", run_bytes)
    patch.setattr("embedome.catalog.filter.CHUNK_BYTES", min(run_bytes, 1000))
    patch.setattr("embedome.sequences.compressed.BLOCK_BYTES", block_bytes)
    patch.setattr("embedome.parquet.external_sort.RUN_BATCHES", run_batches)
    return made


names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=4)


@st.composite
def catalogs(draw: st.DrawFn) -> list[tuple[str, str]]:
    ids = draw(st.lists(names, min_size=1, max_size=20, unique=True))
    sequences = st.sampled_from(["M", "MK", "MKV", "M-K", ""])
    records = [(f"{name} d{number}", draw(sequences)) for number, name in enumerate(ids)]
    # Before all other ids and among them, and each as often as it likes.
    nameless = [("", "MK")] * draw(st.integers(0, 12)) + [("m\x07", "MK")] * draw(st.integers(0, 12))
    return [*draw(st.permutations(records + nameless)), ("sound", "MK")]


@settings(max_examples=40)
@given(
    records=catalogs(),
    run_batches=st.integers(1, 5),
    run_bytes=st.sampled_from([1, 20, 60, 1 << 20]),
    block_bytes=st.integers(2, 64),
)
@pytest.mark.slow
def test_bytes_do_not_depend_on_the_sizes_of_the_sort(
    tmp_path_factory: pytest.TempPathFactory,
    records: list[tuple[str, str]],
    run_batches: int,
    run_bytes: int,
    block_bytes: int,
) -> None:
    folder = tmp_path_factory.mktemp("sizes")
    assume(all(not header.startswith("sound ") for header, _ in records))
    path = write_fasta(folder / "x.fasta", records)
    run_filter(folder / "plain", path)
    with pytest.MonkeyPatch.context() as patch:
        made = small_sort(patch, run_bytes, run_batches, block_bytes)
        run_filter(folder / "small", path)
    assert tree(folder / "small") == tree(folder / "plain")
    event(f"runs: {min(made['make_run'], 5)}, ranges: {min(made['sort_range'], 5)}")


def test_many_runs_over_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_fasta(tmp_path / "x.fasta", [*random_proteins(1000), ("bad", "1"), ("", "MK"), ("", "M")])
    small_groups(monkeypatch)
    plain = run_filter(tmp_path / "plain", path)
    made = small_sort(monkeypatch, 4000, 5)
    run_filter(tmp_path / "small", path)
    assert min(made.values()) > 20
    assert tree(tmp_path / "small") == tree(tmp_path / "plain")
    check_duplicates(plain)


def test_bytes_do_not_depend_on_the_number_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_fasta(tmp_path / "x.fasta", [*random_proteins(1000), ("bad", "1"), ("", "MK")])
    run_filter(tmp_path / "one", path)
    monkeypatch.setattr("embedome.catalog.filter.RUN_BYTES", 4000)
    monkeypatch.setattr("embedome.catalog.filter.CHUNK_BYTES", 1000)
    monkeypatch.setenv("PYTHONPATH", str(SCRIPTS))
    run_filter(tmp_path / "three", path, workers=3)
    assert tree(tmp_path / "three") == tree(tmp_path / "one")


def test_bad_input_is_told_of_from_a_worker_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.fasta"
    path.write_bytes(b"".join(b">a%d\nMKV\n" % number for number in range(100)) + b">odd\rMKV\n")
    monkeypatch.setattr("embedome.sequences.compressed.BLOCK_BYTES", 100)
    monkeypatch.setattr("embedome.catalog.filter.RUN_BYTES", 200)
    monkeypatch.setattr("embedome.catalog.filter.CHUNK_BYTES", 100)
    monkeypatch.setenv("PYTHONPATH", str(SCRIPTS))
    with pytest.raises(UserError, match=r"x\.fasta: record 101 has bare carriage returns"):
        run_filter(tmp_path / "out", path, workers=2)
    assert tree(tmp_path / "out") == {}


@pytest.mark.slow
def test_duplicate_id_is_found_over_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever it is: also one that a range begins with."""
    records = random_proteins(60, length=5)
    made = small_sort(monkeypatch, 300, 2)
    for first, (header, _) in enumerate(records[::3]):
        again = header.split()[0]
        path = write_fasta(tmp_path / "x.fasta", [*records, (again, "WWMKWW")])
        with pytest.raises(UserError, match=f"the id '{again}': record {3 * first + 1} of .* and record 61 of "):
            run_filter(tmp_path / "out", path)
    assert made["make_run"] > 10 * 20
    assert made["sort_range"] > 3 * 20


@settings(max_examples=30)
@given(records=catalogs(), chance=st.randoms(use_true_random=False))
@pytest.mark.slow
def test_order_of_the_input_changes_the_record_numbers_alone(
    tmp_path_factory: pytest.TempPathFactory, records: list[tuple[str, str]], chance: random.Random
) -> None:
    folder = tmp_path_factory.mktemp("order")
    assume(all(not header.startswith("sound ") for header, _ in records))
    one = run_filter(folder / "one", write_fasta(folder / "one.fasta", records))
    chance.shuffle(records)
    other = run_filter(folder / "other", write_fasta(folder / "other.fasta", records))
    assert one.rows("* EXCLUDE record") == other.rows("* EXCLUDE record")
    kept = [(n, header) for n, (header, s) in enumerate(records) if header and header.isprintable() and s.isalpha()]
    positions = {header.split()[0]: n for n, header in kept}
    assert dict(other.rows("id, record")) == positions
    check_duplicates(one)


# Real files.


def shared(name: str) -> Path:
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


def read_with_biopython(path: Path) -> list[tuple[str, str]]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as stream:
        return list(SimpleFastaParser(stream))


def from_right(title: str) -> tuple[str, int | None, int | None, str | None]:
    """Id, members, taxonomy identifier and representative of a UniRef header."""
    title, _, representative = title.rpartition(" RepID=")
    title, _, taxid = title.rpartition(" TaxID=")
    title, _, _ = title.rpartition(" Tax=")
    title, _, members = title.rpartition(" n=")
    return title.split()[0], int(members), int(taxid), representative


@pytest.mark.parametrize(
    ("name", "count", "distinct"),
    [
        ("proteomes/UP000000625_83333_ecoli_k12.fasta.gz", 4401, 4360),
        ("proteomes/UP000002717_1140_s_elongatus.fasta.gz", 2658, 2658),
        ("proteomes/yeast_first100_morpheus.fasta", 99, 99),
        ("uniref/uniref50_longest100.fasta.gz", 100, None),
        ("uniref/uniref202104_esm2_qc/uniref50_train_filt.fasta.gz", None, None),
        ("uniref/uniref100_sample3.fasta", 3, 3),
    ],
)
def test_real_files_agree_with_biopython(tmp_path: Path, name: str, count: int | None, distinct: int | None) -> None:
    path = shared(name)
    records = read_with_biopython(path)
    assert count in (None, len(records))
    run = run_filter(tmp_path, path)
    assert (run.account["read"], run.account["kept"], run.account["rejected"]) == (len(records), len(records), {})
    assert run.account["residues"] == sum(len(sequence) for _, sequence in records)
    expected = sorted((title.split()[0], title.partition(" ")[2], sequence.upper()) for title, sequence in records)
    assert run.rows("id, description, sequence") == expected
    assert distinct in (None, len(records) - run.account["duplicates"])
    check_duplicates(run)
    if name.startswith("uniref/") and all(" n=" in title for title, _ in records):
        rows = run.rows("id, n_members, taxid, representative")
        assert rows == sorted(from_right(title) for title, _ in records)
    if name.startswith("proteomes/"):
        taxids = {title.split()[0]: re.findall(r" OX=(\d+)", title) for title, _ in records}
        assert run.rows("id, taxid") == [(i, int(t[0]) if (t := taxids[i]) else None) for i in sorted(taxids)]
        assert {taxon for (taxon,) in run.rows("taxon")} == {
            re.search(r" OS=(.+?) (?:OX|GN|PE)=", title)[1] for title, _ in records
        }


def test_real_file_with_a_record_twice(tmp_path: Path) -> None:
    path = shared("uniref/humann_uniref90_demo_prots_v201901.faa")
    ids = [title.split()[0] for title, _ in read_with_biopython(path)]
    [twice] = [name for name, count in Counter(ids).items() if count > 1]
    first, second = (number for number, name in enumerate(ids, 1) if name == twice)
    run = run_filter(tmp_path, path)
    assert (run.account["read"], run.account["kept"]) == (len(ids), len(ids) - 1)
    assert run.rejected("id, reason, detail, number") == [
        (twice, "exact-repeat", f"as record {first} of {path}", second)
    ]


# Killed, and memory.

FILTER = """
from pathlib import Path
from embedome.sequences import compressed
import embedome.catalog.filter as stage
import embedome.parquet.external_sort as sorting
stage.RUN_BYTES, stage.CHUNK_BYTES, compressed.BLOCK_BYTES, sorting.RUN_BATCHES = 50_000, 10_000, 5000, 5
made, real = [], stage.make_run
stage.make_run = lambda task: made.append(task) or real(task)
fasta, out = map(Path, sys.argv[1:])
print("ready", flush=True)
stage.filter_records([fasta], stage.Criteria(20), catalog=out / "catalog", rejects=out / "rejects.parquet",
                     summary=out / "filter.json")
assert len(made) > 5
"""


@pytest.mark.slow
def test_killed_and_run_again_gives_the_same_bytes(tmp_path: Path) -> None:
    path = write_fasta(tmp_path / "x.fasta", random_proteins(4000))
    duration_s = run_python(FILTER, path, tmp_path / "whole")
    kill_at_random(FILTER, (path, tmp_path / "killed"), duration_s)
    run_python(FILTER, path, tmp_path / "killed")
    # The same files, byte for byte, and no others: what the killed ones left is swept away.
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")


MEMORY = """
from pathlib import Path
import embedome.catalog.filter as stage
from embedome.sequences import compressed
import embedome.parquet.external_sort as sorting
stage.RUN_BYTES, compressed.BLOCK_BYTES, sorting.RUN_BATCHES = 500_000, 100_000, 20
stage.CATALOG_GROUP_ROWS, stage.CATALOG_FILE_GROUPS = 1000, 4
fasta, out = map(Path, sys.argv[1:])
print("ready", flush=True)
stage.filter_records([fasta], stage.Criteria(), catalog=out / "catalog", rejects=out / "rejects.parquet",
                     summary=out / "filter.json")
(out / "status").write_text(Path("/proc/self/status").read_text())
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_input(tmp_path: Path) -> None:
    chance = random.Random(5)
    residues = "".join(chance.choices(AMINO_ACIDS, k=300_000))
    peaks, sizes = [], []
    for count in (96_000, 192_000):
        records = [(f"{chance.getrandbits(64):x}", residues[start : start + 1000]) for start in range(count)]
        path = write_fasta(tmp_path / f"{count}.fasta", records, width=1000)
        run_python(MEMORY, path, tmp_path / str(count))
        status = (tmp_path / str(count) / "status").read_text()
        peaks.append(int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) << 10)
        sizes.append(path.stat().st_size)
    # What the allocators of several threads hold back levels off slowly.
    assert sizes[1] - sizes[0] > 96e6
    assert peaks[1] - peaks[0] < 40 * 96_000 + 60e6
