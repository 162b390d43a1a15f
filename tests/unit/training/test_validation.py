"""Validation: exact numbers of residues hidden, always the same, and baselines as brute force gives them."""

import math

import numpy as np
import pytest
from embedome.training import validation as module
from embedome.training.alphabet import Alphabet
from embedome.training.objectives import IGNORED
from embedome.training.recipes import RECIPES
from embedome.training.validation import ExactMasks, Validation, measure_baselines, visible_and_hidden
from helpers.stores import LETTERS, store_of
from helpers.token_groups import group_of

ESM = Alphabet.of_model("esm1nv")


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    # Pairs of neighbours mean something: half of the letters are followed by the next one.
    rng = np.random.default_rng(0)

    def walk(length):
        row = [int(rng.integers(20))]
        while len(row) < length:
            row.append((row[-1] + 1) % 20 if rng.random() < 0.5 else int(rng.integers(20)))
        return "".join(LETTERS[number] for number in row)

    train = ["M" + walk(int(length)) for length in rng.integers(5, 90, 120)]
    val = [walk(int(length)) for length in rng.integers(5, 90, 30)] + ["XXXX", "ACXBZUOJDE" * 3]
    return store_of(folder / "train", train), store_of(folder / "val", val), train, val


@pytest.mark.parametrize("sequence", ["A", "AC", "ACDEFGHIKL", "X" * 9, "XXXAXXX", "ACDX" * 30, "ACDEFGHIKL" * 21])
def test_exactly_so_many_standard_residues_become_the_mask(sequence):
    group = group_of([sequence], ESM)
    found = ExactMasks(0.15).hide(group, ESM, 512)
    hidden = found.labels != IGNORED
    assert hidden.sum() == round(0.15 * sum(letter in LETTERS for letter in sequence))
    assert (found.tokens[hidden] == ESM.mask).all()
    assert np.isin(found.labels[hidden], ESM.standard).all()
    assert np.array_equal(np.where(hidden, found.labels, found.tokens), group.tokens)


def test_the_same_residues_are_hidden_each_time_of_the_first_tokens(stores):
    one, other = (Validation(stores[1], RECIPES["demo"], ESM) for _ in range(2))
    assert one.rows.start.max() == 0
    for first, second in zip(one.micro_batches(500, 64), other.micro_batches(500, 64), strict=True):
        assert all(np.array_equal(a.labels, b.labels) for a, b in zip(first, second, strict=True))


def test_ranks_share_the_sequences(stores):
    found = Validation(stores[1], RECIPES["demo"], ESM)
    whole = [group.labels.size for micro in found.micro_batches(300, 64) for group in micro]
    shared = [
        group.labels.size for rank in range(3) for micro in found.micro_batches(300, 64, rank, 3) for group in micro
    ]
    assert sorted(whole) == sorted(shared)


def hidden_places(validation, alphabet):
    """Of each sequence the letters seen (None where hidden or no standard one) and the hidden ones by place."""
    for group in validation.batches.groups(validation.rows):
        seen, hidden = visible_and_hidden(group, alphabet)
        for row in range(len(seen)):
            yield (
                [None if number < 0 else "end" if number == 20 else LETTERS[number] for number in seen[row]],
                {place: LETTERS[number] for place, number in enumerate(hidden[row]) if number >= 0},
            )


@pytest.mark.parametrize("name", ["demo", "prott5nv", "ankh2-ext2"])
def test_what_is_seen_and_hidden_is_the_sequence(stores, name):
    alphabet = Alphabet.of_model(RECIPES[name].model)
    validation = Validation(stores[1], RECIPES[name], alphabet)
    for (seen, hidden), row in zip(hidden_places(validation, alphabet), validation.rows.row, strict=True):
        text = stores[3][row]
        assert seen[0] == "end"
        assert seen[len(text) + 1] == "end"
        for place, letter in enumerate(text, 1):
            if letter in LETTERS:
                assert hidden.get(place, seen[place]) == letter
        assert all(seen[place] is None for place in hidden)


@pytest.mark.parametrize("name", ["demo", "ankh2-ext2"])
def test_baselines_by_brute_force(stores, name, monkeypatch):
    train_store, val_store, train, _ = stores
    monkeypatch.setattr(module, "CHUNK", 7)
    alphabet = Alphabet.of_model(RECIPES[name].model)
    validation = Validation(val_store, RECIPES[name], alphabet)
    found = measure_baselines(train_store, validation, alphabet)
    counts = {letter: 1 + sum(text.count(letter) for text in train) for letter in LETTERS}
    frequency = {letter: count / sum(counts.values()) for letter, count in counts.items()}
    lift = {}
    for distance in range(1, 5):
        for side in (-1, 1):
            pairs = {(a, b): 1 for a in (*LETTERS, "end") for b in LETTERS}
            for text in train:
                for place, b in enumerate(text):
                    other = place + side * distance
                    if 0 <= other < len(text):
                        pairs[text[other], b] += 1
                    elif other in (-1, len(text)):
                        pairs["end", b] += 1
            total = sum(pairs.values())
            first = {a: sum(pairs[a, b] for b in LETTERS) / total for a in (*LETTERS, "end")}
            second = {b: sum(pairs[a, b] for a in (*LETTERS, "end")) / total for b in LETTERS}
            lift[side * distance] = {(a, b): math.log(pairs[a, b] / total / first[a] / second[b]) for a, b in pairs}
    sums, number = np.zeros(3), 0
    for seen, hidden in hidden_places(validation, alphabet):
        visible = [letter for letter in seen if letter and letter != "end"]
        own = {a: (visible.count(a) + 40 * frequency[a]) / (len(visible) + 40) for a in LETTERS}
        for place, truth in hidden.items():
            scores = {a: math.log(own[a]) for a in LETTERS}
            for offset, table in lift.items():
                if 0 <= place + offset < len(seen) and (neighbour := seen[place + offset]):
                    for a in LETTERS:
                        scores[a] += 0.5 * table[neighbour, a]
            total = sum(math.exp(score) for score in scores.values())
            sums -= [math.log(frequency[truth]), math.log(own[truth]), scores[truth] - math.log(total)]
            number += 1
    assert [found.unigram, found.composition, found.neighbours] == pytest.approx((sums / number).tolist(), rel=1e-9)
    assert found.neighbours < found.unigram - 0.2
