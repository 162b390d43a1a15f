"""The ten numbers of the report's first page: those of the ledger and the statistics, and a warning where it is due."""

import pytest
from embedome.analysis.key_numbers import clock, find_warning, key_numbers, readable_bytes
from helpers.report_numbers import LEDGER, statistics


def leakage(identity: float, val: int, test: int) -> dict:
    def split(hits: int, total: int) -> dict:
        return {
            "sequences": total,
            "thresholds": [{"identity": identity, "sequences": hits}, {"identity": 0.9, "sequences": 0}],
        }

    return {"splits": {"val": split(val, 10), "test": split(test, 30)}}


def test_there_are_ten_and_they_are_the_ledger_s_and_the_statistics():
    numbers = key_numbers(statistics(trained=True), LEDGER, leakage(0.3, 2, 8), 3725)
    assert [(number.name, number.value, number.unit) for number in numbers] == [
        ("Sequences", "180", "rows"),
        ("Dimension", "768", "numbers per vector"),
        ("Model", "m", "trained"),
        ("Kept", "185", "records"),
        ("Rejected", "15", "records"),
        ("Truncated", "30", "sequences"),
        ("Duplicates", "20", "sequences"),
        ("Size", "2.5", "MB"),
        ("Time", "1:02:05", "h:mm:ss"),
        ("Leakage", "10", "sequences"),
    ]
    meanings = {number.name: number.meaning for number in numbers}
    assert "5 more were kept but skipped (too-long 5)" in meanings["Sequences"]
    assert meanings["Rejected"] == "too-short 12, fragment 3"
    assert meanings["Kept"].startswith("Of 200 records read, 92.5 % passed")
    assert meanings["Leakage"].startswith("25.0 % of val and test have a hit in train at 30% identity or above")
    assert "Pooling mean, max of layer 6, 12, computed in bfloat16" in meanings["Dimension"]


@pytest.mark.parametrize(
    ("model", "said", "warned"),
    [
        ({"trained": False}, "not trained: random weights", True),
        ({"trained": True}, "trained", False),
        ({"trained": None}, "its directory does not say whether it is trained", False),
        ({}, "its directory does not say whether it is trained", False),
        ({"trained": True, "pretraining": {"recipe": "demo"}}, "trained by embedome, recipe demo", False),
    ],
)
def test_random_weights_are_warned_of_and_no_others(model, said, warned):
    assert key_numbers(statistics(**model), LEDGER, None, 0)[2].unit == said
    assert ("no biological meaning" in (find_warning(statistics(**model)) or "")) == warned


def test_what_was_not_measured_is_said_with_the_key_that_asks_for_it():
    leak = key_numbers(statistics(), LEDGER, None, 0)[-1]
    assert leak.value == "not measured"
    assert "leakage.measure: true" in leak.meaning


def test_a_run_without_a_record_has_ten_numbers():
    empty = {"read": 0, "kept": 0, "rejected": {}, "states": {}, "skipped": {}}
    nothing = {**statistics(), "rows": 0}
    assert len(key_numbers(nothing, empty, leakage(0.3, 0, 0), 0)) == 10


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, ("0", "bytes")),
        (999, ("999", "bytes")),
        (1000, ("1.0", "kB")),
        (92_160_000_000, ("92.2", "GB")),
        (10**16, ("10000.0", "TB")),
    ],
)
def test_bytes_are_shown_in_a_unit_that_suits_them(count, shown):
    assert readable_bytes(count) == shown


def test_seconds_are_shown_as_a_clock_that_has_no_days():
    assert [clock(seconds) for seconds in (0, 59, 3600, 360_061)] == ["0:00:00", "0:00:59", "1:00:00", "100:01:01"]
