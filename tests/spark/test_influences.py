"""Which of a user's own ratings a prediction comes from, and users described by them."""

import numpy as np
import pandas as pd
import pytest

from mfspark import BayesianMF, BiasedALS, BiasedSGD, FactorModel
from mfspark.errors import DataError
from mfspark.interpretation.describe_user import describe_user
from mfspark.interpretation.explain import explain, influences, parts_of_user
from mfspark.interpretation.tables import describe_items

SETTLED = {"tol": 0.0, "seed": 1, "maxIter": 400}


@pytest.mark.parametrize(
    "settings",
    [
        {"rank": 2, "regParam": 0.3, "biasRegParam": 0.2, **SETTLED},
        {"rank": 2, "userRegParam": 0.6, "itemRegParam": 0.2, "biasRegParam": 0.3, **SETTLED},
        {"rank": 2, "regParam": 0.05, "regExponent": 1.0, "biasRegParam": 0.02, **SETTLED},
        {"rank": 2, "regParam": 0.05, "fitBiases": False, **SETTLED},
        {"rank": 0, "biasRegParam": 0.4, **SETTLED},
        {"rank": 3, "regParam": 0.2, "biasRegParam": 0.1, "maxIter": 2, "execution": "distributed"},
    ],
)
def test_influences_add_up_to_the_prediction(ratings, settings):
    model = BiasedALS(**settings).fit(ratings)
    user, item = ratings.select("user", "item").orderBy("user", "item").collect()[3]
    table, unsettled = influences(model, ratings, user, item)
    expected = explain(model, user, item)
    total = expected.global_mean + expected.item_bias + table["influence"].sum() + unsettled
    assert total == pytest.approx(expected.prediction, abs=1e-5)
    own = ratings.where(f"user = {user}").toPandas().set_index("item")["rating"]
    assert table.set_index("item")["rating"].sort_index().equals(own.sort_index())
    if settings.get("maxIter") == 400:
        # A fit that has converged has nothing left: its own solution is the ridge solution in the
        # coordinates and with the penalty that are used here.
        assert abs(unsettled) < 1e-3
    else:
        assert abs(unsettled) > 1e-3


def test_a_changed_rating_moves_its_own_part_alone(spark, ratings):
    model = BiasedALS(rank=2, regParam=0.3, biasRegParam=0.2, **SETTLED).fit(ratings)
    user = ratings.first()["user"]
    found = parts_of_user(model, ratings, user)
    item = int(found.ratings["item"].iloc[2])
    frame = ratings.toPandas()
    is_changed = (frame["user"] == user) & (frame["item"] == item)
    frame.loc[is_changed, "rating"] += 1.0
    again = parts_of_user(model, spark.createDataFrame(frame), user)
    np.testing.assert_allclose(np.delete(again.parts, 2, 0), np.delete(found.parts, 2, 0))
    q = np.array([*model.item_factors.where(f"item = {item}").first()["factors"], 1.0])
    assert 0 < (again.parts - found.parts)[2] @ q < 1


def test_models_without_ridge_solutions_are_refused(spark, ratings, model):
    user, item = ratings.select("user", "item").first()
    sgd = BiasedSGD(rank=2, maxIter=2, learningRate=0.01).fit(ratings)
    with pytest.raises(DataError, match="which the factors of BiasedSGD only come near to"):
        influences(sgd, ratings, user, item)
    bayes = BayesianMF(rank=2, maxIter=4, burnIn=1).fit(ratings)
    linked = BiasedALS(rank=2, maxIter=2, implicitFeatures=True).fit(ratings)
    for other, name in ((bayes, "BayesianMF"), (linked, "BiasedALS with features")):
        with pytest.raises(DataError, match=f"rows of a model of {name}"):
            influences(other, ratings, user, item)
    meta = model.metadata
    older = meta.model_copy(update={"rotation": meta.rotation.model_copy(
        update={"user_penalty": []})})  # fmt: skip
    old = FactorModel(model.user_factors, model.item_factors, model.history, older)
    with pytest.raises(DataError, match=r"rotation.user_penalty\).*train again"):
        influences(old, ratings, user, item)
    with pytest.raises(DataError, match="user -5 has no training rating"):
        influences(model, ratings, -5, item)
    with pytest.raises(DataError, match=f"user {user} has no ratings among those given"):
        influences(model, ratings.where(f"user != {user}"), user, item)


def test_a_saved_model_says_the_same(ratings, model, tmp_path):
    user, item = ratings.select("user", "item").first()
    model.save(str(tmp_path / "m"))
    table, rest = influences(model, ratings, user, item)
    again, rest_again = influences(FactorModel.load(str(tmp_path / "m")), ratings, user, item)
    pd.testing.assert_frame_equal(table, again)
    assert rest == rest_again


def test_a_user_in_words(spark, ratings, model):
    described = describe_items(model, None)
    labels = spark.createDataFrame([(1, "one"), (3, "three")], "factor int, label string")
    users = model.user_factors.toPandas().set_index("user").sort_values("bias")
    spread = np.stack(users["factors"]).std(axis=0, ddof=1)
    mean = np.stack(users["factors"]).mean(axis=0)
    for place, words in (
        (0, "lower than 100 %"),
        (30, "about as others"),
        (59, "higher than 98 %"),
    ):
        user = int(users.index[place])
        found = describe_user(model, ratings, described, labels, user)
        assert words in found.in_words
        assert found.share_below == pytest.approx(place / 60)
        z = (np.array(users["factors"].iloc[place]) - mean) / spread
        by_factor = found.factors.set_index("factor")["z"]
        assert by_factor.to_dict() == pytest.approx({1: z[0], 3: z[2]}, abs=1e-6)
        assert found.factors["z"].abs().is_monotonic_decreasing
        for factor, own in found.evidence.groupby("factor"):
            assert list(own["place"]) == [1, 2, 3]
            assert (np.diff(own["z"]) * np.sign(by_factor[factor]) <= 0).all()
            parts = parts_of_user(model, ratings, user).parts[:, factor - 1] / spread[factor - 1]
            best = parts[np.argmax(parts * np.sign(by_factor[factor]))]
            assert own["z"].iloc[0] == pytest.approx(best)
