"""Weights that are chosen from the data, on planted data of several kinds."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from mfspark.algorithms.als_threads import ThreadedALS
from mfspark.algorithms.indexed_ratings import index_ratings, with_validation_column
from mfspark.algorithms.penalties import PenaltySearch, Weights, lowest, multiplied, tenths
from mfspark.columns import ITEM, RATING, USER, Side
from mfspark.kernels.objective import Objective, Penalty
from mfspark.settings import ALSSettings

RANK = 5


def objective(factors, bias, exponent=0.5):
    penalty = Penalty(factors, bias, exponent)
    return Objective(0.0, True, penalty, penalty)


def planted(kind, seed=0):
    """Standardised ratings of a kind, and the same users' and items' other ratings."""
    rng = np.random.default_rng(seed)
    n_users, n_items, n_each, interaction, noise = {
        "usual": (600, 200, 20, 0.5, 0.8),
        "no interaction": (600, 200, 20, 0.0, 0.8),
        "hardly any noise": (600, 200, 25, 0.6, 0.1),
        "two ratings per user": (4000, 150, 2, 0.4, 0.8),
        "dense and noisy": (300, 60, 45, 0.3, 2.0),
    }[kind]
    p, q = rng.normal(0, interaction, (n_users, 3)), rng.normal(0, interaction, (n_items, 3))
    truth = p @ q.T + rng.normal(0, 0.4, (n_users, 1)) + rng.normal(0, 0.4, n_items)
    # Some items are rated far more often than others.
    chosen = rng.random(truth.shape) + 0.5 * np.linspace(0, 1, n_items)
    order = rng.permuted(np.argsort(chosen, axis=1)[:, : 2 * n_each], axis=1)
    users = np.repeat(np.arange(n_users), n_each)
    items, other = order[:, :n_each].ravel(), order[:, n_each:].ravel()
    values = truth[users, items] + rng.normal(0, noise, len(users))
    mean, scale = values.mean(), values.std()
    table = {USER: users, ITEM: items, RATING: ((values - mean) / scale).astype(np.float32)}
    ratings = index_ratings(with_validation_column(pa.table(table)))
    is_known = np.isin(other, items)
    users = np.repeat(np.arange(n_users), order.shape[1] - n_each)[is_known]
    other = other[is_known]
    target = (truth[users, other] + rng.normal(0, noise, len(users)) - mean) / scale
    return ratings, (users, other, target)


def error_on_test(ratings, test, minimised, rank=RANK):
    users, items, target = test
    rows = ThreadedALS(minimised, ALSSettings(rank=rank)).learn(ratings, 2).rows
    p, q = (
        rows[side][pd.Index(ratings.ids[side].to_numpy()).get_indexer(ids)]
        for side, ids in ((USER, users), (ITEM, items))
    )
    predicted = p[:, -1] + q[:, -1] + np.sum(p[:, :-1] * q[:, :-1], axis=1)
    return math.sqrt(np.mean((predicted - target) ** 2))


def search(**changed):
    given = {
        "objective": objective(1.0, 1.0), "factors": tuple(Side), "biases": True, "link": False,
        "rank": RANK, "seed": 0, "scale": 1.0,
    }  # fmt: skip
    return PenaltySearch(**given | changed)


@pytest.mark.parametrize(
    "kind",
    ["usual", "no interaction", "hardly any noise", "two ratings per user", "dense and noisy"],
)
def test_as_good_as_a_grid_and_as_biases_alone(kind):
    ratings, test = planted(kind)
    chosen = search().choose(ratings, 2)
    found = error_on_test(ratings, test, chosen.objective)
    grid = [
        error_on_test(ratings, test, objective(factors, bias))
        for factors in (0.1, 0.25, 0.5, 1, 2, 4, 16)
        for bias in (0.1, 1, 4)
    ]
    # The best of the grid was chosen by the test ratings themselves.
    assert found < 1.005 * min(grid)
    of_biases = objective(1, 5, exponent=0)
    assert found < 1.002 * error_on_test(ratings, test, of_biases, rank=0)
    assert 0.35 * len(ratings.rating) < chosen.n_held_out < 0.6 * len(ratings.rating)
    assert 10 < chosen.n_fits < 60


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_another_exponent_is_no_obstacle(exponent):
    """Of ν = 1 a λ of 1 is so much that no factor survives it, and neither at twice or half."""
    ratings, test = planted("usual")
    given = objective(1.0, 1.0, exponent)
    found = error_on_test(ratings, test, search(objective=given).choose(ratings, 2).objective)
    best = min(
        error_on_test(ratings, test, objective(factors, bias, exponent))
        for factors in 20.0 ** (0.5 - exponent) * np.array([0.25, 0.5, 1, 2])
        for bias in 20.0 ** (0.5 - exponent) * np.array([0.25, 1])
    )
    assert found < 1.005 * best


def test_what_is_given_stays():
    ratings, _ = planted("usual")
    given = replace(objective(0.7, 0.3), users=Penalty(0.4, 0.3, 0.5))
    found = search(objective=given, factors=(ITEM,), biases=False).choose(ratings, 2).objective
    assert found.users == given.users
    assert found.items.bias == 0.3
    assert found.items.factors != 0.7
    found = search(objective=given, factors=(), biases=True).choose(ratings, 2).objective
    assert (found.users.factors, found.items.factors) == (0.4, 0.7)
    assert found.users.bias != 0.3


def test_threads_and_the_order_of_rows_make_no_difference(rng):
    ratings, _ = planted("usual")
    one = search().choose(ratings, 1)
    ids = {side: ratings.ids[side].to_numpy()[ratings.positions[side]] for side in Side}
    table = pa.table({**ids, RATING: ratings.rating}).take(rng.permutation(len(ratings.rating)))
    many = search().choose(index_ratings(with_validation_column(table)), 3)
    assert many.objective.users.factors == pytest.approx(one.objective.users.factors, rel=1e-3)
    assert many.objective.items.bias == pytest.approx(one.objective.items.bias, rel=1e-3)


def test_too_few_ratings_choose_nothing():
    table = {USER: [1, 1, 2], ITEM: [1, 2, 1], RATING: np.float32([1, -1, 0])}
    ratings = index_ratings(with_validation_column(pa.table(table)))
    chosen = search().choose(ratings, 2)
    assert (chosen.n_held_out, chosen.n_fits) == (0, 0)
    assert chosen.objective == objective(1.0, 1.0)


def test_tenths_are_of_equal_size_and_go_by_the_seed():
    ratings, _ = planted("usual")
    found = tenths(ratings, 0)
    assert (found == tenths(ratings, 0)).all()
    assert (np.bincount(found, minlength=10) / len(found) > 0.09).all()
    assert found.max() == 9
    assert 0.05 < (found == tenths(ratings, 1)).mean() < 0.15


@pytest.mark.parametrize("center", [0.0, 2.3, -1.6])
def test_finds_the_bottom_of_a_parabola(center):
    met = []

    def error(place):
        met.append(place)
        return 3 + (place - center) ** 2

    place, least = lowest(error)
    assert place == pytest.approx(center, abs=0.01)
    assert least == min(3 + (each - center) ** 2 for each in met)
    assert len(met) == len(set(met)) <= 8


def test_a_search_ends_where_nothing_ends_it():
    place, _ = lowest(lambda place: math.exp(-place))
    assert place == 6.5
    place, _ = lowest(lambda place: math.inf if place < 0 else 1.0)
    assert place == 0


def test_only_named_weights_are_multiplied():
    found = multiplied(objective(2.0, 3.0), Weights((USER,), (ITEM,)), 10.0)
    assert (found.users.factors, found.users.bias) == (20, 3)
    assert (found.items.factors, found.items.bias) == (2, 30)
    assert found.link_weight is None
    linked = replace(objective(2.0, 3.0), link_weight=5.0)
    assert multiplied(linked, Weights(link=True), 4.0) == replace(linked, link_weight=20.0)
    assert multiplied(objective(2.0, 3.0), Weights(link=True), 4.0) == objective(2.0, 3.0)
