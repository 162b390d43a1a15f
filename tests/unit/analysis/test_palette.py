"""Colours and markers of names: the same in every figure; a further name changes few; none is told by colour alone."""

import random

import pytest
from embedome.analysis.palette import PALETTE, SPLIT_STYLES, assign_styles


def test_order_and_size_of_the_counts_do_not_matter():
    counts = {f"F{number}": number + 1 for number in range(7)}
    shuffled = list(counts)
    random.Random(1).shuffle(shuffled)
    others = {name: 100 * len(name) + place for place, name in enumerate(shuffled)}
    assert assign_styles(counts) == assign_styles(others)


@pytest.mark.parametrize("count", [1, 7, 8, 40])
def test_each_name_has_a_style_of_its_own(count):
    styles = assign_styles({f"model {number}": 1 for number in range(count)})
    assert len({(style.color, style.marker) for style in styles.values()}) == count
    assert len({style.color for style in styles.values()}) == min(count, len(PALETTE))
    if count <= 7:
        # In grey, too.
        assert len({style.marker for style in styles.values()}) == count


def test_the_commonest_have_one_and_most_keep_it_where_a_name_comes_in():
    counts = {f"family {number}": 10 - number for number in range(6)}
    assert list(assign_styles(counts, 3)) == ["family 0", "family 1", "family 2"]
    before, after = assign_styles(counts), assign_styles({**counts, "zinc finger": 1})
    assert {name: after[name] for name in before} == before


def test_splits_differ_in_all_that_is_drawn():
    for what in ("color", "marker", "dashes", "hatch"):
        assert len({getattr(style, what) for style in SPLIT_STYLES.values()}) == 3
