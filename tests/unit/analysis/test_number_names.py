"""Names and units of numbers: every number of statistics.json has both, whatever the data set."""

from embedome.analysis.number_names import NAMES, name_numbers


def test_a_number_has_its_name_what_it_is_of_its_unit_and_its_keys():
    assert name_numbers([("splits: val: states: embedded", 3), ("neighbours: sequences", 9)]) == [
        ("rows in a state", "val, embedded", 3, "sequences", "splits: val: states: embedded"),
        ("sampled sequences compared with each other", "", 9, "sequences", "neighbours: sequences"),
    ]


def test_a_number_without_a_name_keeps_its_keys():
    assert name_numbers([("new: thing", 1)]) == [("new: thing", "", 1, "", "new: thing")]


def test_all_names_have_a_unit():
    assert all(name and unit for name, unit in NAMES.values())
