"""Implicit features in fits that minimise, against their objective written out in double."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from mfspark.algorithms import sparse_features
from mfspark.algorithms.als_threads import ThreadedALS, run_half_step, start_als
from mfspark.algorithms.fitted_link import start_links
from mfspark.algorithms.indexed_ratings import index_ratings, with_validation_column
from mfspark.algorithms.penalties import PenaltySearch
from mfspark.algorithms.sgd_threads import ThreadedSGD
from mfspark.columns import IS_VALIDATION, ITEM, RATING, USER, Side
from mfspark.kernels.arrays import AlignedRows
from mfspark.kernels.csr import Csr
from mfspark.kernels.features import less_offsets
from mfspark.kernels.objective import Objective, Penalty
from mfspark.settings import ALSSettings, SGDSettings

RANK = 3
LINKED = Objective(0.0, True, Penalty(0.7, 0.3, 0.5), Penalty(0.4, 0.2, 0.5), link_weight=2.0)


@pytest.fixture
def exact(monkeypatch):
    monkeypatch.setattr(sparse_features, "TOLERANCE", 1e-6)


def planted(seed, of_choice, n_users=400, n_items=100):
    """Ratings of users that rate what they like (``of_choice`` 1) or anything (0), a tenth of them
    for validation."""
    rng = np.random.default_rng(seed)
    p, q = rng.normal(0, 1, (n_users, 2)), rng.normal(0, 1, (n_items, 2))
    taste = p @ q.T
    users, items = np.nonzero(rng.random(taste.shape) < 0.12 * np.exp(of_choice * taste).clip(0, 4))
    values = 0.5 * taste[users, items] + rng.normal(0, 1, len(users))
    table = {
        USER: users,
        ITEM: items,
        RATING: ((values - values.mean()) / values.std()).astype(np.float32),
        IS_VALIDATION: rng.random(len(users)) < 0.1,
    }
    return index_ratings(with_validation_column(pa.table(table)))


def small():
    return planted(3, 1, n_users=25, n_items=12)


def value(ratings, rows, coefficients, objective):
    """The objective, as fitted_link has it."""
    fitted = ~ratings.is_validation
    users, items = (ratings.positions[side][fitted] for side in Side)
    rows = {side: part.astype(float) for side, part in rows.items()}
    p, q = rows[USER][users], rows[ITEM][items]
    found = p[:, -1] + q[:, -1] + (p[:, :-1] * q[:, :-1]).sum(axis=1)
    total = np.square(ratings.rating[fitted] - found).sum()
    rated = np.zeros((len(rows[USER]), len(rows[ITEM])))
    rated[users, items] = 1
    for side, matrix in ((USER, rated), (ITEM, rated.T)):
        penalty, counts = objective.penalty(side), ratings.n_ratings[side]
        ridge = np.append(np.full(rows[side].shape[1] - 1, penalty.factors), penalty.bias)
        features = matrix / np.sqrt(counts)[:, None]
        weights = counts**penalty.exponent
        away = rows[side] - features @ coefficients[side]
        total += (weights[:, None] * away**2 * ridge).sum()
        total += objective.link_weight * weights.mean() * (coefficients[side] ** 2 * ridge).sum()
    return total


def fitted(ratings, objective, n_iterations, n_threads=2):
    """The state after some iterations, and the objective that each half-step reports."""
    reported, own = [], {}
    items = ratings.start(ITEM, RANK, 0)
    with ThreadPoolExecutor(n_threads) as pool:
        blocks = {side: ratings.block(side) for side in Side}
        state = start_als(blocks, items, objective)
        for _ in range(n_iterations):
            for side in Side:
                state, sums = run_half_step(
                    pool, n_threads, blocks[side], state, objective, side, "exact"
                )
                own[side] = sums.penalty
                reported.append(sums.squared_error + sum(own.values()))
    return state, reported


def test_what_offsets_leave_of_ratings(rng):
    indptr = np.array([0, 2, 2, 5], np.int64)
    ratings = Csr(indptr, np.array([1, 0, 3, 2, 3], np.int32), rng.normal(size=5).astype("f4"))
    fixed, offsets = (rng.normal(size=(n, RANK + 1)).astype(np.float32) for n in (4, 3))
    rows = np.array([0, 0, 2, 2, 2])
    product = (offsets[rows, :-1] * fixed[ratings.columns, :-1]).sum(axis=1)
    expected = ratings.values - product - offsets[rows, -1]
    found = less_offsets(ratings, AlignedRows.of(fixed), offsets)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    part = less_offsets(ratings.slice(2, 3), AlignedRows.of(fixed), offsets[2:])
    np.testing.assert_array_equal(part, found[2:])


@pytest.mark.usefixtures("exact")
def test_the_reported_objective_is_the_one_written_out_and_never_rises():
    ratings = small()
    state, reported = fitted(ratings, LINKED, 30)
    coefficients = {side: link.coefficients.astype(float) for side, link in state.links.items()}
    assert any(np.abs(part).max() > 0.1 for part in coefficients.values())
    found = value(ratings, state.rows, coefficients, LINKED)
    assert reported[-1] == pytest.approx(found, rel=1e-5)
    # The first two know of one side's penalty only.
    assert (np.diff(reported[2:]) < 1e-5 * found).all()


@pytest.mark.usefixtures("exact")
def test_it_ends_where_the_objective_has_no_slope():
    ratings = small()
    state, _ = fitted(ratings, LINKED, 400)
    rows = {side: part.astype(float) for side, part in state.rows.items()}
    coefficients = {side: link.coefficients.astype(float) for side, link in state.links.items()}
    scale = value(ratings, rows, coefficients, LINKED)
    for parts in (rows, coefficients):
        for side in Side:
            for place in np.ndindex(*parts[side].shape):
                ends = []
                for sign in (1, -1):
                    parts[side][place] += sign * 1e-4
                    ends.append(value(ratings, rows, coefficients, LINKED))
                    parts[side][place] -= sign * 1e-4
                assert abs(ends[0] - ends[1]) / 2e-4 < 2e-4 * scale


def test_a_very_heavy_link_is_none():
    ratings = small()
    heavy, _ = fitted(ratings, replace(LINKED, link_weight=1e8), 5)
    plain, _ = fitted(ratings, replace(LINKED, link_weight=None), 5)
    assert plain.links == {}
    for side in Side:
        np.testing.assert_allclose(heavy.rows[side], plain.rows[side], atol=1e-4)


@pytest.mark.usefixtures("every_row_shared_out")
def test_threads_make_no_difference():
    ratings = planted(1, 1)
    one, _ = fitted(ratings, LINKED, 4, n_threads=1)
    many, _ = fitted(ratings, LINKED, 4, n_threads=3)
    for side in Side:
        np.testing.assert_allclose(one.rows[side], many.rows[side], atol=2e-3)


def test_a_row_with_more_ratings_counts_more():
    """F is weighted by n^(ν/2), and the link by the mean of n^ν."""
    ratings = small()
    blocks = {side: ratings.block(side) for side in Side}
    links = start_links(blocks, LINKED, RANK)
    for side in Side:
        counts = ratings.n_ratings[side]
        assert links[side].weight == pytest.approx(2.0 * np.sqrt(counts).mean())
        squares = np.add.reduceat(
            links[side].features.by_row.values ** 2, blocks[side].train.indptr[:-1]
        )
        # With 1/√n in each of n places, a row of F has length one.
        np.testing.assert_allclose(squares, np.sqrt(counts), rtol=1e-5)


def learner(kind, objective, **settings):
    if kind == "als":
        return ThreadedALS(objective, ALSSettings(rank=4, max_iter=15, tol=0.0, **settings))
    return ThreadedSGD(objective, SGDSettings(rank=4, max_iter=40, tol=0.0, **settings))


def best_error(kind, ratings, objective):
    found = learner(kind, objective).learn(ratings, 2)
    users, items = (ratings.positions[side][ratings.is_validation] for side in Side)
    p, q = found.rows[USER][users], found.rows[ITEM][items]
    predicted = p[:, -1] + q[:, -1] + (p[:, :-1] * q[:, :-1]).sum(axis=1)
    error = np.sqrt(np.mean((ratings.rating[ratings.is_validation] - predicted) ** 2))
    # What the history says of validation rows is what the rows give.
    row = next(row for row in reversed(found.history.rows) if row.iteration == found.best_iteration)
    assert row.validation_rmse == pytest.approx(error, rel=1e-3)
    return error


@pytest.mark.slow
@pytest.mark.parametrize("of_choice", [0, 1])
def test_weights_from_the_data_help_where_choice_tells_of_taste_and_do_no_harm_elsewhere(of_choice):
    ratings = planted(1, of_choice, n_users=900, n_items=150)
    plain = Objective(0.0, True, Penalty(1.0, 1.0, 0.5), Penalty(1.0, 1.0, 0.5))
    search = PenaltySearch(
        replace(plain, link_weight=8.0), tuple(Side), biases=True, link=True, rank=4, seed=0,
        scale=1.0,
    )  # fmt: skip
    linked = search.choose(ratings, 2).objective
    without = replace(search, objective=plain, link=False).choose(ratings, 2).objective
    assert without.link_weight is None
    if of_choice:
        assert linked.link_weight < 10
        for kind in ("als", "sgd"):
            assert best_error(kind, ratings, linked) < 0.97 * best_error(kind, ratings, without)
    else:
        assert linked.link_weight > 100
        assert best_error("als", ratings, linked) < 1.002 * best_error("als", ratings, without)


def test_without_biases_none_appear():
    ratings = planted(1, 1)
    objective = replace(LINKED, fit_biases=False)
    for kind in ("als", "sgd"):
        rows = learner(kind, objective, fit_biases=False).learn(ratings, 2).rows
        assert all((part[:, -1] == 0).all() for part in rows.values())


def test_rank_zero_links_biases():
    ratings = small()
    objective = replace(LINKED, link_weight=1.0)
    rows = ThreadedALS(objective, ALSSettings(rank=0, max_iter=5)).learn(ratings, 2).rows
    assert all(part.shape[1] == 1 and np.isfinite(part).all() for part in rows.values())


@pytest.mark.parametrize("kind", ["als", "sgd"])
def test_cold_biases_are_those_of_a_model_without_factors(kind):
    ratings = small()
    found = learner(kind, LINKED).learn(ratings, 2).cold_biases
    fitted = ~ratings.is_validation
    n = {side: len(ratings.ids[side]) for side in Side}
    users, items = (ratings.positions[side][fitted] for side in Side)
    design = np.hstack([np.eye(n[USER])[users], np.eye(n[ITEM])[items]])
    weights = np.concatenate(
        [LINKED.penalty(side).bias * ratings.n_ratings[side] ** 0.5 for side in Side]
    )
    expected = np.linalg.solve(
        design.T @ design + np.diag(weights), design.T @ ratings.rating[fitted]
    )
    np.testing.assert_allclose(np.concatenate([found[side] for side in Side]), expected, atol=1e-3)
    without = replace(LINKED, link_weight=None)
    assert learner(kind, without).learn(ratings, 2).cold_biases == {}
