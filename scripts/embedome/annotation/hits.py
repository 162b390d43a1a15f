"""Finding the hits of queries in a reference set: FAISS finds candidates, whose exact distances are then computed."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedome.annotation.reference_set import COSINE, EUCLIDEAN, AnnotateSettings, ReferenceSet
from embedome.annotation.sequence_identity import make_aligner, sequence_identity
from embedome.dataset.to_faiss import faiss_threads, unit

# Candidates beyond k that are asked for at first; and how many times as many in each further round.
SPARE, GROWTH = 16, 4
# Numbers in memory at once, in each of a few arrays: 16 MB in double precision.
BLOCK_NUMBERS = 1 << 21
OWN, IDENTICAL, SIMILAR = "own", "identical_sequence", "above_max_identity"


@dataclass(frozen=True, slots=True)
class Queries:
    """Proteins to find hits for: n of them.

    Parameters
    ----------
    ids, digests : pyarrow.Array
    vectors : numpy.ndarray, dtype=float16, shape=(n, D)
    sequences : sequence of str, optional
        Needed where an identity is asked for.
    """

    ids: pa.Array
    digests: pa.Array
    vectors: np.ndarray
    sequences: list[str] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, numbers: np.ndarray) -> Self:
        """Return some of the queries."""
        places = pa.array(numbers)
        some = None if self.sequences is None else [self.sequences[number] for number in numbers]
        return type(self)(self.ids.take(places), self.digests.take(places), self.vectors[numbers], some)


@dataclass(frozen=True, slots=True)
class Hits:
    """Hits of queries, sorted by query, then distance, then id.

    Attributes
    ----------
    query, row : numpy.ndarray, dtype=int64, shape=(h,)
        Numbers of the query, and of the hit in the reference set.
    distance : numpy.ndarray, dtype=float64, shape=(h,)
    left_out : collections.Counter
        Annotated proteins as near as the hits, or nearer, that were left out, by reason.
    """

    query: np.ndarray
    row: np.ndarray
    distance: np.ndarray
    left_out: Counter[str] = field(default_factory=Counter)


class HitFinder:
    """Finds hits in a reference set.

    Hits of a query are the k nearest annotated proteins and all others as far away as the k-th. A protein is no hit of
    itself, nor of its copies or of what is too similar where the settings say so.

    Parameters
    ----------
    reference : ReferenceSet
    settings : AnnotateSettings
    threads : int

    Notes
    -----
    FAISS works in float32 by sums whose last bits depend on what else is in a batch. It proposes candidates; their
    distances are computed in float64 from the float16 vectors, so that they depend on the two vectors alone, and equal
    vectors are equally far. More candidates are asked for until the last one is farther than the k-th hit by more than
    FAISS may be off.
    """

    def __init__(self, reference: ReferenceSet, settings: AnnotateSettings, threads: int = 1) -> None:
        self.reference, self.settings, self.threads = reference, settings, threads
        self.index = reference.index()
        self.aligner = None if settings.max_identity is None else make_aligner()
        self.n_alignments = 0

    def find(self, queries: Queries) -> Hits:
        """Find the hits of some queries."""
        waiting, wanted = np.arange(len(queries)), self.settings.neighbours + SPARE
        found: list[Hits] = []
        known: dict[tuple[int, int], float] = {}
        while len(waiting):
            wanted = min(wanted, len(self.reference.ids))
            left = []
            for some in np.array_split(waiting, -(-len(waiting) * wanted // BLOCK_NUMBERS)):
                done, hits = self.attempt(queries.take(some), some, wanted, known)
                found.append(hits)
                left.append(some[~done])
            waiting, wanted = np.concatenate(left), wanted * GROWTH
        return concat_hits(found)

    def attempt(
        self, queries: Queries, numbers: np.ndarray, wanted: int, known: dict[tuple[int, int], float]
    ) -> tuple[np.ndarray, Hits]:
        """Return which queries are settled with `wanted` candidates, and their hits; `known` holds known identities."""
        rows, reach, exhausted = self.candidates(queries.vectors, wanted)
        distance = self.distances(queries.vectors, rows)
        order = np.lexsort((rows, distance), axis=1)
        rows, distance = (np.take_along_axis(each, order, 1) for each in (rows, distance))
        reasons = self.forbidden(queries, rows)
        allowed = np.where(np.logical_or.reduce([*reasons.values(), rows < 0]), np.inf, distance)
        if self.aligner:
            reasons[SIMILAR] = self.too_similar(queries, numbers, rows, allowed, known)
            allowed[reasons[SIMILAR]] = np.inf
        last = kth_smallest(allowed, self.settings.neighbours)
        done = exhausted | (last < reach)
        hit = (allowed <= last[:, None]) & np.isfinite(allowed) & done[:, None]
        near = (distance <= last[:, None]) & (rows >= 0) & done[:, None]
        left_out = Counter({reason: int((mask & near).sum()) for reason, mask in reasons.items()})
        query, place = np.nonzero(hit)
        return done, Hits(numbers[query], rows[query, place], distance[query, place], left_out)

    def candidates(self, vectors: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find the nearest rows as FAISS sees them.

        Returns
        -------
        rows : numpy.ndarray, dtype=int64, shape=(n, wanted)
            -1 where there are no more.
        reach : numpy.ndarray, dtype=float64, shape=(n,)
            Least distance of what has not been found, as far as the index finds it.
        exhausted : numpy.ndarray, dtype=bool, shape=(n,)
            Where nothing more can be found.
        """
        cosine = self.settings.metric == COSINE
        asked = unit(vectors) if cosine else np.ascontiguousarray(vectors, np.float32)
        with faiss_threads(self.threads):
            scores, rows = self.index.search(asked, wanted)
        exhausted = np.logical_or((rows < 0).any(1), wanted == len(self.reference.ids))
        far = scores[:, -1].astype(np.float64)
        # Sums of D products in float32 are off by some sqrt(D) units in the last place of the squared norms.
        unit_error = 2 * math.sqrt(vectors.shape[1]) * np.finfo(np.float32).eps
        if cosine:
            return rows, 1 - far - 2 * unit_error, exhausted
        norms = np.square(asked, dtype=np.float64).sum(1)
        # A neighbour at the squared distance s has a squared norm of at most 2 (norms + s).
        return rows, np.sqrt(np.maximum(far - unit_error * (3 * norms + 2 * np.abs(far)), 0)), exhausted

    def distances(self, vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Compute the distances [n, m] of queries from candidates, in float64; infinite where there is no candidate."""
        found = np.full(rows.shape, np.inf)
        query, place = np.nonzero(rows >= 0)
        step = max(1, BLOCK_NUMBERS // vectors.shape[1])
        for start in range(0, len(query), step):
            pairs = query[start : start + step], place[start : start + step]
            found[pairs] = pair_distances(vectors[pairs[0]], self.reference.vectors[rows[pairs]], self.settings.metric)
        return found

    def forbidden(self, queries: Queries, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return which candidates are no hits, by reason: the query itself, and if asked for, its copies."""
        own = rows == row_numbers(queries.ids, self.reference.ids)[:, None]
        reasons = {OWN: own}
        if self.settings.skip_identical:
            digests = self.reference.digests.take(pa.array(np.maximum(rows, 0).ravel()))
            same = pc.equal(digests, queries.digests.take(pa.array(np.repeat(np.arange(len(rows)), rows.shape[1]))))
            reasons[IDENTICAL] = same.to_numpy(zero_copy_only=False).reshape(rows.shape) & (rows >= 0) & ~own
        return reasons

    def too_similar(
        self,
        queries: Queries,
        numbers: np.ndarray,
        rows: np.ndarray,
        allowed: np.ndarray,
        known: dict[tuple[int, int], float],
    ) -> np.ndarray:
        """Return which candidates are above the largest identity; those beyond the k-th below it are not compared."""
        limit, sequences = self.settings.max_identity, queries.sequences
        assert self.aligner is not None, "made where the settings have a largest identity"
        assert limit is not None, "likewise"
        assert sequences is not None, "`check_catalog` has seen that there is one"
        similar = np.zeros(rows.shape, bool)
        for index, (number, sequence) in enumerate(zip(numbers.tolist(), sequences, strict=True)):
            accepted, last = 0, np.inf
            for place in np.flatnonzero(np.isfinite(allowed[index])):
                if accepted >= self.settings.neighbours and allowed[index, place] > last:
                    break
                pair = (number, int(rows[index, place]))
                if pair not in known:
                    known[pair] = sequence_identity(self.aligner, sequence, self.reference.sequences[pair[1]].as_py())
                    self.n_alignments += 1
                similar[index, place] = known[pair] > limit
                if not similar[index, place]:
                    accepted, last = accepted + 1, allowed[index, place]
        return similar


def pair_distances(one: np.ndarray, other: np.ndarray, metric: str) -> np.ndarray:
    """Compute distances of vectors [n, D] from others, row by row, in float64; in cosine a vector of zeros is 1 off.

    Each depends on its two vectors alone, to the last bit: NumPy sums a row in one fixed order.
    """
    one, other = one.astype(np.float64), other.astype(np.float64)
    if metric == EUCLIDEAN:
        return np.sqrt(np.square(one - other).sum(-1))
    norms = np.sqrt(np.square(one).sum(-1) * np.square(other).sum(-1))
    products = (one * other).sum(-1)
    return 1 - np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)


def row_numbers(ids: pa.Array, of: pa.Array) -> np.ndarray:
    """Return the position of each id in another array; -2, which no candidate has, where it is not in it."""
    return pc.fill_null(pc.index_in(ids, value_set=of), -2).to_numpy()


def kth_smallest(values: np.ndarray, k: int) -> np.ndarray:
    """Return the k-th smallest of each row, infinite where there are fewer."""
    if values.shape[1] < k:
        return np.full(len(values), np.inf)
    return np.partition(values, k - 1, axis=1)[:, k - 1]


def concat_hits(found: list[Hits]) -> Hits:
    """Return hits of several rounds as one, sorted."""
    query, row, distance = (
        np.concatenate([getattr(hits, name) for hits in found]) for name in ("query", "row", "distance")
    )
    order = np.argsort(query, kind="stable")
    return Hits(query[order], row[order], distance[order], sum((hits.left_out for hits in found), Counter()))
