"""Who rated what, learnt from by the estimators that minimise an objective."""

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import functions as F

from mfspark import BayesianMF, BiasedALS, BiasedSGD, FactorModel
from mfspark.errors import ConfigError, ModelFormatError
from mfspark.models import prediction

ESTIMATORS = pytest.mark.parametrize("estimator", [BiasedALS, BiasedSGD])


@pytest.fixture(scope="module")
def ratings(spark):
    """Of users that rate what they like; a tenth of the ratings is held out."""
    rng = np.random.default_rng(1)
    p, q = rng.normal(0, 1, (900, 2)), rng.normal(0, 1, (150, 2))
    taste = p @ q.T
    user, item = np.nonzero(rng.random(taste.shape) < 0.12 * np.exp(taste).clip(0, 4))
    table = pd.DataFrame(
        {
            "user": [f"u{n}" for n in user],
            "item": item,
            "rating": 3 + 0.5 * taste[user, item] + rng.normal(0, 1, len(user)),
            "held": rng.random(len(user)) < 0.1,
        }
    )
    return spark.createDataFrame(table).persist()


def error_on_held(model, ratings):
    found = model.transform(ratings.where("held"))
    return found.agg(F.sqrt(F.avg(F.pow(F.col("rating") - F.col("prediction"), 2)))).first()[0]


@ESTIMATORS
def test_they_help_where_users_choose_what_they_rate(ratings, estimator, tmp_path):
    arguments = {"rank": 4, "validationIndicatorCol": "held", "clipPredictions": False}
    model = estimator(**arguments, implicitFeatures=True).fit(ratings)
    plain = estimator(**arguments).fit(ratings)
    assert error_on_held(model, ratings) < 0.97 * error_on_held(plain, ratings)
    best = model.history.agg(F.min("validation_rmse")).first()[0]
    assert error_on_held(model, ratings) == pytest.approx(best, rel=1e-3)
    assert model.metadata.execution == "one_task"
    assert 0 < model.metadata.penalties.link < 10
    assert plain.metadata.penalties.link is None
    # It is a factor model like any other.
    model.save(str(tmp_path / "model"))
    loaded = FactorModel.load(str(tmp_path / "model"))
    assert loaded.metadata.penalties == model.metadata.penalties
    assert error_on_held(loaded, ratings) == pytest.approx(error_on_held(model, ratings))


def test_all_rows_are_fitted_again_with_them(ratings):
    model = BiasedALS(
        rank=3, maxIter=6, regParam=1.2, biasRegParam=0.5, implicitFeatures=True, refit=True,
        validationIndicatorCol="held",
    ).fit(ratings)  # fmt: skip
    assert model.metadata.n_ratings == ratings.count()
    # With λ given κ is not looked for.
    assert model.metadata.penalties.link == 8.0


def test_a_fit_begins_with_the_rows_of_a_model_that_had_them(ratings, tmp_path):
    arguments = {"rank": 3, "regParam": 1.2, "biasRegParam": 0.5, "implicitFeatures": True}
    BiasedALS(**arguments, maxIter=8).fit(ratings).save(str(tmp_path / "model"))
    objective = []
    for initial in (None, str(tmp_path / "model")):
        model = BiasedALS(**arguments, maxIter=2, tol=0.0, initialModel=initial).fit(ratings)
        objective.append(model.history.agg(F.min("objective")).first()[0])
    assert objective[1] < objective[0]


@ESTIMATORS
def test_a_distributed_fit_with_them_is_refused(ratings, estimator):
    with pytest.raises(ConfigError, match=r"without features alone.*implicitFeatures to False"):
        estimator(execution="distributed", implicitFeatures=True).fit(ratings)


@pytest.fixture(scope="module")
def linked(ratings):
    return BiasedALS(
        rank=3, maxIter=5, regParam=1.2, biasRegParam=0.5, implicitFeatures=True
    ).fit(ratings)  # fmt: skip


@pytest.fixture(scope="module")
def pairs(spark):
    return spark.createDataFrame(
        [("u1", 3), ("u1", -1), (None, 3), ("nobody", -1), ("u7", None)], "user string, item long"
    )


@pytest.mark.parametrize("is_joined", [False, True])
def test_beside_an_unknown_id_a_row_adds_what_it_would_without_factors(
    ratings, linked, pairs, monkeypatch, is_joined
):
    if is_joined:
        monkeypatch.setattr(prediction, "BROADCAST_LIMIT", 0)
    biases = BiasedALS(rank=0, maxIter=30, tol=1e-9, biasRegParam=0.5).fit(ratings)
    found, expected = (
        model.transform(pairs).toPandas().set_index(["user", "item"])["prediction"]
        for model in (linked, biases)
    )
    is_cold = ~found.index.isin([("u1", 3)])
    np.testing.assert_allclose(found[is_cold].to_numpy(), expected[is_cold].to_numpy(), atol=1e-3)
    # The pair that is known has a bias and factors, as without such a column.
    user = linked.user_factors.where("user = 'u1'").first()
    item = linked.item_factors.where("item = 3").first()
    product = float(np.dot(user["factors"], item["factors"]))
    both = linked.global_mean + user["bias"] + item["bias"] + product
    assert found[~is_cold].item() == pytest.approx(both, abs=1e-6)
    assert user["bias"] != pytest.approx(user["cold_bias"], abs=1e-3)


def test_sampled_models_have_such_biases_with_features_alone(ratings, pairs):
    """λ_b of the others is chosen by the data, so that they are near, not the same."""
    arguments = {"rank": 2, "maxIter": 15, "burnIn": 5, "seed": 1}
    biases = BiasedALS(rank=0, maxIter=30, tol=1e-9).fit(ratings)
    found = BayesianMF(**arguments).fit(ratings)
    table = found.item_factors.join(
        biases.item_factors.select("item", F.col("bias").alias("alone")), "item"
    ).toPandas()
    np.testing.assert_allclose(table["cold_bias"], table["alone"], atol=0.05)
    without = BayesianMF(**arguments, implicitFeatures=False).fit(ratings)
    assert "cold_bias" not in without.item_factors.columns
    assert without.n_parameters < found.n_parameters


def test_cold_biases_are_checked_as_others_are(spark, linked, tmp_path):
    linked.save(str(tmp_path / "model"))
    folder = str(tmp_path / "model" / "user_factors")
    users = linked.user_factors
    for change, message in (
        (F.lit(None).cast("float"), "rows with a bias or factors that are null"),
        (F.col("cold_bias").cast("double"), r"float, double, array<float>, not float, float"),
    ):
        users.withColumn("cold_bias", change).write.mode("overwrite").parquet(folder)
        with pytest.raises(ModelFormatError, match=message):
            FactorModel.load(str(tmp_path / "model"))
