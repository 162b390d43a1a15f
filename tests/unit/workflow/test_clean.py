"""What runs have left: what nothing needs is listed and removed, what something needs stays, and is not made again."""

import json
import shutil
from pathlib import Path

import pytest
from embedome.cli.main import main
from embedome.common.errors import UserError
from embedome.common.locks import try_lock
from embedome.embedding.embed import embed_shard
from embedome.embedding.settings import EmbedSettings
from embedome.evaluation import evaluate as evaluation
from embedome.evaluation import features
from embedome.evaluation.evaluate import evaluate
from embedome.evaluation.settings import EvaluateSettings
from embedome.models.create import make_untrained
from embedome.training.trainer import Trainer
from embedome.workflow.clean import find_unneeded
from helpers import small_run as line
from helpers.made_tasks import write_flip_pairs
from helpers.training_runs import make_stores, train_in


def clean(folder: Path) -> list[str]:
    """Remove what is not needed; give the paths."""
    found = find_unneeded(folder)
    assert all(each.remove() for each in found)
    return [each.path.relative_to(folder).as_posix() for each in found]


def stamps(folder: Path) -> dict[str, int]:
    """When each file was written."""
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}


# Parts


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A run of one model, embedded in two shards of train, then sharded into one and embedded again."""
    folder = tmp_path_factory.mktemp("prepared")
    model = line.rough_model(folder / "model")
    records = line.random_records(1, range(5, 45))
    for train in (2, 1):
        made = line.prepare(folder / f"shards-{train}", records, {"val": 1, "test": 1, "train": train})
        shutil.copytree(made.folder / "shards", folder / "run/results/shards", dirs_exist_ok=True)
        shutil.copy(made.folder / "shards.json", folder / "run/results/shards/shards.json")
        embed(folder / "run", model)
    return folder


def embed(run: Path, model: Path) -> None:
    results = run / "results"
    for split, shards in json.loads((results / "shards/shards.json").read_text())["splits"].items():
        for shard in shards:
            embed_shard(
                results / "shards" / split / f"{shard['shard']}.fasta.gz",
                model,
                results / "embeddings" / "rough" / split / f"{shard['shard']}.json",
                settings=EmbedSettings(),
                limits=line.limits(),
                source=line.SOURCE,
                shards=results / "shards/shards.json",
            )


@pytest.fixture
def run(prepared, tmp_path):
    return shutil.copytree(prepared / "run", tmp_path / "run")


def test_files_of_shards_that_there_are_no_longer_go_and_nothing_is_embedded_again(prepared, run):
    gone = clean(run)
    assert {Path(path).parent.as_posix() for path in gone} == {
        "results/shards/train",
        "results/embeddings/rough/train",
    }
    assert {Path(path).name[:5] for path in gone} == {"00001"}
    assert {"00001.fasta.gz", "00001.json", "00001-00000.parquet"} <= {Path(path).name for path in gone}
    before, written = line.snapshot(run), stamps(run)
    assert before == {path: text for path, text in line.snapshot(prepared / "run").items() if path not in gone}
    embed(run, prepared / "model")
    assert line.snapshot(run) == before
    assert stamps(run) == written
    assert clean(run) == []


def test_a_part_that_no_manifest_names_goes_and_those_of_a_shard_under_way_stay(run):
    clean(run)
    val, test = (run / "results/embeddings/rough" / split for split in ("val", "test"))
    for folder in (val, test):
        shutil.copy(folder / "00000-00000.parquet", folder / "00000-00099.parquet")
    (test / "00000.json").unlink()
    assert clean(run) == ["results/embeddings/rough/val/00000-00099.parquet"]


def test_what_embedome_did_not_make_stays(run):
    clean(run)
    folder = run / "results/embeddings/rough/train"
    (folder / "00007-00000.parquet").write_text("mine")
    (folder / "notes.txt").write_text("mine")
    assert clean(run) == []


def test_a_part_that_a_data_set_has_too_frees_nothing(run, tmp_path):
    [part] = [each for each in find_unneeded(run) if each.path.name == "00001-00000.parquet"]
    assert part.bytes == part.path.stat().st_size
    (tmp_path / "linked.parquet").hardlink_to(part.path)
    assert part.bytes == 0


@pytest.mark.parametrize("lock", [".embedome.lock", ".snakemake/locks/0.input.lock"])
def test_a_run_that_is_going_on_is_left_alone(run, lock):
    (run / lock).parent.mkdir(parents=True, exist_ok=True)
    with try_lock(run / lock), pytest.raises(UserError, match=r"a run is going on|snakemake --unlock"):
        find_unneeded(run)


def test_a_folder_without_a_run_is_one_line(tmp_path):
    with pytest.raises(UserError, match="holds no run of embedome; name the folder in which results/ is"):
        find_unneeded(tmp_path)


def test_the_command_lists_and_removes_only_what_it_is_told_to(run, capsys):
    before = line.snapshot(run)
    main(["clean", str(run)])
    listed = capsys.readouterr().out
    assert line.snapshot(run) == before
    assert "00001-00000.parquet  (of a shard that there is no longer)" in listed
    assert listed.splitlines()[-1].endswith("MB  in all; --delete removes it")
    main(["clean", str(run), "--delete"])
    assert capsys.readouterr().out.splitlines()[:-1] == listed.splitlines()[:-1]
    assert find_unneeded(run) == []


# Pretraining


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    return make_stores(tmp_path_factory.mktemp("stores"))


@pytest.fixture
def trained(stores, tmp_path, monkeypatch):
    """A run of which some checkpoints are not in the mean, as one that was stopped and went on leaves them."""
    monkeypatch.setattr("embedome.training.trainer.SAVE_S", 0.0)
    train_in(stores, tmp_path)
    return tmp_path


def test_a_finished_run_keeps_what_its_model_is_the_mean_of_and_does_not_train_again(stores, trained, monkeypatch):
    averaged = json.loads((trained / "run/summary.json").read_text())["averaged"]
    before = line.snapshot(trained / "model")
    assert clean(trained / "run") == ["checkpoints/step-00000011"]
    assert [path.name for path in (trained / "run/checkpoints").iterdir()] == [f"step-{averaged[-1]:08d}"]
    steps = []
    monkeypatch.setattr(Trainer, "micro_batches", lambda self: steps.append(self.step) or iter(()))
    shutil.rmtree(trained / "model")
    train_in(stores, trained)
    assert steps in ([], [12])
    assert line.snapshot(trained / "model") == before


@pytest.mark.slow
def test_a_run_that_has_not_ended_and_one_that_is_held_keep_all(trained):
    with try_lock(trained / "run/lock"):
        assert find_unneeded(trained / "run") == []
    assert len(find_unneeded(trained / "run")) == 1
    (trained / "run/summary.json").unlink()
    assert find_unneeded(trained / "run") == []


def test_of_a_mean_of_several_all_weights_stay_and_the_optimisers_of_the_last_alone(tmp_path):
    for step in (4, 8, 11, 12):
        folder = tmp_path / f"checkpoints/step-{step:08d}"
        folder.mkdir(parents=True)
        for name in ("weights.safetensors", "state.json", *(["optimisers.pt"] if step > 4 else [])):
            (folder / name).write_bytes(b"x")
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "summary.json").write_text('{"averaged": [4, 8, 12]}')
    whole = line.snapshot(tmp_path)
    assert clean(tmp_path) == ["checkpoints/step-00000008/optimisers.pt", "checkpoints/step-00000011"]
    left = {path for path in whole if "00000011" not in path} - {"checkpoints/step-00000008/optimisers.pt"}
    assert {path for path in line.snapshot(tmp_path) if not path.endswith("lock")} == left


# Evaluation


@pytest.mark.slow
def test_features_that_no_result_names_go_and_no_others_are_computed_again(tmp_path, monkeypatch):
    task, out = write_flip_pairs(tmp_path / "data"), tmp_path / "results/evaluation"
    sizes = {"layers": 2, "hidden": 16, "heads": 2, "feed_forward": 24, "positions": 26}
    settings = EvaluateSettings(heads=("ridge",), methods=("frozen", "random"))
    for seed in (3, 4):
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        # Another shape too, so that random weights of the first one are of no use.
        make_untrained(tmp_path / "model", "small", "esm1nv", {**sizes, "feed_forward": 8 * seed}, seed)
        evaluate("secondary_structure", [task], out, model=tmp_path / "model", settings=settings)
    before = line.snapshot(out)
    with try_lock(next(iter(find_unneeded(tmp_path))).lock):
        held = find_unneeded(tmp_path)
    gone = clean(tmp_path)
    assert len(held) == len(gone) - 1
    assert sorted(Path(path).parent.name for path in gone) == ["features", "features", "random"]
    assert clean(tmp_path) == []
    folders = tuple(f"{Path(path).relative_to('results/evaluation')}/" for path in gone)
    left = {path: text for path, text in before.items() if not path.startswith(folders)}
    monkeypatch.setattr(features, "fill", lambda folders, places, *rest: pytest.fail("computed") if places else None)
    monkeypatch.setattr(evaluation, "do_run", lambda *arguments: pytest.fail("trained"))
    monkeypatch.setattr("embedome.evaluation.baselines.make_random_model", lambda *arguments: pytest.fail("made"))
    evaluate("secondary_structure", [task], out, model=tmp_path / "model", settings=settings)
    assert line.snapshot(out) == left


# Work of embedome embed


def test_work_that_was_left_goes_and_work_under_way_and_other_folders_stay(tmp_path):
    for name in ("left", "held", "mine"):
        (tmp_path / f"{name}.parquet.work").mkdir()
        (tmp_path / f"{name}.parquet.work/lock").write_bytes(b"embedome: work under way\n")
        (tmp_path / f"{name}.parquet.work/all-00000.parquet").write_bytes(b"x")
    (tmp_path / "mine.parquet.work/notes.txt").touch()
    (tmp_path / "other.work").mkdir()
    with try_lock(tmp_path / "held.parquet.work/lock"):
        assert clean(tmp_path) == ["left.parquet.work"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "held.parquet.work",
        "mine.parquet.work",
        "other.work",
    ]
