"""Which factors are found again: planted ones are, noise is not; figures against NumPy."""

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import functions as F
from scipy.optimize import linear_sum_assignment

from mfspark import BiasedALS, FactorModel
from mfspark.interpretation.stability import factor_stability, resampled_users

N_USERS, N_ITEMS = 400, 90


def planted(strengths, noise, seed=0):
    """Ratings of as many factors as there are strengths."""
    rng = np.random.default_rng(seed)
    user, item = np.nonzero(rng.random((N_USERS, N_ITEMS)) < 0.4)
    taste = rng.normal(size=(N_USERS, len(strengths)))
    kind = rng.normal(size=(N_ITEMS, len(strengths)))
    rating = 3 + (taste[user] * kind[item]) @ np.array(strengths)
    rating = rating + rng.normal(0, noise, len(user))
    frame = pd.DataFrame({"user": user, "item": item, "rating": rating})
    return frame, kind


def matrix(agreement):
    return agreement.toPandas().pivot_table(index="factor", columns="matched", values="r")


def test_planted_factors_are_stable_and_others_are_not(spark):
    frame, kind = planted([1.0, 0.6], 0.6)
    ratings = spark.createDataFrame(frame).persist()
    model = BiasedALS(rank=5, maxIter=12, regParam=1.0, biasRegParam=1.0, seed=1).fit(ratings)
    found = factor_stability(model, ratings, 3, min_ratings=10)
    table = found.of_factors.toPandas().sort_values("factor")
    assert list(table["is_stable"]) == [True, True, False, False, False]
    assert (table["lowest"] <= table["stability"]).all()
    assert table["stability"][:2].min() > 0.95
    # The stable ones are those that were planted.
    items = model.item_factors.toPandas().sort_values("item")
    loadings = np.stack(items["factors"])[:, :2]
    r = np.abs(np.corrcoef(loadings.T, kind[items["item"]].T))[:2, 2:]
    rows, columns = linear_sum_assignment(-r)
    assert r[rows, columns].min() > 0.9
    agreement = found.agreement.toPandas().pivot_table(
        index="factor", columns="matched", values="r"
    )
    np.testing.assert_allclose(np.diag(agreement), table["stability"])


def test_noise_has_no_stable_factor(spark):
    trials = 0
    for seed in range(3):
        frame, _ = planted([], 1.0, seed)
        ratings = spark.createDataFrame(frame).persist()
        # Weak penalties, so that there are factors at all.
        model = BiasedALS(rank=3, maxIter=6, regParam=0.5, biasRegParam=1.0, seed=1).fit(ratings)
        found = factor_stability(model, ratings, 2, min_ratings=10).of_factors
        trials += found.where("is_stable").count()
    assert trials == 0


def test_correlations_against_numpy(spark, ratings, tmp_path):
    """A refit with the very seed, and what it says by numpy."""
    model = BiasedALS(rank=3, maxIter=4, regParam=0.5, biasRegParam=0.5, seed=1).fit(ratings)
    # As the jobs have it: a model that was saved has Params of predictions as well.
    model.save(str(tmp_path / "model"))
    saved = FactorModel.load(str(tmp_path / "model"))
    found = factor_stability(saved, ratings, 1, min_ratings=12, seed=7)
    rows = resampled_users(ratings, "user", 7)
    again = BiasedALS(rank=3, maxIter=4, regParam=0.5, biasRegParam=0.5, seed=1).fit(rows)
    first = model.item_factors.where("n_ratings >= 12").toPandas()
    both = first.merge(again.item_factors.toPandas(), on="item")
    sides = [np.stack(both[name]) for name in ("factors_x", "factors_y")]
    r = np.abs(np.corrcoef(sides[0].T, sides[1].T))[:3, 3:]
    _, columns = linear_sum_assignment(-r)
    agreement = found.agreement.toPandas().pivot_table(
        index="factor", columns="matched", values="r"
    )
    np.testing.assert_allclose(agreement, r[:, columns], atol=1e-4)


def test_users_are_drawn_with_replacement(spark):
    rows = spark.range(30_000).select(
        F.floor(F.col("id") / 3).alias("user"), (F.col("id") % 3).alias("item"),
        F.lit(3.0).alias("rating"),
    )  # fmt: skip
    drawn = resampled_users(rows, "user", 5).toPandas()
    assert not drawn.duplicated(["user", "item"]).any()
    assert (drawn.groupby("user").size() == 3).all()
    copies = drawn["user"].drop_duplicates().str.split("#").str[0].value_counts()
    share = copies.value_counts() / 10_000
    assert len(copies) / 10_000 == pytest.approx(1 - np.exp(-1), abs=0.015)
    for n, expected in ((1, np.exp(-1)), (2, np.exp(-1) / 2), (3, np.exp(-1) / 6)):
        assert share[n] == pytest.approx(expected, abs=0.012)
    other = resampled_users(rows, "user", 6).toPandas()
    assert set(other["user"]) != set(drawn["user"])


def test_without_factors_or_refits(ratings, model):
    alone = BiasedALS(rank=0, maxIter=2, regParam=1.0, biasRegParam=1.0).fit(ratings)
    for fitted, refits in ((alone, 2), (model, 0)):
        found = factor_stability(fitted, ratings, refits, min_ratings=5)
        assert found.of_factors.isEmpty()
        assert found.agreement.isEmpty()
