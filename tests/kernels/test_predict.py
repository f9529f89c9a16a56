import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mfspark.kernels.predict import dot_rows, top_n


def test_dot_rows_is_the_sum_of_its_parts_to_the_last_bit(rng):
    left = rng.normal(size=(100, 33)).astype(np.float32)
    right = rng.normal(size=(100, 33)).astype(np.float32)
    parts = left.astype(np.float64) * right.astype(np.float64)
    assert [sum(row, 0.0) for row in parts.tolist()] == dot_rows(left, right).tolist()


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 25), n_candidates=st.integers(1, 20))
def test_top_n_agrees_with_a_full_sort(seed, n, n_candidates):
    rng = np.random.default_rng(seed)
    # Small integers make ties frequent and sums exact.
    queries = rng.integers(-2, 3, (4, 3)).astype(np.float32)
    candidates = rng.integers(-2, 3, (n_candidates, 3)).astype(np.float32)
    bias = rng.integers(-2, 3, n_candidates).astype(np.float32)
    excluded = [np.flatnonzero(rng.random(n_candidates) < 0.3).astype(np.int32) for _ in range(4)]
    positions, scores = top_n(queries, candidates, bias, n, excluded)
    for query in range(4):
        full = queries[query] @ candidates.T + bias
        full[excluded[query]] = -np.inf
        order = np.argsort(-full, kind="stable")[:n]
        np.testing.assert_array_equal(scores[query], full[order])
        finite = np.isfinite(full[order])
        assert not set(positions[query][finite]) & set(excluded[query])
