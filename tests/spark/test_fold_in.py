"""New and changed ids without a fit, on Spark and by the local model."""

import datetime
import math

import numpy as np
import pandas as pd
import pytest
from chispa import assert_df_equality
from pyspark.sql import functions as F

from mfspark import BayesianMF, BiasedALS, BiasedSGD, FactorModel
from mfspark.errors import ConfigError, DataError, ModelFormatError
from mfspark.interpretation.explain import influences, parts_of_user
from mfspark.models import fold_in
from mfspark.models.local_model import LocalModel


def rows_of(table, side):
    frame = table.toPandas().set_index(side).sort_index()
    return np.column_stack([np.stack(frame["factors"]), frame["bias"]]), frame["n_ratings"]


@pytest.mark.parametrize(
    "settings",
    [
        {"regParam": 0.2, "biasRegParam": 0.1},
        {"userRegParam": 0.5, "itemRegParam": 0.1, "biasRegParam": 0.3, "regExponent": 1.0},
        {"regParam": 0.1, "fitBiases": False},
        {"rank": 0, "biasRegParam": 0.4},
        {"regParam": 0.2, "biasRegParam": 0.1, "execution": "distributed"},
    ],
)
@pytest.mark.parametrize("is_joined", [False, True])
def test_items_folded_in_again_are_those_of_the_last_half_step(
    ratings, settings, is_joined, monkeypatch
):
    if is_joined:
        monkeypatch.setattr(fold_in, "BROADCAST_LIMIT", 0)
    model = BiasedALS(**({"rank": 3, "maxIter": 4, "seed": 1} | settings)).fit(ratings)
    again = model.foldIn(ratings, "item")
    found, n_found = rows_of(again.item_factors, "item")
    expected, n_expected = rows_of(model.item_factors, "item")
    # In single precision, as the fit is.
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert n_found.equals(n_expected)
    assert again.user_factors is model.user_factors


def test_users_are_the_sum_of_what_their_ratings_add(ratings, model):
    again = model.foldIn(ratings, "user")
    found, _ = rows_of(again.user_factors, "user")
    for place, user in enumerate(
        sorted(row[0] for row in model.user_factors.select("user").collect())
    ):
        if place % 9 == 0:
            np.testing.assert_allclose(
                found[place], parts_of_user(model, ratings, user).parts.sum(axis=0), atol=1e-4
            )


def test_a_converged_fit_knows_the_users_already(ratings):
    model = BiasedALS(
        rank=2, maxIter=300, tol=0.0, regParam=0.3, biasRegParam=0.2, seed=1
    ).fit(ratings)  # fmt: skip
    found, _ = rows_of(model.foldIn(ratings, "user").user_factors, "user")
    expected, _ = rows_of(model.user_factors, "user")
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_new_users_join_and_old_ones_stay(spark, ratings, model):
    rows = [(9001, 5, 4.0), (9001, 8, 1.0), (9002, 5, 3.0), (9003, -7, 2.0), (100, 5, 5.0)]
    new = spark.createDataFrame([*rows, (9004, 5, math.nan), (9005, 8, None)], ratings.schema)
    found = model.foldIn(new, "user")
    users = found.user_factors.toPandas().set_index("user")
    old = model.user_factors.toPandas().set_index("user")
    # Of the others nothing is known: an item that the model does not know, or no rating.
    assert set(users.index) == set(old.index) | {9001, 9002}
    assert users.loc[[9001, 9002, 100], "n_ratings"].tolist() == [2, 1, 1]
    assert found.metadata.n_users == len(users)
    stay = [user for user in old.index if user != 100]
    pd.testing.assert_frame_equal(users.loc[stay], old.loc[stay], check_like=True)
    scored = found.transform(new.where("user in (9001, 9002)")).collect()
    assert all(np.isfinite(row["prediction"]) for row in scored)
    assert {row["user"] for row in found.recommendForAllUsers(3).collect()} == set(users.index)


def test_the_folded_model_is_saved_and_has_its_params(spark, ratings, model, tmp_path):
    named = model.copy().setParams(userCol="u", itemCol="i", coldStartStrategy="nan")
    renamed = ratings.withColumnsRenamed({"user": "u", "item": "i"})
    new = renamed.withColumn("u", F.col("u") + 10_000)
    found = named.foldIn(new, "user")
    found.save(str(tmp_path / "m"))
    loaded = FactorModel.load(str(tmp_path / "m"))
    assert loaded.getOrDefault("userCol") == "u"
    assert loaded.metadata.n_users == 120
    assert_df_equality(
        loaded.transform(new).select("u", "i", "prediction"),
        found.transform(new).select("u", "i", "prediction"),
        ignore_row_order=True,
    )
    found.unpersist()


def test_ids_of_text(spark, ratings):
    texts = ratings.select(
        F.concat(F.lit("u"), "user").alias("user"), F.concat(F.lit("i"), "item").alias("item"),
        "rating",
    )  # fmt: skip
    model = BiasedALS(rank=2, maxIter=3, regParam=0.2, biasRegParam=0.1).fit(texts)
    again = model.foldIn(texts, "item")
    np.testing.assert_allclose(
        rows_of(again.item_factors, "item")[0], rows_of(model.item_factors, "item")[0], atol=1e-4
    )
    with pytest.raises(DataError, match="no id would match"):
        model.foldIn(ratings, "item")


def test_what_cannot_be_folded_in(ratings, model):
    with pytest.raises(ConfigError, match="side = 'film' is not allowed"):
        model.foldIn(ratings, "film")
    with pytest.raises(DataError, match="there is no column 'rating'"):
        model.foldIn(ratings.drop("rating"), "user")
    bayes = BayesianMF(rank=2, maxIter=4, burnIn=1).fit(ratings)
    with pytest.raises(DataError, match="rows of a model of BayesianMF"):
        bayes.local()
    linked = BiasedALS(rank=2, maxIter=2, implicitFeatures=True).fit(ratings)
    with pytest.raises(DataError, match="BiasedALS with features are not those of ratings"):
        linked.foldIn(ratings, "user")


@pytest.mark.parametrize("weight", [1.5, 6.0, 30.0])
def test_factors_that_the_penalty_has_shrunk_to_nothing(noise, weight):
    """Some or all of them: the coordinates of the others are what they were."""
    ratings = noise.where("not held").select("user", "item", "rating")
    model = BiasedALS(
        rank=6, maxIter=30, tol=0.0, regParam=weight, biasRegParam=0.5, seed=3
    ).fit(ratings)  # fmt: skip
    found, _ = rows_of(model.foldIn(ratings, "item").item_factors, "item")
    expected, _ = rows_of(model.item_factors, "item")
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_sgd_s_users_become_exact(ratings):
    model = BiasedSGD(
        rank=2, maxIter=5, learningRate=0.02, regParam=0.3, biasRegParam=0.2
    ).fit(ratings)  # fmt: skip

    def error(each):
        scored = each.transform(ratings)
        return scored.agg(F.avg(F.pow(F.col("prediction") - F.col("rating"), 2))).first()[0]

    assert error(model.foldIn(ratings, "user")) < error(model)


@pytest.mark.parametrize("fit_biases", [True, False])
def test_the_local_model_says_what_spark_says(spark, ratings, tmp_path, fit_biases):
    model = BiasedALS(
        rank=3, maxIter=5, regParam=0.2, biasRegParam=0.1, fitBiases=fit_biases
    ).fit(ratings)  # fmt: skip
    model.local().save(str(tmp_path / "model.npz"))
    local = LocalModel.load(str(tmp_path / "model.npz"))
    own = ratings.where("user = 107").toPandas()
    known = dict(zip(own["item"], own["rating"], strict=True))
    user = local.foldIn(known)
    folded = model.foldIn(ratings.where("user = 107"), "user")
    row = folded.user_factors.where("user = 107").first()
    np.testing.assert_allclose(user, [*row["factors"], row["bias"]], atol=1e-4)
    pairs = folded.item_factors.selectExpr("107L as user", "item")
    scored = folded.transform(pairs).toPandas().sort_values("item")
    np.testing.assert_allclose(
        local.predict(user, scored["item"].tolist()), scored["prediction"], atol=1e-4
    )
    top = folded.recommendForUserSubset(pairs, 6, seen=ratings, caution=0.0).first()
    mine = local.recommend(user, 6, seen=list(known))
    assert [each.item for each in mine] == [each["item"] for each in top["recommendations"]]
    np.testing.assert_allclose(
        [each.rating for each in mine], [each["rating"] for each in top["recommendations"]],
        atol=1e-4,
    )  # fmt: skip
    table, _ = influences(model, ratings, 107, int(mine[0].item))
    by_item = dict(zip(table["item"], table["influence"], strict=True))
    assert local.influences(known, mine[0].item) == pytest.approx(by_item, abs=1e-6)


def test_the_local_model_at_its_edges(model, tmp_path):
    local = model.local()
    nobody = local.foldIn({})
    assert (nobody == 0).all()
    assert (local.foldIn({-99: 4.0}) == 0).all()
    assert len(local.recommend(nobody, 10**6)) == 40
    assert local.recommend(nobody, 3, seen=local.items.tolist()) == []
    assert local.recommend(nobody, 0) == []
    assert len(local.recommend(nobody, 3, seen=["who?"])) == 3
    with pytest.raises(DataError, match="item 'who\\?' has no row"):
        local.predict(nobody, ["who?"])
    with pytest.raises(DataError, match="NaN or infinite"):
        local.foldIn({5: math.nan})
    dates = LocalModel(
        [datetime.date(2026, 1, 1)], np.ones((1, 2), np.float32), 3.0, np.eye(2), 0.5, True, None
    )
    with pytest.raises(DataError, match="items are of type date, which only a pickle could hold"):
        dates.save(str(tmp_path / "dates.npz"))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ModelFormatError, match="there is no file"):
        LocalModel.load(str(tmp_path / "none.npz"))
    (tmp_path / "odd.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(ModelFormatError, match=r"is not a file that LocalModel\.save"):
        LocalModel.load(str(tmp_path / "odd.npz"))
    np.savez(tmp_path / "pickled.npz", facts=np.array([{"a": 1}], object))
    with pytest.raises(ModelFormatError, match=r"is not a file that LocalModel\.save"):
        LocalModel.load(str(tmp_path / "pickled.npz"))


@pytest.mark.classic
def test_plans_do_not_grow_with_every_fold_in(spark, ratings):
    model = BiasedALS(rank=2, maxIter=2, seed=1).fit(ratings)
    lengths = []
    for side in ("user", "item", "user", "item", "user"):
        model = model.foldIn(ratings, side)
        plan = model.user_factors._jdf.queryExecution().optimizedPlan().toString()
        lengths.append(len(plan))
    assert lengths[-1] == pytest.approx(lengths[0], rel=0.1)
