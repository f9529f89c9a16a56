"""The vector kernels against NumPy."""

import numpy as np
import pytest

from mfspark.kernels.arrays import LANES
from mfspark.kernels.products import add_border, add_products, factor


@pytest.mark.parametrize("n", [0, 1, 7, 64])
@pytest.mark.parametrize("width", [16, 48, 80])
def test_products_of_rows(rng, n, width):
    rows = rng.normal(size=(64, width + LANES)).astype(np.float32)
    start = rng.normal(size=(width, width + LANES)).astype(np.float32)
    target, border = start.copy(), np.ones((2, width), np.float32)
    add_products(rows, n, width, target)
    add_border(rows, n, width, border)
    exact = start[:, :width] + rows[:n, :width].astype(float).T @ rows[:n, :width]
    upper = np.triu_indices(width)
    np.testing.assert_allclose(target[:, :width][upper], exact[upper], atol=1e-4)
    np.testing.assert_array_equal(target[:, width:], start[:, width:])
    np.testing.assert_allclose(
        border, 1 + rows[:n, width : width + 2].astype(float).T @ rows[:n, :width], atol=1e-4
    )


@pytest.mark.parametrize("n", [16, 32, 64, 112])
def test_factor_is_the_cholesky_factor(rng, n):
    half = rng.normal(size=(2 * n, n))
    gram = half.T @ half + np.eye(n)
    right = rng.normal(size=(n, LANES))
    matrix = np.column_stack([np.triu(gram), right]).astype(np.float32)
    assert factor(matrix, np.empty((16, 16), np.float32))
    lower = np.linalg.cholesky(gram)
    np.testing.assert_allclose(np.triu(matrix[:, :n]), lower.T, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(matrix[:, n:], np.linalg.solve(lower, right), atol=2e-3)


@pytest.mark.parametrize("place", [0, 5, 20])
def test_factor_refuses_singular_matrices(place):
    gram = np.eye(32)
    gram[place, place] = 1e-9
    matrix = np.column_stack([gram, np.zeros((32, LANES))]).astype(np.float32)
    assert not factor(matrix, np.empty((16, 16), np.float32))
