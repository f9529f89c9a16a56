"""``BayesianMF.setFeatures``: from DataFrames of features to predictions for new ids."""

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import functions as F

from mfspark import BayesianMF, FactorModel
from mfspark.errors import ConfigError, DataError
from mfspark.interpretation.explain import explain
from mfspark.models import prediction

N_USERS, N_ITEMS, N_RATED = 120, 90, 70


def tables(seed=3):
    """Ratings that follow two tags and a number of the items; items from ``N_RATED`` on have none
    in ``train`` but all in ``test``."""
    rng = np.random.default_rng(seed)
    tags = rng.integers(0, 2, (N_ITEMS, 2))
    age = rng.uniform(0, 100, N_ITEMS)
    taste = rng.normal(size=(N_USERS, 2))
    truth = 3 + taste @ (tags - 0.5).T + 0.4 * (age - 50) / 29
    user, item = np.nonzero(rng.random((N_USERS, N_ITEMS)) < 0.3)
    rating = truth[user, item] + 0.3 * rng.normal(size=len(user))
    ratings = pd.DataFrame({"user": user, "item": item, "rating": rating})
    items = pd.DataFrame(
        {
            "item": np.arange(N_ITEMS),
            "tags": [[n for n, there in zip("ab", row, strict=True) if there] for row in tags],
            "age": age.astype(int),
            "of a.kind": np.where(age > 50, "old", "new"),
        }
    )
    return ratings[ratings.item < N_RATED], ratings[ratings.item >= N_RATED], items


@pytest.fixture(scope="module")
def data(spark):
    """Training ratings, ratings of items without any, features of all items."""
    return [spark.createDataFrame(table).cache() for table in tables()]


ESTIMATOR = BayesianMF(rank=3, maxIter=60, seed=1, tol=0.0, predictionStdCol="std")


@pytest.fixture(scope="module")
def model(data):
    train, _, items = data
    return ESTIMATOR.copy().setFeatures(items=items).fit(train)


def rmse(scored):
    error = F.avg((F.col("rating") - F.col("prediction")) ** 2)
    return scored.agg(F.sqrt(error)).first()[0]


def test_new_items_are_predicted_by_their_features(data, model):
    train, test, _ = data
    without = ESTIMATOR.fit(train)
    assert rmse(model.transform(test)) < 0.6 * rmse(without.transform(test))
    # Items that have both are not worse for it.
    assert rmse(model.transform(train)) < 1.05 * rmse(without.transform(train))


def test_standard_deviations_of_new_items(data, model):
    frame = model.transform(data[1]).toPandas()
    z = (frame["rating"] - frame["prediction"]) / frame["std"]
    assert 0.75 < z.std() < 1.3
    # More than that of items with ratings, less than that of an item of which nothing is known.
    rated = model.transform(data[0]).agg(F.avg("std")).first()[0]
    assert (
        rated
        < frame["std"].mean()
        < 1.15 * np.sqrt(model.metadata.posterior.noise + model.metadata.posterior.cold_item)
    )


def test_tables_say_which_rows_have_ratings(data, model):
    facts = model.metadata.features["item"]
    n_new = N_ITEMS - model.metadata.n_items
    assert facts.columns == ["age", "of a.kind", "tags"]
    assert (facts.n_features, facts.n_rated) == (5, model.metadata.n_items)
    assert facts.n_unrated == n_new > 0
    assert "user" not in model.metadata.features
    unrated = model.item_factors.where("n_ratings = 0")
    assert unrated.count() == n_new
    assert unrated.join(data[0].select("item"), "item", "semi").isEmpty()
    assert model.item_factors.count() == model.draws["item"].count() == N_ITEMS


def test_strategies(data, model):
    """Under any other than "features" an item without ratings is cold."""
    cold = data[1].limit(50)
    assert model.getColdStartStrategy() == "features"
    for strategy, n_rows in (("baseline", 50), ("nan", 50), ("drop", 0)):
        other = model.copy({model.coldStartStrategy: strategy})
        found = other.transform(cold).toPandas()
        assert len(found) == n_rows
        if strategy == "nan":
            assert found["prediction"].isna().all()
        if strategy == "baseline":
            biases = model.user_factors.toPandas().set_index("user")["cold_bias"]
            expected = model.global_mean + found["user"].map(biases)
            np.testing.assert_allclose(
                found["prediction"], expected.clip(*model.metadata.rating_scale), rtol=1e-6
            )
        lists = other.recommendForAllUsers(N_ITEMS).select(
            F.explode("recommendations.item").alias("item")
        )
        assert lists.where(F.col("item") >= N_RATED).isEmpty()
    mine = model.recommendForAllUsers(N_ITEMS).select(F.size("recommendations").alias("n"))
    assert {row["n"] for row in mine.collect()} == {N_ITEMS}


def test_predictions_lists_and_explanations_of_new_items_agree(data, model, monkeypatch):
    """Beside an item without ratings a user adds what is told of them without factors."""
    plain = model.copy({model.clipPredictions: False})
    lists = plain.recommendForAllUsers(N_ITEMS, caution=0.0).select(
        "user", F.explode("recommendations")
    )
    lists = lists.select("user", "col.*")
    of_both = plain.recommendForAllItems(N_USERS, caution=0.0).select(
        "item", F.explode("recommendations")
    )
    of_both = of_both.select("item", "col.user", F.col("col.rating").alias("of_item"))
    found = plain.transform(lists.join(of_both, ["user", "item"])).toPandas()
    np.testing.assert_allclose(found["rating"], found["prediction"], atol=1e-5)
    np.testing.assert_allclose(found["of_item"], found["prediction"], atol=1e-5)
    monkeypatch.setattr(prediction, "BROADCAST_LIMIT", 0)
    joined = plain.transform(lists).toPandas().set_index(["user", "item"])["prediction"]
    found = found.set_index(["user", "item"])["prediction"]
    np.testing.assert_allclose(joined[found.index], found, rtol=1e-12)
    user = model.user_factors.orderBy("user").first()
    for item in (0, N_ITEMS - 1):
        parts = explain(model, user["user"], item)
        assert parts.prediction == found[user["user"], item]
        assert parts.user_bias == user["bias" if item < N_RATED else "cold_bias"]


def test_saved_and_loaded(data, model, tmp_path):
    model.save(str(tmp_path / "model"))
    loaded = FactorModel.load(str(tmp_path / "model"))
    assert loaded.metadata == model.metadata.model_copy(
        update={"hyper_parameters": loaded.metadata.hyper_parameters}
    )
    expected = model.transform(data[1]).orderBy("user", "item").toPandas()
    found = loaded.transform(data[1]).orderBy("user", "item").toPandas()
    pd.testing.assert_frame_equal(found, expected)


def test_text_ids_both_sides_and_partitions(data, model):
    """Ids of another type than the ratings' numbers, rows in another order: the same model."""
    train, test, items = data
    shuffled = items.repartition(3, "age").select("tags", "`of a.kind`", "item", "age")
    again = ESTIMATOR.copy().setFeatures(items=shuffled).fit(train.repartition(3))
    expected = model.transform(test).orderBy("user", "item").toPandas()["prediction"]
    found = again.transform(test).orderBy("user", "item").toPandas()["prediction"]
    np.testing.assert_allclose(found, expected, atol=2e-3)
    as_text = [table.withColumn("item", F.concat(F.lit("i"), "item")) for table in data]
    people = train.select("user").distinct().withColumn("group", F.col("user") % 3 == 0)
    both = ESTIMATOR.copy().setFeatures(users=people, items=as_text[2]).fit(as_text[0])
    assert both.metadata.features["user"].n_unrated == 0
    assert rmse(both.transform(as_text[1])) < 1.1 * rmse(model.transform(test))


def test_doubles_that_are_whole_numbers_are_ids(data):
    train, test, items = data
    doubles = items.withColumn("item", F.col("item").cast("double"))
    model = BayesianMF(rank=1, maxIter=12).setFeatures(items=doubles).fit(train)
    assert model.metadata.features["item"].n_rated == model.metadata.n_items
    assert model.transform(test).where(F.col("prediction").isNull()).isEmpty()


def test_ids_beyond_the_range_of_those_of_the_ratings(data):
    train, _, items = data
    short = train.withColumn("item", F.col("item").cast("int"))
    far = items.unionByName(items.limit(1).withColumn("item", F.lit(2**40)))
    model = BayesianMF(rank=1, maxIter=12).setFeatures(items=far).fit(short)
    assert model.metadata.n_rows("item") == N_ITEMS


def test_other_columns_of_ids_and_refit(data):
    train, _, items = data
    held_out = F.xxhash64("user", "item") % 10 == 0
    names = {"item": "film", "user": "viewer"}
    renamed = train.withColumn("held_out", held_out).withColumnsRenamed(names)
    model = (
        BayesianMF(
            rank=2, maxIter=20, userCol="viewer", itemCol="film", refit=True,
            validationIndicatorCol="held_out",
        )
        .setFeatures(items=items.withColumnRenamed("item", "film"))
        .fit(renamed)
    )  # fmt: skip
    assert model.metadata.features["item"].columns == ["age", "of a.kind", "tags"]
    assert model.metadata.n_rows("item") == N_ITEMS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda items: items.drop("item"), "there is no column 'item'"),
        (lambda items: items.select("item"), "no column beside 'item'"),
        (lambda items: items.limit(0), "features of items have no rows"),
        (lambda items: items.union(items.limit(2)), "2 ids more than once"),
        (
            lambda items: items.withColumn("item", F.when(F.col("item") > 1, F.col("item"))),
            "2 rows whose id is null",
        ),
        (
            lambda items: items.withColumn("item", F.col("item").cast("string")),
            "ids of type string, the ratings of type bigint",
        ),
        (lambda items: items.withColumn("day", F.current_date()), "'day'.*type date.*cast"),
    ],
)
def test_bad_features_are_refused(data, change, message):
    train, _, items = data
    estimator = ESTIMATOR.copy().setFeatures(items=change(items))
    with pytest.raises(DataError, match=message):
        estimator.fit(train)


def test_features_of_nobody_are_noticed(data, caplog):
    train, _, items = data
    others = items.withColumn("item", F.col("item") + 1000)
    with caplog.at_level("WARNING", "mfspark"):
        model = BayesianMF(rank=1, maxIter=12).setFeatures(items=others).fit(train)
    assert "no item with ratings is among those with features" in caplog.text
    assert model.metadata.features["item"].n_rated == 0
    assert np.isfinite(rmse(model.transform(train)))


def test_an_estimator_with_features_is_not_saved_in_part(data, tmp_path):
    estimator = BayesianMF(rank=2)
    estimator.save(str(tmp_path / "without"))
    with pytest.raises(ConfigError, match="features cannot be saved"):
        estimator.setFeatures(items=data[2]).save(str(tmp_path / "with"))
    assert not (tmp_path / "with").exists()
