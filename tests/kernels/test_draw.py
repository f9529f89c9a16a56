"""Draws of rows have the posterior's mean and covariance, found here in double precision."""

import numpy as np
import pytest
from scipy import stats

from mfspark.kernels.arrays import AlignedRows
from mfspark.kernels.csr import Csr, build_block
from mfspark.kernels.draw import Prior, RowSums, draw_rows, draw_rows_of_moments
from mfspark.kernels.moments import row_moments
from mfspark.kernels.random import normal_rows

ALPHA = 2.5


def problem(rng, rank, lengths):
    """Rows of the given numbers of ratings, a fixed side, and a prior with correlations."""
    n_fixed = max(lengths) + 3
    rows = np.repeat(np.arange(len(lengths)), lengths).astype(np.int32)
    columns = np.concatenate([rng.permutation(n_fixed)[:n] for n in lengths]).astype(np.int32)
    values = rng.normal(size=len(rows)).astype(np.float32)
    train = build_block(
        rows, columns, values, np.zeros(len(rows), bool), len(lengths), n_fixed
    ).train
    fixed = rng.normal(0, 0.6, (n_fixed, rank + 1)).astype(np.float32)
    root = rng.normal(size=(rank + 1, rank + 1))
    prior = Prior(rng.normal(size=rank + 1), root @ root.T + np.eye(rank + 1))
    return train, fixed, prior


def posterior(train: Csr, fixed, prior, row):
    """Mean and covariance of a row: linear regression with a normal prior (Bishop, Pattern
    Recognition and Machine Learning, 2006, equations 3.50 and 3.51)."""
    part = slice(train.indptr[row], train.indptr[row + 1])
    rated = fixed[train.columns[part]].astype(np.float64)
    features = np.column_stack([rated[:, :-1], np.ones(len(rated))])
    targets = train.values[part] - rated[:, -1]
    covariance = np.linalg.inv(prior.precision + ALPHA * features.T @ features)
    return covariance @ (prior.precision @ prior.mean + ALPHA * features.T @ targets), covariance


@pytest.mark.parametrize("rank", [0, 1, 3, 14, 15, 21])
@pytest.mark.parametrize("by_moments", [False, True])
def test_mean_and_covariance(rng, rank, by_moments):
    lengths = [0, 1, 5, 40, 130]
    train, fixed, prior = problem(rng, rank, lengths)
    aligned = AlignedRows.of(fixed)
    moments = row_moments(train, aligned, 0.0)

    def drawn(noise):
        normals = np.tile(np.float32(noise), (len(lengths), 1))
        if by_moments:
            return draw_rows_of_moments(moments, prior, ALPHA, normals)[0]
        return draw_rows(train, aligned, prior, ALPHA, normals)[0]

    center = drawn(np.zeros(rank + 1))
    # A draw is linear in the noise, so its images of unit vectors are the covariance's root.
    roots = np.stack([drawn(unit) - center for unit in np.eye(rank + 1)], axis=2)
    for row in range(len(lengths)):
        mean, covariance = posterior(train, fixed, prior, row)
        size = np.sqrt(np.trace(covariance))
        np.testing.assert_allclose(center[row], mean, atol=1e-4 * max(size, abs(mean).max()))
        root = roots[row].astype(np.float64)
        np.testing.assert_allclose(root @ root.T, covariance, atol=2e-4 * size**2)


def test_both_ways_are_one_draw_and_one_error(rng):
    train, fixed, prior = problem(rng, 5, [3, 17, 90])
    aligned, normals = AlignedRows.of(fixed), rng.normal(size=(3, 6)).astype(np.float32)
    rows, error = draw_rows(train, aligned, prior, ALPHA, normals)
    others, other_error = draw_rows_of_moments(
        row_moments(train, aligned, 0.0), prior, ALPHA, normals
    )
    np.testing.assert_allclose(rows, others, atol=1e-5)
    predicted = [
        rows[row, -1] + fixed[column, -1] + rows[row, :-1] @ fixed[column, :-1]
        for row in range(3)
        for column in train.columns[train.indptr[row] : train.indptr[row + 1]]
    ]
    assert error == pytest.approx(np.sum((train.values - predicted) ** 2), rel=1e-5)
    assert other_error == pytest.approx(error, rel=1e-5)


def test_a_near_singular_row_is_drawn_in_double(rng):
    """A prior of hardly any weight, and features that are all the same."""
    train, fixed, _ = problem(rng, 4, [30])
    fixed[:] = fixed[0]
    prior = Prior(np.zeros(5), 1e-6 * np.eye(5))
    normals = np.zeros((1, 5), np.float32)
    rows, _ = draw_rows(train, AlignedRows.of(fixed), prior, ALPHA, normals)
    mean, _ = posterior(train, fixed, prior, 0)
    np.testing.assert_allclose(rows[0], mean, atol=1e-3)


def test_sums_add_up_to_the_penalty(rng):
    rows = rng.normal(size=(40, 4)).astype(np.float32)
    _, _, prior = problem(rng, 3, [1])
    sums = RowSums.of(rows[:15]) + RowSums.of(rows[15:])
    around = rows - prior.mean
    expected = np.einsum("nf,fg,ng->", around, prior.precision, around)
    assert prior.penalty(sums) == pytest.approx(expected, rel=1e-6)


def test_normal_numbers(rng):
    keys = rng.integers(0, 2**63, 20_000).astype(np.uint64)
    numbers = np.stack([normal_rows(keys, sweep, 5) for sweep in (1, 2)])
    assert numbers.dtype == np.float32
    assert stats.kstest(numbers.ravel(), "norm").pvalue > 1e-3
    flat = numbers.transpose(1, 0, 2).reshape(len(keys), -1)
    correlations = np.corrcoef(flat, rowvar=False) - np.eye(10)
    assert abs(correlations).max() < 5 / np.sqrt(len(keys))
    # Squares, too: sine and cosine of one radius would be uncorrelated whatever the radius.
    assert abs(np.corrcoef(flat**2, rowvar=False) - np.eye(10)).max() < 5 / np.sqrt(len(keys))
    np.testing.assert_array_equal(normal_rows(keys[3:5], 2, 5), numbers[1, 3:5])
