"""Rows that are folded in, against a half-step in the coordinates of the fit."""

import numpy as np
import pytest

from mfspark.columns import Side
from mfspark.kernels.arrays import AlignedRows
from mfspark.kernels.csr import Csr
from mfspark.kernels.draw import Prior
from mfspark.kernels.half_step import solve_rows
from mfspark.kernels.influence import solution_parts
from mfspark.kernels.new_rows import DrawnFoldIn, FoldIn, common_normals
from mfspark.kernels.objective import Objective, Penalty
from mfspark.kernels.rotation import canonical_rotation

SCALE = 1.3


@pytest.fixture
def fitted(rng):
    """Rows of a fit, the same in canonical rotation and the unit of the ratings, and ratings."""
    p, q = (rng.normal(size=(n, 4)).astype(np.float32) for n in (60, 40))
    b_u, b_i = (rng.normal(0, 0.3, n).astype(np.float32) for n in (60, 40))
    rotation = canonical_rotation(
        *[(rows.T @ rows).astype(np.float64) for rows in (p, q)], q.sum(axis=0).astype(np.float64)
    ).scaled(SCALE)
    own = {Side.USER: np.column_stack([p, b_u]), Side.ITEM: np.column_stack([q, b_i])}
    canonical = {
        Side.USER: np.column_stack([p @ rotation.users, SCALE * b_u]).astype(np.float32),
        Side.ITEM: np.column_stack([q @ rotation.items, SCALE * b_i]).astype(np.float32),
    }
    objective = Objective(2.7, True, Penalty(0.6, 0.4, 0.5), Penalty(1.1, 0.2, 0.5))
    system = FoldIn.of(rotation.user_penalty, SCALE, objective)
    lengths = np.array([1, 0, 25, 7])
    columns = np.concatenate([rng.choice(40, n, replace=False) for n in lengths]).astype(np.int32)
    values = rng.uniform(1, 5, lengths.sum()).astype(np.float32)
    ratings = Csr(np.concatenate([[0], lengths.cumsum()]).astype(np.int64), columns, values)
    return own, canonical, rotation, system, ratings


@pytest.mark.parametrize("side", list(Side))
def test_folded_rows_are_those_of_a_half_step(fitted, side):
    own, canonical, rotation, system, ratings = fitted
    fixed = system.fixed_rows(canonical[side.other], side.other)
    found = system.solve(ratings, fixed, side)
    in_units = ratings._replace(values=ratings.values / np.float32(SCALE))
    expected, _ = solve_rows(
        in_units, AlignedRows.of(own[side.other]), system.objective, side, "exact"
    )
    matrix = rotation.users if side == Side.USER else rotation.items
    np.testing.assert_allclose(found[:, :-1], expected[:, :-1] @ matrix, atol=2e-4)
    np.testing.assert_allclose(found[:, -1], SCALE * expected[:, -1], atol=2e-4)
    assert (found[1] == 0).all()


def test_the_penalty_of_a_user_is_that_of_influences(fitted):
    _, canonical, _, system, ratings = fitted
    fixed = system.fixed_rows(canonical[Side.ITEM], Side.ITEM)
    found = system.solve(ratings, fixed, Side.USER)[2]
    part = slice(*ratings.indptr[2:4])
    rows = canonical[Side.ITEM][ratings.columns[part]].astype(np.float64)
    targets = ratings.values[part] - SCALE * system.objective.mean - rows[:, -1]
    features = np.column_stack([rows[:, :-1], np.ones(len(rows))])
    parts = solution_parts(features, targets, 25**0.5 * system.user_penalty())
    np.testing.assert_allclose(parts.sum(axis=0), found, atol=2e-4)


def test_factors_that_are_zero_stay_zero(fitted, rng):
    _, _, _, system, ratings = fitted
    penalty = np.diag([0.7, 0.4, 0.0])
    rows = np.column_stack([rng.normal(size=(40, 2)), np.zeros((40, 2))]).astype(np.float32)
    dead = FoldIn.of(penalty, SCALE, system.objective)
    found = dead.solve(ratings, dead.fixed_rows(rows, Side.ITEM), Side.USER)
    assert np.isfinite(found).all()
    assert (found[:, 2] == 0).all()
    assert np.abs(found[2, :2]).min() > 0


def test_without_factors_there_are_biases(fitted):
    _, canonical, _, system, ratings = fitted
    none = FoldIn.of(np.zeros((0, 0)), SCALE, system.objective)
    found = none.solve(ratings, none.fixed_rows(canonical[Side.ITEM][:, -1:], Side.ITEM), Side.USER)
    targets = ratings.values[:1] - SCALE * 2.7 - canonical[Side.ITEM][ratings.columns[:1], -1]
    assert found[0, 0] == pytest.approx(float(targets[0]) / (1 + 0.4), abs=1e-4)


def test_rows_beside_draws_are_those_of_bayes_rule(rng):
    """Expectations and noise by dense algebra, and the mean by least squares over all items."""
    n_draws, size, n_items, mean, noise = 5, 4, 30, 3.1, 0.4
    draws = rng.normal(0, 0.7, (n_items, n_draws, size)).astype(np.float32)
    model = np.column_stack([rng.normal(size=(n_items, size - 1)), rng.normal(size=n_items)])
    roots = rng.normal(size=(n_draws, size, size))
    priors = [Prior(rng.normal(0, 0.3, size), root @ root.T + 2 * np.eye(size)) for root in roots]
    v = np.column_stack([model[:, :-1], np.ones(n_items)])
    of_draw = [np.column_stack([draws[:, n, :-1], np.ones(n_items)]) for n in range(n_draws)]
    inverse = np.linalg.inv(v.T @ v)
    system = DrawnFoldIn(
        mean, noise, priors,
        np.stack([inverse @ v.T @ each for each in of_draw]),
        inverse @ v.T @ (draws[:, :, -1].mean(axis=1) - model[:, -1]),
        common_normals(n_draws, size),
    )  # fmt: skip
    places = np.array([3, 8, 21, 4], np.int32)
    values = np.array([4.0, 2.5, 1.0, 5.0], np.float32)
    ratings = Csr(np.array([0, 3, 3, 4]), places, values)
    fixed = system.fixed_rows(
        np.column_stack([draws.reshape(n_items, -1), np.zeros(n_items)]).astype(np.float32),
        Side.ITEM,
    )
    found = system.solve(ratings, fixed, Side.USER)
    assert found.shape == (3, size - 1 + n_draws * size + 1)
    for row, part in enumerate([slice(0, 3), slice(3, 3), slice(3, 4)]):
        predicted = []
        for n, (prior, features) in enumerate(zip(priors, of_draw, strict=True)):
            rated = features[places[part]]
            targets = values[part] - mean - draws[places[part], n, -1]
            covariance = np.linalg.inv(prior.precision + rated.T @ rated / noise)
            expected = covariance @ (prior.precision @ prior.mean + rated.T @ targets / noise)
            predicted.append(draws[:, n, -1] + features @ expected)
            drawn = found[row, size - 1 + n * size :][:size]
            # Noise of the covariance: whitened, as long as the normal numbers.
            whitened = np.linalg.solve(np.linalg.cholesky(covariance), drawn - expected)
            length = np.linalg.norm(system.normals[n])
            assert np.linalg.norm(whitened) == pytest.approx(length, rel=1e-3)
        target = np.mean(predicted, axis=0) - model[:, -1]
        best = np.linalg.lstsq(v, target, rcond=None)[0]
        np.testing.assert_allclose(found[row, [*range(size - 1), -1]], best, atol=2e-4)


@pytest.mark.parametrize("n_draws", [2, 8])
def test_common_normals_have_no_mean_and_the_variance_of_a_sample(n_draws):
    found = common_normals(n_draws, 5)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(found.var(axis=0, ddof=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(found, common_normals(n_draws, 5))
