"""What is hidden and how: rows of ids by hand, rates, and that input and labels together are the sequence."""

import numpy as np
import pytest
from embedome.common.errors import UserError
from embedome.models.tokenizer import STANDARD
from embedome.training.alphabet import Alphabet
from embedome.training.objectives import IGNORED, BertMasks, LegacyMasks, SpanCorruption, TokenGroup
from embedome.training.recipes import RECIPES
from helpers.token_groups import group_of
from hypothesis import given
from hypothesis import strategies as st

ESM, PROTT5NV, ANKH = (Alphabet.of_model(name) for name in ("esm1nv", "prott5nv", "ankh2-ext2"))
BERT, LEGACY, SPANS, ANKH_SPANS = (
    RECIPES[name].objective for name in ("esm1nv", "esm1nv-legacy", "prott5nv", "ankh2-ext2")
)
SEQUENCE = "MKTAYIAKQR"
ANY_LETTERS = st.text("ACDEFGHIKLMNPQRSTVWYXBZUOJ", min_size=0, max_size=511)
MANY = 512


def choose(monkeypatch, places, how=(), what=()):
    """Have the draws choose these tokens of a sequence."""
    chosen = dict.fromkeys(places, 0.0)
    given_draws = [chosen, dict(zip(places, how, strict=False)), dict(zip(places, what, strict=False))]

    def draw(group, kind):
        row = np.array([given_draws[kind].get(place, 0.999) for place in range(group.tokens.shape[1])])
        return np.tile(row, (len(group.tokens), 1))

    monkeypatch.setattr(TokenGroup, "draw", draw)


def test_the_row_of_esm1nv(monkeypatch):
    w = STANDARD.index("W")
    # Residues 1, 4, 5, 8: mask, mask, W, itself; W comes before Y in STANDARD, and I in place of it is not counted.
    choose(monkeypatch, [2, 5, 6, 9], how=[0.1, 0.79, 0.85, 0.95], what=[0, 0, (w - 1 + 0.5) / 19, 0])
    found = BERT.hide(group_of([SEQUENCE], ESM), ESM, MANY)
    assert found.tokens[0].tolist() == [1, 22, 4, 12, 6, 4, 24, 6, 16, 19, 11, 2]
    no = IGNORED
    assert found.labels[0].tolist() == [no, no, 16, no, no, 20, 14, no, no, 19, no, no]


def test_the_rows_of_prott5nv(monkeypatch):
    choose(monkeypatch, [2, 4, 5])
    monkeypatch.setattr(SpanCorruption, "count", lambda self, residues: 3)
    found = SPANS.hide(group_of([SEQUENCE], PROTT5NV), PROTT5NV, MANY)
    assert found.source[0].tolist() == [22, 16, 32, 6, 33, 34, 6, 16, 19, 11]
    assert found.decoder[0].tolist() == [1, 32, 12, 33, 20, 34, 14]
    assert found.labels[0].tolist() == [32, 12, 33, 20, 34, 14, 2]


def test_the_rows_of_ankh2(monkeypatch):
    choose(monkeypatch, [2, 4, 5])
    monkeypatch.setattr(SpanCorruption, "count", lambda self, residues: 3)
    found = ANKH_SPANS.hide(group_of([SEQUENCE], ANKH), ANKH, MANY)
    assert found.source[0].tolist() == [19, 14, 143, 3, 142, 141, 3, 14, 16, 8, 1]
    assert found.decoder[0].tolist() == [0, 143, 11, 142, 18, 141, 12]
    assert found.labels[0].tolist() == [143, 11, 142, 18, 141, 12, 1]


@pytest.mark.parametrize(
    ("objective", "alphabet", "counts"),
    [(SPANS, PROTT5NV, [1, 1, 2, 15, 76]), (ANKH_SPANS, ANKH, [1, 1, 2, 20, 102]), (LEGACY, ESM, [0, 0, 1, 10, 51])],
)
def test_how_many_are_hidden(objective, alphabet, counts):
    for length, count in zip([1, 3, 10, 100, 510], counts, strict=True):
        found = objective.hide(group_of(["A" * length], alphabet), alphabet, MANY)
        hidden = (found.labels != IGNORED).sum() if objective is LEGACY else len(found.labels[0]) // 2
        assert hidden == count


@given(st.lists(ANY_LETTERS, min_size=1, max_size=4), st.integers(0, 2**63))
def test_masks_and_labels_together_are_the_sequence(sequences, key):
    for sequence in sequences:
        group = group_of([sequence], ESM, [key])
        found = BERT.hide(group, ESM, MANY)
        hidden = found.labels != IGNORED
        assert np.array_equal(np.where(hidden, found.labels, found.tokens), group.tokens)
        assert ESM.can_hide[group.tokens[hidden]].all()
        # X, J, which has no token, and special tokens are never hidden; of anything else at least one is.
        assert hidden.any() == bool(set(sequence) - set("XJ"))


@given(ANY_LETTERS, st.integers(0, 2**63), st.sampled_from([(SPANS, PROTT5NV), (ANKH_SPANS, ANKH)]))
def test_source_and_target_together_are_the_sequence(sequence, key, kind):
    objective, alphabet = kind
    group = group_of([sequence], alphabet, [key])
    found = objective.hide(group, alphabet, MANY)
    source, decoder, labels = found.source[0], found.decoder[0], found.labels[0]
    count = objective.count(len(sequence))
    assert len(labels) == 2 * count + 1
    answers = dict(zip(labels[:-1:2].tolist(), labels[1:-1:2].tolist(), strict=True))
    assert [answers.get(token, token) for token in source.tolist()] == group.tokens[0].tolist()
    # Each sentinel once, in order, in source and target.
    assert [token for token in source.tolist() if token in answers] == list(alphabet.sentinels[:count])
    assert labels[:-1:2].tolist() == list(alphabet.sentinels[:count])
    assert decoder.tolist() == [alphabet.start, *labels[:-1].tolist()]
    assert labels[-1] == alphabet.end


@given(ANY_LETTERS, st.integers(0, 2**63))
def test_legacy_masks_change_all_that_they_choose_and_nothing_else(sequence, key):
    group = group_of([sequence], ESM, [key])
    found = LEGACY.hide(group, ESM, MANY)
    hidden = found.labels != IGNORED
    assert hidden.sum() == int(0.1 * (len(sequence) + 2))
    assert np.array_equal(np.where(hidden, found.labels, found.tokens), group.tokens)
    assert (found.tokens != group.tokens)[hidden].all()


def test_legacy_masks_are_chosen_before_the_sequence_is_cut():
    long = LEGACY.hide(group_of([SEQUENCE * 100], ESM), ESM, MANY)
    assert long.tokens.shape == (1, 512)
    whole = LEGACY.hide(group_of([SEQUENCE * 100], ESM), ESM, 2000)
    assert (whole.labels != IGNORED).sum() == 100
    assert np.array_equal(whole.labels[:, :512], long.labels)


def test_rates_of_masks():
    sequences = ["".join(np.random.default_rng(row).choice(list(STANDARD), 500)) for row in range(2000)]
    group = group_of(sequences, ESM)
    found = BERT.hide(group, ESM, MANY)
    hidden = found.labels != IGNORED
    assert hidden[:, 1:-1].mean() == pytest.approx(0.15, abs=0.002)
    assert not hidden[:, [0, -1]].any()
    masked, kept = found.tokens[hidden] == ESM.mask, found.tokens[hidden] == group.tokens[hidden]
    assert masked.mean() == pytest.approx(0.8, abs=0.005)
    assert kept.mean() == pytest.approx(0.1, abs=0.005)
    # Neighbours are hidden as often as chance has it, and the whole sequence alike.
    assert (hidden[:, 1:-2] & hidden[:, 2:-1]).mean() == pytest.approx(0.15**2, abs=0.001)
    assert hidden[:, 1:-1].reshape(2000, 10, 50).mean((0, 2)) == pytest.approx(0.15, abs=0.006)
    # Another residue: one of the 20, all alike likely.
    others = found.tokens[hidden][~masked & ~kept]
    assert set(others) == set(ESM.standard)
    assert np.unique(others, return_counts=True)[1] / len(others) == pytest.approx(0.05, abs=0.006)


@pytest.mark.parametrize(("objective", "alphabet"), [(SPANS, PROTT5NV), (ANKH_SPANS, ANKH)])
def test_hidden_residues_of_span_corruption_are_spread_evenly_neighbours_too(objective, alphabet):
    group = group_of([SEQUENCE * 50] * 2000, alphabet)
    residues = objective.hide(group, alphabet, MANY).source[:, :500]
    hidden = residues != group.tokens[:, :500]
    rate = objective.count(500) / 500
    assert (hidden.sum(1) == objective.count(500)).all()
    assert hidden.reshape(2000, 10, 50).mean((0, 2)) == pytest.approx(rate, abs=0.006)
    together = rate * (objective.count(500) - 1) / 499
    assert (hidden[:, :-1] & hidden[:, 1:]).mean() == pytest.approx(together, abs=0.001)


def test_legacy_masks_choose_letters_of_the_vocabulary_and_special_tokens_too():
    group = group_of([SEQUENCE * 10] * 3000, ESM)
    found = LEGACY.hide(group, ESM, MANY)
    hidden = found.labels != IGNORED
    assert (found.tokens[hidden] == ESM.mask).mean() == pytest.approx(0.5, abs=0.01)
    assert hidden[:, [0, -1]].mean() == pytest.approx(10 / 102, abs=0.01)
    assert set(found.tokens[hidden]) == {ESM.mask, *range(5, 30)}


def test_a_mask_depends_on_key_and_position_alone():
    whole = group_of([SEQUENCE * 20, SEQUENCE[::-1] * 20], ESM, [5, 6])
    both = BERT.hide(whole, ESM, MANY)
    one = BERT.hide(group_of([SEQUENCE[::-1] * 20], ESM, [6]), ESM, MANY)
    window = BERT.hide(TokenGroup(whole.tokens[:, 50:120], np.array([50, 50]), whole.keys), ESM, MANY)
    assert np.array_equal(both.labels[1], one.labels[0])
    assert np.array_equal(both.labels[:, 50:120], window.labels)
    assert np.array_equal(both.tokens[:, 50:120], window.tokens)


def test_sequences_of_x_alone_have_no_target_under_masks():
    found = BERT.hide(group_of(["X" * 100], ESM), ESM, MANY)
    assert (found.labels == IGNORED).all()


@pytest.mark.parametrize("length", [581, 582])
def test_sentinels_suffice_up_to_the_length_that_is_said(length):
    ANKH_SPANS.check(length, ANKH)


def test_a_length_for_which_sentinels_do_not_suffice_is_refused():
    with pytest.raises(UserError, match=r"583 residues 117 .* 116 sentinels; cut sequences to 582 residues"):
        ANKH_SPANS.check(583, ANKH)
    with pytest.raises(UserError, match="96 sentinels"):
        SPANS.check(1022, PROTT5NV)


def test_the_alphabet_of_esm1nv():
    assert ESM.residues.tolist() == list(range(5, 30))
    assert set(np.flatnonzero(ESM.can_hide)) == set(range(5, 30)) - {25}
    assert (ESM.mask, ESM.first, ESM.last) == (4, (1,), (2,))


def test_the_alphabets_of_the_encoder_decoders():
    assert PROTT5NV.sentinels == tuple(range(32, 128))
    assert (PROTT5NV.start, PROTT5NV.end, PROTT5NV.first, PROTT5NV.last) == (1, 2, (), ())
    assert ANKH.sentinels == tuple(range(143, 27, -1))
    assert (ANKH.start, ANKH.end, ANKH.first, ANKH.last) == (0, 1, (), (1,))


def test_masks_need_no_residue_to_hide():
    assert BertMasks(0.15, 0.8, 0.1).hide(group_of([""], ESM), ESM, MANY).labels.tolist() == [[IGNORED] * 2]
    assert LegacyMasks(0.1, 0.5).hide(group_of([""], ESM), ESM, MANY).labels.tolist() == [[IGNORED] * 2]
