"""Similarities against sums over dense columns, and the choice of the nearest."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfspark.kernels.csr import build_block
from mfspark.kernels.neighbours import N_SUMS, add_common, nearest


def random_table(rng, n_rows, n_columns, density=0.6):
    """Dense with NaN where nothing is, and by column."""
    dense = np.where(
        rng.random((n_rows, n_columns)) < density, rng.normal(1, 1, (n_rows, n_columns)), np.nan
    )
    dense = dense.astype(np.float32)
    rows, columns = np.nonzero(~np.isnan(dense))
    by_column = build_block(
        columns.astype(np.int32), rows.astype(np.int32), dense[rows, columns],
        np.zeros(len(rows), bool), n_columns, n_rows,
    ).train  # fmt: skip
    return dense, by_column


def dense_similarity(a, b, centred, shrinkage, min_support):
    both = ~np.isnan(a) & ~np.isnan(b)
    n = both.sum()
    if n < max(min_support, 1):
        return 0.0
    x, y = a[both].astype(float), b[both].astype(float)
    if centred:
        x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt((x @ x) * (y @ y))
    return 0.0 if scale < 1e-5 * n else x @ y / scale * n / (n + shrinkage)


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_rows=st.integers(2, 9),
    n_columns=st.integers(1, 25),
    centred=st.booleans(),
    shrinkage=st.sampled_from([0.0, 10.0]),
    min_support=st.sampled_from([1, 3]),
)
def test_similarities_are_those_of_dense_rows(
    seed, n_rows, n_columns, centred, shrinkage, min_support
):
    dense, by_column = random_table(np.random.default_rng(seed), n_rows, n_columns)
    first, last = n_rows // 3, n_rows
    sums = np.zeros((last - first, n_rows, N_SUMS), np.float32)
    # In two goes, as cells of columns arrive.
    half = by_column.n_rows // 2
    add_common(sums, first, by_column.slice(0, half))
    add_common(sums, first, by_column.slice(half, by_column.n_rows))
    counts, rows, similarities = nearest(sums, first, n_rows, centred, shrinkage, min_support)
    found = np.zeros((last - first, n_rows))
    for n, (end, count) in enumerate(zip(np.cumsum(counts), counts, strict=True)):
        part = slice(end - count, end)
        assert (np.diff(similarities[part]) <= 0).all()
        found[n, rows[part]] = similarities[part]
    expected = [
        [
            0.0
            if a == b
            else max(0.0, dense_similarity(dense[a], dense[b], centred, shrinkage, min_support))
            for b in range(n_rows)
        ]
        for a in range(first, last)
    ]
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_only_the_nearest_are_kept(rng):
    _, by_column = random_table(rng, 12, 40)
    sums = np.zeros((12, 12, N_SUMS), np.float32)
    add_common(sums, 0, by_column)
    everyone = nearest(sums, 0, 12, False, 0.0, 1)
    counts, rows, similarities = nearest(sums, 0, 3, False, 0.0, 1)
    assert counts.tolist() == np.minimum(everyone[0], 3).tolist()
    starts = np.concatenate([[0], np.cumsum(everyone[0])[:-1]])
    at = np.concatenate([np.arange(a, a + n) for a, n in zip(starts, counts, strict=True)])
    np.testing.assert_array_equal(rows, everyone[1][at])
    np.testing.assert_array_equal(similarities, everyone[2][at])


def test_proportional_rows_are_as_similar_as_can_be():
    x = np.array([1.0, 2.0, 4.0], np.float32)
    by_column = build_block(
        np.tile(np.arange(3), 2).astype(np.int32), np.repeat([0, 1], 3).astype(np.int32),
        np.concatenate([x, 3 * x]), np.zeros(6, bool), 3, 2,
    ).train  # fmt: skip
    sums = np.zeros((2, 2, N_SUMS), np.float32)
    add_common(sums, 0, by_column)
    assert nearest(sums, 0, 1, False, 0.0, 1)[2] == pytest.approx([1.0, 1.0])
    assert nearest(sums, 0, 1, True, 3.0, 1)[2] == pytest.approx([0.5, 0.5])
