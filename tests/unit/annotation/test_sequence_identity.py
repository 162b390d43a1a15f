"""Sequence identity, on pairs whose identity is known."""

import random

import pytest
from embedome.annotation.sequence_identity import make_aligner, sequence_identity
from helpers.small_run import RESIDUES
from hypothesis import given
from hypothesis import strategies as st

ALIGNER = make_aligner()
# Of human insulin, P01308.
INSULIN = "MALWMRLLPLLALLALWGPDPAAAFVNQHLCGSHLVEALYLVCGERGFFYTPKTRREAEDLQVGQVELGGGPGAGSLQPLALEGSLQKRGIVEQ"


@given(st.text(RESIDUES + "XBZUOJ", min_size=1, max_size=40))
def test_a_sequence_is_identical_to_itself(sequence):
    # BLOSUM62 scores X with X below zero: such residues may be put against gaps at the ends.
    if not set(sequence) & set("XBZ"):
        assert sequence_identity(ALIGNER, sequence, sequence) == 1
    assert 0 <= sequence_identity(ALIGNER, sequence, sequence) <= 1


def test_a_fragment_is_identical_to_its_protein_either_way_round():
    for fragment in (INSULIN[:30], INSULIN[40:80], INSULIN[-25:]):
        assert sequence_identity(ALIGNER, fragment, INSULIN) == sequence_identity(ALIGNER, INSULIN, fragment) == 1


@pytest.mark.parametrize("changes", [0, 5, 20])
def test_substitutions_count_each(changes):
    rng = random.Random(changes)
    letters = list(INSULIN)
    for place in rng.sample(range(5, len(INSULIN) - 5), changes):
        letters[place] = rng.choice([letter for letter in RESIDUES if letter != INSULIN[place]])
    found = sequence_identity(ALIGNER, INSULIN, "".join(letters))
    assert found == pytest.approx(1 - changes / len(INSULIN), abs=0.02)


def test_an_insertion_does_not_count_against_it():
    assert sequence_identity(ALIGNER, INSULIN, INSULIN[:50] + "GGSGGSGG" + INSULIN[50:]) == 1


def test_of_giants_the_first_residues_count(monkeypatch):
    monkeypatch.setattr("embedome.annotation.sequence_identity.COMPARED_RESIDUES", 50)
    assert sequence_identity(ALIGNER, INSULIN, INSULIN[:50] + "W" * 60) == 1
