from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfspark.kernels.predict import ModelRows, dot_rows, predict_pairs, top_n


def test_dot_rows_is_the_sum_of_its_parts_to_the_last_bit(rng):
    left = rng.normal(size=(100, 33)).astype(np.float32)
    right = rng.normal(size=(100, 33)).astype(np.float32)
    parts = left.astype(np.float64) * right.astype(np.float64)
    # Not by sum, which Python from 3.12 on corrects for what is rounded away.
    found = dot_rows(left, right).tolist()
    assert [reduce(add, row, 0.0) for row in parts.tolist()] == found


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 40), n_candidates=st.integers(1, 1500))
def test_top_n_agrees_with_a_full_sort(seed, n, n_candidates):
    with pytest.MonkeyPatch.context() as tiles:
        tiles.setattr("mfspark.kernels.predict.CANDIDATES_PER_TILE", 600)
        check_top_n(seed, n, n_candidates)


def check_top_n(seed, n, n_candidates):
    rng = np.random.default_rng(seed)
    # Small integers make ties frequent and sums exact.
    queries = rng.integers(-2, 3, (4, 3)).astype(np.float32)
    candidates = rng.integers(-2, 3, (n_candidates, 3)).astype(np.float32)
    bias = rng.integers(-2, 3, n_candidates).astype(np.float32)
    excluded = [np.flatnonzero(rng.random(n_candidates) < 0.3).astype(np.int32) for _ in range(4)]
    starts = np.cumsum([0, *map(len, excluded)])
    positions, scores = top_n(queries, candidates, bias, n, (starts, np.concatenate(excluded)))
    for query in range(4):
        full = queries[query] @ candidates.T + bias
        full[excluded[query]] = -np.inf
        order = np.argsort(-full, kind="stable")[:n]
        np.testing.assert_array_equal(scores[query], full[order])
        finite = np.isfinite(full[order])
        np.testing.assert_array_equal(positions[query][finite], order[finite])


def test_top_n_of_no_queries_and_of_no_candidates():
    rows, none = np.ones((3, 2), np.float32), np.zeros((0, 2), np.float32)
    for queries, candidates, shape in ((none, rows, (0, 2)), (rows, none, (3, 0))):
        positions, scores = top_n(queries, candidates, np.zeros(len(candidates), np.float32), 2)
        assert positions.shape == scores.shape == shape


def test_pairs_are_predicted_from_the_parts_that_are_known(rng):
    users, items = (
        ModelRows(
            rng.normal(size=(n, 5)).astype(np.float32),
            *rng.normal(size=(2, n)).astype(np.float32),
            np.arange(n) != 1,
        )
        for n in (4, 3)
    )
    user, item = (part.ravel().astype(np.int32) for part in np.mgrid[-1:4, -1:3])
    found = predict_pairs(user, item, users, items, 3.5)
    for u, i, prediction in zip(user, item, found, strict=True):
        # Beside nobody, and beside row 1, which has no ratings, the other bias is used.
        u_biases = users.cold_bias if i in (-1, 1) else users.bias
        i_biases = items.cold_bias if u in (-1, 1) else items.bias
        expected = 3.5
        expected += float(u_biases[u]) if u >= 0 else 0.0
        expected += float(i_biases[i]) if i >= 0 else 0.0
        if u >= 0 and i >= 0:
            expected += dot_rows(users.factors[[u]], items.factors[[i]])[0]
        assert prediction == expected
