"""Parts of a shard: where they are cut, what their files hold, and which of them are left as they are."""

import base64
import gzip
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from embedome.embedding import part_pipeline as embedome_work
from embedome.embedding import parts as embedome_parts
from embedome.embedding.cost import CostModel
from embedome.embedding.parts import cut_parts
from embedome.embedding.settings import EmbedSettings, PartLimits
from embedome.sequences.records import Record
from helpers import small_run as line
from helpers.embedded_shard import assert_same, parts, run, stamps
from helpers.small_run import HuggingFace, assert_within_one_ulp
from hypothesis import given, settings
from hypothesis import strategies as st

# Cutting a shard into parts


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 3000), max_size=60),
    sequences=st.integers(1, 12),
    milliseconds=st.integers(0, 40),
    per_residue=st.integers(0, 5),
    per_square=st.integers(0, 5),
    longest=st.one_of(st.none(), st.integers(1, 1000)),
    residues=st.integers(1, 20_000),
)
def test_parts_keep_order_and_limits(
    lengths: list[int],
    sequences: int,
    milliseconds: int,
    per_residue: int,
    per_square: int,
    longest: int | None,
    residues: int,
) -> None:
    records = [Record(f"{i:03d}", "", b"A" * length) for i, length in enumerate(lengths)]
    # Microseconds per residue, nanoseconds per residue squared: costs are whole nanoseconds.
    cost = CostModel(per_residue * 1e-6, per_square * 1e-9, longest)
    found = list(cut_parts(iter(records), PartLimits(sequences, milliseconds / 1000, cost), residues))

    def fits(rows: list[Record]) -> bool:
        used = [min(len(row.sequence), longest or 3000) for row in rows]
        nanoseconds = sum(1000 * per_residue * length + per_square * length**2 for length in used)
        return (
            len(rows) <= sequences
            # The limit is in floating point: a cost that equals it may fall on either side.
            and nanoseconds <= milliseconds * 1e6 + 1
            and sum(len(row.sequence) for row in rows) <= residues
        )

    assert [row for rows in found for row in rows] == records
    for i, rows in enumerate(found):
        assert rows
        assert len(rows) == 1 or fits(rows)
        # No smaller than need be.
        if i + 1 < len(found):
            after = [*rows, found[i + 1][0]]
            used = [min(len(row.sequence), longest or 3000) for row in after]
            nanoseconds = sum(1000 * per_residue * length + per_square * length**2 for length in used)
            assert not fits(after) or abs(nanoseconds - milliseconds * 1e6) <= 1


@pytest.mark.slow
def test_parts_are_cut_by_the_limits_alone(model: Path, shard: Path, tmp_path: Path) -> None:
    def ranges(name: str, **changes: object) -> list[tuple]:
        manifest = run(shard, changes.pop("model", model), tmp_path / name, **changes)
        return [(part["file"], part["sequences"]) for part in manifest["parts"]]

    by_number = ranges("a")
    assert [count for _, count in by_number] == [5] * 16
    other = line.rough_model(tmp_path / "model", seed=9)
    for name, changes in {"b": {"model": other}, "c": {"settings": EmbedSettings("bfloat16", "window", 7)}}.items():
        assert ranges(name, **changes) == by_number
    seconds = ranges("d", limits=line.limits(80, 1e-4))
    # 1e-4 s at 1e-6 s per residue and 1e-9 per residue squared: some 90 residues.
    lengths = [len(sequence) for sequence in line.read_fasta(shard).values()]
    expected, cost = [], 1.0
    for length in lengths:
        own = length * 1e-6 + length**2 * 1e-9
        if cost + own > 1e-4:
            expected.append(0)
            cost = 0.0
        expected[-1] += 1
        cost += own
    assert [count for _, count in seconds] == expected
    assert ranges("e", limits=line.limits(80, 1e-4), settings=EmbedSettings("float32", "skip")) == seconds


@pytest.mark.parametrize(("policy", "number"), [("truncate", 2), ("window", 4)])
def test_residues_bound_the_size_of_a_part(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str, number: int
) -> None:
    """They are half floats, and where windows are averaged floats."""
    shard = line.write_shard(tmp_path / "00000.fasta.gz", line.random_records(3, [40] * 10))
    monkeypatch.setattr(embedome_parts, "PART_RESIDUE_BYTES", number * 32 * 130)  # 130 residues of 32 dimensions
    settings = EmbedSettings(per_residue=True, long_sequences=policy)
    manifest = run(shard, model, tmp_path / "out", settings=settings, limits=line.limits(100))
    assert [part["sequences"] for part in manifest["parts"]] == [3, 3, 3, 1]
    assert len(run(shard, model, tmp_path / "plain", limits=line.limits(100))["parts"]) == 1


# What a part's file holds


def test_schema_of_a_part(undisturbed: Path) -> None:
    vector = pa.list_(pa.field("element", pa.float16(), nullable=False), 32)
    assert pq.read_schema(parts(undisturbed)[0]).remove_metadata() == pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("digest", pa.string(), nullable=False),
            pa.field("length", pa.int32(), nullable=False),
            pa.field("n_residues_used", pa.int32(), nullable=False),
            pa.field("state", pa.string(), nullable=False),
            pa.field("taxid", pa.int32()),
            pa.field("n_members", pa.int32()),
            pa.field("embedding", vector, nullable=False),
        ]
    )


def test_rows_as_duckdb_reads_them(undisturbed: Path, shard: Path, reference: HuggingFace) -> None:
    sequences = line.read_fasta(shard)
    found = line.rows(undisturbed / "*.parquet", "id, length, n_residues_used, state, taxid, n_members, embedding")
    assert [row[0] for row in found] == sorted(sequences)
    for name, length, used, state, taxid, n_members, vector in found:
        assert length == len(sequences[name])
        assert used == min(length, 62)
        assert state == ("truncated" if length > 62 else "embedded")
        assert (taxid, n_members) == (9606, 2)
        assert_within_one_ulp(np.array(vector, np.float16), reference.vector(sequences[name]))


def test_digests_are_refget(undisturbed: Path, shard: Path) -> None:
    sequences = line.read_fasta(shard)
    for name, digest in line.rows(undisturbed / "*.parquet", "id, digest"):
        sha = hashlib.sha512(sequences[name].encode()).digest()[:24]
        assert digest == "SQ." + base64.urlsafe_b64encode(sha).decode()


# Resuming


def test_a_second_run_recomputes_nothing(model: Path, shard: Path, undisturbed: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(undisturbed, tmp_path / "again")
    (folder / "00000.json").unlink()
    parts(folder)[3].unlink()
    before = stamps(folder)
    run(shard, model, folder)
    assert_same(folder, undisturbed)
    after = stamps(folder)
    assert len(after) == 16
    assert before.items() <= after.items()


def rewrite(change: Callable[[list[tuple[str, str]]], None]) -> Callable[[Path, Path, Path], tuple]:
    def make(shard: Path, model: Path, scratch: Path) -> tuple:
        records = [(head[1:], seq) for head, seq in headers(shard)]
        change(records)
        text = "".join(f">{head}\n{seq}\n" for head, seq in records)
        (scratch / "changed.fasta.gz").write_bytes(gzip.compress(text.encode()))
        return scratch / "changed.fasta.gz", model, {}

    return make


def headers(shard: Path) -> list[tuple[str, str]]:
    lines = gzip.decompress(shard.read_bytes()).decode().splitlines()
    return list(zip(lines[::2], lines[1::2], strict=True))


def other_description(records: list[tuple[str, str]]) -> None:
    head, sequence = records[7]
    records[7] = (head.replace("TaxID=9606", "TaxID=10090"), sequence)


def other_sequence(records: list[tuple[str, str]]) -> None:
    head, sequence = records[7]
    records[7] = (head, "W" + sequence[1:])


def new_weights(shard: Path, model: Path, scratch: Path) -> tuple:
    """The same directory, with other weights in it."""
    line.rough_model(scratch / "model", seed=77)
    return shard, scratch / "model", {}


def new_settings(**changes: object) -> Callable[[Path, Path, Path], tuple]:
    return lambda shard, model, _: (shard, model, changes)


@pytest.mark.parametrize(
    ("make", "n_changed"),
    [
        (rewrite(other_description), 1),
        (rewrite(other_sequence), 1),
        (new_weights, 16),
        (new_settings(settings=EmbedSettings("bfloat16")), 16),
        (new_settings(settings=EmbedSettings("float32", "window", 3)), 16),
        (new_settings(source={"release": "next"}), 16),
    ],
)
@pytest.mark.slow
def test_what_changes_the_numbers_recomputes(
    model: Path, shard: Path, tmp_path: Path, make: Callable[..., tuple], n_changed: int
) -> None:
    here = shutil.copytree(model, tmp_path / "model")
    run(shard, here, tmp_path / "out")
    before = stamps(tmp_path / "out")
    scratch = tmp_path
    new_shard, new_model, changes = make(shard, here, scratch)
    run(new_shard, new_model, tmp_path / "out", **changes)
    after = stamps(tmp_path / "out")
    assert sum(before[name] != after[name] for name in before) == n_changed
    run(new_shard, new_model, tmp_path / "fresh", **changes)
    assert_same(tmp_path / "out", tmp_path / "fresh")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_file(path: Path) -> None:
    pq.write_table(pa.table({"id": ["a"]}), path)


def flip(position: int) -> Callable[[Path], None]:
    return lambda path: line.flip(path, position)


def flip_in_page(column: int) -> Callable[[Path], None]:
    return lambda path: line.flip(path, line.page_byte(path, 0, column))


@pytest.mark.parametrize(
    "damage",
    [truncate, empty, other_file, flip(-1), flip(-6), *map(flip_in_page, (0, 1, 2, 3, 4, 7))],
)
def test_damaged_parts_are_recomputed(
    model: Path, shard: Path, undisturbed: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    folder = shutil.copytree(undisturbed, tmp_path / "damaged")
    victim = parts(folder)[4]
    damage(victim)
    before = stamps(folder)
    run(shard, model, folder)
    assert_same(folder, undisturbed)
    after = stamps(folder)
    assert [name for name in before if before[name] != after[name]] == [victim.name]


@pytest.mark.parametrize("damage", ["missing", "flipped", "other"])
def test_a_damaged_file_of_residues_is_made_again(model: Path, shard: Path, tmp_path: Path, damage: str) -> None:
    rich = {"settings": EmbedSettings(per_residue=True)}
    run(shard, model, tmp_path / "expected", **rich)
    shutil.copytree(tmp_path / "expected", tmp_path / "out")
    path = sorted((tmp_path / "out").glob("*.residues.parquet"))[2]
    before = stamps(tmp_path / "out")
    if damage == "missing":
        path.unlink()
    elif damage == "flipped":
        line.flip(path, path.stat().st_size // 2)
    else:
        shutil.copy(sorted(tmp_path.glob("out/*.residues.parquet"))[3], path)
    (tmp_path / "out" / "00000.json").unlink()
    run(shard, model, tmp_path / "out", **rich)
    assert_same(tmp_path / "out", tmp_path / "expected")
    after = stamps(tmp_path / "out")
    # The part beside it, which names its digest, is right again.
    assert {name for name in after if before[name] != after[name]} == {path.name}


def test_residues_no_longer_asked_for_are_removed(model: Path, shard: Path, undisturbed: Path, tmp_path: Path) -> None:
    run(shard, model, tmp_path / "out", settings=EmbedSettings(per_residue=True))
    run(shard, model, tmp_path / "out")
    assert_same(tmp_path / "out", undisturbed)


def test_parts_of_another_cut_are_removed(model: Path, shard: Path, undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    run(shard, model, folder, limits=line.limits(3))
    assert len(parts(folder)) == 27
    bystanders = [folder / name for name in ("00001-00000.parquet", "000000-00009.parquet", "00000.txt")]
    for path in bystanders:
        path.write_bytes(b"of another shard")
    run(shard, model, folder)
    for path in bystanders:
        path.unlink()
    assert_same(folder, undisturbed)


def test_what_killed_writers_left_is_swept_away(model: Path, shard: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Of parts that are not written again, too."""
    folder = shutil.copytree(undisturbed, tmp_path / "out")
    left = [".00000-00003.parquet.0123456789ab.tmp", ".00000-00004.residues.parquet.0123456789ab.tmp"]
    others = [folder / ".00001-00003.parquet.0123456789ab.tmp", folder / ".00000-00003.parquet.tmp"]
    for path in [*(folder / name for name in left), *others]:
        path.write_bytes(b"half of it")
    run(shard, model, folder)
    for path in others:
        path.unlink()
    assert_same(folder, undisturbed)


@pytest.mark.parametrize("per_residue", [False, True])
@pytest.mark.parametrize("moment", ["part_tables", "embedding_metadata"])
@pytest.mark.slow
def test_a_part_that_another_job_has_written_meanwhile_stays(
    model: Path, shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, per_residue: bool
) -> None:
    """A job that was taken for dead may have recorded its digests already."""
    rich = {"settings": EmbedSettings(per_residue=per_residue)}
    run(shard, model, tmp_path / "first", **rich)
    (tmp_path / "late").mkdir()
    write, step = embedome_work.write, getattr(embedome_parts, moment)

    def late(part: embedome_parts.Part, result: embedome_parts.EmbeddedPart) -> None:
        """Write other bytes, as other batches do."""
        result.embedded.vectors["mean"] += 1
        for states in result.embedded.residues or []:
            states += 1

        def meanwhile(*given: object) -> object:
            for path in (tmp_path / "first").glob(f"{part.path.stem}.*"):
                shutil.copy(path, tmp_path / "late")
            return step(*given)

        monkeypatch.setattr(embedome_parts, moment, meanwhile)
        write(part, result)

    monkeypatch.setattr(embedome_work, "write", late)
    run(shard, model, tmp_path / "late", **rich)
    assert_same(tmp_path / "late", tmp_path / "first")
