"""Weights left to the data: in both kinds of fit the same, told to the model, given ones kept."""

import logging

import pytest
from pyspark.sql import functions as F

from mfspark import BiasedALS, BiasedSGD, FactorModel
from mfspark.engine import pilot
from mfspark.errors import ConfigError

SETTINGS = {"rank": 3, "maxIter": 5, "seed": 1}


@pytest.fixture(scope="module")
def chosen(ratings):
    return BiasedALS(**SETTINGS).fit(ratings)


def test_the_model_tells_what_was_chosen(ratings, chosen, tmp_path, caplog):
    facts = chosen.metadata.penalties
    assert chosen.metadata.hyper_parameters["regParam"] == "auto"
    assert facts.users == facts.items != 1.0
    assert facts.user_bias != facts.item_bias
    chosen.save(str(tmp_path / "model"))
    assert FactorModel.load(str(tmp_path / "model")).metadata.penalties == facts
    with caplog.at_level(logging.INFO, "mfspark"):
        BiasedALS(**SETTINGS).fit(ratings)
    assert "penalties from the data: λ" in caplog.text


def test_biases_alone_are_chosen_beside_a_given_weight(ratings, chosen):
    facts = chosen.metadata.penalties
    given = BiasedALS(regParam=facts.users, execution="distributed", **SETTINGS).fit(ratings)
    assert given.metadata.penalties.users == facts.users
    assert given.metadata.penalties.user_bias == pytest.approx(facts.user_bias, rel=1e-3)


def test_distribution_and_partitions_make_no_difference(ratings, chosen):
    other = BiasedALS(execution="distributed", **SETTINGS).fit(ratings.repartition(7))
    assert other.metadata.penalties.model_dump(exclude_none=True) == pytest.approx(
        chosen.metadata.penalties.model_dump(exclude_none=True), rel=1e-3
    )


def test_sgd_chooses_like_als(ratings, chosen):
    model = BiasedSGD(rank=3, maxIter=3, seed=1).fit(ratings)
    assert model.metadata.penalties.model_dump(exclude_none=True) == pytest.approx(
        chosen.metadata.penalties.model_dump(exclude_none=True), rel=1e-3
    )


def test_validation_rows_have_no_say(ratings, chosen):
    strange = ratings.limit(200).withColumn("rating", F.lit(-50.0)).withColumn("held", F.lit(True))
    marked = ratings.withColumn("held", F.lit(False)).unionByName(strange)
    model = BiasedALS(validationIndicatorCol="held", **SETTINGS).fit(marked)
    assert model.metadata.penalties.users == pytest.approx(chosen.metadata.penalties.users)


def test_a_sample_is_of_whole_users(ratings, monkeypatch):
    monkeypatch.setattr(pilot, "_SAMPLE", 1000)
    model = BiasedALS(**SETTINGS).fit(ratings)
    narrow = ratings.withColumn("user", F.col("user").cast("int"))
    assert BiasedALS(**SETTINGS).fit(narrow).metadata.penalties == model.metadata.penalties


def test_given_weights_are_kept_and_cost_nothing(ratings, monkeypatch):
    monkeypatch.setattr(pilot, "PenaltySearch", None)
    given = {"regParam": 0.7, "itemRegParam": 0.4, "biasRegParam": 0.2}
    model = BiasedALS(**given, **SETTINGS).fit(ratings)
    assert model.metadata.penalties.model_dump(exclude_none=True) == {
        "users": 0.7, "items": 0.4, "user_bias": 0.2, "item_bias": 0.2,
    }  # fmt: skip


def test_few_ratings_choose_nothing(spark):
    rows = [(1, 1, 3.0), (1, 2, 4.0), (2, 1, 5.0)]
    few = spark.createDataFrame(rows, "user long, item long, rating double")
    model = BiasedALS(rank=1, maxIter=2).fit(few)
    assert model.metadata.penalties.users == 1.0
    assert model.transform(few).where("isnan(prediction)").count() == 0


@pytest.mark.parametrize("value", ["automatic", -1, float("nan"), None, True])
def test_other_values_are_refused(value):
    with pytest.raises(ConfigError, match=r"regParam = .* is not allowed: must be"):
        BiasedALS(regParam=value)
