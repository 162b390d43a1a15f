"""Aliases in YAML: some are fine, bombs are refused before they expand."""

import time

import pytest
import yaml
from embedome.common.errors import UserError
from embedome.common.yaml_aliases import check_aliases
from helpers.yaml_bombs import laughs, merges


@pytest.mark.parametrize("text", [laughs(30), merges(30), laughs(5)])
def test_bombs_are_refused_as_values_and_as_nodes(text: str) -> None:
    start = time.monotonic()
    with pytest.raises(UserError, match=r"x\.yaml: its aliases expand to \d\S+ values; expected some thousand at most"):
        check_aliases(yaml.compose(text, yaml.SafeLoader), "x.yaml")
    if "<<" not in text:
        with pytest.raises(UserError, match="its aliases expand to"):
            check_aliases(yaml.safe_load(text), "x.yaml")
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("text", ["a: &a [*a]", "&a {b: {c: *a}}"])
def test_what_is_within_itself_is_refused(text: str) -> None:
    for value in (yaml.compose(text, yaml.SafeLoader), yaml.safe_load(text)):
        with pytest.raises(UserError, match=r"x\.yaml: nested too deeply, or an alias stands within itself"):
            check_aliases(value, "x.yaml")


def test_what_is_nested_too_deeply_is_refused() -> None:
    value: list = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(UserError, match="nested too deeply"):
        check_aliases(value, "x.yaml")


@pytest.mark.parametrize("text", [laughs(3), "a: &a {b: [1, 2]}\nc: *a\nd: {<<: *a}", "", "1"])
def test_a_few_aliases_are_fine(text: str) -> None:
    check_aliases(yaml.compose(text, yaml.SafeLoader), "x.yaml")
    check_aliases(yaml.safe_load(text), "x.yaml")


def test_long_lists_are_no_aliases() -> None:
    check_aliases({"fasta": [f"{number}.fasta" for number in range(100_000)]}, "x.yaml")
