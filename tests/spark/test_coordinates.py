"""Factors in simple structure: planted ones are found again, and predictions stay as they are."""

import numpy as np
import pandas as pd
import pytest

from mfspark import BiasedALS
from mfspark.interpretation.coordinates import VARIMAX, in_simple_structure
from mfspark.interpretation.explain import influences
from mfspark.interpretation.stability import factor_stability

N_USERS, N_ITEMS = 300, 90


@pytest.fixture(scope="module")
def planted(spark):
    """Three kinds of items, each with a taste of its own of the same size: which mixture of them
    is largest is a matter of chance, and canonical factors are one."""
    rng = np.random.default_rng(2)
    kind, taste = np.arange(N_ITEMS) % 3, rng.normal(size=(N_USERS, 3))
    sign = np.where(rng.random(N_ITEMS) < 0.8, 1, -1)
    user, item = np.nonzero(rng.random((N_USERS, N_ITEMS)) < 0.5)
    rating = 3 + sign[item] * taste[user, kind[item]] + rng.normal(0, 0.4, len(user))
    ratings = spark.createDataFrame(pd.DataFrame({"user": user, "item": item, "rating": rating}))
    settings = {"rank": 3, "maxIter": 15, "regParam": 1.0, "biasRegParam": 1.0, "seed": 1}
    return ratings, BiasedALS(**settings).fit(ratings), kind, taste


def test_planted_kinds_are_factors_of_their_own(planted):
    ratings, model, kind, taste = planted
    read = in_simple_structure(model, 20)
    assert read.metadata.rotation.name == VARIMAX
    table = read.user_factors.orderBy("user").toPandas()
    users = np.stack(table["factors"])
    r = np.abs(np.corrcoef(users.T, taste[table["user"]].T)[:3, 3:])
    assert sorted(r.argmax(axis=1)) == [0, 1, 2]
    assert r.max(axis=1).min() > 0.9
    stability = factor_stability(read, ratings, 2, 20).of_factors.toPandas()
    assert stability["is_stable"].all()
    items = read.item_factors.orderBy("item").toPandas()
    loadings = np.stack(items["factors"])
    assert (np.abs(loadings).argmax(axis=1) == np.argmax(r, axis=0)[kind]).mean() > 0.95
    assert (loadings.sum(axis=0) >= 0).all()


def test_predictions_penalties_and_sizes_stay(planted):
    ratings, model, _, _ = planted
    read = in_simple_structure(model, 20)
    pairs = ratings.limit(50)
    before, after = (
        each.transform(pairs).orderBy("user", "item").toPandas()["prediction"]
        for each in (model, read)
    )
    np.testing.assert_allclose(after, before, atol=1e-5)
    user, item = ratings.select("user", "item").first()
    (table, rest), (again, rest_again) = (
        influences(each, ratings, user, item) for each in (model, read)
    )
    by_item = [each.set_index("item")["influence"].sort_index() for each in (table, again)]
    np.testing.assert_allclose(by_item[0], by_item[1], atol=1e-5)
    assert rest == pytest.approx(rest_again, abs=1e-5)
    p, q = (
        np.stack(each.toPandas()["factors"]).astype(float)
        for each in (read.user_factors, read.item_factors)
    )
    sizes = np.linalg.norm(p, axis=0) * np.linalg.norm(q, axis=0)
    np.testing.assert_allclose(read.metadata.rotation.singular_values, sizes, rtol=1e-4)
    assert (np.diff(sizes) <= 0).all()


def test_a_model_without_factors_is_left_alone(ratings):
    model = BiasedALS(rank=0, maxIter=2).fit(ratings)
    read = in_simple_structure(model, 1)
    assert read.transform(ratings.limit(3)).count() == 3
    assert in_simple_structure(model, 10**6) is model
