"""The command line, as a user types it."""

import csv
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from types import SimpleNamespace

import duckdb
import numpy as np
import pytest
import torch
from embedome.cli.main import main
from embedome.embedding.cost import CostModel
from embedome.embedding.parts import cut_parts
from embedome.embedding.settings import EmbedSettings, PartLimits
from embedome.embedding.single_file import bytes_needed, canonical_records, part_seconds
from embedome.engine.engine import Engine
from embedome.engine.windows import Sequences
from embedome.models.directory import load_model
from helpers.filtered import run_filter, write_fasta
from helpers.paths import SCRIPTS
from helpers.small_run import (
    MAX_RESIDUES,
    SIZE,
    HuggingFace,
    assert_within_one_ulp,
    fasta_text,
    random_records,
    rough_model,
)
from safetensors.torch import load_file


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "embedome", *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(SCRIPTS)}


def embedome(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), env=environment(), capture_output=True, text=True, timeout=300, check=False
    )


def run_main(arguments, said):
    """The command's main function in a process that has the imports done, standard error in a file."""
    with open(said, "wb") as stream:
        os.dup2(stream.fileno(), 2)
    main(arguments)


def embed_quickly(processes, folder, records, *options, run=run_main):
    """Exit code and standard error of `embedome embed` on records."""
    (folder / "in.fasta").write_text(fasta_text(records))
    arguments = ["embed", folder / "in.fasta", *options, "--workers", 1, "--device", "cpu"]
    process = processes.start(partial(run, [*map(str, arguments)], folder / "said"))
    process.join(120)
    return process.exitcode, (folder / "said").read_text()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return rough_model(tmp_path_factory.mktemp("model") / "rough")


@pytest.fixture(scope="module")
def records():
    """40 sequences, some longer than the model's positions, three of them duplicates."""
    found = random_records(2, [*range(20, 55), *range(60, 65)])
    return [*found, *((f"copy{i}", found[i][1]) for i in (1, 5, 39))]


@pytest.fixture(scope="module")
def made(tmp_path_factory, model, records):
    """The file that `embedome embed` makes of the records."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "in.fasta").write_text(fasta_text(records))
    result = embedome("embed", folder / "in.fasta", "-m", model, "-o", folder / "out.parquet", "--workers", 1, "--json")
    assert result.returncode == 0, result.stderr
    return folder / "out.parquet", result


def test_embed_writes_every_id_once_in_order_with_the_reference_vector(made, model, records):
    path, _ = made
    rows = duckdb.sql(f"select id, embedding, state, n_residues_used from '{path}'").fetchall()
    assert [name for name, *_ in rows] == sorted(name for name, _ in records)
    reference, sequences = HuggingFace(model), dict(records)
    for name, vector, state, used in rows:
        sequence = sequences[name]
        assert_within_one_ulp(np.array(vector, np.float16)[None], reference.vector(sequence)[None])
        assert used == min(len(sequence), MAX_RESIDUES)
        copied = name != min(other for other, same in records if same == sequence)
        assert state == ("duplicate" if copied else "truncated" if len(sequence) > MAX_RESIDUES else "embedded")


def test_embed_prints_an_account_that_adds_up_and_leaves_only_the_file(made, records):
    path, result = made
    account = json.loads(result.stdout)
    assert account["file"] == str(path)
    assert account["read"] == len(records)
    assert account["embedded"] + account["truncated"] + account["duplicate"] == len(records)
    assert sorted(each.name for each in path.parent.iterdir()) == ["in.fasta", "out.parquet"]


RELATIVE = {name: number for name, number in SIZE.items() if name != "positions"}
# A model of each architecture, and the residues of the longest sequence that its positions hold.
FAMILIES = {
    "esm1nv": (SIZE, MAX_RESIDUES),
    "esm2-8m": (RELATIVE, 1022),
    "ankh-base": (RELATIVE, None),
    "prott5nv": (SIZE, SIZE["positions"]),
}


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    folder = tmp_path_factory.mktemp("families")
    return {name: rough_model(folder / name, 3, name, sizes) for name, (sizes, _) in FAMILIES.items()}


@pytest.mark.parametrize("long", ["truncate", "skip"])
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.slow
def test_each_architecture_embeds_every_sequence_that_it_takes(families, tmp_path, processes, name, long):
    longest = FAMILIES[name][1]
    records = random_records(4, [1, 20, 33, 62, 1100])
    out = tmp_path / "out.parquet"
    code, said = embed_quickly(processes, tmp_path, records, "-m", families[name], "-o", out, "--long", long)
    assert code == 0, said
    rows = duckdb.sql(f"select id, embedding, n_residues_used from '{out}'").fetchall()
    kept = {each: text for each, text in records if long == "truncate" or longest is None or len(text) <= longest}
    assert [row[0] for row in rows] == sorted(kept)
    reference = Engine(load_model(families[name]))
    for each, vector, used in rows:
        assert used == min(len(kept[each]), longest or 1100)
        expected = reference.embed(Sequences.join([kept[each].encode()])).vectors["mean"]
        assert_within_one_ulp(np.array(vector, np.float16)[None], expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--pooling", "first"), "embed.pooling is 'first', but the model has no token before the residues"),
        (("--dtype", "float16"), "embed.dtype is float16, which T5 models overflow; use bfloat16 or float32"),
    ],
)
@pytest.mark.slow
def test_what_a_t5_has_not_is_said_in_one_line(families, tmp_path, processes, options, message):
    model, records = families["ankh-base"], random_records(4, [20, 200])
    code, said = embed_quickly(processes, tmp_path, records, "-m", model, "-o", tmp_path / "out.parquet", *options)
    assert code == 2
    errors = [line for line in said.splitlines() if " INFO " not in line and " WARNING " not in line]
    assert len(errors) == 1
    assert message in errors[0]


@pytest.mark.slow
def test_residues_a_layer_and_two_poolings(model, records, tmp_path):
    (tmp_path / "in.fasta").write_text(fasta_text(records))
    options = ["--layer", 1, "--pooling", "max", "mean", "--per-residue", "--workers", 2]
    result = embedome("embed", tmp_path / "in.fasta", "-m", model, "-o", tmp_path / "out.parquet", *options)
    assert result.returncode == 0, result.stderr
    total = sum(len(sequence) for _, sequence in records)
    assert f"vectors of {total:,} residues will take up to 0.0 GB" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.fasta", "out.parquet", "out.residues.parquet"]
    rows = duckdb.sql(f"select id, embedding, embedding_mean, state from '{tmp_path}/out.parquet'").fetchall()
    residues = dict(duckdb.sql(f"select id, residue_embeddings from '{tmp_path}/out.residues.parquet'").fetchall())
    assert sorted(residues) == sorted(name for name, *_, state in rows if state != "duplicate")
    reference, sequences = HuggingFace(model), dict(records)
    for name, maximum, mean, state in rows:
        inputs = reference.tokenizer(sequences[name][:MAX_RESIDUES], return_tensors="pt")
        with torch.inference_mode():
            states = reference.model(**inputs, output_hidden_states=True).hidden_states[1][0, 1:-1].numpy()
        assert_within_one_ulp(np.array(maximum, np.float16), states.max(0))
        assert_within_one_ulp(np.array(mean, np.float16), states.astype(np.float64).mean(0))
        if state != "duplicate":
            assert_within_one_ulp(np.array(residues[name], np.float16), states)


@pytest.mark.slow
def test_several_layers_by_one_pass(made, model, tmp_path):
    path, _ = made
    fasta, out = path.parent / "in.fasta", tmp_path / "out.parquet"
    result = embedome("embed", fasta, "-m", model, "-o", out, "--layer", -1, 0, "--workers", 2)
    assert result.returncode == 0, result.stderr
    assert (
        duckdb.sql(f"select id, embedding from '{out}'").fetchall()
        == duckdb.sql(f"select id, embedding from '{path}'").fetchall()
    )
    assert embedome("embed", fasta, "-m", model, "-o", tmp_path / "0.parquet", "--layer", 0).returncode == 0
    assert (
        duckdb.sql(f"select embedding_layer_0_mean from '{out}'").fetchall()
        == duckdb.sql(f"select embedding from '{tmp_path}/0.parquet'").fetchall()
    )
    result = embedome("export", out, tmp_path / "0.npy", "--format", "npy", "--pooling", "layer_0_mean")
    assert result.returncode == 0, result.stderr
    assert np.load(tmp_path / "0.npy").shape == (43, 32)
    for layers, message in (((2, -1), "expected each layer once: 2 is there twice"), ((1, 7), "embed.layer is 7; ")):
        result = embedome("embed", fasta, "-m", model, "-o", tmp_path / "no.parquet", "--layer", *layers)
        assert result.returncode == 2
        assert message in result.stderr.splitlines()[-1]
        assert not (tmp_path / "no.parquet").exists()


@pytest.mark.slow
def test_two_workers_give_the_same_bytes(made, model, tmp_path):
    path, _ = made
    out = tmp_path / "two.parquet"
    result = embedome("embed", path.parent / "in.fasta", "-m", model, "-o", out, "--workers", 2)
    assert result.returncode == 0, result.stderr
    assert out.read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_dropped_records_are_listed_with_their_reasons(model, tmp_path):
    (tmp_path / "in.fasta").write_text(
        ">good\nMKTAYIAK\n>gap\nMK-TA\n>empty\n>long\n" + "MKTAYIAK" * 10 + "\n>long2\n" + "MKTAYIAK" * 10
    )
    out = tmp_path / "out.parquet"
    result = embedome("embed", tmp_path / "in.fasta", "-m", model, "-o", out, "--long", "skip", "--json")
    assert result.returncode == 0, result.stderr
    account = json.loads(result.stdout)
    assert account == {
        "file": str(out), "export": None,
        "read": 5, "embedded": 1, "skipped": 2, "rejected": {"empty-sequence": 1, "invalid-residue": 1}
    }  # fmt: skip
    with open(f"{out}.dropped.tsv", newline="") as handle:
        rows = {row["id"]: (row["state"], row["reason"]) for row in csv.DictReader(handle, delimiter="\t")}
    assert rows == {
        "gap": ("rejected", "invalid-residue"),
        "empty": ("rejected", "empty-sequence"),
        "long": ("skipped", "too-long"),
        "long2": ("skipped", "too-long"),
    }


@pytest.mark.parametrize(
    ("device", "linear", "expected"),
    [("cpu", 0.1, 6.0), ("cpu", 3.2, 10.0), ("cpu", 6.4, 20.0), ("cpu", 100.0, 60.0), ("cuda", 0.1, 60.0)],
)
def test_parts_are_many_enough_for_all_cores(tmp_path, device, linear, expected):
    fasta = write_fasta(tmp_path / "in.fasta", [("a", 40 * "M"), ("b", 60 * "K")])
    run = run_filter(tmp_path / "out", fasta, min_length=1)
    # 100 residues in 32 parts
    assert part_seconds(run.catalog, CostModel(linear, 0.0), device) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("scale", "expected"), [(1.0, 32), (0.1, 6)])
def test_parts_are_of_nearly_one_cost(tmp_path, scale, expected):
    """Of 310 predicted seconds, and of 31: what is left over is one more."""
    chance = np.random.default_rng(0)
    records = [(f"{n:04}", "".join(chance.choice(list("ACDEF"), 30 + n % 90))) for n in range(400)]
    run = run_filter(tmp_path / "out", write_fasta(tmp_path / "in.fasta", records), min_length=1)
    cost = CostModel(0.0096 * scale, 1e-5 * scale)
    limits = PartLimits(100_000, part_seconds(run.catalog, cost, "cpu"), cost)
    costs = [
        int(cost.picoseconds(np.array([len(record.sequence) for record in part])).sum())
        for part in cut_parts(canonical_records(run.catalog), limits, 1 << 30)
    ]
    assert expected - 1 <= len(costs) <= expected + 2
    assert min(costs[:-1]) > 0.7 * max(costs)


def test_the_room_that_a_run_needs(tmp_path):
    """Parts and the file joined from them, of 60 bytes a row and nine tenths of the vectors' bytes."""
    sequences = [40 * "M", 100 * "K", 100 * "K"]
    fasta = write_fasta(tmp_path / "in.fasta", [(f"p{number}", text) for number, text in enumerate(sequences)])
    catalog = run_filter(tmp_path / "out", fasta, min_length=1).catalog
    # Two distinct sequences in parts, three rows in the file.
    assert bytes_needed(catalog, EmbedSettings(), 62, 50) == 5 * (60 + 90)
    assert bytes_needed(catalog, EmbedSettings(pooling=("mean", "max")), None, 50) == 5 * (60 + 180)
    assert bytes_needed(catalog, EmbedSettings(long_sequences="skip"), 62, 50) == 2 * (60 + 90)
    residues = EmbedSettings(per_residue=True)
    assert bytes_needed(catalog, residues, 62, 50) == 5 * (60 + 90) + 2 * 90 * (40 + 62)
    assert bytes_needed(catalog, residues, None, 50) == 5 * (60 + 90) + 2 * 90 * (40 + 100)


def run_with_room(free, arguments, said):
    shutil.disk_usage = lambda _: SimpleNamespace(free=free)
    run_main(arguments, said)


@pytest.mark.slow
def test_a_run_without_room_is_refused_before_it_begins(model, records, tmp_path, processes):
    out = tmp_path / "out.parquet"
    options = ["-m", model, "-o", out]
    little = partial(run_with_room, 25_000)  # with 20 kB of headers it takes 29 kB
    code, said = embed_quickly(processes, tmp_path, records, *options, run=little)
    assert code == 2
    assert f"{out}: needs 0.0 MB, but 0.0 MB are free there" in said.splitlines()[-1]
    work = tmp_path / "out.parquet.work"
    assert not work.exists()
    # What an earlier run has left of it need not be written again.
    work.mkdir()
    (work / "lock").write_bytes(b"embedome: work under way\n")
    (work / "all-00000.parquet").write_bytes(bytes(5000))
    code, said = embed_quickly(processes, tmp_path, records, *options, run=little)
    assert code == 0, said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.fasta", "out.parquet", "said"]


def run_with_small_files(arguments, said):
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
    run_main(arguments, said)


@pytest.mark.slow
def test_a_disk_that_fills_meanwhile_is_named(model, records, tmp_path, processes):
    """A limit to the size of files strikes as a full disk does, at Arrow's writes and at others."""
    out = tmp_path / "out.parquet"
    code, said = embed_quickly(processes, tmp_path, records, "-m", model, "-o", out, run=run_with_small_files)
    assert code == 2
    assert f"{out}.work/catalog: File too large; free some space and run again" in said.splitlines()[-1]


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(made, model, tmp_path):
    path, _ = made
    out = tmp_path / "killed.parquet"
    arguments = ("embed", path.parent / "in.fasta", "-m", model, "-o", out, "--workers", 1)
    for delay in (0.5, 1.5, 2.5):
        process = subprocess.Popen(command(*arguments), env=environment(), stderr=subprocess.DEVNULL)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert embedome(*arguments).returncode == 0
    assert out.read_bytes() == path.read_bytes()
    assert [each.name for each in tmp_path.iterdir()] == ["killed.parquet"]


@pytest.mark.slow
def test_a_file_is_written_by_one_process_at_a_time(model, tmp_path, processes):
    """The other says so and touches nothing; once the first is killed, nothing is in the way of a third."""
    records = random_records(5, range(20, 60))
    (tmp_path / "in.fasta").write_text(fasta_text(records))
    out, work = tmp_path / "out.parquet", tmp_path / "out.parquet.work"
    arguments = ["embed", tmp_path / "in.fasta", "-m", model, "-o", out, "--workers", 1, "--device", "cpu"]
    first = processes.start(partial(run_main, [*map(str, arguments)], tmp_path / "first"))
    deadline = time.monotonic() + 120
    # The lock's file exists a moment before it is held; what else is in the folder comes after that.
    while not work.exists() or os.listdir(work) in ([], ["lock"]):
        assert time.monotonic() < deadline
        time.sleep(0.0005)
    os.kill(first.pid, signal.SIGSTOP)
    try:
        before = sorted(work.iterdir())
        code, said = embed_quickly(processes, tmp_path, records, "-m", model, "-o", out)
        assert code == 2
        assert len(said.splitlines()) == 1
        assert f"{out}: another process is writing it; wait for it, then run again" in said
        assert sorted(work.iterdir()) == before
    finally:
        first.kill()
    first.join(60)
    code, said = embed_quickly(processes, tmp_path, records, "-m", model, "-o", out)
    assert code == 0, said
    assert len(duckdb.sql(f"select id from '{out}'").fetchall()) == len(records)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "in.fasta", "out.parquet", "said"]


@pytest.mark.slow
def test_a_run_without_any_work_leaves_no_folder_for_it(model, tmp_path, processes):
    twice = [("a", "MKT"), ("a", "MKTA")]
    code, said = embed_quickly(processes, tmp_path, twice, "-m", model, "-o", tmp_path / "out.parquet")
    assert code == 2
    assert "two records have the id 'a'" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.fasta", "out.parquet.same_ids.tsv", "said"]
    code, said = embed_quickly(processes, tmp_path, [("a", "M-K")], "-m", model, "-o", tmp_path / "out.parquet")
    assert code == 2
    assert "record 1 of in.fasta, 'a': invalid-residue, '-' at 2; all are listed in " in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.fasta", "out.parquet.dropped.tsv", "said"]


@pytest.mark.slow
def test_vectors_of_residues_of_an_earlier_run_do_not_stay_beside_other_rows(model, tmp_path, processes):
    out, residues = tmp_path / "out.parquet", tmp_path / "out.residues.parquet"
    two, three = (random_records(number, [30] * number) for number in (2, 3))
    for records, options, there in (
        (two, ["-o", out, "--per-residue"], True),
        (three, ["-o", out], False),
        # What somebody else has given that name stays.
        (two, ["-o", residues], True),
        (three, ["-o", out], True),
    ):
        code, said = embed_quickly(processes, tmp_path, records, "-m", model, *options)
        assert code == 0, said
        assert residues.exists() == there
    assert len(duckdb.sql(f"select id, embedding from '{residues}'").fetchall()) == 2


def test_describe_prints_counts_schema_and_provenance(made, records):
    path, _ = made
    about = json.loads(embedome("describe", path, "--json").stdout)
    assert about["rows"] == len(records)
    assert about["bytes"] == path.stat().st_size
    assert about["schema"]["embedding"].startswith("fixed_size_list")
    assert about["provenance"]["model"]["name"] == "rough"


def test_get_prints_a_line_per_id_in_the_order_given(made):
    path, _ = made
    result = embedome("get", path, "copy5", "copy1")
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert [line[0] for line in lines] == ["copy5", "copy1"]
    for name, *numbers in lines:
        (expected,) = duckdb.sql(f"select embedding from '{path}' where id = '{name}'").fetchall()[0]
        assert [float(number) for number in numbers] == list(expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("embed", "{tmp}/none.fasta", "-m", "{model}", "-o", "{tmp}/o"), "none.fasta: no such file"),
        (("embed", "{fasta}", "-m", "{tmp}/none", "-o", "{tmp}/o"), "none: no such model directory"),
        (("embed", "{fasta}", "-m", "{model}", "-o", "{tmp}/o", "--overlap", "3"), "--overlap is 3; expected"),
        (("embed", "{fasta}", "-m", "{model}", "-o", "{tmp}/o", "--workers", "0"), "--workers is 0; expected 1"),
        (("embed", "{fasta}", "-m", "{model}", "-o", "{tmp}"), "is a folder; expected the name of a file"),
        (("describe", "{fasta}"), "in.fasta: not a readable Parquet file"),
        (("describe", "{tmp}"), "no data set there"),
        (("get", "{made}", "nobody"), "no row has the id 'nobody'"),
        (("translate", "{fasta}", "-m", "{model}", "-o", "{tmp}/o"), "megatron-bert has no decoder"),
        (("translate", "{fasta}", "-m", "{model}", "-o", "{tmp}/o", "--beams", "0"), "--beams is 0; expected 1"),
        (
            ("translate", "{fasta}", "-m", "{model}", "-o", "{tmp}/o", "--target", "{fasta}", "--beams", "2"),
            "with --target nothing is generated",
        ),
        (("models", "fill", "MKT", "-m", "{model}"), "nothing to fill in 'MKT'"),
        (("models", "fill", "M<mask>", "-m", "{model}", "--top", "0"), "--top is 0; expected 1 or more"),
        (("models", "init", "esm9", "{tmp}/o"), "no model is called 'esm9'; expected one of esm1nv"),
        (("models", "init", "esm1nv", "{model}"), "is there already; name a folder that is not there"),
        (("models", "import", "x.nemo", "{model}"), "is there already; name a folder that is not there"),
        (("embed", "{fasta}", "-m", "{model}", "-o", "{fasta}"), "in.fasta: is a file that is to be read"),
        (("translate", "{fasta}", "-m", "{model}", "-o", "{fasta}"), "in.fasta: is a file that is to be read"),
        (("models", "score", "{fasta}", "-m", "{model}", "-o", "{fasta}"), "in.fasta: is a file that is to be read"),
        (("plan", "-m", "esm1nv", "--minutes", "0"), "--minutes is 0.0; expected more than 0"),
    ],
)
def test_a_users_error_is_one_line_and_exit_code_2(made, model, tmp_path, processes, arguments, message):
    path, _ = made
    names = {"tmp": tmp_path, "model": model, "fasta": path.parent / "in.fasta", "made": path}
    process = processes.start(
        partial(run_main, [argument.format(**names) for argument in arguments], tmp_path / "said")
    )
    process.join(120)
    said = (tmp_path / "said").read_text()
    assert process.exitcode == 2
    assert message in said
    assert len(said.splitlines()) == 1


def test_a_users_error_is_told_by_the_program_itself(tmp_path):
    result = embedome("describe", tmp_path)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "no data set there" in result.stderr


@pytest.mark.slow
def test_models_are_made_exported_and_imported_again(tmp_path):
    size = ("--layers", 1, "--hidden", 16, "--heads", 2, "--feed-forward", 32)
    for arguments in (
        ("init", "esm1nv", tmp_path / "a", *size),
        ("export", tmp_path / "a", tmp_path / "a.nemo"),
        ("import", tmp_path / "a.nemo", tmp_path / "b"),
    ):
        result = embedome("models", *arguments)
        assert result.returncode == 0, result.stderr
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("a", "b")]
    assert weights[0]["bert.embeddings.position_embeddings.weight"].shape == (512, 16)
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    about = [json.loads((tmp_path / name / "config.json").read_text())["embedome"] for name in ("a", "b")]
    assert [(each["name"], each["trained"]) for each in about] == [("esm1nv", False)] * 2


def test_models_are_listed_with_sizes_and_licences():
    lines = embedome("models").stdout.splitlines()
    assert lines[0].split()[:3] == ["NAME", "ARCHITECTURE", "LAYERS"]
    rows = {line.split()[0]: line for line in lines[1:]}
    assert "1,878,705,152" in rows["ankh2-ext2"]
    assert "non-commercial" in rows["ankh2-ext2"]
    assert {"esm1nv", "esm1nv-1024", "prott5nv", "esm2-650m", "prott5-xl", "prostt5", "ankh3-large"} <= set(rows)
    assert lines == embedome("models", "list").stdout.splitlines()
    (entry,) = (row for row in json.loads(embedome("models", "list", "--json").stdout) if row["name"] == "prott5nv")
    assert (entry["parameters"], entry["sizes"]["decoder_layers"], entry["residues"]) == (198_970_496, 12, 512)


@pytest.mark.slow
def test_sequences_are_scored_filled_and_translated(model, records, tmp_path):
    (tmp_path / "in.fasta").write_text(fasta_text(records[:4]))
    result = embedome("models", "score", tmp_path / "in.fasta", "-m", model, "-o", tmp_path / "scores.tsv")
    assert result.stdout == f"{tmp_path}/scores.tsv: 4 read, 4 scored\n"
    with open(tmp_path / "scores.tsv") as handle:
        assert [row["id"] for row in csv.DictReader(handle, delimiter="\t")] == [name for name, _ in records[:4]]
    result = embedome("models", "fill", "MK<mask>A<mask>", "-m", model, "--top", 2)
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == ["3", "3", "5", "5"]
    t5 = rough_model(tmp_path / "t5", 1, "ankh-base", {"layers": 1, "hidden": 16, "heads": 2, "feed_forward": 32})
    fasta = tmp_path / "in.fasta"
    options = ("--beams", 2, "--max-length", 4, "--json")
    result = embedome("translate", fasta, "-m", t5, "-o", tmp_path / "out.fasta", *options)
    assert json.loads(result.stdout)["read"] == 4
    result = embedome("translate", fasta, "-m", t5, "-o", tmp_path / "t.tsv", "--target", fasta)
    assert result.stdout == f"{tmp_path}/t.tsv: 4 read, 4 scored\n"


def test_help_names_every_command():
    commands = ("embed", "describe", "get", "verify", "export", "translate", "annotate", "models", "bench", "plan")
    result = embedome("--help")
    assert result.returncode == 0
    assert all(re.search(rf"^\s+{name}\s", result.stdout, re.MULTILINE) for name in commands)
    result = embedome("models", "--help")
    actions = ("list", "init", "import", "export", "score", "fill")
    assert all(re.search(rf"^\s+{name}\s", result.stdout, re.MULTILINE) for name in actions)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--neighbours", 0], "--neighbours is 0; expected 1 or more"),
        (["--max-identity", 30], "--max-identity is 30; expected 0 to 1"),
        (["--max-identity", 0.3], "a largest identity needs the sequences; name the catalog"),
        (["--hold-out", "val"], "no split 'val'; there are all"),
        (["--label-column", "GO"], "labels.tsv: no column 'GO'; there are id, label"),
    ],
)
@pytest.mark.slow
def test_annotate_says_which_option_is_wrong(made, tmp_path, options, message):
    (tmp_path / "labels.tsv").write_text("id\tlabel\nP0001\tx\n")
    result = embedome("annotate", made[0], "-l", tmp_path / "labels.tsv", "-o", tmp_path / "out", *options)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["labels.tsv"]
