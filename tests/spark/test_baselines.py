"""Baselines as estimators: against pandas and a dense solution."""

import numpy as np
import pytest

from mfspark import FactorModel
from mfspark.errors import ConfigError
from mfspark.models.baselines import BiasOnly, GlobalMean, MeanModel


def biases(model) -> tuple:
    users = model.user_factors.toPandas().set_index("user").sort_index()
    items = model.item_factors.toPandas().set_index("item").sort_index()
    return users, items


def test_global_mean_predicts_it_for_everybody(spark, ratings, ratings_frame, tmp_path):
    model = GlobalMean(predictionCol="mu").fit(ratings)
    pairs = spark.createDataFrame([(100, 5), (-1, -1)], "user int, item int")
    model.save(str(tmp_path / "mean"))
    for each in (model, MeanModel.load(str(tmp_path / "mean"))):
        found = each.transform(pairs).toPandas()["mu"]
        assert found.tolist() == [pytest.approx(ratings_frame["rating"].mean())] * 2


@pytest.mark.parametrize("damping", [0.5, 5.0])
def test_joint_biases_are_the_minimum_of_the_damped_error(ratings, ratings_frame, damping):
    model = BiasOnly(damping=damping).fit(ratings)
    users, items = biases(model)
    mean = ratings_frame["rating"].mean()
    n_users, n_items = len(users), len(items)
    design = np.zeros((len(ratings_frame), n_users + n_items))
    rows = np.arange(len(ratings_frame))
    design[rows, users.index.get_indexer(ratings_frame["user"])] = 1
    design[rows, n_users + items.index.get_indexer(ratings_frame["item"])] = 1
    gram = design.T @ design + damping * np.eye(n_users + n_items)
    expected = np.linalg.solve(gram, design.T @ (ratings_frame["rating"] - mean))
    np.testing.assert_allclose(users["bias"], expected[:n_users], atol=1e-4)
    np.testing.assert_allclose(items["bias"], expected[n_users:], atol=1e-4)
    assert model.global_mean == pytest.approx(mean)


def test_damped_means_follow_their_formula(ratings, ratings_frame):
    model = BiasOnly(method="damped", damping=3.0).fit(ratings)
    users, items = biases(model)
    deviation = ratings_frame["rating"] - ratings_frame["rating"].mean()
    by_item = deviation.groupby(ratings_frame["item"])
    expected = by_item.sum() / (by_item.size() + 3)
    rest = deviation - ratings_frame["item"].map(expected)
    by_user = rest.groupby(ratings_frame["user"])
    np.testing.assert_allclose(items["bias"], expected, atol=1e-6)
    np.testing.assert_allclose(users["bias"], by_user.sum() / (by_user.size() + 3), atol=1e-6)
    assert users["n_ratings"].tolist() == by_user.size().tolist()


@pytest.mark.parametrize("method", ["joint", "damped"])
def test_a_model_without_factors_does_what_factor_models_do(spark, ratings, tmp_path, method):
    fitted = BiasOnly(method=method).fit(ratings)
    fitted.save(str(tmp_path / "biases"))
    model = FactorModel.load(str(tmp_path / "biases"))
    assert model.rank == 0
    users, items = biases(model)
    pairs = spark.createDataFrame([(100, 5), (100, -1), (-1, 5), (-1, -1)], "user long, item long")
    found = model.transform(pairs).toPandas().set_index(["user", "item"])["prediction"]
    assert found[100, 5] == pytest.approx(
        model.global_mean + users["bias"][100] + items["bias"][5], abs=1e-6
    )
    assert found[100, -1] == pytest.approx(model.global_mean + users["bias"][100], abs=1e-6)
    assert found[-1, -1] == pytest.approx(model.global_mean)
    lists = model.recommendForAllUsers(3, caution=0.0).toPandas()["recommendations"]
    best = items["bias"].sort_values(ascending=False).index[:3].tolist()
    assert all([row["item"] for row in each] == best for each in lists)


def test_bad_values_are_named():
    with pytest.raises(ConfigError, match=r"damping = -1.* is not allowed"):
        BiasOnly(damping=-1.0)
    with pytest.raises(TypeError, match="GlobalMean has no parameter 'rank'"):
        GlobalMean(rank=3)
