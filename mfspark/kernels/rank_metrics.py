"""How good ordered lists of items are, user by user.

With hits h_j (1 where place j of a list holds a relevant item of the test part), gains g_j of its
test rating, and R relevant items:

    precision@k = Σ h_j / k          recall@k = Σ h_j / R          hit rate@k = [Σ h_j > 0]
    MRR@k = 1 / (first j with h_j)   MAP@k = Σ h_j · precision@j / R
    NDCG@k = Σ g_j / log₂(1 + j) divided by the same sum of the best possible order

over places j ≤ k; NDCG is graded with gains, and binary with hits in their place (Järvelin and
Kekäläinen, Cumulated gain-based evaluation of IR techniques, 2002; MAP as trec_eval has it).
"""

from typing import NamedTuple

import numpy as np

from mfspark.kernels.arrays import Bools, Float32s, Float64s, Int64s

METRICS = ("NDCG", "binary NDCG", "recall", "precision", "MAP", "MRR", "hit rate")


class RankedLists(NamedTuple):
    """Lists of users, and what their test parts hold.

    ``gains`` float64 and ``is_relevant`` bool [n_users, n] of the listed items, by place;
    ``best_gains`` float64 [n_users, n] are the highest of the test part, falling, 0 behind the
    last; ``n_relevant`` int64 [n_users].
    """

    gains: Float64s
    is_relevant: Bools
    best_gains: Float64s
    n_relevant: Int64s


def ranking_metrics(lists: RankedLists, k: int) -> Float64s:
    """``METRICS`` of each user at k, float64 [n_users, 7]; NaN where nothing is relevant, and
    graded NDCG where nothing has a gain. ``lists`` have k places or more."""
    assert lists.gains.shape == lists.is_relevant.shape == lists.best_gains.shape
    assert 1 <= k <= lists.gains.shape[1]
    gains, hits = lists.gains[:, :k], lists.is_relevant[:, :k].astype(np.float64)
    places = np.arange(1, gains.shape[1] + 1)
    discount = 1 / np.log2(1 + places)
    n_relevant = lists.n_relevant.astype(np.float64)
    best_hits = places <= n_relevant[:, None]
    found = hits.sum(axis=1)
    rate_so_far = hits.cumsum(axis=1) / places
    first = (hits / places).max(axis=1, initial=0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        columns = [
            gains @ discount / (lists.best_gains[:, :k] @ discount),
            hits @ discount / (best_hits @ discount),
            found / n_relevant,
            found / k,
            (hits * rate_so_far).sum(axis=1) / n_relevant,
            first,
            found > 0,
        ]
    result = np.column_stack(columns).astype(np.float64)
    result[n_relevant == 0] = np.nan
    return result


def diversity(unit: Float32s, is_listed: Bools) -> Float64s:
    """Mean of 1 − cosine over the pairs of each list, float64 [n_users]; NaN below two items, and
    where vectors have no elements.

    ``unit`` float32 [n_users, n, rank]: vectors of length 1 of the listed items; others are not
    looked at.
    """
    kept = np.where(is_listed[:, :, None], unit, 0)
    total = kept.sum(axis=1, dtype=np.float64)
    squares = (kept.astype(np.float64) ** 2).sum(axis=(1, 2))
    n = is_listed.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = ((total**2).sum(axis=1) - squares) / (n * (n - 1))
    return np.asarray(np.where((n > 1) & (unit.shape[2] > 0), 1 - cosine, np.nan))
