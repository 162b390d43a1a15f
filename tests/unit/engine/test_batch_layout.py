"""How sequences are laid out: against slices of the sequences, one window at a time."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from embedome.embedding.metrics import Clock
from embedome.engine.batch_layout import BatchLayout, DeviceLayout, lay_out
from embedome.engine.windows import LongPolicy, Sequences
from embedome.models.tokenizer import STANDARD, ResidueTokenizer
from hypothesis import given
from hypothesis import strategies as st

SEQUENCES = st.lists(st.text(STANDARD, min_size=1, max_size=40).map(str.encode), max_size=30)
POLICIES = st.one_of(
    st.tuples(st.just("truncate"), st.just(0)),
    st.tuples(st.just("skip"), st.just(0)),
    st.tuples(st.just("window"), st.integers(0, 6)),
)


def tokenizer_of(spread: int, first: bool, last: bool) -> ResidueTokenizer:
    """One whose ids are `spread` apart."""
    names = ["<s>", "</s>", "<unk>", *STANDARD]
    vocabulary = {name: spread * index for index, name in enumerate(names)}
    return ResidueTokenizer(vocabulary, "<unk>", "<s>" if first else None, "</s>" if last else None)


def slices(sequences: list[bytes], name: str, overlap: int, longest: int) -> list[tuple[int, int, int]]:
    """Owner, begin and end of each window, sequence by sequence."""
    found = []
    for owner, sequence in enumerate(sequences):
        if len(sequence) <= longest:
            found.append((owner, 0, len(sequence)))
        elif name == "truncate":
            found.append((owner, 0, longest))
        elif name == "window":
            begin = 0
            while begin + longest < len(sequence):
                found.append((owner, begin, begin + longest))
                begin += longest - overlap
            found.append((owner, len(sequence) - longest, len(sequence)))
    return found


def lay_out_lists(
    sequences: list[bytes], tokenizer: ResidueTokenizer, policy: tuple[str, int], longest: int
) -> tuple[BatchLayout, list[tuple[int, int, int]]]:
    layout = lay_out(Sequences.join(sequences), tokenizer, LongPolicy(*policy), longest)
    return layout, slices(sequences, *policy, longest)


@given(SEQUENCES, POLICIES, st.integers(7, 40), st.sampled_from([1, 11, 12]), st.booleans(), st.booleans(), st.data())
def test_every_window_is_there_once_longest_first_with_its_tokens(
    sequences: list[bytes],
    policy: tuple[str, int],
    longest: int,
    spread: int,
    first: bool,
    last: bool,
    data: st.DataObject,
) -> None:
    tokenizer = tokenizer_of(spread, first, last)
    layout, expected = lay_out_lists(sequences, tokenizer, policy, longest)
    assert sorted(layout.order.tolist()) == list(range(len(expected)))
    windows = [expected[place] for place in layout.order]
    lengths = [end - begin for _, begin, end in windows]
    assert layout.lengths.tolist() == lengths == sorted(lengths, reverse=True)
    assert layout.longer.tolist() == [len(sequence) > longest for sequence in sequences]
    # Ids from 256 on do not fit a byte.
    assert layout.tokens.dtype.itemsize == (1 if spread < 12 else 4)

    covered = [np.zeros(len(sequence), int) for sequence in sequences]
    for owner, begin, end in expected:
        covered[owner][begin:end] += 1
    cuts = sorted({0, len(windows), *data.draw(st.lists(st.integers(0, len(windows)), max_size=4))})
    row, seen = DeviceLayout(layout, torch.device("cpu")), 0
    for batch in pairwise(cuts):
        groups = list(row.groups(*batch))
        # Not cut more often than the length changes.
        assert len(groups) == len(set(lengths[slice(*batch)]))
        for group in groups:
            assert group.places.tolist() == group.windows.tolist()
            for index, place in enumerate(group.windows.tolist()):
                owner, begin, end = expected[place]
                residues = [tokenizer.ids[chr(code)] for code in sequences[owner][begin:end]]
                assert group.tokens[index].tolist() == [*tokenizer.first, *residues, *tokenizer.last]
                weights = np.float32(1) / covered[owner][begin:end].astype(np.float32)
                assert (np.ones(end - begin) if group.weights is None else group.weights[index].numpy()).tolist() == (
                    weights.tolist()
                )
            seen += len(group.windows)
    assert seen == len(windows)


def test_threads_that_are_in_one_stage_together_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("embedome.embedding.metrics.time.perf_counter", lambda: now[0])
    clock = Clock()

    def spend(seconds: float) -> None:
        now[0] += seconds

    with clock.time("device"):
        spend(1)
        inner = clock.time("device")
        inner.__enter__()
        spend(2)
    spend(4)
    inner.__exit__(None, None, None)
    spend(8)
    with clock.time("device"), clock.time("writing"):
        spend(16)
    assert clock.read() == {"reading": 0, "device": 23, "writing": 16, "total": 31}
