"""Refget digests of sequences, and keyed hashes of ids."""

import base64
import hashlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa

# Of a digest: "SQ." and the 32 after it.
DIGEST_CHARACTERS = 35
# The latter of a sequence with structure states, of which there is no refget digest.
REFGET_PREFIX, STRUCTURE_PREFIX = "SQ.", "S3."


def refget_digest(sequence: bytes) -> str:
    """Return the GA4GH refget digest of an upper-case sequence: ``SQ.`` and its sha512t24u.

    References
    ----------
    GA4GH refget v2, "sha512t24u": base64url of the first 24 bytes of SHA-512 (https://ga4gh.github.io/refget/).

    Examples
    --------
    >>> refget_digest(b"ACGT")
    'SQ.aKF498dAxcJAqme6QYQ7EZ07-fiw8Kw2'
    """
    return refget_digests([sequence])[0]


def refget_digests(sequences: Iterable[bytes], prefix: str = REFGET_PREFIX) -> list[str]:
    """Return the digests of many sequences, see `refget_digest`."""
    text = digest_texts(sequences)
    return [prefix + text[start : start + 32].decode() for start in range(0, len(text), 32)]


def digest_texts(sequences: Iterable[bytes]) -> bytes:
    """Return the 32 characters after ``SQ.`` of each sequence's digest, joined."""
    # A copy is made faster than a new object.
    begin = hashlib.sha512().copy
    digests = []
    for sequence in sequences:
        sha512 = begin()
        sha512.update(sequence)
        digests.append(sha512.digest()[:24])
    # 24 bytes are 32 characters, without padding.
    return base64.urlsafe_b64encode(b"".join(digests))


def hash_ids(ids: pa.ChunkedArray | pa.Array, seed: int | str) -> np.ndarray:
    """Return the BLAKE2b hash (RFC 7693), keyed with the seed, of each id as a 64-bit number, shape (n,)."""
    # A copy has taken the key in already.
    begin = hashlib.blake2b(digest_size=8, key=str(seed).encode()).copy
    digests = []
    for name in ids.to_pylist():
        blake2b = begin()
        blake2b.update(name.encode())
        digests.append(blake2b.digest())
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)
