"""Rows of one side that stand to the other side alike, and how far to believe it.

Two items are alike if the same people like them better than biases explain: their similarity is the
cosine of what a model predicts of them over all users. In canonical coordinates, in which users'
factors are uncorrelated and have mean squares s_f², that is the cosine of the vectors (s_f q_f).
A row with n ratings is a ridge regression with penalties λ_f n^ν, so its factors have the sampling
variances σ² n s_f² / (n s_f² + λ_f n^ν)² and are off by σ² / (n s_f² + λ_f n^ν) altogether.
"""

from typing import NamedTuple

import numpy as np

from mfspark.kernels.arrays import Float32s, Float64s, Int32s, Int64s, UInt64s
from mfspark.kernels.predict import top_n
from mfspark.kernels.random import normal_rows


class Evidence(NamedTuple):
    """What a rating tells of factors: mean squares s_f² of the other side's and penalties λ_f, both
    float64 [rank], σ² and ν."""

    squares: Float64s
    penalties: Float64s
    variance: float
    exponent: float


class SimilarRows(NamedTuple):
    """Rows to compare: factors float32 [n, rank], ratings int64 [n], and keys uint64 [n] of random
    numbers."""

    factors: Float32s
    n_ratings: Int64s
    keys: UInt64s


def similar_rows(
    queries: SimilarRows, candidates: SimilarRows, evidence: Evidence, n: int, n_draws: int
) -> tuple[Int32s, Float32s, Float32s]:
    """Candidates nearest to each query, other than itself: positions int32, similarities and
    agreements float32, all [n_queries, n]; empty places have similarity −inf.

    The similarity of i and j is cos(i, j) √(ρ_i ρ_j), ρ being the share of a row's mean square that
    is not error: Σ s_f² q_f² / Σ s_f² (q_f² + error_f). Agreement is the share of ``n_draws`` draws
    in which j is again among the n nearest of i; a draw is what factors might be were they learnt
    from other people, so it is off by twice their sampling variances. Rows with the same key are
    the same row.
    """
    assert queries.factors.shape[1] == candidates.factors.shape[1] == len(evidence.squares)
    itself = _same(queries.keys, candidates.keys)
    no_bias = np.zeros(len(candidates.factors), np.float32)
    left, right = (_weighted(rows.factors, rows, evidence) for rows in (queries, candidates))
    positions, similarity = top_n(left, right, no_bias, n, itself)
    again = np.zeros(positions.shape, np.float32)
    for draw in range(n_draws):
        left, right = (
            _weighted(_drawn(rows, evidence, draw), rows, evidence)
            for rows in (queries, candidates)
        )
        nearest, _ = top_n(left, right, no_bias, n, itself)
        again += (positions[:, :, None] == nearest[:, None, :]).any(axis=2)
    return positions, similarity, again / np.float32(max(n_draws, 1))


def _weighted(factors: Float32s, rows: SimilarRows, evidence: Evidence) -> Float32s:
    """Vectors whose products are similarities, float32 [n, rank]."""
    error, _ = _variances(rows.n_ratings, evidence)
    known = (factors.astype(np.float64) ** 2 * evidence.squares).sum(axis=1)
    total = known + (error * evidence.squares).sum(axis=1)
    # Unit length times √ρ = √(known / total).
    weight = np.divide(1.0, np.sqrt(total), out=np.zeros_like(total), where=known > 0)
    found: Float32s = (factors * np.sqrt(evidence.squares) * weight[:, None]).astype(np.float32)
    return found


def _drawn(rows: SimilarRows, evidence: Evidence, draw: int) -> Float32s:
    _, sampling = _variances(rows.n_ratings, evidence)
    noise = normal_rows(rows.keys, draw, rows.factors.shape[1])
    return rows.factors + noise * np.sqrt(2 * sampling).astype(np.float32)


def _variances(n_ratings: Int64s, evidence: Evidence) -> tuple[Float64s, Float64s]:
    """Errors and sampling variances of factors, float64 [n, rank]; without ratings both are the
    error."""
    n = n_ratings[:, None].astype(np.float64)
    penalty = evidence.penalties * np.maximum(n, 1.0) ** evidence.exponent
    squared = n * evidence.squares
    # Factors that neither the data nor a penalty tells of are zero.
    whole = np.where(squared + penalty > 0, squared + penalty, np.inf)
    error = evidence.variance / whole
    return error, np.where(n > 0, error * squared / whole, error)


def _same(queries: UInt64s, candidates: UInt64s) -> tuple[Int64s, Int32s]:
    """The candidates that are the query itself, as ``top_n`` wants them."""
    order = np.argsort(candidates, kind="stable")
    low, high = (np.searchsorted(candidates[order], queries, side) for side in ("left", "right"))
    starts = np.concatenate([[0], np.cumsum(high - low)]).astype(np.int64)
    places = [order[first:last] for first, last in zip(low, high, strict=True)]
    return starts, np.concatenate([np.zeros(0, np.int64), *places]).astype(np.int32)
