"""The ledger closes where every sum adds up, and fails where one does not."""

import copy

import pytest
from embedome.common.errors import UserError
from embedome.merging.ledger import make_ledger

FILTERED = {
    "read": 17,
    "kept": 15,
    "duplicates": 3,
    "rejected": {"too-short": 2},
    "inputs": [{"records": 5}, {"records": 12}],
}
SPLIT = {
    "kept": 11,
    "rejected": {
        "redundant": {"sequences": 3, "duplicates": 1, "residues": 30},
        "leak": {"sequences": 1, "duplicates": 0, "residues": 10},
    },
    "splits": {
        "val": {"sequences": 2, "duplicates": 0, "residues": 9},
        "test": {"sequences": 1, "duplicates": 1, "residues": 5},
        "train": {"sequences": 8, "duplicates": 1, "residues": 70},
    },
}
SHARDS = {
    "splits": {
        "val": [{"shard": "00000", "sequences": 2, "residues": 9}],
        "test": [{"shard": "00000", "sequences": 0, "residues": 0}],
        "train": [
            {"shard": "00000", "sequences": 4, "residues": 30},
            {"shard": "00001", "sequences": 2, "residues": 30},
        ],
    },
    "reused": {"val": 0, "test": 0, "train": 1},
}
MANIFESTS = {
    "val": [{"shard": "00000", "sequences": 2, "states": {"embedded": 2}, "skipped": {}}],
    "test": [{"shard": "00000", "sequences": 0, "states": {}, "skipped": {}}],
    "train": [
        {"shard": "00001", "sequences": 2, "states": {"windowed": 2}, "skipped": {}},
        {"shard": "00000", "sequences": 4, "states": {"embedded": 2, "truncated": 1}, "skipped": {"too-long": 1}},
    ],
}
DATASET = {
    "rows": 9,
    "splits": {
        "val": {"rows": 2, "states": {"embedded": 2}, "reused": {}, "skipped": {}, "files": [{"rows": 2}]},
        "test": {"rows": 0, "states": {}, "reused": {}, "skipped": {"too-long": 1}, "files": []},
        "train": {
            "rows": 7,
            "states": {"embedded": 3, "truncated": 1, "windowed": 2, "duplicate": 1},
            "reused": {"embedded": 1},
            "skipped": {"too-long": 1},
            "files": [{"rows": 6}, {"rows": 1}],
        },
    },
}


def account() -> list:
    return copy.deepcopy([FILTERED, SPLIT, SHARDS, MANIFESTS, DATASET])


def test_a_sound_account_closes():
    ledger = make_ledger(*account())
    assert ledger["read"] == 17
    assert ledger["rejected"] == {"leak": 1, "redundant": 3, "too-short": 2}
    assert ledger["kept"] == 11
    assert ledger["states"] == {"duplicate": 1, "embedded": 5, "truncated": 1, "windowed": 2}
    assert ledger["reused"] == {"embedded": 1}
    assert ledger["skipped"] == {"too-long": 2}
    assert [len(ledger["splits"][name]["shards"]) for name in ("val", "test", "train")] == [1, 1, 2]
    assert ledger["splits"]["train"]["shards"][0] == {
        "shard": "00000",
        "sequences": 4,
        "residues": 30,
        "states": {"embedded": 2, "truncated": 1},
        "skipped": {"too-long": 1},
    }


@pytest.mark.parametrize("change", [list.clear, lambda shards: shards.append({**shards[0], "shard": "00009"})])
def test_a_missing_or_alien_shard_fails(change):
    stages = account()
    change(stages[3]["train"])
    with pytest.raises(UserError, match="split train"):
        make_ledger(*stages)


def places(value: object, path: tuple = ()) -> list[tuple]:
    """Paths of all numbers in nested lists and dicts."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    below = [place for key, part in items for place in places(part, (*path, key))]
    return [path] if isinstance(value, int) else below


@pytest.mark.parametrize("place", [place for place in places(account()) if place[-1] != "residues"], ids=str)
@pytest.mark.parametrize("change", [1, -1])
def test_any_count_that_is_off_by_one_fails(place, change):
    """Each number of each stage is checked against another's."""
    stages = account()
    holder = stages
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] += change
    with pytest.raises(UserError, match="the ledger does not close"):
        make_ledger(*stages)
