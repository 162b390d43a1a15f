"""Length distributions, cost models, `embedome bench` and `embedome plan`, against sums by hand."""

import json
import math
import re
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from embedome.cli.main import main
from embedome.cli.plan import load_planned_encoder
from embedome.embedding.benchmark import bench, fit_cost, gemm_peak
from embedome.embedding.cost import CostModel, estimate_cost, longest_costed
from embedome.embedding.forecast import Job, make_plan
from embedome.embedding.length_histogram import Lengths, catalog_lengths, fasta_lengths, uniref50_lengths
from embedome.embedding.roofline import DEVICES, LAUNCHES, predict
from embedome.engine.engine import Engine
from embedome.engine.windows import NO_LIMIT, LongPolicy, Sequences
from embedome.models.create import make_config
from embedome.models.directory import empty_model, load_model, model_identity
from embedome.models.encoders.flops import operations
from embedome.models.encoders.t5_decoder import T5Decoder
from helpers.paths import ROOT
from helpers.small_run import MAX_RESIDUES, fasta_text, prepare, random_records, rough_model
from hypothesis import given
from hypothesis import strategies as st

# Lengths


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60))
def test_a_tally_counts_every_length(lengths: list[int]) -> None:
    found = Lengths.tally(lengths)
    assert found.sequences == len(lengths)
    assert found.residues == sum(lengths)
    assert dict(zip(found.length.tolist(), found.count.tolist(), strict=True)) == {
        length: lengths.count(length) for length in set(lengths)
    }
    assert found.length.tolist() == sorted(set(lengths))


def test_uniref50_is_as_described() -> None:
    """60.3 M clusters, a mean of 286 residues, 88.5 % of at most 512."""
    found = uniref50_lengths()
    assert found.sequences == 60_315_044
    assert found.residues / found.sequences == pytest.approx(286, rel=0.02)
    assert found.count[found.length <= 512].sum() / found.sequences == pytest.approx(0.885, abs=0.005)
    assert uniref50_lengths(1000).sequences == 1000


def test_lengths_of_files_and_of_a_catalogs_distinct_sequences(tmp_path: Path) -> None:
    records = random_records(1, [20, 30, 30, 45])
    twice = [*records, ("copy", records[0][1])]
    line = prepare(tmp_path / "line", twice)
    found = fasta_lengths([line.folder / "in.fasta"])
    assert (found.length.tolist(), found.count.sum()) == ([20, 30, 45], 5)
    assert catalog_lengths(line.folder / "catalog").sequences == 4
    sample = found.sample(np.random.default_rng(0), 1000)
    assert set(sample.tolist()) == {20, 30, 45}


# Cost


@given(st.floats(1e-8, 1e-3), st.floats(0, 1e-5))
def test_a_fit_finds_the_cost_that_made_the_times(linear: float, quadratic: float) -> None:
    times = {length: linear * length + quadratic * length**2 for length in (32, 64, 128, 256, 510)}
    found = fit_cost(times)
    for length, seconds in times.items():
        assert found.linear * length + found.quadratic * length**2 == pytest.approx(seconds, rel=1e-3)


@given(st.lists(st.floats(1e-6, 1.0), min_size=3, max_size=3))
def test_a_fit_to_noise_is_never_negative(times: list[float]) -> None:
    found = fit_cost(dict(zip((32, 128, 510), times, strict=True)))
    assert found.linear >= 0
    assert found.quadratic >= 0
    assert found.linear + found.quadratic > 0


def test_operations_are_those_of_the_papers() -> None:
    """PERF figures: 2 P + 4 L width layers; ESM-1nv has 42.5 M weights in its matrices, Ankh2's encoder 1,151 M."""
    with torch.device("meta"):
        esm = operations(empty_model_of("esm1nv"))
        ankh = operations(empty_model_of("ankh2-ext2"))
        decoder = operations(T5Decoder(make_config("ankh2-ext2", {}, {}).to_dict()))
    assert esm == (2 * 6 * 12 * 768**2, 4 * 768 * 6)
    assert ankh == (2 * 48 * (4 * 1536 * 1024 + 3 * 1536 * 3840), 4 * 1024 * 48)
    # Its decoder looks at the encoder too.
    assert decoder[0] - ankh[0] == 2 * 24 * (8 * 1536 * 1024 + 3 * 1536 * 3840)
    assert decoder[1] - ankh[1] == 4 * 1024 * 24 * 2


def empty_model_of(name: str) -> torch.nn.Module:
    from embedome.models.architectures import ARCHITECTURES

    config = make_config(name, {}, {}).to_dict()
    return ARCHITECTURES[config["model_type"]].encoder()(config)


def test_operations_of_a_run_are_counted_piece_by_piece(tmp_path: Path) -> None:
    folder = rough_model(tmp_path / "model")
    found = Engine(load_model(folder)).embed(Sequences.join([b"A" * 10, b"A" * 500]))
    linear, quadratic = operations(load_model(folder).encoder)
    tokens = [12, MAX_RESIDUES + 2]
    assert found.operations == sum(linear * n + quadratic * n * n for n in tokens)
    cost = estimate_cost(empty_model(folder).encoder, MAX_RESIDUES, 1e9)
    assert cost == CostModel(linear / 1e9, quadratic / 1e9, MAX_RESIDUES)


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.uint32, np.int64, np.uint64])
def test_costs_are_of_lengths_of_any_integer_type(kind: type) -> None:
    lengths = np.array([10, 500], kind)
    for longest, used in ((None, 500), (62, 62), (40_000, 500), (NO_LIMIT, 500)):
        found = CostModel(1e-3, 1e-6, longest).picoseconds(lengths)
        assert found.dtype == np.int64
        assert found.tolist() == [round((1e-3 * n + 1e-6 * n * n) * 1e12) for n in (10, used)]


def test_only_a_length_that_is_cut_to_bounds_the_cost() -> None:
    assert longest_costed(LongPolicy(), 510) == longest_costed(LongPolicy("skip"), 510) == 510
    assert longest_costed(LongPolicy(max_residues=100), None) == 100
    assert longest_costed(LongPolicy(), None) is longest_costed(LongPolicy("skip"), None) is None
    assert longest_costed(LongPolicy("window", 3), 510) is None


def test_operations_in_integers_are_counted_as_in_floating_point(tmp_path: Path) -> None:
    folder = rough_model(tmp_path / "model")
    sequences = Sequences.join([b"A" * 10, b"A" * 500])
    found = {dtype: Engine(load_model(folder), dtype=dtype).embed(sequences) for dtype in ("float32", "int8")}
    assert found["int8"].operations == found["float32"].operations > 0


# Bench


def test_a_bench_measures_the_peak_the_lengths_and_the_distribution(tmp_path: Path) -> None:
    engine = Engine(load_model(rough_model(tmp_path / "model")))
    found = bench(engine, uniref50_lengths(10_000), 1.0)
    assert found["gemm_peak_flop_per_second"] > 1e8
    assert set(found["by_length"]) == {32}  # 62 residues fit the model
    for row in (*found["by_length"].values(), found["distribution"]):
        assert row["residues_per_second"] > 0
        assert 0 < row["fraction_of_gemm_peak"] < 1
        assert row["flop_per_second"] / found["gemm_peak_flop_per_second"] == pytest.approx(
            row["fraction_of_gemm_peak"]
        )
    assert found["cost"]["linear"] + found["cost"]["quadratic"] > 0
    assert found["cost"]["longest"] == MAX_RESIDUES


def test_the_distribution_is_of_all_the_lengths(tmp_path: Path) -> None:
    engine = Engine(load_model(rough_model(tmp_path / "model")))
    found = bench(engine, Lengths(np.array([10, 60]), np.array([500, 500])), 1.0)["distribution"]
    assert 25 < found["seconds_per_sequence"] * found["residues_per_second"] < 45  # residues of a sequence


def test_the_peak_is_that_of_the_fastest_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of 4, 1 and 2 seconds, by a clock that is looked at before and after each."""
    times = iter([0, 0, 0, 4, 4, 4, 5, 5, 5, 7, 7])
    monkeypatch.setattr("embedome.embedding.benchmark.time", SimpleNamespace(perf_counter=lambda: next(times)))
    assert gemm_peak(torch.device("cpu"), torch.float32, 6.0) == 2 * 1024**3


def test_the_peak_is_no_less_than_a_product_made_by_hand() -> None:
    import time

    left, right = torch.randn(1024, 1024), torch.randn(1024, 1024)
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - begin)
    assert gemm_peak(torch.device("cpu"), torch.float32) > 2 * 1024**3 / sorted(seconds)[-1] / 4


# Plan


def test_a_plan_adds_up() -> None:
    lengths = Lengths(np.array([100, 300, 1000]), np.array([4000, 2000, 1000]))
    plan = make_plan(Job(lengths, CostModel(1e-3, 1e-6, 500), 64, poolings=2, devices=3, minutes=5))
    seconds = 4000 * (0.1 + 0.01) + 2000 * (0.3 + 0.09) + 1000 * (0.5 + 0.25)
    assert plan["device_hours"] == pytest.approx(seconds / 3600)
    assert plan["residues"] == 4000 * 100 + 2000 * 300 + 1000 * 1000
    assert plan["residues_used"] == 4000 * 100 + 2000 * 300 + 1000 * 500
    assert plan["shards"] == math.ceil(seconds / 300) == 7
    assert plan["minutes_per_shard"] == pytest.approx(seconds / 60 / 7)
    assert plan["wall_clock_hours"] == pytest.approx(3 * seconds / 7 / 3600)  # seven jobs on three devices
    assert plan["bytes_per_residue"] == 2 * 64 * plan["residues_used"]
    assert plan["bytes_per_protein"] == 7000 * (60 + 2 * 2 * 64)


def planned(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    main(["plan", "--json", *map(str, arguments)])
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_plans_by_name_by_directory_and_by_measurement_agree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = rough_model(tmp_path / "model")
    (tmp_path / "in.fasta").write_text(fasta_text(random_records(1, [20, 30, 500])))
    found = planned(capsys, "-m", folder, "--fasta", tmp_path / "in.fasta", "--gpu", "a100")
    encoder = empty_model(folder).encoder
    assert found["cost"] == asdict(predict(encoder, DEVICES["A100"], MAX_RESIDUES, 183).cost)
    seconds = sum(found["cost"]["linear"] * n + found["cost"]["quadratic"] * n * n for n in (20, 30, MAX_RESIDUES))
    assert found["device_hours"] == pytest.approx(seconds / 3600, rel=1e-3)
    assert found["residues_used"] == 50 + MAX_RESIDUES
    assert found["bound"] == LAUNCHES  # of a model this small
    measured = {"linear": 2e-3, "quadratic": 0.0, "longest": None}
    about = {"model": model_identity(folder), "device": "x", "dtype": "float32"}
    (tmp_path / "bench.json").write_text(json.dumps({"cost": measured, **about}))
    found = planned(capsys, "-m", folder, "--fasta", tmp_path / "in.fasta", "--bench", tmp_path / "bench.json")
    assert found["device_hours"] == pytest.approx(2e-3 * (50 + MAX_RESIDUES) / 3600, rel=1e-4)
    assert found["basis"] == f"measured with {model_identity(folder)['name']} on x, float32"
    found = planned(capsys, "-m", "ankh2-ext2", "--max-residues", 4096)
    assert found["sequences"] == 60_315_044
    # 17.3e9 residues of 2.36 GFLOP, with 284 residues to look at, are 14 hours at 790 TFLOP/s, of which half is lost.
    assert 16 < found["device_hours"] < 28
    assert planned(capsys, "-m", "ankh2-ext2", "--uniref50", 1000)["sequences"] == 1000


@pytest.mark.slow
def test_the_document_on_choosing_has_the_hours_that_a_plan_predicts(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "choosing-a-model.md").read_text()
    rows = re.findall(r"^\| [\w -]+ \| `(.+?)` \|.*\| ([\d.]+) \| [^|]+ \|$", text, re.MULTILINE)
    assert len(rows) == text.count("| `")
    names = {name for name, _ in rows}
    hours = {name: planned(capsys, "-m", name, "--gpu", "H200")["device_hours"] for name in names}
    for name, shown in rows:
        assert float(shown) == pytest.approx(hours[name], rel=0.05), name


@pytest.mark.slow
def test_a_plan_says_what_is_predicted_and_what_holds_the_gpu_up(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "-m", "esm1nv", "--uniref50", "1000000", "--gpu", "L40S"])
    rows = capsys.readouterr().out
    assert re.search(r"^cost +predicted for the L40S in bfloat16, not measured", rows, re.MULTILINE)
    bound, shares = re.search(r"^bound by +(.+) \(of the GPU's time: (.+)\)$", rows, re.MULTILINE).groups()
    shown = {kind: int(share) for kind, share in re.findall(r"([a-z ]+?) (\d+)%", shares)}
    assert sum(shown.values()) == pytest.approx(100, abs=2)
    assert bound == max(shown, key=shown.get)
    printed = yaml.safe_load(rows[rows.index("cost:") :])["cost"]
    expected = predict(load_planned_encoder("esm1nv")[0], DEVICES["L40S"], 510, 285).cost
    assert printed["longest"] == 510
    assert float(printed["linear"]) == pytest.approx(expected.linear, rel=1e-3)
    assert float(printed["quadratic"]) == pytest.approx(expected.quadratic, rel=1e-3)


@pytest.mark.slow
def test_fused_kernels_are_planned_where_they_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    plain, fused = (planned(capsys, "-m", "esm1nv", *options) for options in ([], ["--fused"]))
    assert fused["device_hours"] < 0.95 * plain["device_hours"]
    assert "with embed.fused" in fused["basis"]


def test_the_help_lists_the_gpus_that_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    assert set(re.findall(r"\b[A-Z]+\d+S?\b", capsys.readouterr().out)) == set(DEVICES)


@pytest.mark.slow
def test_a_bench_file_goes_into_a_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = rough_model(tmp_path / "model")
    main(["bench", "-m", str(folder), "-o", str(tmp_path / "bench.json"), "--seconds", "0.5", "--device", "cpu"])
    shown = capsys.readouterr().out
    kept = json.loads((tmp_path / "bench.json").read_text())
    assert f"linear: {kept['cost']['linear']:.3e}" in shown
    assert "distribution" in shown
    found = planned(capsys, "-m", folder, "--bench", tmp_path / "bench.json", "--uniref50", 1000)
    assert found["basis"] == f"measured with {kept['model']['name']} on cpu, one thread, {kept['dtype']}"
    assert found["device_hours"] > 0
    other = rough_model(tmp_path / "other", 1, "esm2-8m", {"layers": 1, "hidden": 16, "heads": 2, "feed_forward": 16})
    with pytest.raises(SystemExit):
        main(["plan", "-m", str(other), "--bench", str(tmp_path / "bench.json")])
    assert f"another model than {other}" in capsys.readouterr().err


def test_a_bench_takes_its_lengths_from_files_and_what_is_longest_from_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"layers": 1, "hidden": 16, "heads": 2, "feed_forward": 32}
    models = {
        "ankh-base": rough_model(tmp_path / "t5", 1, "ankh-base", sizes),
        "esm1nv": rough_model(tmp_path / "esm", 1, "esm1nv", {**sizes, "positions": 64}),
    }
    (tmp_path / "in.fasta").write_text(fasta_text(random_records(1, [40] * 20)))
    for name, longest in (("ankh-base", None), ("esm1nv", MAX_RESIDUES)):
        out = tmp_path / f"{name}.json"
        options = ["--fasta", str(tmp_path / "in.fasta"), "--seconds", "0.3", "--device", "cpu", "--dtype", "float32"]
        main(["bench", "-m", str(models[name]), "-o", str(out), *options])
        found = json.loads(out.read_text())
        drawn = found["distribution"]
        assert drawn["seconds_per_sequence"] * drawn["residues_per_second"] == pytest.approx(40)
        assert found["cost"]["longest"] == longest
        # As printed, it goes into config.yaml.
        shown = capsys.readouterr().out
        cost = yaml.safe_load(shown[shown.index("cost:") :])["cost"]
        assert cost["longest"] == longest
        assert cost["linear"] == pytest.approx(found["cost"]["linear"], rel=1e-3)


def test_without_a_longest_sequence_a_bench_names_none(tmp_path: Path) -> None:
    sizes = {"layers": 1, "hidden": 16, "heads": 2, "feed_forward": 32}
    model = load_model(rough_model(tmp_path / "t5", 1, "ankh-base", sizes))
    assert bench(Engine(model), Lengths(np.array([40]), np.array([9])), 0.2)["cost"]["longest"] is None
    policy = LongPolicy(max_residues=30)
    assert bench(Engine(model, policy=policy), Lengths(np.array([20]), np.array([9])), 0.2)["cost"]["longest"] == 30


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plan", "-m", "{tmp}/none"), "none: no such model directory"),
        (("plan", "-m", "esm1nv", "--devices", "0"), "--devices is 0; expected more than 0"),
        (("plan", "-m", "esm1nv", "--uniref50", "0"), "--uniref50 is 0; expected 1 or more"),
        (("plan", "-m", "esm1nv", "--gpu", "V100"), "no GPU is called 'V100'; expected one of H200, H100, A100, L40S"),
        (("plan", "-m", "esm1nv", "--bench", "{tmp}/bad.json"), "bad.json: not a file of `embedome bench`"),
        (("plan", "-m", "esm1nv", "--max-residues", "600"), "embed.max_residues is 600; expected 1 to 510"),
        (("bench", "-m", "{tmp}/none"), "none: no such model directory"),
    ],
)
def test_mistakes_end_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "bad.json").write_text("[]")
    with pytest.raises(SystemExit) as end:
        main([argument.format(tmp=tmp_path) for argument in arguments])
    assert end.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert message in error[0]
