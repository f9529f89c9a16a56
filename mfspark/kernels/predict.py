"""Predictions and top-N lists from factor matrices."""

from typing import NamedTuple

import numpy as np

from mfspark.kernels.arrays import LANES, Bools, Float32s, Float64s, Int32s, Int64s
from mfspark.kernels.compiled import compiled

# Scores that exist at a time (4 MB, so that they stay in the cache), of how many candidates at
# most; of how many the highest is found first, and the scores that make vectors of these.
_SCORES_PER_TILE = 1_000_000
CANDIDATES_PER_TILE = 4096
_DEEP = 16
_RUN = _DEEP * LANES


def dot_rows(left: Float32s, right: Float32s) -> Float64s:
    """Σ_f left[n, f]·right[n, f], float64 [n], added from the first factor to the last.

    Products of two float32 are exact in float64 and the order of the sum is fixed, so a list of
    the single contributions adds up to the very same number.
    """
    assert left.shape == right.shape
    assert left.dtype == right.dtype == np.float32
    found: Float64s = _dot_rows(left, right)
    return found


@compiled()
def _dot_rows(left, right):  # type: ignore[no-untyped-def]
    result = np.zeros(left.shape[0], np.float64)
    for n in range(left.shape[0]):
        total = 0.0
        for f in range(left.shape[1]):
            total += np.float64(left[n, f]) * np.float64(right[n, f])
        result[n] = total
    return result


class ModelRows(NamedTuple):
    """One side of a model: factors float32 [n, rank], biases float32 [n], the biases that take
    their place beside an id without ratings, float32 [n], and which rows have ratings, bool [n]."""

    factors: Float32s
    bias: Float32s
    cold_bias: Float32s
    is_rated: Bools


def predict_pairs(
    user: Int32s, item: Int32s, users: ModelRows, items: ModelRows, mean: float
) -> Float64s:
    """μ + b_u + b_i + p_u·q_i, float64 [n], added in this order as ``dot_rows`` does.

    ``user`` and ``item`` int32 [n] are rows of ``users`` and of ``items``; −1 stands for an id
    without a row, whose parts are left out. Beside it, and beside a row without ratings, the bias
    of the other row is its cold one.
    """
    assert user.shape == item.shape
    assert user.dtype == item.dtype == np.int32
    assert users.factors.shape[1] == items.factors.shape[1]
    for factors, bias, cold_bias, is_rated in (users, items):
        assert bias.shape == cold_bias.shape == is_rated.shape == factors.shape[:1]
        assert factors.dtype == bias.dtype == cold_bias.dtype == np.float32
        assert is_rated.dtype == np.bool_
    found: Float64s = _predict_pairs(user, item, *users, *items, mean)
    return found


@compiled()
def _predict_pairs(  # type: ignore[no-untyped-def]
    user, item, user_factors, user_bias, user_cold_bias, user_is_rated,
    item_factors, item_bias, item_cold_bias, item_is_rated, mean,
):  # fmt: skip
    """Four pairs at a time; what has no row is left out."""
    n = len(user)
    result = np.empty(n, np.float64)
    dots = np.empty(4, np.float64)
    for first in range(0, n, 4):
        # Four pairs at a time: each sum waits for its last addition, so one alone would idle.
        last = min(first + 4, n)
        _four_dots(user, item, user_factors, item_factors, first, last - 1, dots)
        for pair in range(first, last):
            u, i = user[pair], item[pair]
            total = np.float64(mean)
            if u >= 0:
                is_warm = i >= 0 and item_is_rated[i]
                total += np.float64(user_bias[u] if is_warm else user_cold_bias[u])
            if i >= 0:
                is_warm = u >= 0 and user_is_rated[u]
                total += np.float64(item_bias[i] if is_warm else item_cold_bias[i])
            if u >= 0 and i >= 0:
                total += dots[pair - first]
            result[pair] = total
    return result


def variance_of_pairs(
    user: Int32s, item: Int32s, user_draws: Float32s, item_draws: Float32s
) -> Float64s:
    """Variance of b_u + b_i + p_u·q_i over the draws of a posterior, float64 [n], for pairs of rows
    (int32 [n]) of the draws, float32 [·, n_draws, rank + 1], each [factors, bias].

    The sample variance, with n_draws − 1 in the denominator; 0 for pairs with a row −1.
    """
    assert user.shape == item.shape
    assert user.dtype == item.dtype == np.int32
    assert user_draws.shape[1:] == item_draws.shape[1:]
    assert user_draws.shape[1] > 1
    assert user_draws.dtype == item_draws.dtype == np.float32
    found: Float64s = _variance_of_pairs(user, item, user_draws, item_draws)
    return found


@compiled()
def _variance_of_pairs(user, item, user_draws, item_draws):  # type: ignore[no-untyped-def]
    """The predictions of all draws for a pair, then their variance around their own mean."""
    n_draws, rank = user_draws.shape[1], user_draws.shape[2] - 1
    result = np.zeros(len(user), np.float64)
    predicted = np.empty(n_draws, np.float64)
    for pair in range(len(user)):
        if user[pair] < 0 or item[pair] < 0:
            continue
        center = 0.0
        for draw in range(n_draws):
            p, q = user_draws[user[pair], draw], item_draws[item[pair], draw]
            total = np.float64(p[rank]) + np.float64(q[rank])
            for f in range(rank):
                total += np.float64(p[f]) * np.float64(q[f])
            predicted[draw] = total
            center += total / n_draws
        for draw in range(n_draws):
            result[pair] += (predicted[draw] - center) ** 2 / (n_draws - 1)
    return result


@compiled()
def _four_dots(user, item, user_factors, item_factors, first, last, dots):  # type: ignore[no-untyped-def]
    """Products of the pairs first .. first + 3, none beyond ``last``; rows −1 count as 0."""
    b, c, d = min(first + 1, last), min(first + 2, last), min(first + 3, last)
    p0, q0 = user_factors[max(user[first], 0)], item_factors[max(item[first], 0)]
    p1, q1 = user_factors[max(user[b], 0)], item_factors[max(item[b], 0)]
    p2, q2 = user_factors[max(user[c], 0)], item_factors[max(item[c], 0)]
    p3, q3 = user_factors[max(user[d], 0)], item_factors[max(item[d], 0)]
    dot0, dot1, dot2, dot3 = 0.0, 0.0, 0.0, 0.0
    for f in range(user_factors.shape[1]):
        dot0 += np.float64(p0[f]) * np.float64(q0[f])
        dot1 += np.float64(p1[f]) * np.float64(q1[f])
        dot2 += np.float64(p2[f]) * np.float64(q2[f])
        dot3 += np.float64(p3[f]) * np.float64(q3[f])
    dots[0], dots[1], dots[2], dots[3] = dot0, dot1, dot2, dot3


def top_n(
    queries: Float32s,
    candidates: Float32s,
    candidate_bias: Float32s,
    n: int,
    excluded: tuple[Int64s, Int32s] | None = None,
) -> tuple[Int32s, Float32s]:
    """Best candidates of every query by queries·candidatesᵀ + candidate_bias.

    ``excluded`` (starts int64 [n_queries + 1], positions int32): query q must not get the
    candidates positions[starts[q] : starts[q + 1]]. Returns positions int32 and scores float32,
    both [n_queries, min(n, n_candidates)], best first, ties by position; places that exclusion left
    empty have score −inf. The scores of a few hundred queries exist at a time.
    """
    assert queries.shape[1] == candidates.shape[1]
    assert candidate_bias.shape == candidates.shape[:1]
    assert queries.dtype == candidates.dtype == candidate_bias.dtype == np.float32
    n_queries, n = len(queries), min(n, len(candidates))
    if excluded is None:
        excluded = np.zeros(n_queries + 1, np.int64), np.zeros(0, np.int32)
    assert excluded[0].shape == (n_queries + 1,)
    positions = np.zeros((n_queries, n), np.int32)
    best = np.full((n_queries, n), -np.inf, np.float32)
    if n == 0:
        return positions, best
    # One more feature, which is 1 for all queries, adds the bias within the product.
    right = np.column_stack([candidates, candidate_bias]).T
    width = min(len(candidates), CANDIDATES_PER_TILE)
    height = max(1, min(n_queries, _SCORES_PER_TILE // width))
    # The same memory for each tile: a new one would come in pages that are yet to be cleared.
    memory = np.empty(height * width, np.float32)
    for first in range(0, n_queries, height):
        part = slice(first, min(first + height, n_queries))
        left = np.column_stack([queries[part], np.ones(part.stop - first, np.float32)])
        starts, places = excluded[0][first:], excluded[1]
        for offset in range(0, len(candidates), width):
            some = right[:, offset : offset + width]
            scores = memory[: len(left) * some.shape[1]].reshape(len(left), -1)
            np.matmul(left, some, out=scores)
            _select(scores, offset, starts, places, positions[part], best[part])
    return positions, best


@compiled(fastmath={"nnan", "nsz"})
def _select(scores, offset, starts, excluded, positions, best):  # type: ignore[no-untyped-def]
    """The largest scores of each row among the best so far. ``offset``: position of the first
    candidate.

    Scores are looked at in groups of ``_DEEP``, every ``LANES``-th of a run. The n-th highest of
    their maxima is no higher than the n-th best score, so no group below it need be looked at
    again.
    """
    n_candidates, n = scores.shape[1], best.shape[1]
    n_runs = n_candidates // _RUN
    highest = np.empty(n_runs * LANES, np.float32)
    bounds = np.empty(n, np.float32)
    for query in range(len(scores)):
        row, top, places = scores[query], best[query], positions[query]
        for entry in range(starts[query], starts[query + 1]):
            if offset <= excluded[entry] < offset + n_candidates:
                row[excluded[entry] - offset] = -np.inf
        bounds[:] = top[n - 1]
        _maxima(row, highest, bounds)
        for group in range(len(highest)):
            if highest[group] >= bounds[n - 1]:
                first = group // LANES * _RUN + group % LANES
                for j in range(first, first + _RUN, LANES):
                    _insert(row[j], offset + j, top, places)
        for j in range(n_runs * _RUN, n_candidates):
            _insert(row[j], offset + j, top, places)


@compiled(fastmath={"nnan", "nsz"})
def _maxima(row, highest, bounds):  # type: ignore[no-untyped-def]
    """Set highest to the maximum of each group, ``LANES`` of them side by side in a vector, and put
    what exceeds the last of ``bounds`` among these, in descending order."""
    n = len(bounds)
    for number in range(len(highest) // LANES):
        run, maxima = row[number * _RUN :], highest[number * LANES :]
        for lane in range(LANES):
            maxima[lane] = run[lane]
        for deep in range(1, _DEEP):
            for lane in range(LANES):
                maxima[lane] = max(maxima[lane], run[deep * LANES + lane])
        for lane in range(LANES):
            place = n
            while place > 0 and maxima[lane] > bounds[place - 1]:
                if place < n:
                    bounds[place] = bounds[place - 1]
                place -= 1
            if place < n:
                bounds[place] = maxima[lane]


@compiled(fastmath={"nnan", "nsz"})
def _insert(score, position, top, places):  # type: ignore[no-untyped-def]
    """Put a score among the best where it belongs, if it does; of equal ones the lower position
    comes first."""
    place = len(top)
    while place > 0 and (
        score > top[place - 1] or (score == top[place - 1] and position < places[place - 1])
    ):
        place -= 1
        if place + 1 < len(top):
            top[place + 1], places[place + 1] = top[place], places[place]
    if place < len(top):
        top[place], places[place] = score, position
