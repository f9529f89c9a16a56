"""What factors and biases are worth, against pandas."""

import numpy as np
import pytest

from mfspark import BiasedALS
from mfspark.interpretation.worth import worth_of_parts


@pytest.fixture(scope="module")
def parts(ratings):
    is_test = "pmod(hash(user, item), 5) = 0"
    return ratings.where(f"not {is_test}").persist(), ratings.where(is_test).persist()


@pytest.fixture(scope="module")
def fitted(parts):
    return BiasedALS(rank=4, maxIter=6, regParam=0.5, biasRegParam=0.5).fit(parts[0])


def joined(model, ratings):
    users, items = (
        table.toPandas().set_index(side)
        for table, side in ((model.user_factors, "user"), (model.item_factors, "item"))
    )
    rows = ratings.toPandas()
    rows = rows[rows["user"].isin(users.index) & rows["item"].isin(items.index)]
    products = np.stack(users.loc[rows["user"], "factors"]).astype(float)
    products *= np.stack(items.loc[rows["item"], "factors"])
    b_u, b_i = users.loc[rows["user"], "bias"], items.loc[rows["item"], "bias"]
    return b_u.to_numpy(float), b_i.to_numpy(float), products, rows["rating"].to_numpy()


def test_error_with_some_of_the_factors(spark, fitted, parts):
    train, test = parts
    stranger = spark.createDataFrame([(-5, 5, 4.0)], test.schema)
    gains = worth_of_parts(fitted, train, test.union(stranger)).factor_gains.toPandas()
    gains = gains.set_index("n_factors")
    b_u, b_i, products, rating = joined(fitted, test)
    low, high = fitted.metadata.rating_scale
    for k in range(5):
        predicted = fitted.global_mean + b_u + b_i + products[:, :k].sum(axis=1)
        rmse = np.sqrt(((predicted.clip(low, high) - rating) ** 2).mean())
        assert gains.loc[k, "rmse"] == pytest.approx(rmse, abs=1e-6)
    assert set(gains["n"]) == {len(rating)}
    scored = fitted.transform(test).toPandas()
    whole = np.sqrt(((scored["prediction"] - scored["rating"]) ** 2).mean())
    assert gains.loc[4, "rmse"] == pytest.approx(whole, abs=1e-6)
    assert gains.loc[4, "rmse"] < gains.loc[0, "rmse"]


def test_shares_of_variance_add_up(fitted, parts):
    table = worth_of_parts(fitted, *parts).variance.toPandas().set_index("part")["share"]
    b_u, b_i, products, rating = joined(fitted, parts[0])
    interaction = products.sum(axis=1)
    for name, part in (("users", b_u), ("items", b_i), ("interaction", interaction)):
        assert table[name] == pytest.approx(part.var() / rating.var(), abs=1e-6)
    explained = (b_u + b_i + interaction).var() / rating.var()
    assert table.drop("rest").sum() == pytest.approx(explained, abs=1e-6)
    assert table.sum() == pytest.approx(1)


def test_biases_alone(ratings):
    model = BiasedALS(rank=0, maxIter=2, regParam=1.0, biasRegParam=1.0).fit(ratings)
    found = worth_of_parts(model, ratings, ratings)
    assert [row["n_factors"] for row in found.factor_gains.collect()] == [0]
    assert found.variance.where("part = 'interaction'").first()["share"] == 0
