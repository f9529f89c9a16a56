"""Rows of whole vectors against NumPy in double."""

import numpy as np
import pytest

from mfspark.kernels import plain
from mfspark.kernels.arrays import Float32s
from mfspark.kernels.compiled import jit
from mfspark.kernels.vectors import add_rows, dots


@jit
def products_of_four(rows, numbers, right, j):
    return dots(rows, numbers[0], numbers[1], numbers[2], numbers[3], right, j)


@jit
def with_four_added(rows, numbers, target, i, weights):
    add_rows(rows, numbers[0], numbers[1], numbers[2], numbers[3], target, i, weights)


def matrix(rng: np.random.Generator, n_rows: int, width: int) -> Float32s:
    return rng.normal(size=(n_rows, width)).astype(np.float32)


@pytest.mark.parametrize("width", [16, 32, 48, 256])
@pytest.mark.parametrize("numbers", [(0, 1, 2, 3), (6, 2, 2, 2), (5, 5, 5, 5)])
def test_dots(rng, width, numbers):
    rows, right = matrix(rng, 7, width), matrix(rng, 3, width)
    expected = rows[list(numbers)].astype(float) @ right[2].astype(float)
    np.testing.assert_allclose(products_of_four(rows, numbers, right, 2), expected, atol=2e-5)
    np.testing.assert_allclose(plain.dots(rows, *numbers, right, 2), expected, atol=2e-5)


@pytest.mark.parametrize("width", [16, 32, 48, 256])
@pytest.mark.parametrize("numbers", [(0, 1, 2, 3), (6, 2, 2, 2), (5, 5, 5, 5)])
def test_add_rows(rng, width, numbers):
    rows, target = matrix(rng, 7, width), matrix(rng, 3, width)
    weights = tuple(np.float32(weight) for weight in rng.normal(size=4))
    expected = target.astype(float)
    expected[1] += np.array(weights, float) @ rows[list(numbers)].astype(float)
    by_hand = target.copy()
    with_four_added(rows, numbers, target, 1, weights)
    plain.add_rows(rows, *numbers, by_hand, 1, weights)
    np.testing.assert_allclose(target, expected, atol=1e-5)
    np.testing.assert_allclose(by_hand, expected, atol=1e-5)
