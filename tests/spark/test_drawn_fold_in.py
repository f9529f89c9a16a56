"""New and changed ids of a Bayesian model, with their uncertainty."""

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import functions as F

from mfspark import BayesianMF, FactorModel
from mfspark.errors import DataError
from mfspark.models import fold_in

STD = "std"


@pytest.fixture(scope="module")
def planted(spark) -> pd.DataFrame:
    """Ratings of 400 users; the last 60 are new, and a part of all is held out."""
    rng = np.random.default_rng(5)
    n_users, n_items = 400, 60
    p, q = rng.normal(0, 0.7, (n_users, 2)), rng.normal(0, 0.7, (n_items, 2))
    truth = 3 + rng.normal(0, 0.4, n_users)[:, None] + rng.normal(0, 0.4, n_items) + p @ q.T
    rating = truth + rng.normal(0, 0.5, truth.shape)
    user, item = np.nonzero(rng.random(truth.shape) < 0.5)
    return pd.DataFrame(
        {"user": user, "item": item, "rating": rating[user, item],
         "is_new": user >= n_users - 60, "is_held": rng.random(len(user)) < 0.3}
    )  # fmt: skip


def known(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[~frame["is_held"]]


def fitted(spark, frame: pd.DataFrame, **settings) -> FactorModel:
    ratings = spark.createDataFrame(frame[["user", "item", "rating"]])
    given = {"rank": 2, "maxIter": 60, "burnIn": 10, "keepDraws": 16, "seed": 1}
    return BayesianMF(**(given | settings), predictionStdCol=STD).fit(ratings)


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "implicit"])
def model(request, spark, planted) -> FactorModel:
    train = known(planted[~planted["is_new"]])
    return fitted(spark, train, implicitFeatures=request.param)


def predictions(model: FactorModel, frame: pd.DataFrame) -> pd.DataFrame:
    found = model.transform(frame[["user", "item", "rating"]]).toPandas()
    return found.sort_values(["user", "item"]).reset_index(drop=True)


def error(found: pd.DataFrame) -> float:
    return float(np.sqrt(np.mean((found["prediction"] - found["rating"]) ** 2)))


def test_new_users_are_predicted_nearly_as_by_a_refit_and_their_intervals_hold(
    spark, planted, model
):
    new = planted[planted["is_new"]]
    test = new[new["is_held"]]
    folded = model.foldIn(spark.createDataFrame(known(new)[["user", "item", "rating"]]), "user")
    assert folded.metadata.n_users == 400
    found, before = predictions(folded, test), predictions(model, test)
    implicit = model.metadata.hyper_parameters["implicitFeatures"]
    refit = predictions(fitted(spark, known(planted), implicitFeatures=implicit), test)
    assert error(found) < error(before) - 0.2
    assert error(found) < error(refit) + 0.01
    # Of normal intervals that should hold 90 % of the ratings.
    inside = (found["rating"] - found["prediction"]).abs() < 1.645 * found[STD]
    assert 0.85 < inside.mean() < 0.95
    assert found[STD].mean() == pytest.approx(refit[STD].mean(), rel=0.05)
    # More ratings, less doubt.
    few = known(new).groupby("user").head(2)
    doubtful = model.foldIn(spark.createDataFrame(few[["user", "item", "rating"]]), "user")
    assert predictions(doubtful, test)[STD].mean() > 1.05 * found[STD].mean()


def test_users_folded_in_again_predict_what_they_did(spark, planted, model):
    train = known(planted[~planted["is_new"]])
    again = model.foldIn(spark.createDataFrame(train[["user", "item", "rating"]]), "user")
    test = planted[~planted["is_new"] & planted["is_held"]]
    found, expected = predictions(again, test), predictions(model, test)
    spread = expected["prediction"].std()
    assert np.sqrt(np.mean((found["prediction"] - expected["prediction"]) ** 2)) < 0.1 * spread
    assert found[STD].mean() == pytest.approx(expected[STD].mean(), rel=0.05)
    assert error(found) == pytest.approx(error(expected), rel=0.02)


def test_other_rows_stay_and_a_saved_model_is_the_same(spark, planted, model, tmp_path):
    item = known(planted[~planted["is_new"]]).query("item < 3").assign(item=lambda x: x.item + 900)
    ratings = spark.createDataFrame(item[["user", "item", "rating"]])
    folded = model.foldIn(ratings, "item")
    assert folded.metadata.n_items == model.metadata.n_items + 3
    assert folded.item_factors.columns == model.item_factors.columns
    old = planted[~planted["is_new"]].head(50)
    pd.testing.assert_frame_equal(predictions(folded, old), predictions(model, old))
    # The same ratings under another id: nearly the same predictions.
    twin = predictions(folded, item.head(50))
    own = predictions(model, item.head(50).assign(item=lambda x: x.item - 900))
    both = twin.assign(item=twin["item"] - 900).merge(own, on=["user", "item"])
    assert (both["prediction_x"] - both["prediction_y"]).abs().mean() < 0.1
    folded.save(str(tmp_path / "model"))
    loaded = FactorModel.load(str(tmp_path / "model")).setPredictionStdCol(STD)
    pd.testing.assert_frame_equal(predictions(loaded, item.head(50)), twin)
    unknown = planted.head(1).assign(user=-7, item=901)
    assert np.isfinite(predictions(folded, unknown)["prediction"]).all()


def test_joined_or_broadcast_it_is_the_same(spark, planted, model, monkeypatch):
    new = spark.createDataFrame(known(planted[planted["is_new"]])[["user", "item", "rating"]])
    test = planted[planted["is_new"] & planted["is_held"]]
    broadcast = predictions(model.foldIn(new, "user"), test)
    monkeypatch.setattr(fold_in, "BROADCAST_LIMIT", 0)
    joined = predictions(model.foldIn(new.repartition(5), "user"), test)
    pd.testing.assert_frame_equal(joined, broadcast, rtol=1e-4, atol=1e-4)


def test_without_factors_there_are_biases(spark, planted):
    model = fitted(spark, known(planted[~planted["is_new"]]), rank=0, implicitFeatures=False)
    new = spark.createDataFrame(known(planted[planted["is_new"]])[["user", "item", "rating"]])
    test = planted[planted["is_new"] & planted["is_held"]]
    found = predictions(model.foldIn(new, "user"), test)
    assert error(found) < error(predictions(model, test)) - 0.02
    assert np.isfinite(found[STD]).all()


def test_models_without_draws_or_of_given_features_say_why(spark, planted):
    train = known(planted).head(2000)
    ratings = spark.createDataFrame(train[["user", "item", "rating"]])
    without = BayesianMF(rank=1, maxIter=4, burnIn=1, keepDraws=0, seed=1).fit(ratings)
    with pytest.raises(DataError, match="has 0 stored draws"):
        without.foldIn(ratings, "user")
    kinds = spark.range(60).select(F.col("id").alias("item"), (F.col("id") % 3).alias("kind"))
    given = BayesianMF(rank=1, maxIter=4, burnIn=1, seed=1, keepDraws=2)
    model = given.setFeatures(items=kinds).fit(ratings)
    with pytest.raises(DataError, match="was given features"):
        model.foldIn(ratings, "item")
