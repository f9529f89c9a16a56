"""Varimax against its definition, and on loadings of known simple structure."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfspark.kernels.varimax import varimax


def criterion(loadings):
    return np.square(loadings).var(axis=0).sum()


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 5))
def test_no_plane_can_be_turned_for_more(seed, k):
    rng = np.random.default_rng(seed)
    loadings = rng.normal(size=(40, k)) ** 3
    rotation = varimax(loadings)
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(k), atol=1e-10)
    rotated = loadings @ rotation
    best = criterion(rotated)
    assert best >= criterion(loadings) * (1 - 1e-9)
    for f in range(k):
        for g in range(f):
            for angle in (-0.02, 0.02):
                turned = rotated.copy()
                c, s = np.cos(angle), np.sin(angle)
                turned[:, [f, g]] = rotated[:, [f, g]] @ np.array([[c, -s], [s, c]])
                assert criterion(turned) <= best * (1 + 1e-6)


def test_simple_structure_is_found_again(rng):
    simple = np.zeros((90, 3))
    simple[np.arange(90), np.repeat([0, 1, 2], 30)] = rng.uniform(1, 2, 90)
    mixing, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    found = simple @ mixing @ varimax(simple @ mixing)
    largest = np.abs(found).max(axis=1)
    np.testing.assert_allclose(largest, simple.max(axis=1), atol=1e-4)


@pytest.mark.parametrize("shape", [(0, 3), (5, 1), (4, 2)])
def test_of_nothing_to_rotate(shape):
    np.testing.assert_array_equal(varimax(np.zeros(shape)).shape, 2 * [shape[1]])
    assert np.isfinite(varimax(np.zeros(shape))).all()
