"""`embedome plan --pretrain`: what is printed, and what is refused."""

import json

import pytest
from embedome.cli.main import main


def planned(capsys, *options):
    main(["plan", "--pretrain", "demo", "--uniref50", "1000", *options])
    return capsys.readouterr().out


def test_hours_follow_from_peak_share_and_devices(capsys):
    plan, other = (
        json.loads(planned(capsys, "--json", *options))
        for options in (("--peak", "100"), ("--peak", "400", "--share", "0.2", "--devices", "4"))
    )
    assert plan["operations"] == other["operations"]
    assert plan["device_hours"] == pytest.approx(plan["operations"] / 0.4e14 / 3600)
    assert other["device_hours"] == pytest.approx(plan["device_hours"] / 2)
    assert other["wall_clock_hours"] == pytest.approx(plan["device_hours"] / 8)
    assert "20% of 400 TFLOP/s, assumed" in other["basis"]


def test_the_peak_is_the_gpu_s(capsys):
    text = planned(capsys, "--gpu", "A100")
    assert "40% of 312 TFLOP/s, assumed; nothing is measured" in text
    assert "693,888" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pretrain", "demo", "--bench", "x.json"], "--bench is of embedding; leave it out with --pretrain"),
        (["--pretrain", "demo", "--max-residues", "9"], "--max-residues is of embedding"),
        (["--pretrain", "demo", "--share", "0"], "--share is 0.0; expected more than 0"),
        (["--pretrain", "demo", "--share", "40"], "--share is 40.0; expected 1 or less"),
        (["-m", "esm1nv", "--share", "0.5"], "--share and --peak are of --pretrain"),
        (["-m", "esm1nv", "--shard"], "--shard is of --pretrain; a model that embeds is whole on each device"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments, message, caplog, capsys):
    with pytest.raises(SystemExit) as error:
        main(["plan", *arguments])
    assert error.value.code == 2
    assert message in caplog.text + capsys.readouterr().err


def test_one_of_model_and_recipe_is_planned(capsys):
    with pytest.raises(SystemExit):
        main(["plan"])
    assert "one of the arguments -m/--model --pretrain is required" in capsys.readouterr().err
