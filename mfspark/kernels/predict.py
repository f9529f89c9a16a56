"""Predictions and top-N lists from factor matrices."""

import numba
import numpy as np
import numpy.typing as npt

from mfspark.kernels.csr import Float32s, Float64s, Int64s


@numba.njit(cache=True, nogil=True)
def dot_rows(left: Float32s, right: Float32s) -> Float64s:  # type: ignore[no-untyped-def]
    """Σ_f left[n, f]·right[n, f], float64 [n], added from the first factor to the last.

    Products of two float32 are exact in float64 and the order of the sum is fixed, so a list of
    the single contributions adds up to the very same number.
    """
    result = np.zeros(left.shape[0], np.float64)
    for n in range(left.shape[0]):
        total = 0.0
        for f in range(left.shape[1]):
            total += np.float64(left[n, f]) * np.float64(right[n, f])
        result[n] = total
    return result


def top_n(
    queries: Float32s,
    candidates: Float32s,
    candidate_bias: Float32s,
    n: int,
    excluded: list[npt.NDArray[np.int32]] | None = None,
) -> tuple[Int64s, Float32s]:
    """Best candidates of every query by queries·candidatesᵀ + candidate_bias.

    ``excluded[q]`` holds candidate positions that query q must not get. Returns positions int64 and
    scores float32, both [n_queries, min(n, n_candidates)], best first, ties by position; places
    that exclusion left empty have score −inf.
    """
    n = min(n, len(candidates))
    scores = queries @ candidates.T + candidate_bias
    if excluded is not None:
        for query, positions in enumerate(excluded):
            scores[query, positions] = -np.inf
    best = np.argpartition(-scores, n - 1, axis=1)[:, :n] if n else np.zeros((len(queries), 0), int)
    best.sort(axis=1)
    best_scores = np.take_along_axis(scores, best, axis=1)
    order = np.argsort(-best_scores, axis=1, kind="stable")
    return (
        np.take_along_axis(best, order, axis=1).astype(np.int64),
        np.take_along_axis(best_scores, order, axis=1),
    )
