"""What ratings add to a ridge solution, against NumPy's least squares."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mfspark.kernels.influence import solution_parts


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 12), k=st.integers(1, 5))
def test_parts_add_up_to_the_ridge_solution(seed, n, k):
    rng = np.random.default_rng(seed)
    fixed, targets, root = rng.normal(size=(n, k)), rng.normal(size=n), rng.normal(size=(k, k))
    parts = solution_parts(fixed, targets, root.T @ root)
    # |y − X z|² + |root z|² as one least squares problem.
    whole, _, _, _ = np.linalg.lstsq(
        np.vstack([fixed, root]), np.concatenate([targets, np.zeros(k)]), rcond=None
    )
    np.testing.assert_allclose(parts.sum(axis=0), whole, atol=1e-6, rtol=1e-6)


def test_a_rating_that_is_changed_moves_its_own_part_alone(rng):
    fixed, targets = rng.normal(size=(9, 3)), rng.normal(size=9)
    before = solution_parts(fixed, targets, np.eye(3))
    targets[4] *= 3
    after = solution_parts(fixed, targets, np.eye(3))
    np.testing.assert_allclose(after[4], 3 * before[4])
    np.testing.assert_array_equal(np.delete(after, 4, axis=0), np.delete(before, 4, axis=0))


def test_a_direction_that_nobody_knows_is_zero(rng):
    fixed = np.column_stack([rng.normal(size=(6, 2)), np.zeros(6)])
    parts = solution_parts(fixed, rng.normal(size=6), np.diag([1.0, 1.0, 0.0]))
    assert np.isfinite(parts).all()
    np.testing.assert_array_equal(parts[:, 2], 0)
