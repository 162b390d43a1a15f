"""Values of a configuration: defaults filled in, text of the command line read, and what no key may hold."""

import math

import pytest
import yaml
from embedome.common.errors import UserError
from embedome.workflow.config import check_config, config_sha256, load_schema
from embedome.workflow.config_values import complete_config
from helpers.paths import ROOT
from snakemake.cli import parse_config

SCHEMA = load_schema(ROOT / "schemas" / "config.schema.yaml")
DEFAULTS = yaml.safe_load((ROOT / "config.yaml").read_text())


def complete(config: dict) -> dict:
    return complete_config(config, DEFAULTS, SCHEMA)


def test_the_defaults_are_complete_in_themselves():
    assert complete({}) == complete(DEFAULTS) == DEFAULTS


def test_a_configuration_that_names_only_what_differs_has_all_other_keys():
    config = complete({"shard": {"train": 2}, "model": {"pretrain": None}})
    assert config["shard"] == {"val": 1, "test": 1, "train": 2}
    assert config["model"] == DEFAULTS["model"] | {"pretrain": None}
    check_config(complete({"model": {"pretrain": {"steps": 5}}}), SCHEMA)
    assert DEFAULTS["shard"]["train"] == 4


@pytest.mark.parametrize(
    ("argument", "section", "expected"),
    [
        ("shard={val: 2, train: 3}", "shard", {"val": 2, "test": 1, "train": 3}),
        ('shard={"val": 2}', "shard", {"val": 2, "test": 1, "train": 4}),
        ("embed={per_residue: true, layer: 1}", "embed", {"per_residue": True, "layer": 1}),
        ("embed={fused: False, layer: [0, -1]}", "embed", {"fused": False, "layer": [0, -1]}),
        ("cost={linear: 1e-5, longest: null}", "cost", {"linear": 1e-5, "longest": None}),
        ("leakage={drop_above: 0.5}", "leakage", {"drop_above": 0.5}),
        ("cluster={coverage_mode: 1}", "cluster", {"coverage_mode": 1}),
        ("source={kind: fasta, fasta: [a.fasta, 1.fasta]}", "source", {"fasta": ["a.fasta", "1.fasta"]}),
        ("source={release: 2024_05}", "source", {"release": "2024_05"}),
        ("annotate={id_column: 1, labels: null}", "annotate", {"id_column": "1", "labels": None}),
        ("evaluate={layers: all, tasks: [{name: gb1, data: [x]}]}", "evaluate", {"layers": "all"}),
        ("evaluate={layers: [0, 1]}", "evaluate", {"layers": [0, 1]}),
        ("filter={mask_residues: BZ}", "filter", {"mask_residues": "BZ"}),
        ("model={pretrain: null, hub: {id: a/b, revision: null}}", "model", {"hub": {"id": "a/b", "revision": None}}),
        ("model={pretrain: {steps: 7}}", "model", {"hub": None}),
    ],
)
def test_nested_values_of_the_command_line_are_as_in_a_file(argument, section, expected):
    config = complete(parse_config([argument]))
    assert {key: config[section][key] for key in expected} == expected
    check_config(config, SCHEMA)


def test_text_that_is_no_number_stays_text_and_is_refused():
    for text in ("ten", "0x", "true", ""):
        with pytest.raises(UserError, match=r"shard.val is '.*'; expected integer"):
            check_config(complete({"shard": {"val": text}}), SCHEMA)


def test_whole_numbers_are_the_same_however_they_are_written():
    whole, other = complete({"split": {"seed": 1, "val": 10}}), complete({"split": {"seed": 1.0, "val": 1e1}})
    assert repr(whole) == repr(other)
    assert config_sha256(whole) == config_sha256(other)
    assert isinstance(complete({"cluster": {"coverage_mode": 1.0}})["cluster"]["coverage_mode"], int)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"split": {"val": math.nan}}, "split.val is nan; expected a finite number"),
        ({"cost": {"linear": math.inf}}, "cost.linear is inf; expected a finite number"),
        ({"split": {"seed": 10**22}}, "split.seed is 10000000000000000000000; expected at most 9223372036854775807"),
        ({"split": {"seed": 1e22}}, "split.seed is 1e+22; expected at most 9223372036854775807"),
        ({"filter": {"max_length": 10**5000}}, "filter.max_length is a number of thousands of digits; expected"),
        ({"embed": {"layer": [-(10**22)]}}, "embed.layer.0 is -10000000000000000000000; expected at most"),
        ({"source": {"database": "uniref50\n"}}, r"source.database is 'uniref50\n'; expected text without line ends"),
        ({"model": {"name": "m\n"}}, r"model.name is 'm\n'; expected text without line ends"),
        ({"source": {"fasta": ["a\x00b"]}}, r"source.fasta.0 is 'a\x00b'; expected text without line ends"),
        ({"source": {"database": ".."}}, "source.database is '..'; expected string, of the form"),
        ({"source": {"database": "."}}, "source.database is '.'; expected string, of the form"),
    ],
)
def test_what_no_key_may_hold_is_named_in_a_line(sections, message):
    with pytest.raises(UserError) as error:
        check_config(complete(sections), SCHEMA)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
