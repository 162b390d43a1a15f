"""Settings from sections of the configuration: each stage's are those of config.yaml, key by key."""

from dataclasses import dataclass, fields

import pytest
import yaml
from embedome.analysis.analyse import Samples
from embedome.annotation.labels import LabelSource
from embedome.annotation.reference_set import AnnotateSettings
from embedome.catalog.criteria import Criteria
from embedome.common.dask_workers import DaskWorkers
from embedome.common.settings import from_section
from embedome.embedding.cost import CostModel
from embedome.embedding.settings import EmbedSettings, PartLimits
from embedome.splits.cluster import ClusterSettings
from embedome.splits.held_out import SearchSettings
from embedome.splits.split_methods import SplitSettings
from helpers.paths import ROOT

CONFIG = yaml.safe_load((ROOT / "config.yaml").read_text())
SECTIONS = {
    AnnotateSettings: "annotate",
    ClusterSettings: "cluster",
    CostModel: "cost",
    EmbedSettings: "embed",
    Samples: "report",
    SearchSettings: "leakage",
    SplitSettings: "split",
}


@dataclass(frozen=True)
class Two:
    one: int
    many: tuple[str, ...]
    other: str = "default"


def test_fields_are_keys_lists_are_tuples_and_other_keys_are_passed_over():
    section = {"one": 1, "many": ["a", "b"], "other": "given", "of another stage": 3}
    assert from_section(Two, section) == Two(1, ("a", "b"), "given")
    assert from_section(Two, section, other="elsewhere") == Two(1, ("a", "b"), "elsewhere")


def test_a_key_that_is_not_there_is_no_default():
    with pytest.raises(KeyError, match="other"):
        from_section(Two, {"one": 1, "many": []})


@pytest.mark.parametrize("settings", SECTIONS, ids=lambda each: each.__name__)
def test_settings_are_those_of_their_section(settings):
    section = CONFIG[SECTIONS[settings]]
    found = settings.from_config(section)
    # Whether structure is read, the source of the sequences says.
    for field in (each for each in fields(settings) if each.name != "structure"):
        value = section[field.name]
        assert getattr(found, field.name) == (tuple(value) if isinstance(value, list) else value)


def test_settings_that_are_not_key_by_key():
    assert Criteria.from_config(CONFIG["filter"]).fragments is True
    assert Criteria.from_config(CONFIG["filter"] | {"fragments": "reject"}).fragments is False
    assert PartLimits.from_config(CONFIG["embed"], CONFIG["cost"]) == PartLimits(
        100_000, 60, CostModel(1.5e-5, 2.5e-8, 510)
    )
    assert LabelSource.from_config(CONFIG["annotate"] | {"labels": "x.tsv"}) == LabelSource("x.tsv", "id", "label")
    workers = DaskWorkers.from_config(CONFIG["dask"], 3, "a.log")
    assert (workers.cluster, workers.threads, workers.jobs, workers.logs) == ("local", 3, 4, "a.log.dask")
