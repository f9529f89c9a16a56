"""Lists that are cautious about what few people rated."""

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import functions as F

from mfspark import BayesianMF, BiasedALS, BiasOnly
from mfspark.app.lists import facts_of, with_titles
from mfspark.columns import ITEM, USER
from mfspark.errors import ConfigError
from mfspark.models.uncertainty import less_uncertainty

N_ITEMS = 40


@pytest.fixture(scope="module")
def ratings(spark):
    """Items 0 to 24 were rated by a few users, the others by many; all are liked alike."""
    rng = np.random.default_rng(2)
    user, item = np.nonzero(rng.random((150, N_ITEMS)) < 0.4)
    kept = (item >= 25) | (rng.random(len(user)) < 0.06)
    user, item = user[kept], item[kept]
    liked = rng.normal(0, 0.3, N_ITEMS)
    rating = (3.2 + liked[item] + rng.normal(0, 1.0, len(user))).clip(1, 5)
    return spark.createDataFrame(
        pd.DataFrame({"user": user, "item": item, "rating": rating})
    ).persist()


@pytest.fixture(scope="module")
def als(ratings):
    return BiasedALS(rank=2, maxIter=8, regParam=1.0, biasRegParam=0.9, seed=1).fit(ratings)


@pytest.fixture(scope="module")
def sampled(ratings):
    return BayesianMF(rank=2, maxIter=30, burnIn=10, seed=1, implicitFeatures=False).fit(ratings)


def deviations(model, side):
    """What one standard deviation takes off the biases, by id."""
    table = model.user_factors if side == USER else model.item_factors
    lowered = less_uncertainty(table, side, 1.0, model.metadata, model.history, model.draws)
    assert lowered.columns == table.columns
    before, after = (part.toPandas().set_index(side)["bias"] for part in (table, lowered))
    return before - after[before.index]


@pytest.mark.parametrize("side", [USER, ITEM])
def test_deviations_of_ridge_regressions_by_hand(als, side):
    metadata = als.metadata
    table = (als.user_factors if side == USER else als.item_factors).toPandas().set_index(side)
    other = (als.item_factors if side == USER else als.user_factors).toPandas()
    last = als.history.where(F.col("iteration") == metadata.best_iteration).toPandas()
    variance = last["train_rmse"].iloc[-1] ** 2
    # In canonical coordinates the covariance of the other side's factors is diagonal.
    factors = np.stack(other["factors"]).astype(float)
    second = factors.T @ factors / len(factors)
    n = table["n_ratings"].to_numpy()
    expected = 1 / (n + 0.9 * np.sqrt(n))
    for row, count in enumerate(n):
        prior = 1.0 * metadata.scale * np.sqrt(count) * np.eye(2)
        expected[row] += np.trace(np.linalg.inv(count * second + prior) @ second)
    np.testing.assert_allclose(
        deviations(als, side), np.sqrt(variance * expected), rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("side", [USER, ITEM])
def test_deviations_over_draws_by_hand(sampled, side):
    """All ids of the other side are fewer than are taken."""
    draws = {
        each: np.stack(table.toPandas().set_index(each)["draws"]).reshape(table.count(), -1, 3)
        for each, table in sampled.draws.items()
    }
    own, other = draws[side].astype(float), draws[side.other].astype(float)
    predicted = np.einsum("ndf,sdf->nsd", own[..., :2], other[..., :2]) + own[:, None, :, 2]
    expected = np.sqrt(predicted.var(axis=2, ddof=1).mean(axis=1))
    ids = sampled.draws[side].toPandas()[side]
    np.testing.assert_allclose(deviations(sampled, side)[ids], expected, rtol=1e-3, atol=1e-5)


def test_without_factors_or_draws(ratings):
    biases = BiasOnly(damping=4.0).fit(ratings)
    error = biases.history.agg(F.min("train_rmse")).first()[0]
    n = biases.item_factors.toPandas().set_index("item")["n_ratings"]
    np.testing.assert_allclose(
        deviations(biases, ITEM), (error / np.sqrt(n + 4.0))[deviations(biases, ITEM).index],
        rtol=1e-3,
    )  # fmt: skip
    posterior = BayesianMF(rank=2, maxIter=6, burnIn=2, keepDraws=0).fit(ratings)
    facts = posterior.metadata.posterior
    n = posterior.user_factors.toPandas().set_index("user")["n_ratings"]
    expected = np.sqrt(facts.noise / (n + facts.noise / facts.cold_user))
    found = deviations(posterior, USER)
    np.testing.assert_allclose(found, expected[found.index], rtol=1e-3)


@pytest.mark.parametrize("name", ["als", "sampled"])
def test_what_few_have_rated_is_on_few_lists(name, request, ratings):
    model = request.getfixturevalue(name)
    few = {}
    for caution in (0.0, 1.0):
        lists = model.recommendForAllUsers(5, seen=ratings, caution=caution)
        few[caution] = facts_of(lists, model, ITEM).few_ratings
        ordered = lists.select(F.col("recommendations.rating").alias("r")).collect()
        assert all(list(row["r"]) == sorted(row["r"], reverse=True) for row in ordered)
        assert all(1 <= rating <= 5 for row in ordered for rating in row["r"])
    assert few[1.0] < 0.8 * few[0.0], few
    # It is the default.
    cautious = model.recommendForAllUsers(5, seen=ratings, caution=1.0)
    assert cautious.exceptAll(model.recommendForAllUsers(5, seen=ratings)).isEmpty()


def test_least_ratings_and_bad_caution(als, ratings):
    lists = als.recommendForAllUsers(N_ITEMS, minRatings=20)
    listed = lists.select(F.explode("recommendations.item").alias("item")).distinct()
    counts = als.item_factors.join(listed, "item", "semi").agg(F.min("n_ratings")).first()[0]
    assert counts >= 20
    assert als.recommendForAllItems(3, minRatings=10**6).isEmpty()
    with pytest.raises(ConfigError, match=r"caution = -1.* 0 or more"):
        als.recommendForAllUsers(3, caution=-1.0)


def test_facts_and_titles_of_lists(spark, als):
    entry = "array<struct<item: bigint, rating: float>>"
    lists = spark.createDataFrame(
        [(1, [(30, 4.5), (2, 4.0)]), (2, [(30, 3.0)]), (3, [])],
        f"user long, recommendations {entry}",
    )
    items = spark.createDataFrame([("30", "Thirty"), ("8", "Eight")], "item string, title string")
    rows = {row["user"]: row["recommendations"] for row in with_titles(lists, items).collect()}
    assert [tuple(each) for each in rows[1]] == [(30, "Thirty", 4.5), (2, None, 4.0)]
    assert len(rows[3]) == 0
    found = facts_of(lists, als, ITEM)
    n = als.item_factors.toPandas().set_index("item")["n_ratings"]
    assert found.lists == 3
    assert found.coverage == pytest.approx(2 / len(n))
    assert found.few_ratings == pytest.approx(1 / 3)
    assert found.most_listed == pytest.approx(2 / 3)
    assert found.median_ratings == n[30]
    assert found.lines(ITEM)[0] == f"3 lists, with {2 / len(n):.1%} of the items on one or more"
    assert facts_of(lists.where("user = 3"), als, ITEM) == (1, 0.0, 0.0, 0.0, 0.0)
