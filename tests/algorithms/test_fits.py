"""Whole fits of NumPy problems, without Spark."""

from itertools import pairwise
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mfspark.algorithms import sharing
from mfspark.algorithms.als_threads import ThreadedALS
from mfspark.algorithms.indexed_ratings import (
    count_codes,
    index_ratings,
    with_validation_column,
)
from mfspark.algorithms.sgd_threads import ThreadedSGD
from mfspark.algorithms.sharing import LEAST_WORK
from mfspark.columns import IS_VALIDATION, ITEM, USER, Side
from mfspark.errors import DivergenceError
from mfspark.kernels.objective import Objective, Penalty
from mfspark.settings import ALSSettings, SGDSettings

OBJECTIVE = Objective(0.0, True, Penalty(0.5, 0.2, 0.5), Penalty(0.3, 0.1, 1.0))


def ratings_of(seed: int, n: int = 1500, n_users: int = 60, n_items: int = 40) -> pa.Table:
    """Ratings of two factors with noise, standardised; a tenth are validation ratings."""
    rng = np.random.default_rng(seed)
    p, q = rng.normal(size=(n_users, 2)), rng.normal(size=(n_items, 2))
    user = (rng.random(n) ** 2 * n_users).astype(np.int64)
    item = (rng.random(n) ** 2 * n_items).astype(np.int64)
    rating = (p[user] * q[item]).sum(axis=1) + rng.normal(0, 0.2, n)
    rating = (rating - rating.mean()) / rating.std()
    columns = {"user": user * 7, "item": item * 3, "rating": rating.astype(np.float32)}
    return pa.table(columns | {IS_VALIDATION: rng.random(n) < 0.1})


def dense_objective(table: pa.Table, ratings, rows) -> float:
    """The objective from its definition; shares no code with mfspark but the order of the ids."""
    train = table.filter(pa.array(~table[IS_VALIDATION].to_numpy()))
    total = 0.0
    at = {}
    for side in Side:
        place = {id_: n for n, id_ in enumerate(ratings.ids[side].to_pylist())}
        at[side] = np.array([place[id_] for id_ in train[side].to_pylist()])
        penalty = OBJECTIVE.users if side == USER else OBJECTIVE.items
        counts = np.bincount(at[side], minlength=len(rows[side]))
        square = penalty.factors * (rows[side][:, :-1].astype(float) ** 2).sum(axis=1)
        square += penalty.bias * rows[side][:, -1].astype(float) ** 2
        total += counts**penalty.exponent @ square
    p, q = rows[USER][at[USER]].astype(float), rows[ITEM][at[ITEM]].astype(float)
    predicted = (p[:, :-1] * q[:, :-1]).sum(axis=1) + p[:, -1] + q[:, -1]
    return total + np.square(train["rating"].to_numpy() - predicted).sum()


@settings(deadline=None, max_examples=15)
@given(
    seed=st.integers(0, 2**31), rank=st.sampled_from([0, 1, 5]), n_threads=st.integers(1, 3),
    least_work=st.sampled_from([1, LEAST_WORK]),
)  # fmt: skip
def test_als_reports_the_objective_of_the_rows_it_returns(seed, rank, n_threads, least_work):
    table = ratings_of(seed)
    ratings = index_ratings(table)
    als = ThreadedALS(OBJECTIVE, ALSSettings(rank=rank, max_iter=4, tol=0.0))
    with patch.object(sharing, "LEAST_WORK", least_work):
        rows, history, *_ = als.learn(ratings, n_threads)
    best = [row for row in history.rows if row.iteration == history.best_iteration][-1]
    assert best.objective == pytest.approx(dense_objective(table, ratings, rows), rel=1e-4)
    objectives = [row.objective for row in history.rows]
    assert all(b <= a * (1 + 1e-5) for a, b in pairwise(objectives))


@pytest.mark.usefixtures("every_row_shared_out")
def test_als_with_threads_is_als_with_one():
    ratings = index_ratings(ratings_of(1))
    als = ThreadedALS(OBJECTIVE, ALSSettings(rank=4, max_iter=5))
    one, many = als.learn(ratings, 1), als.learn(ratings, 4)
    for side in Side:
        np.testing.assert_allclose(one[0][side], many[0][side], atol=1e-4)


@pytest.mark.parametrize("rank", [10, 70])
def test_conjugate_gradients_end_where_exact_solutions_do(rank):
    """Objective and error of validation ratings after every iteration, to 10⁻⁴."""
    ratings = index_ratings(ratings_of(5, n=20_000, n_users=300, n_items=150))
    wanted = ALSSettings(rank=rank, max_iter=5, tol=0.0)
    exact, by_cg = (
        ThreadedALS(OBJECTIVE, wanted.model_copy(update={"solver": solver})).learn(ratings, 2)
        for solver in ("exact", "cg")
    )
    assert not np.array_equal(exact.rows[USER], by_cg.rows[USER])
    for ours, theirs in zip(by_cg.history.rows, exact.history.rows, strict=True):
        assert ours.objective == pytest.approx(theirs.objective, rel=1e-4)
        assert ours.validation_rmse == pytest.approx(theirs.validation_rmse, abs=1e-4)


@pytest.mark.parametrize("schedule", ["adagrad", "bold_driver", "inverse_time", "constant"])
def test_sgd_comes_near_to_the_minimum_of_als(schedule):
    table = ratings_of(2)
    ratings = index_ratings(table)
    als = ThreadedALS(OBJECTIVE, ALSSettings(rank=3, max_iter=40, tol=0.0)).learn(ratings, 2).rows
    rate = 0.3 if schedule == "adagrad" else 0.02
    sgd = ThreadedSGD(
        OBJECTIVE,
        SGDSettings(
            rank=3, max_iter=80, tol=0.0, schedule=schedule, learning_rate=rate, rate_decay=0.02
        ),
    )
    rows, history, *_ = sgd.learn(index_ratings(table), 2)
    least = dense_objective(table, ratings, als)
    assert dense_objective(table, ratings, rows) < 1.1 * least
    # Both watch the validation ratings, which are of the same kind.
    assert history.rows[-1].validation_rmse is not None


@pytest.mark.usefixtures("every_row_shared_out")
def test_sgd_depends_on_blocks_and_seed_and_not_on_threads():
    def fit(n_threads, **changed):
        wanted = SGDSettings(**{"rank": 3, "max_iter": 3, "num_blocks": 4} | changed)
        return ThreadedSGD(OBJECTIVE, wanted).learn(index_ratings(ratings_of(3)), n_threads)[0]

    one = fit(1)
    np.testing.assert_array_equal(one[USER], fit(3)[USER])
    assert not np.allclose(one[USER], fit(1, seed=1)[USER])
    assert not np.allclose(one[USER], fit(1, num_blocks=2)[USER])


def test_a_rate_that_is_too_high_is_cut_and_a_hopeless_one_is_an_error():
    ratings = index_ratings(ratings_of(4))
    cut = SGDSettings(rank=3, max_iter=5, schedule="constant", learning_rate=5.0)
    history = ThreadedSGD(OBJECTIVE, cut).learn(ratings, 2).history
    assert history.rows[0].learning_rate < 5.0
    assert [row.iteration for row in history.rows] == list(range(1, len(history.rows) + 1))
    hopeless = cut.model_copy(update={"learning_rate": 1e9})
    with pytest.raises(DivergenceError, match="Check the ratings"):
        ThreadedSGD(OBJECTIVE, hopeless).learn(ratings, 2)


def test_cold_validation_ratings_are_left_out_and_counted():
    table = pa.table(
        {
            "user": ["a", "a", "b", "c"],
            "item": [1, 2, 1, 1],
            "rating": [1.0, 2.0, 3.0, 9.0],
            "is_validation": [False, False, False, True],
        }
    )
    ratings = index_ratings(table)
    assert ratings.n_cold == 1
    assert ratings.ids[USER].to_pylist() == ["a", "b"]
    assert ratings.ids[ITEM].to_pylist() == [1, 2]
    assert ratings.n_ratings[ITEM].tolist() == [2, 1]
    assert ratings.rating.tolist() == [1.0, 2.0, 3.0]


def test_ids_that_are_dictionary_encoded_are_the_same_ids():
    table = ratings_of(5)
    encoded = pa.table(
        {
            "user": pa.chunked_array([part.dictionary_encode() for part in table["user"].chunks]),
            "item": table["item"].dictionary_encode(),
            "rating": table["rating"],
        }
    )
    plain, found = (
        index_ratings(with_validation_column(t)) for t in (table.drop([IS_VALIDATION]), encoded)
    )
    for side in Side:
        assert plain.ids[side].equals(found.ids[side])
        np.testing.assert_array_equal(plain.positions[side], found.positions[side])


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32])
@pytest.mark.parametrize("n", [0, 1, 2**17, 2**17 + 1, 300_000])
def test_codes_are_counted(rng, kind, n):
    codes = rng.integers(0, 200, n).astype(kind)
    expected = [int((codes == code).sum()) for code in range(250)]
    assert count_codes(codes, 250).tolist() == expected


def test_ratings_of_some_users_are_all_their_training_ratings(rng):
    n = 4000
    user, item = rng.integers(0, 300, n), rng.integers(0, 60, n)
    table = pa.table(
        {"user": user, "item": item, "rating": rng.normal(size=n).astype(np.float32),
         IS_VALIDATION: rng.random(n) < 0.1}
    )  # fmt: skip
    whole = index_ratings(table)
    n_fitted = int((~whole.is_validation).sum())
    all_of_them = whole.of_some_users(10 * n, seed=1)
    assert len(all_of_them.rating) == n_fitted
    assert not all_of_them.is_validation.any()
    some = whole.of_some_users(1000, seed=1)
    assert 600 < len(some.rating) < 1400
    kept = np.unique(some.positions[USER])
    chosen = np.isin(whole.positions[USER], kept) & ~whole.is_validation
    np.testing.assert_array_equal(some.rating, whole.rating[chosen])
    np.testing.assert_array_equal(some.positions[ITEM], whole.positions[ITEM][chosen])
    # The same users whatever the order of the rows.
    again = index_ratings(table.take(pa.array(rng.permutation(n)))).of_some_users(1000, seed=1)
    np.testing.assert_array_equal(np.unique(again.positions[USER]), kept)
