import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mfspark.kernels.rotation import canonical_rotation


def rotate(p, q):
    rotation = canonical_rotation(p.T @ p, q.T @ q, q.sum(axis=0))
    return p @ rotation.users, q @ rotation.items, rotation


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rank=st.integers(1, 6))
def test_canonical_form_is_the_svd_and_changes_no_prediction(seed, rank):
    rng = np.random.default_rng(seed)
    p, q = rng.normal(size=(30, rank)), rng.normal(size=(20, rank))
    canonical_p, canonical_q, rotation = rotate(p, q)
    np.testing.assert_allclose(canonical_p @ canonical_q.T, p @ q.T, atol=1e-8)
    oracle = np.linalg.svd(p @ q.T, compute_uv=False)[:rank]
    np.testing.assert_allclose(rotation.singular_values, oracle, atol=1e-8)
    np.testing.assert_allclose(canonical_p.T @ canonical_p, np.diag(oracle), atol=1e-7)
    np.testing.assert_allclose(canonical_q.T @ canonical_q, np.diag(oracle), atol=1e-7)
    assert (canonical_q.sum(axis=0) >= -1e-9).all()


def test_any_mixing_of_the_factors_gives_the_same_canonical_form(rng):
    p, q, mix = rng.normal(size=(50, 3)), rng.normal(size=(40, 3)), rng.normal(size=(3, 3))
    first_p, first_q, _ = rotate(p, q)
    second_p, second_q, _ = rotate(p @ mix, q @ np.linalg.inv(mix).T)
    np.testing.assert_allclose(first_p, second_p, atol=1e-8)
    np.testing.assert_allclose(first_q, second_q, atol=1e-8)


def test_penalty_of_the_canonical_factors_is_that_of_the_fitted_ones(rng):
    p, q = rng.normal(size=(50, 4)), rng.normal(size=(40, 4))
    rotation = rotate(p, q)[2].scaled(1.7)
    rotated = p @ rotation.users
    penalty = np.einsum("uf,fg,ug->u", rotated, rotation.user_penalty, rotated)
    np.testing.assert_allclose(penalty, np.square(p).sum(axis=1))


def test_unused_factors_become_zero_not_nan(rng):
    p, q = rng.normal(size=(50, 4)), rng.normal(size=(40, 4))
    p[:, 2:] = 0
    canonical_p, canonical_q, rotation = rotate(p, q)
    np.testing.assert_allclose(canonical_p @ canonical_q.T, p @ q.T, atol=1e-8)
    np.testing.assert_allclose(canonical_q[:, 2:], 0, atol=1e-6)
    np.testing.assert_allclose(rotation.singular_values[2:], 0, atol=1e-6)


def test_all_zero_factors(rng):
    canonical_p, _, rotation = rotate(np.zeros((5, 2)), np.zeros((4, 2)))
    assert np.isfinite(canonical_p).all()
    assert (rotation.singular_values == 0).all()
