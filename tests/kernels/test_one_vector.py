"""Rows of ranks up to 14, summed and solved in sixteen vectors, against NumPy in double."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfspark.kernels.arrays import LANES, AlignedRows
from mfspark.kernels.one_vector import MOST_FACTORS, ONE, TARGET, small_row_sums, solve_small
from mfspark.kernels.ridge import TILE


def scratch() -> tuple[np.ndarray, np.ndarray]:
    """What is left there from the row before says nothing."""
    return tuple(np.full((n, 2 * LANES), np.nan, np.float32) for n in (TILE, LANES))


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.sampled_from([0, 1, 5, TILE - 1, TILE, TILE + 1, 3 * TILE + 7]),
    rank=st.integers(0, MOST_FACTORS),
    ridge=st.sampled_from([1e-2, 1.0, 30.0]),
    fit_biases=st.booleans(),
)
def test_sums_and_solution_of_a_small_row(seed, n, rank, ridge, fit_biases):
    rng = np.random.default_rng(seed)
    fixed = rng.normal(0, 0.5, (50, rank + 1)).astype(np.float32)
    fixed[:, -1] *= fit_biases
    # Other rows' ratings lie around those of this one.
    columns = rng.integers(0, 50, n + 9).astype(np.int32)
    ratings = rng.normal(3, 1, n).astype(np.float32)
    rows, (tile, sums) = AlignedRows.of(fixed), scratch()
    small_row_sums(columns, 4, 4 + n, ratings, rows.factors, rows.bias, np.float32(2.5), tile, sums)
    rated = fixed[columns[4 : 4 + n]].astype(float)
    features = np.column_stack([rated[:, :rank], np.ones(n)])
    targets = ratings - 2.5 - rated[:, -1]
    places = [*range(rank), ONE, TARGET]
    found = sums[np.ix_(places, places)]
    upper = np.triu_indices(rank + 2)
    v = np.column_stack([features, targets])
    np.testing.assert_allclose(found[upper], (v.T @ v)[upper], rtol=1e-5, atol=1e-3)

    out = np.full(rank + 1, np.nan, np.float32)
    weight, bias_weight = np.float32(ridge), np.float32(ridge / 2)
    assert solve_small(sums, n, weight, bias_weight, fit_biases, out)
    n_features = rank + fit_biases
    system = features.T @ features + np.diag([ridge] * rank + [ridge / 2])
    right = features.T @ targets
    exact = np.zeros(rank + 1)
    exact[:n_features] = np.linalg.solve(system[:n_features, :n_features], right[:n_features])
    np.testing.assert_allclose(out, exact, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rank", [1, 6, MOST_FACTORS])
@pytest.mark.parametrize("of_bias", [False, True])
def test_near_singular_equations_are_refused(rank, of_bias):
    """A factor that is twice another one, or one that is the same for all, as the bias is."""
    rng = np.random.default_rng(rank)
    fixed = rng.normal(size=(30, rank + 1)).astype(np.float32)
    fixed[:, rank - 1] = 1 if of_bias else 2 * fixed[:, 0] if rank > 1 else 0
    rows, (tile, sums) = AlignedRows.of(fixed), scratch()
    columns, ratings = np.arange(30, dtype=np.int32), np.ones(30, np.float32)
    zero, out = np.float32(0), np.zeros(rank + 1, np.float32)
    small_row_sums(columns, 0, 30, ratings, rows.factors, rows.bias, zero, tile, sums)
    assert not solve_small(sums, 30, zero, zero, True, out)
