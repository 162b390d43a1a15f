"""Random numbers and permutations without a state: functions of a key and a counter, by array operations.

So the masks of a sequence depend on nothing but seed, epoch and row, and not on what else is in the batch, and the
place of a sequence in an epoch is found without a table of all of them.
"""

import numpy as np

# Of the finaliser of SplitMix64 (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195), and its step.
MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
STEP = 0x9E3779B97F4A7C15
# Balanced ones of the Feistel network; four are enough to be a pseudorandom permutation (Luby and Rackoff 1988).
ROUNDS = 4


def mix(values: np.ndarray) -> np.ndarray:
    """Scatter 64-bit numbers, one to one: the finaliser of SplitMix64; dtype=uint64, same shape."""
    values = np.asarray(values, np.uint64)
    for shift, multiplier in zip((30, 27), MULTIPLIERS, strict=True):
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(multiplier)
    return values ^ (values >> np.uint64(31))


def combine(*counters: int | np.ndarray) -> np.ndarray:
    """Hash counters, which are broadcast against each other, to one key for each; dtype=uint64."""
    key = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for counter in counters:
            key = mix(key + np.uint64(STEP) + np.asarray(counter).astype(np.uint64) * np.uint64(MULTIPLIERS[1]))
    return key


def uniform(*counters: int | np.ndarray) -> np.ndarray:
    """Numbers in [0, 1), of 53 bits each, for counters as of `combine`; dtype=float64."""
    return (combine(*counters) >> np.uint64(11)) * 2.0**-53


def permute_index(index: np.ndarray, count: int, key: int) -> np.ndarray:
    """Where a key's permutation of `count` numbers puts each index.

    A Feistel network on the smallest even number of bits that holds them; numbers that it puts beyond `count` go
    through it again (cycle walking: Black and Rogaway 2002, doi:10.1007/3-540-45760-7_9).

    Parameters
    ----------
    index : numpy.ndarray, dtype=int64, shape=(n,)
        From 0 to `count` - 1.
    count : int
    key : int

    Returns
    -------
    numpy.ndarray, dtype=int64, shape=(n,)
    """
    half = np.uint64(max(1, ((count - 1).bit_length() + 1) // 2))
    low = np.uint64((1 << int(half)) - 1)
    keys = [combine(key, each) for each in range(ROUNDS)]
    found = np.array(index, np.uint64)
    left = np.arange(len(found))
    while len(left):
        values = found[left]
        a, b = values >> half, values & low
        for each in keys:
            a, b = b, a ^ (combine(each, b) & low)
        values = (a << half) | b
        found[left] = values
        left = left[values >= count]
    return found.astype(np.int64)
