"""Configuration: the schema, config.yaml, the presets and the documentation agree; faults read well."""

import copy
import re

import pytest
import yaml
from embedome.common.errors import UserError
from embedome.evaluation.head_recipes import HEADS
from embedome.evaluation.settings import METHODS
from embedome.workflow.before_run import check_files
from embedome.workflow.config import SCIENCE, check_config, config_sha256, load_schema, release_name
from embedome.workflow.paths import FAMILIES
from helpers.paths import ROOT
from helpers.yaml_bombs import laughs
from packaging.utils import canonicalize_name

SCHEMA = load_schema(ROOT / "schemas" / "config.schema.yaml")
CONFIG = yaml.safe_load((ROOT / "config.yaml").read_text())
PRESETS = sorted((ROOT / "presets").glob("*.yaml"))
GB1 = {"name": "gb1", "data": ["gb1.zip"]}


def leaves(schema: dict, path: str = "") -> set[str]:
    """Dotted paths of a schema's keys that hold values."""
    found = set()
    for name, part in schema.get("properties", {}).items():
        below = leaves(part, f"{path}{name}.")
        found |= below or {f"{path}{name}"}
    return found


def keys(config: dict, path: str = "") -> set[str]:
    """Dotted paths of a configuration's values."""
    found = set()
    for name, value in config.items():
        found |= keys(value, f"{path}{name}.") if isinstance(value, dict) else {f"{path}{name}"}
    return found


def merged(base: dict, update: dict) -> dict:
    """A configuration over another, as Snakemake merges them."""
    result = copy.deepcopy(base)
    for name, value in update.items():
        both = isinstance(value, dict) and isinstance(result.get(name), dict)
        result[name] = merged(result[name], value) if both else value
    return result


def untrained(**changes: object) -> dict:
    """A section model that asks for random weights."""
    given = {"like": "esm1nv", "layers": 2, "decoder_layers": None, "hidden": 64, "heads": 4, "feed_forward": 256}
    return {"untrained": {**given, "positions": None, "seed": 0, **changes}, "pretrain": None}


def fault(**sections: dict) -> str:
    with pytest.raises(UserError) as error:
        check_config(merged(CONFIG, sections), SCHEMA)
    return str(error.value)


def test_every_level_of_the_schema_is_closed_and_every_key_required_and_described():
    def walk(schema):
        if schema.get("properties"):
            assert schema["additionalProperties"] is False
            assert sorted(schema["required"]) == sorted(schema["properties"])
            for part in schema["properties"].values():
                assert "properties" in part or part["description"]
                walk(part)

    walk(SCHEMA)


def test_config_yaml_has_exactly_the_keys_of_the_schema_and_is_valid():
    # Of the ways to make a model one is chosen, and the others are null.
    ways = ("model.hub", "model.untrained", "model.pretrain")
    idle = {name for name in ways if CONFIG["model"][name.split(".")[1]] is None}
    assert keys(CONFIG) - idle == {leaf for leaf in leaves(SCHEMA) if leaf.rpartition(".")[0] not in idle}
    assert len(idle) == 2
    check_config(CONFIG, SCHEMA)


def test_every_key_of_config_yaml_has_a_comment():
    lines = (ROOT / "config.yaml").read_text().splitlines()
    bare = [line for line in lines if re.match(r"\s+\w+: \S", line) and "#" not in line]
    # What these are is said by their name, or by the line above them.
    assert {line.split(":")[0].strip() for line in bare} == {"seed", "heads", "val", "test", "train"}


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_presets_are_valid_and_name_no_default_again(preset):
    values = yaml.safe_load(preset.read_text())
    check_config(merged(CONFIG, values), SCHEMA)
    assert keys(values) <= leaves(SCHEMA) | {"model.hub", "model.untrained", "model.pretrain"}


def test_documentation_has_every_key_and_no_other():
    text = (ROOT / "docs" / "configuration.md").read_text()
    documented = set(re.findall(r"^\| `([a-z0-9_.]+)` \|", text, re.MULTILINE))
    assert documented == leaves(SCHEMA)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"filter": {"min_lenght": 3}}, "unknown key 'filter.min_lenght'; did you mean 'min_length'?"),
        ({"nonsense": 1}, "unknown key 'nonsense'; expected one of source, demo, filter, cluster"),
        ({"model": {"pretrain": {"depth": 2}}}, "unknown key 'model.pretrain.depth'; expected one of recipe"),
        ({"filter": {"min_length": "ten"}}, "filter.min_length is 'ten'; expected integer, at least 1"),
        ({"filter": {"min_length": 0}}, "filter.min_length is 0; expected integer, at least 1"),
        ({"filter": {"max_length": 2.5}}, "filter.max_length is 2.5; expected integer or null, at least 1"),
        ({"split": {"method": "random"}}, "split.method is 'random'; expected one of hash, cluster"),
        ({"cluster": {"coverage_mode": 7}}, "cluster.coverage_mode is 7; expected one of 0, 1, 2"),
        ({"leakage": {"drop_above": 0}}, "leakage.drop_above is 0; expected number or null, above 0"),
        (
            {"leakage": {"drop_above": 0.5}, "split": {"method": "bionemo"}},
            "leakage.drop_above is 0.5; expected null, as split.method 'bionemo'",
        ),
        ({"cost": {"linear": 0}}, "cost.linear is 0; expected number, above 0"),
        ({"source": {"mirrors": ["ftp://x"]}}, "source.mirrors.0 is 'ftp://x'; expected string, of the form ^"),
        ({"model": {"name": "../x"}}, "model.name is '../x'; expected string, of the form"),
        ({"filter": None}, "filter is None; expected object"),
        ({"source": {"kind": "fasta"}}, "source.fasta is []; expected at least one path"),
        ({"source": {"kind": "release"}}, "source.mirrors is []; expected at least one URL"),
        ({"source": {"kind": "url"}}, "source.url is None; expected an address"),
        ({"source": {"url": "ftp://x"}}, "source.url is 'ftp://x'; expected string or null, of the form ^"),
        ({"source": {"md5": "0"}}, "source.md5 is '0'; expected string or null, of the form ^"),
        ({"source": {"format": "dat"}}, "source.format is 'dat'; expected one of fasta, xml, null"),
        ({"source": {"release": "2024-05"}}, "source.release is '2024-05'; expected string or integer or null"),
        (
            {"source": {"kind": "release", "mirrors": ["file:///x"], "release": 202405, "database": "uniparc"}},
            "source.database is 'uniparc'; expected one of uniref50, uniref90, uniref100, as source.release is given",
        ),
        ({"filter": {"max_length": 5}}, "filter.max_length is 5; expected at least filter.min_length, 20"),
        ({"model": {"pretrain": {"heads": 3}}}, "model.pretrain.hidden is 64; expected a multiple of heads, 3"),
        ({"model": untrained(heads=3)}, "model.untrained.hidden is 64; expected a multiple of heads, 3"),
        ({"model": untrained(like="esm3")}, "model.untrained.like is 'esm3'; expected one of esm1nv"),
        (
            {"model": {"untrained": untrained()["untrained"]}},
            "model.untrained and model.pretrain are given; expected null for all but one of them",
        ),
        (
            {"model": {"hub": {"id": "lab/model", "revision": None}}},
            "model.hub and model.pretrain are given; expected null for all but one of them",
        ),
        (
            {"model": {"hub": {"id": "model", "revision": None}}},
            "model.hub.id is 'model'; expected string, of",
        ),
        ({"model": {"hub": {"id": "lab/model"}}}, "model.hub.revision is missing; expected string or null, not empty"),
        (
            {"embed": {"layer": [1, 2], "per_residue": True}},
            "embed.layer is [1, 2]; expected one layer, as embed.per_residue is true",
        ),
        ({"embed": {"layer": [1, 1]}}, "embed.layer is [1, 1]; expected integer or array, each item once"),
        (
            {"evaluate": {"tasks": [{"name": "gb2", "data": ["x"]}]}},
            "evaluate.tasks: no task is called 'gb2'; expected one of secondary_structure, conservation",
        ),
        ({"evaluate": {"tasks": [{"name": "gb1"}]}}, "evaluate.tasks.0.data is missing; expected array"),
        (
            {"evaluate": {"tasks": [GB1, GB1]}},
            "evaluate.tasks has gb1 twice; expected each name once",
        ),
        (
            {"evaluate": {"tasks": [{"name": "own", "data": ["a.fasta"]}]}},
            "evaluate.tasks: own has a.fasta; expected a FASTA file and a table",
        ),
        (
            {"evaluate": {"tasks": [GB1], "heads": ["convolutions"]}},
            "evaluate.heads is convolutions; expected for gb1 one of mlp-256, mlp-128",
        ),
        (
            {"evaluate": {"tasks": [{"name": "conservation", "data": ["x"]}], "methods": ["composition"]}},
            "evaluate.methods is composition; expected for conservation one of frozen, lora, random, one-hot",
        ),
        ({"finetune": {"task": "gb1"}}, "finetune.data is empty; expected the files of the task"),
        ({"finetune": {"task": "gb2", "data": ["x"]}}, "finetune.task: no task is called 'gb2'; expected one of"),
        (
            {"finetune": {"task": "own", "data": ["a.fasta"]}},
            "finetune.data is a.fasta; expected a FASTA file and a table",
        ),
        (
            {"finetune": {"task": "gb1", "data": ["x"], "head": "convolutions"}},
            "finetune.head: --head is convolutions; expected for numbers of a protein one of mlp-256",
        ),
        (
            {"embed": {"long_sequences": "window", "overlap": 9}, "finetune": {"task": "gb1", "data": ["x"]}},
            "finetune.task is given; expected embed.features 'encoder', and no windows",
        ),
        ({"evaluate": {"layers": "none"}}, "evaluate.layers is 'none'; expected array or string, each item once, of"),
        (
            {"embed": {"features": "decoder"}, "evaluate": {"tasks": [GB1]}},
            "embed.features is 'decoder'; expected 'encoder', as evaluate.tasks are given",
        ),
        ({"embed": {"overlap": 5}}, "embed.overlap is 5; expected 0, as embed.long_sequences is not 'window'"),
    ],
)
def test_a_fault_names_the_key_the_value_and_what_is_expected(sections, message):
    text = fault(**sections)
    assert message in text
    assert len(text.splitlines()) == 1


def test_enumerated_methods_and_heads_are_those_of_the_evaluation():
    properties = SCHEMA["properties"]["evaluate"]["properties"]
    assert tuple(properties["methods"]["items"]["enum"]) == METHODS
    assert tuple(properties["heads"]["items"]["enum"]) == HEADS


def test_tasks_of_several_levels_share_a_list_of_heads_and_files_must_be_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tasks = [GB1, {"name": "conservation", "data": ["a.zip", "test=b.fasta"]}]
    config = merged(CONFIG, {"evaluate": {"tasks": tasks, "heads": ["convolutions", "mlp-128"]}})
    check_config(config, SCHEMA)
    (tmp_path / "a.zip").touch()
    with pytest.raises(UserError) as error:
        check_files(config, [FAMILIES])
    assert str(error.value).splitlines() == [
        "configuration: evaluate.tasks: gb1.zip: no such file; check the path",
        "configuration: evaluate.tasks: b.fasta: no such file; check the path",
    ]


@pytest.mark.parametrize("text", ["2024_05", '"2024_05"', "2023_10", "null"])
def test_a_release_is_the_same_however_yaml_reads_it(text):
    source = yaml.safe_load(f"{{kind: release, mirrors: ['file:///x'], release: {text}}}")
    check_config(merged(CONFIG, {"source": source}), SCHEMA)
    assert release_name(source["release"]) == (None if text == "null" else text.strip('"'))


def test_every_fault_has_a_line_of_its_own():
    assert len(fault(filter={"min_length": 0, "x": 1}, split={"val": -1}).splitlines()) == 3


def test_a_number_that_yaml_takes_for_text_is_told():
    assert fault(leakage={"e_value": "1e-3"}).endswith("is '1e-3'; expected number, above 0, with a point: 1.0e-3")


@pytest.mark.parametrize("text", [laughs(30), "a: &a [*a]", "x: 0x" + "f" * 5000])
def test_values_that_expand_or_are_long_are_refused_in_a_line(text):
    message = fault(source=yaml.safe_load(text), filter={"min_length": "x" * 10_000})
    assert message.startswith("configuration: ")
    assert all(len(line) < 300 for line in message.splitlines())


def test_a_missing_key_is_named():
    config = copy.deepcopy(CONFIG)
    del config["split"]["val"]
    with pytest.raises(UserError, match=r"split\.val is missing; expected number, at least 0"):
        check_config(config, SCHEMA)


def test_the_digest_covers_what_sequences_depend_on_and_nothing_else():
    """The source's and the model's files have digests of their own, settings of embedding keys in the provenance."""
    others = {"source", "demo", "model", "shard", "cost", "embed", "report", "reuse", "merge", "dask", "annotate"}
    others |= {"evaluate", "finetune"}
    assert set(SCIENCE) == set(CONFIG) - others
    base = config_sha256(CONFIG)
    assert config_sha256(merged(CONFIG, {"source": {"mirrors": ["https://a/b"]}, "model": {"directory": "x"}})) == base
    assert config_sha256(merged(CONFIG, {"filter": {"taxonomy": "/elsewhere/nodes.dmp"}})) == base
    assert config_sha256(merged(CONFIG, {"shard": {"val": 2}, "embed": {"part_seconds": 9}})) == base
    assert config_sha256(merged(CONFIG, {"filter": {"include_taxa": [2]}})) != base
    assert config_sha256(merged(CONFIG, {"split": {"seed": 7}})) != base


def test_the_digest_covers_clusters_and_leaks_where_they_decide():
    base = config_sha256(CONFIG)
    assert config_sha256(merged(CONFIG, {"cluster": {"identity": 0.3}})) == base
    assert config_sha256(merged(CONFIG, {"leakage": {"measure": True, "sensitivity": 7}})) == base
    clustered = {"split": {"method": "cluster"}}
    filtered = {"cluster": {"as": "filter"}}
    dropped = {"leakage": {"drop_above": 0.5}}
    digests = {config_sha256(merged(CONFIG, each)) for each in (clustered, filtered, dropped)}
    assert len(digests | {base}) == 4
    assert config_sha256(merged(CONFIG, {**clustered, "cluster": {"identity": 0.3}})) not in digests


CONDA_NAMES = {"pytorch": "torch", "python-isal": "isal", "jinja2": "Jinja2"}
# Programs: pinned in their environment alone.
NO_PYTHON_PACKAGES = {"mmseqs2"}


@pytest.mark.parametrize("path", sorted((ROOT / "envs").glob("*.yaml")), ids=lambda path: path.stem)
def test_conda_environments_pin_the_versions_of_the_lock_file(path):
    pinned = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    lock = {canonicalize_name(name): version for name, version in pinned}
    dependencies = yaml.safe_load(path.read_text())["dependencies"]
    by_pip = [pin.split("==") for each in dependencies if isinstance(each, dict) for pin in each["pip"]]
    by_conda = [pin.split("=") for pin in dependencies if isinstance(pin, str) and pin != "pip"]
    pins = dict([*by_conda, *by_pip])
    assert pins.pop("python") == "3.11"
    packages = {name: pin for name, pin in pins.items() if name not in NO_PYTHON_PACKAGES}
    assert packages == {name: lock[canonicalize_name(CONDA_NAMES.get(name, name))] for name in packages}


def test_the_lock_file_pins_every_package_and_its_builds_and_torch_exactly():
    text = (ROOT / "requirements.lock").read_text().replace(" \\\n", "")
    pinned = [line for line in text.splitlines() if not line.startswith("#")]
    faulty = [line for line in pinned if not re.fullmatch(r"[\w.-]+==[\w.]+( +--hash=sha256:[0-9a-f]{64})+", line)]
    assert [line[:40] for line in faulty] == []
    assert len(pinned) > 100
    assert any(line.startswith("torch==2.13.0 ") for line in pinned)
