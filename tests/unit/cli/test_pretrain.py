"""`embedome pretrain` and `average`: a run from FASTA to model, on one rank and on two that torchrun starts."""

import json
import subprocess

import pytest
import torch
from embedome.cli.main import main
from embedome.models.directory import load_model
from embedome.training.checkpoints import find_checkpoints
from helpers.filtered import random_proteins, write_fasta
from helpers.processes import python_command

SIZES = ["--layers", "1", "--hidden", "16", "--heads", "2", "--feed-forward", "24", "--positions", "80"]
SHORT = ["--steps", "6", "--tokens", "500", "--device", "cpu", "--threads", "1", *SIZES]


@pytest.fixture
def fasta(tmp_path):
    return write_fasta(tmp_path / "in.fasta", random_proteins(80))


def test_a_model_is_trained_and_averaged(tmp_path, fasta, capsys):
    arguments = ["pretrain", str(fasta), "-o", str(tmp_path / "run"), "--val", "0.1", *SHORT]
    main(arguments)
    first, second = capsys.readouterr().out.splitlines()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert first.startswith(f"{tmp_path / 'run' / 'model'}: {summary['parameters']:,} parameters, 6 steps")
    assert f"{summary['validation']['residue_loss']:.4f}; baselines: unigram" in second
    main([*arguments, "--json"])
    assert json.loads(capsys.readouterr().out) == summary
    assert load_model(tmp_path / "run" / "model").encoder.dimension == 16
    main(["average", str(tmp_path / "run"), "-o", str(tmp_path / "mean"), "--last", "1"])
    steps = [each.step for each in find_checkpoints(tmp_path / "run" / "checkpoints")]
    assert f"of steps {steps[-1]}" in capsys.readouterr().out
    one, other = (load_model(path).encoder.state_dict() for path in (tmp_path / "run" / "model", tmp_path / "mean"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--shard"]])
def test_two_ranks_are_started(tmp_path, fasta, options):
    arguments = ["pretrain", str(fasta), "-o", str(tmp_path / "run"), "--val", "0.1", *SHORT, "--ranks", "2", *options]
    command = python_command("from embedome.cli.main import main\nmain(sys.argv[1:])", *arguments)
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "6 steps" in result.stdout
    assert load_model(tmp_path / "run" / "model").encoder.dimension == 16
    parts = [(each.path / "weights").is_dir() for each in find_checkpoints(tmp_path / "run" / "checkpoints")]
    assert all(parts) if options else not any(parts)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--val", "1.5"], "--val is 1.5; expected FASTA files, or a fraction"),
        (["--steps", "0"], "steps is 0; expected 1 or more"),
        (["--seed", "-1"], "seed is -1; expected 0 or more"),
        (["--hidden", "15"], "the model dimension is 15; expected a multiple of the heads, 2"),
        (["--ranks", "0"], "ranks is 0; expected 1 or more"),
        (["--init", "nowhere"], "nowhere: no such model directory"),
    ],
)
def test_bad_options_are_errors_of_one_line(tmp_path, fasta, options, fault, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["pretrain", str(fasta), "-o", str(tmp_path / "run"), *SHORT, *options])
    assert stopped.value.code == 2
    assert fault in capsys.readouterr().err.splitlines()[-1]
