"""What is evaluated: from the configuration, and of its lists what suits a task."""

from pathlib import Path

import pytest
import yaml
from embedome.common.errors import UserError
from embedome.evaluation.settings import EvaluateSettings
from embedome.evaluation.tasks import TASKS
from helpers.paths import ROOT

CONFIG = yaml.safe_load(Path(ROOT, "config.yaml").read_text())


def settings(embed=None, **keys):
    return EvaluateSettings.from_config(CONFIG["evaluate"] | keys, CONFIG["embed"] | (embed or {}), threads=3)


def test_vectors_are_those_that_the_configuration_embeds():
    long = {"dtype": "bfloat16", "long_sequences": "window", "overlap": 7, "max_residues": 90}
    found = settings(long, heads=["ridge"], layers=[0, 2], seeds=5)
    assert (found.dtype, found.policy.name, found.policy.overlap, found.policy.max_residues) == tuple(long.values())
    assert (found.heads, found.layers, found.seeds, found.threads) == (("ridge",), (0, 2), 5, 3)
    # None stands for all.
    assert settings(layers="all").layers == ()


def test_of_one_list_each_task_has_what_suits_it():
    found = settings(heads=["convolutions", "mlp-128", "ridge"], methods=["composition", "frozen"])
    of_residues, of_proteins = (found.fitting(TASKS[name]) for name in ("conservation", "gb1"))
    assert (of_residues.heads, of_residues.methods) == (("convolutions", "ridge"), ("frozen",))
    assert (of_proteins.heads, of_proteins.methods) == (("mlp-128", "ridge"), ("composition", "frozen"))
    assert settings().fitting(TASKS["gb1"]) == settings()


def test_nothing_that_suits_is_refused():
    with pytest.raises(UserError, match="heads is convolutions; expected for gb1 one of mlp-256"):
        settings(heads=["convolutions"]).fitting(TASKS["gb1"])
    with pytest.raises(UserError, match="methods is composition; expected for conservation one of frozen"):
        settings(methods=["composition"]).fitting(TASKS["conservation"])
