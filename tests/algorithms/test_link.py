"""What features add to the prior means of rows, against ridge regression in double precision."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest

from mfspark.algorithms import sparse_features
from mfspark.algorithms.gibbs_threads import ThreadedGibbs
from mfspark.algorithms.indexed_ratings import index_ratings, with_validation_column
from mfspark.algorithms.link import draw_link, draw_links, no_link, offsets_of
from mfspark.algorithms.sparse_features import Features, rated_features
from mfspark.columns import IS_VALIDATION, ITEM, RATING, USER
from mfspark.kernels.csr import build_block
from mfspark.kernels.draw import Prior
from mfspark.kernels.features import feature_sums
from mfspark.kernels.objective import Objective, Penalty
from mfspark.settings import BayesianSettings

OBJECTIVE = Objective(0.0, True, Penalty(1.0, 0.25, 0.5), Penalty(1.0, 0.25, 0.5))


def csr_of(matrix):
    rows, columns = (part.astype(np.int32) for part in np.nonzero(matrix))
    values = matrix[rows, columns].astype(np.float32)
    return build_block(rows, columns, values, np.zeros(len(rows), bool), *matrix.shape).train


def precision_of(rng, size):
    root = rng.normal(size=(size, size))
    return root @ root.T + np.eye(size)


@pytest.mark.parametrize("width", [1, 3, 16, 33])
def test_sums_of_features(rng, width):
    matrix = np.where(rng.random((7, 5)) < 0.4, rng.normal(size=(7, 5)), 0).astype(np.float32)
    matrix[3] = 0
    dense = rng.normal(size=(5, width)).astype(np.float32)
    features = csr_of(matrix)
    np.testing.assert_allclose(feature_sums(features, dense), matrix @ dense, atol=1e-5)
    np.testing.assert_allclose(
        feature_sums(features.slice(2, 5), dense), matrix[2:5] @ dense, atol=1e-5
    )


@pytest.mark.usefixtures("every_row_shared_out")
@pytest.mark.parametrize("n_threads", [1, 3])
def test_a_draw_has_the_mean_and_covariance_of_ridge_regression(rng, monkeypatch, n_threads):
    """vec β | x ~ N(M⁻¹ vec(Fᵀ (x − m) Λ), M⁻¹) with M = Fᵀ F ⊗ Λ + I ⊗ Λ_β."""
    monkeypatch.setattr(sparse_features, "TOLERANCE", 1e-6)
    n, n_features, size = 30, 4, 3
    matrix = np.where(rng.random((n, n_features)) < 0.5, rng.normal(size=(n, n_features)), 0)
    matrix = matrix.astype(np.float32)
    features = Features(csr_of(matrix), csr_of(matrix.T))
    prior = Prior(rng.normal(size=size), precision_of(rng, size))
    rows = rng.normal(size=(n, size)).astype(np.float32)
    before = no_link(features, precision_of(rng, size))

    def drawn(of_rows, of_features):
        normals = (
            of_rows.reshape(n, size).astype(np.float32),
            of_features.reshape(n_features, size).astype(np.float32),
        )
        with ThreadPoolExecutor(n_threads) as pool:
            found = draw_link(pool, n_threads, features, before, rows, prior, normals, rng)
        np.testing.assert_allclose(found.offsets, matrix @ found.coefficients, atol=1e-5)
        return found.coefficients.astype(np.float64).ravel()

    n_numbers = (n + n_features) * size
    center = drawn(np.zeros(n * size), np.zeros(n_features * size))
    # A draw is linear in the noise, so its images of unit vectors are the covariance's root.
    units = np.eye(n_numbers)
    root = np.stack([drawn(*np.split(unit, [n * size])) - center for unit in units], axis=1)
    inverse = np.kron(matrix.T @ matrix, prior.precision)
    inverse += np.kron(np.eye(n_features), before.precision)
    right = (matrix.T @ (rows - prior.mean) @ prior.precision).ravel()
    np.testing.assert_allclose(center, np.linalg.solve(inverse, right), atol=1e-4)
    np.testing.assert_allclose(root @ root.T, np.linalg.inv(inverse), atol=1e-4)


def test_each_link_is_drawn_from_what_the_others_leave(rng):
    n, size = 20, 3
    matrices = [rng.normal(size=(n, k)).astype(np.float32) for k in (2, 4)]
    features = tuple(Features(csr_of(each), csr_of(each.T)) for each in matrices)
    prior = Prior(rng.normal(size=size), precision_of(rng, size))
    rows = rng.normal(size=(n, size)).astype(np.float32)
    normals = tuple(
        tuple(rng.normal(size=(m, size)).astype(np.float32) for m in (n, each.shape[1]))
        for each in matrices
    )
    links = tuple(no_link(each, np.eye(size)) for each in features)
    with ThreadPoolExecutor(1) as pool:
        one, two = draw_links(
            pool, 1, features, links, rows, prior, normals, np.random.default_rng(5)
        )
        again = np.random.default_rng(5)
        first = draw_link(pool, 1, features[0], links[0], rows, prior, normals[0], again)
        rest = rows - first.offsets
        second = draw_link(pool, 1, features[1], links[1], rest, prior, normals[1], again)
    for found, expected in ((one, first), (two, second)):
        np.testing.assert_allclose(found.coefficients, expected.coefficients, atol=1e-6)
        np.testing.assert_allclose(found.precision, expected.precision)
    np.testing.assert_allclose(
        offsets_of((one, two)), matrices[0] @ one.coefficients + matrices[1] @ two.coefficients,
        atol=1e-5,
    )  # fmt: skip
    assert offsets_of(()) is None


def test_who_rated_what_is_a_feature_of_both_sides():
    users, items = np.array([0, 0, 1, 3], np.int32), np.array([2, 0, 2, 2], np.int32)
    values, is_validation = np.ones(4, np.float32), np.array([False, False, False, True])
    train = {
        USER: build_block(users, items, values, is_validation, 4, 3).train,
        ITEM: build_block(items, users, values, is_validation, 3, 4).train,
    }
    features = rated_features(train)
    half = 1 / np.sqrt(2)
    of_users = np.array([[half, 0, half], [0, 0, 1], [0, 0, 0], [0, 0, 0]])
    of_items = np.array([[1, 0, 0, 0], [0, 0, 0, 0], [half, half, 0, 0]])
    for side, expected in ((USER, of_users), (ITEM, of_items)):
        found = features[side]
        unit = np.eye(expected.shape[1], dtype=np.float32)
        np.testing.assert_allclose(feature_sums(found.by_row, unit), expected)
        unit = np.eye(expected.shape[0], dtype=np.float32)
        np.testing.assert_allclose(feature_sums(found.by_feature, unit), expected.T)


def planted(seed, of_choice):
    """Validation RMSE with and without implicit features, of ratings of users that rate what they
    like (``of_choice`` 1) or anything (0)."""
    rng = np.random.default_rng(seed)
    p, q = rng.normal(0, 1, (400, 2)), rng.normal(0, 1, (100, 2))
    taste = p @ q.T
    is_rated = rng.random(taste.shape) < 0.12 * np.exp(of_choice * taste).clip(0, 4)
    users, items = np.nonzero(is_rated)
    values = 0.5 * taste[users, items] + rng.normal(0, 1, len(users))
    table = pa.table(
        {
            USER: users,
            ITEM: items,
            RATING: (values - values.mean()).astype(np.float32),
            IS_VALIDATION: rng.random(len(users)) < 0.1,
        }
    )
    ratings = index_ratings(with_validation_column(table))

    def error_of(implicit_features):
        settings = BayesianSettings(
            rank=4, max_iter=80, tol=0.0, implicit_features=implicit_features
        )
        found = ThreadedGibbs(OBJECTIVE, settings).learn(ratings, 2)
        return found.history.rows[-1].validation_rmse

    return error_of(True), error_of(False)


def test_features_help_where_users_choose_what_they_rate():
    with_features, without = planted(1, of_choice=1)
    assert with_features < 0.98 * without


def test_features_do_no_harm_where_they_do_not():
    with_features, without = planted(1, of_choice=0)
    assert with_features < 1.01 * without
