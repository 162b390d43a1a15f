"""Standard input and pipes where `embedome` cannot read them: a line at once, nothing read by half, nobody waits."""

import os
import signal
from pathlib import Path

import pytest
from embedome.cli.main import main
from helpers.filtered import write_fasta
from helpers.made_dataset import make_dataset
from helpers.small_run import random_records, rough_model


def write_labels(path: Path) -> Path:
    path.write_text("id\tlabel\nP0000000\tGO:1\nP0000001\tGO:1\n")
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the commands take beside a stream."""
    folder = tmp_path_factory.mktemp("files")
    return {
        "FASTA": write_fasta(folder / "in.fasta", random_records(1, [30] * 4)),
        "MODEL": rough_model(folder / "esm"),
        "T5": rough_model(folder / "t5", like="prott5nv", sizes={"layers": 1, "hidden": 16, "heads": 2}),
        "LABELS": write_labels(folder / "labels.tsv"),
        "DATASET": make_dataset(folder / "dataset", {"train": [4]}),
        "OUT": folder / "out",
    }


@pytest.fixture(autouse=True)
def limit_s():
    """A command that waits for the pipe fails after some seconds."""

    def give_up(number: int, frame: object) -> None:
        raise TimeoutError("waits for the pipe")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


COMMANDS = (
    "embed FASTA --structure STREAM -m MODEL -o OUT",
    "plan -m esm1nv --fasta STREAM",
    "plan -m esm1nv --bench STREAM --fasta FASTA",
    "bench -m MODEL --fasta STREAM",
    "translate STREAM -m T5 -o OUT",
    "translate FASTA --target STREAM -m T5 -o OUT",
    "models score STREAM -m MODEL -o OUT",
    "models import STREAM OUT",
    "pretrain STREAM -o OUT",
    "pretrain FASTA --val STREAM -o OUT",
    "annotate DATASET -l STREAM -o OUT",
    "annotate STREAM -l LABELS -o OUT",
    "annotate DATASET -l LABELS --fasta STREAM --max-identity 0.5 -o OUT",
    "annotate DATASET -l LABELS --ontology STREAM -o OUT",
    "evaluate --task own --data STREAM -o OUT",
    "finetune MODEL --task own --data STREAM -o OUT",
    "describe STREAM",
    "get STREAM P1",
    "verify STREAM",
    "export STREAM OUT --format npy",
)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", ["-", "pipe"])
def test_a_stream_is_refused_in_a_line(files, command, kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    with pytest.raises(SystemExit) as end:
        main([str({**files, "STREAM": kind}.get(word, word)) for word in command.split()])
    assert end.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1].partition(" ERROR ")[2]
    assert line.startswith((f"{kind}: ", f"{kind} is no regular file; expected a"))
    assert "Traceback" not in line
    assert not files["OUT"].exists()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]
