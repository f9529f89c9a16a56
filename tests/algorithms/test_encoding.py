"""Features of users and items: as numbers, and what rows of ids without ratings are made of."""

from statistics import NormalDist

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfspark.algorithms.encoding import encode_features
from mfspark.algorithms.gibbs_threads import ThreadedGibbs
from mfspark.algorithms.history import Posterior, Spread
from mfspark.algorithms.indexed_ratings import index_ratings, with_validation_column
from mfspark.algorithms.sparse_features import given_features
from mfspark.algorithms.unrated import Regression, posterior_with_unrated, with_unrated
from mfspark.columns import ITEM, USER
from mfspark.kernels.objective import Objective, Penalty
from mfspark.settings import BayesianSettings

RATED = pa.array(["b", "a", "c", "d"])
ITEMS = pa.table(
    {
        "item": ["z", "a", "b", "d", "y"],
        "feature_0": pa.array([["x"], ["x", "w", "x"], None, ["w", None], ["x", "only here"]]),
        "feature_1": pa.array([3.0, 30.0, None, 1e9, 1.0]),
        "feature_2": pa.array(["red", "red", "blue", "red", None]),
    }
)


def dense(csr, n_columns):
    matrix = np.zeros((csr.n_rows, n_columns))
    for row in range(csr.n_rows):
        part = slice(csr.indptr[row], csr.indptr[row + 1])
        matrix[row, csr.columns[part]] = csr.values[part]
    return matrix


def encoded(table, rated=RATED):
    """Names, and by id its numbers."""
    found = encode_features(table, ITEM, rated)
    parts = ((rated, found.of_rated), (found.unrated, found.of_unrated))
    rows = {
        id_: row
        for ids, csr in parts
        for id_, row in zip(ids.to_pylist(), dense(csr, len(found.names)), strict=True)
    }
    return found, rows


def test_numbers_become_normal_scores_and_categories_and_tags_ones():
    found, rows = encoded(ITEMS)
    assert found.names == ["feature_0\x1fw", "feature_1", "feature_2\x1fred"]
    score = {rank: NormalDist().inv_cdf((rank - 0.5) / 4) for rank in (1, 2, 3, 4)}
    expected = {
        "a": [1, score[3], 1],
        "b": [0, 0, 0],
        "c": [0, 0, 0],
        "d": [1, score[4], 1],
        "y": [0, score[1], 0],
        "z": [0, score[2], 1],
    }
    assert rows.keys() == expected.keys()
    for id_, row in expected.items():
        np.testing.assert_allclose(rows[id_], row, atol=1e-6)
    assert found.counts() == (3, 3, 2)
    assert found.unrated.to_pylist() == ["y", "z"]


@given(st.permutations(range(5)), st.permutations(["feature_0", "feature_1", "feature_2"]))
def test_the_order_of_rows_and_columns_makes_no_difference(order, columns):
    shuffled = ITEMS.take(pa.array(order)).select(["item", *columns])
    before, after = encoded(ITEMS), encoded(shuffled)
    assert before[0].names == after[0].names
    assert before[1].keys() == after[1].keys()
    for id_, row in before[1].items():
        np.testing.assert_array_equal(row, after[1][id_])


def test_features_that_say_nothing_leave_none():
    table = pa.table(
        {"item": ["a", "b", "new"], "feature_0": [5, 5, 5], "feature_1": ["p", "q", "r"]}
    )
    found, _ = encoded(table)
    assert found.counts() == (0, 2, 1)
    no_match, _ = encoded(ITEMS, pa.array(["other"]))
    assert no_match.counts() == (0, 0, 5)


def test_one_matrix_by_row_and_by_feature():
    found, _ = encoded(ITEMS)
    features = given_features(found)
    by_feature = dense(features.by_feature, features.by_row.n_rows)
    np.testing.assert_array_equal(dense(features.by_row, len(found.names)), by_feature.T)


def test_unrated_rows_by_hand(rng):
    """γᵀ (f − f̄), γ being a ridge regression of the rated rows on what f differs by from f̄."""
    found, numbers = encoded(ITEMS)
    rows = rng.normal(size=(4, 3)).astype(np.float32)
    of_rated = np.array([numbers[id_] for id_ in RATED.to_pylist()])
    centred = of_rated - of_rated.mean(axis=0)
    regression = Regression(found, rows, rows)
    gamma = np.linalg.solve(
        centred.T @ centred + regression.ridge * np.eye(3), centred.T @ (rows - rows.mean(axis=0))
    )
    result = with_unrated(rows, regression)
    np.testing.assert_array_equal(result[:4], rows)
    for n, id_ in enumerate(["y", "z"]):
        expected = (numbers[id_] - of_rated.mean(axis=0)) @ gamma
        np.testing.assert_allclose(result[4 + n], expected, rtol=0.01, atol=1e-3)
    assert with_unrated(rows, None) is rows


def test_features_that_say_nothing_give_rows_of_nobody(rng):
    table = pa.table({"item": ["a", "b", "new"], "feature_0": [5, 5, 5]})
    rows = rng.normal(size=(4, 3)).astype(np.float32)
    regression = Regression(encode_features(table, ITEM, RATED), rows, rows)
    np.testing.assert_array_equal(with_unrated(rows, regression)[4:], np.zeros((1, 3)))


def test_how_much_features_count_follows_what_they_tell(rng):
    """Of rows that follow 60 tags hardly anything is taken off, of those that follow none most."""
    tags = rng.random((200, 60)) < 0.3
    names = [[f"tag{n}" for n in np.flatnonzero(row)] for row in tags]
    table = pa.table({"item": np.arange(200), "feature_0": names})
    found = encode_features(table, ITEM, pa.array(np.arange(150)))
    order = [int(name.split("tag")[1]) for name in found.names]
    users = rng.normal(size=(50, 3)).astype(np.float32)
    told = tags[:, order] @ rng.normal(size=(60, 3)) + 0.1 * rng.normal(size=(200, 3))
    noise = rng.normal(size=(200, 3))
    for truth, low, high in ((told, 0.0, 0.1), (noise, 100.0, np.inf)):
        rows = truth[:150].astype(np.float32)
        regression = Regression(found, rows, users)
        assert low <= regression.ridge < high
        error = with_unrated(rows, regression)[150:] - (truth[150:] - truth[:150].mean(axis=0))
        assert np.sqrt(np.mean(error**2)) < (0.25 if truth is told else 1.1)


def test_draws_of_unrated_rows_lie_around_them_as_the_rated_ones_do(rng):
    """Over many draws: their mean and their covariance."""
    n_draws, covariance = 4000, np.array([[1.0, 0.6], [0.6, 0.5]])
    table = pa.table({"item": list(range(60)), "feature_0": rng.normal(size=60)})
    found = encode_features(table, ITEM, pa.array(list(range(50))))
    score = dense(found.of_rated, 1)
    rest = rng.multivariate_normal([0.3, -0.2], covariance, 50)
    rows = (rest + score @ np.array([[2.0, -1.0]])).astype(np.float32)
    draws = np.repeat(rows[:, None], n_draws, axis=1)
    posterior = Posterior({ITEM: draws}, Spread(1.0, 1.0, 1.0))
    regression = Regression(found, rows, rows)
    unrated = {ITEM: found.unrated}
    extended = posterior_with_unrated(posterior, {ITEM: regression}, unrated, seed=1)
    result = extended.draws[ITEM]
    assert result.shape == (60, n_draws, 2)
    np.testing.assert_array_equal(result[:50], draws[:50])
    center = score - score.mean(axis=0)
    gamma = center.T @ (rows - rows.mean(axis=0)) / (center.T @ center + regression.ridge)
    expected = (dense(found.of_unrated, 1) - score.mean(axis=0)) @ gamma
    np.testing.assert_allclose(result[50:].mean(axis=1), expected, atol=0.08)
    rest = rows - center @ gamma
    spread = np.cov(result[55].T)
    np.testing.assert_allclose(spread, np.cov(rest.T, bias=True), rtol=0.12, atol=0.03)


@pytest.mark.parametrize("implicit", [False, True])
def test_unrated_items_are_predicted_by_their_features(implicit):
    """Planted: taste by two tags, and a number that the bias follows."""
    rng = np.random.default_rng(5)
    n_users, n_items, n_rated = 150, 120, 90
    tags = rng.integers(0, 2, (n_items, 2))
    age = rng.uniform(0, 100, n_items)
    taste = rng.normal(size=(n_users, 2))
    truth = taste @ (tags - 0.5).T + 0.4 * (age - 50) / 29 + 0.1 * rng.normal(size=n_items)
    user, item = np.nonzero(rng.random((n_users, n_rated)) < 0.3)
    rating = truth[user, item] + 0.3 * rng.normal(size=len(user))
    unit = rating.std()
    table = pa.table({"user": user, "item": item, "rating": (rating / unit).astype(np.float32)})
    names = [[name for name, there in zip("ab", row, strict=True) if there] for row in tags]
    features = pa.table({"item": np.arange(n_items), "feature_0": names, "feature_1": age})
    ratings = index_ratings(with_validation_column(table), features={ITEM: features})
    settings = BayesianSettings(rank=3, max_iter=80, implicit_features=implicit)
    objective = Objective(0.0, True, Penalty(1.0, 0.25, 0.5), Penalty(1.0, 0.25, 0.5))
    found = ThreadedGibbs(objective, settings, unit).learn(ratings, 2)
    assert found.features[ITEM] == (3, n_rated, n_items - n_rated)
    users, items = found.rows[USER], found.rows[ITEM]
    order = [*ratings.ids[ITEM].to_pylist(), *found.unrated[ITEM].to_pylist()]
    predicted = unit * (
        users[:, :-1] @ items[:, :-1].T + users[:, -1:] + items[:, -1]
    )  # by position
    exact = truth[ratings.ids[USER].to_numpy()][:, order]
    new = slice(n_rated, None)
    assert np.sqrt(np.mean((predicted - exact)[:, new] ** 2)) < 0.35 * exact[:, new].std()
    # Each draw is one row among many: the spread is that of the errors.
    draws = found.posterior.draws
    each = unit * (
        np.einsum("udk,idk->dui", draws[USER][..., :-1], draws[ITEM][..., :-1])
        + draws[USER][..., -1].T[:, :, None]
        + draws[ITEM][..., -1].T[:, None, :]
    )
    z = (predicted - exact)[:, new] / each.std(axis=0, ddof=1)[:, new]
    assert 0.5 < np.sqrt(np.median(z**2) / 0.455) < 1.6
