"""Batches: each row once an epoch, whatever the sizes; the same at any time; dealt evenly."""

from itertools import chain, pairwise

import numpy as np
import pytest
from embedome.common.errors import UserError
from embedome.training import batches
from embedome.training.alphabet import Alphabet
from embedome.training.batches import Batches, deal
from embedome.training.objectives import IGNORED
from embedome.training.recipes import RECIPES, Phase
from helpers.stores import random_sequences, store_of
from hypothesis import given
from hypothesis import strategies as st

BERT, LEGACY, SPANS = (RECIPES[name].objective for name in ("esm1nv", "esm1nv-legacy", "prott5nv"))
ESM, PROTT5NV = Alphabet.of_model("esm1nv"), Alphabet.of_model("prott5nv")
SEQUENCES = random_sequences(211)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return store_of(tmp_path_factory.mktemp("stores") / "store", SEQUENCES)


def make(store, phases, objective=BERT, residues=70, seed=0, alphabet=ESM):
    return Batches(store, objective, alphabet, phases, residues, seed)


def plain(groups):
    """Groups as values that can be compared."""
    return [[array.tolist() for array in (getattr(group, name) for name in group.__slots__)] for group in groups]


@pytest.mark.parametrize("phases", [(Phase(700, sequences=7),), (Phase(11, sequences=16), Phase(300, sequences=5))])
@pytest.mark.parametrize("sorted_rows", [1, 60, 4096])
def test_each_row_of_the_store_is_seen_once_an_epoch(store, monkeypatch, phases, sorted_rows):
    monkeypatch.setattr(batches, "SORTED_ROWS", sorted_rows)
    found = make(store, phases)
    # Rows of a step are ordered by length; sorted as they were dealt, they show where an epoch ends.
    dealt = []
    for step in range(phases[-1].until):
        phase, mine = found.phase(step), np.sort(found.rows(step).row)
        place = (step - phase.begin) % phase.together * phase.size
        dealt.append(found.known[1].row[place : place + phase.size])
        assert np.array_equal(np.sort(dealt[-1]), mine)
    rows = np.concatenate(dealt)
    assert len(rows) == found.first_row(phases[-1].until) > 4 * len(store)
    for begin in range(0, len(rows) - len(store), len(store)):
        assert np.array_equal(np.sort(rows[begin : begin + len(store)]), np.arange(len(store)))


def test_the_batch_of_a_step_is_the_same_whenever_it_is_asked_for(store):
    phases = (Phase(50, tokens=400, window=40), Phase(90, tokens=400))
    one, other = make(store, phases), make(store, phases)
    expected = {step: plain(one.groups(one.rows(step))) for step in range(90)}
    for step in (89, 3, 50, 49, 0, 77):
        assert plain(other.groups(other.rows(step))) == expected[step]


@pytest.mark.parametrize("seed", [1, 2])
def test_other_seeds_give_other_orders_and_masks(store, seed):
    phases = (Phase(4, sequences=211),)
    one, other = make(store, phases), make(store, phases, seed=seed)
    assert one.look_up_rows(np.arange(211), None).row.tolist() != other.look_up_rows(np.arange(211), None).row.tolist()
    assert plain(one.groups(one.rows(0))) != plain(other.groups(other.rows(0)))


def test_masks_are_new_in_each_epoch_and_keep_to_the_rate(store):
    found = make(store, (Phase(3, sequences=211),))
    labels = []
    for epoch in range(3):
        groups = found.groups(found.rows(epoch))
        labels.append(np.concatenate([group.labels.ravel() != IGNORED for group in groups]))
    assert all(len(each) == len(labels[0]) for each in labels)
    assert (labels[0] & labels[1]).sum() < 0.2 * labels[0].sum()


def test_whole_sequences_are_cut_to_the_positions_with_their_ends(store):
    found = make(store, (Phase(1, sequences=211),))
    rows = found.rows(0)
    for group, begin in zip(found.groups(rows), np.unique(rows.tokens, return_index=True)[1], strict=True):
        original = np.where(group.labels == IGNORED, group.tokens, group.labels)
        row = rows.row[begin]
        text = SEQUENCES[row][:70]
        assert original[0].tolist() == [1, *ESM.table[list(text.encode())].tolist(), 2]


def test_windows_are_parts_that_keep_their_place(store):
    found = make(store, (Phase(20, sequences=211, window=30),))
    starts = []
    for step in range(20):
        rows = found.rows(step)
        assert rows.tokens.max() == 30
        starts.append(rows.start[rows.whole == 72])
        begin = 0
        for group in found.groups(rows):
            for number in range(len(group.tokens)):
                whole = [1, *ESM.table[list(SEQUENCES[rows.row[begin + number]][:70].encode())].tolist(), 2]
                start = group.starts[number]
                original = np.where(group.labels == IGNORED, group.tokens, group.labels)[number]
                assert original.tolist() == whole[start : start + 30]
            begin += len(group.tokens)
    # From the first to the last place of the longest.
    starts = np.concatenate(starts)
    assert (starts.min(), starts.max()) == (0, 42)
    assert starts.mean() == pytest.approx(21, abs=1.5)


def test_legacy_masks_see_the_sequence_before_it_is_cut(store):
    found = make(store, (Phase(1, sequences=211),), LEGACY, residues=40)
    rows = found.rows(0)
    assert rows.tokens.max() == 92
    assert max(group.tokens.shape[1] for group in found.groups(rows)) == 42


def test_encoder_decoders_have_no_token_around_a_sequence(store):
    found = make(store, (Phase(1, sequences=211),), SPANS, alphabet=PROTT5NV)
    rows = found.rows(0)
    lengths = np.minimum(store.lengths(rows.row), 70)
    assert np.array_equal(rows.tokens, lengths)
    assert [group.source.shape[1] for group in found.groups(rows)] == np.unique(lengths).tolist()


def test_tokens_of_a_step_are_so_many_in_the_mean(store):
    found = make(store, (Phase(300, tokens=400, window=40), Phase(600, tokens=400)))
    for steps in (range(300), range(300, 600)):
        assert np.mean([found.rows(step).tokens.sum() for step in steps]) == pytest.approx(400, rel=0.08)


def test_sequences_of_one_length_come_together(store):
    found = make(store, (Phase(200, sequences=16),))
    alone = [len(np.unique(found.look_up_rows(np.arange(16) + 16 * step, None).tokens)) for step in range(200)]
    together = [len(np.unique(found.rows(step).tokens)) for step in range(200)]
    assert np.mean(together) < 0.6 * np.mean(alone)
    # And yet no step has the short ones alone.
    means = [found.rows(step).tokens.mean() for step in range(200)]
    assert np.std(means) < 12


def test_the_epoch_of_a_step(store):
    found = make(store, (Phase(10, sequences=211), Phase(20, sequences=422)))
    assert [found.epoch(step) for step in (0, 1, 10, 11, 20)] == [0, 1, 10, 12, 30]


@given(
    st.lists(st.integers(2, 600), min_size=1, max_size=300),
    st.integers(1, 8),
    st.sampled_from([64, 1024, 4096, 10**6]),
)
def test_micro_batches_are_all_of_the_batch_as_many_for_each_rank(tokens, ranks, budget):
    tokens = np.sort(np.array(tokens))
    if len(tokens) < ranks:
        with pytest.raises(UserError, match=f"{len(tokens)} sequences; expected as many as ranks, {ranks}"):
            deal(tokens, ranks, budget, 128)
        return
    dealt = deal(tokens, ranks, budget, 128)
    assert len({len(mine) for mine in dealt}) == 1
    pieces = sorted(chain.from_iterable(dealt), key=lambda piece: piece.start)
    assert [pieces[0].start, pieces[-1].stop] == [0, len(tokens)]
    assert all(one.stop == other.start for one, other in pairwise(pieces))
    assert all(piece.stop > piece.start for piece in pieces)


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_each_sequence_may_be_a_micro_batch_of_its_own(count):
    assert deal(np.full(count, 100), 1, 10, 128) == [[slice(each, each + 1) for each in range(count)]]


def test_micro_batches_cost_alike_and_keep_to_the_budget():
    tokens = np.sort(np.random.default_rng(0).integers(30, 512, 5000))
    dealt = deal(tokens, 4, 20_000, 768)
    costs = [sum((tokens[piece] * (1 + tokens[piece] / 4608)).sum() for piece in mine) for mine in dealt]
    assert max(costs) < 1.01 * min(costs)
    assert all(tokens[piece].sum() <= 20_600 for mine in dealt for piece in mine)
    assert len(dealt[0]) == pytest.approx(tokens.sum() * 1.07 / 80_000, abs=1.5)
