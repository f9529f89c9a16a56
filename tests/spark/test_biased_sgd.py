"""``BiasedSGD``: near the minimum that ALS finds, whatever the blocks; rates; divergence."""

import math

import numpy as np
import pandas as pd
import pytest
from pyspark.ml.evaluation import RegressionEvaluator
from scratch import scratch_folder

from mfspark import BiasedALS, BiasedSGD, FactorModel
from mfspark.data.split import fold
from mfspark.data.synthetic import SyntheticSettings, synthetic_ratings
from mfspark.engine import sgd_epoch
from mfspark.errors import ConfigError, DivergenceError

SETTINGS = {
    "rank": 3, "regParam": 0.2, "biasRegParam": 0.1, "seed": 1, "tol": 0.0, "learningRate": 0.3,
}  # fmt: skip


def rmse(model: FactorModel, rows) -> float:
    return RegressionEvaluator(labelCol="rating", metricName="rmse").evaluate(model.transform(rows))


@pytest.fixture(scope="module")
def sgd(ratings) -> FactorModel:
    return BiasedSGD(maxIter=60, **SETTINGS).fit(ratings)


def test_comes_close_to_the_training_error_of_als(sgd, ratings):
    als = BiasedALS(rank=3, regParam=0.2, biasRegParam=0.1, maxIter=40, tol=0.0).fit(ratings)
    assert rmse(sgd, ratings) == pytest.approx(rmse(als, ratings), rel=0.1)


def test_tables_and_history_are_those_of_a_factor_model(sgd, model, ratings):
    assert sgd.user_factors.schema == model.user_factors.schema
    assert sgd.history.schema == model.history.schema
    assert sgd.metadata.algorithm == "BiasedSGD"
    history = sgd.history.orderBy("iteration").toPandas()
    assert list(history["iteration"]) == list(range(1, len(history) + 1))
    assert set(history["side"]) == {"both"}
    assert (history["learning_rate"] == 0.3).all()
    assert history["train_rmse"].min() == pytest.approx(rmse(sgd, ratings), rel=0.15)


@pytest.mark.parametrize("schedule", ["constant", "inverse_time", "bold_driver"])
def test_every_schedule_learns(ratings, schedule):
    settings = {**SETTINGS, "learningRate": 0.05}
    fitted = BiasedSGD(schedule=schedule, maxIter=40, **settings).fit(ratings)
    history = fitted.history.orderBy("iteration").toPandas()
    assert history["train_rmse"].min() < 0.5 * history["train_rmse"].iloc[0]
    rates = history["learning_rate"]
    if schedule == "constant":
        assert (rates == 0.05).all()
    elif schedule == "inverse_time":
        np.testing.assert_allclose(rates, 0.05 / (1 + 0.1 * np.arange(len(rates))))
    else:
        steps = rates.to_numpy()[2:] / rates.to_numpy()[1:-1]
        assert steps.max() == pytest.approx(1.05)
        # A row of the history follows on an epoch that lowered the objective, or on undone ones.
        assert (np.diff(history["objective"]) <= 0).all()


@pytest.mark.parametrize(
    "execution", ["one_task", pytest.param("distributed", marks=pytest.mark.thorough)]
)
def test_one_block_and_four_reach_the_same_error(spark, execution):
    synthetic = SyntheticSettings(n_ratings=40_000, n_users=600, n_items=300, rank=3)
    rows = synthetic_ratings(spark, synthetic).withColumn("fold", fold(0, 5)).cache()
    train, test = rows.where("fold > 0"), rows.where("fold = 0")
    found = []
    for n_blocks in (1, 4):
        fitted = BiasedSGD(
            rank=3,
            maxIter=25,
            regParam=0.7,
            biasRegParam=0.3,
            tol=0.0,
            learningRate=0.3,
            execution=execution,
            numBlocks=n_blocks,
        ).fit(train)
        assert fitted.metadata.execution == execution
        found.append(rmse(fitted, test))
    assert found[0] == pytest.approx(found[1], abs=0.003)
    # The noise of these ratings is 0.7: both have learnt something.
    assert max(found) < 0.8


def test_distributed_epochs_do_what_those_of_one_task_do(ratings):
    """With one block both visit all ratings, in orders of their own: after some epochs the orders
    make no difference."""
    history = [
        BiasedSGD(numBlocks=1, maxIter=12, execution=execution, **SETTINGS).fit(ratings).history
        for execution in ("one_task", "distributed")
    ]
    one, other = (table.orderBy("iteration").toPandas() for table in history)
    assert one["objective"].iloc[0] == pytest.approx(other["objective"].iloc[0], rel=0.1)
    np.testing.assert_allclose(one["train_rmse"].iloc[-3:], other["train_rmse"].iloc[-3:], rtol=0.1)


def test_lost_files_are_made_again(spark, ratings, monkeypatch):
    plain = BiasedSGD(numBlocks=3, maxIter=2, execution="distributed", **SETTINGS)
    expected = plain.fit(ratings).history.select("objective", "train_rmse").toPandas()
    work, scratch, n_lost = sgd_epoch.work_at_files, scratch_folder(spark), []

    def lose(*arguments):
        for path in scratch.glob("mfspark-block-*.arrow"):
            path.unlink()
            n_lost.append(path)
        return work(*arguments)

    monkeypatch.setattr(sgd_epoch, "work_at_files", lose)
    found = plain.fit(ratings).history.select("objective", "train_rmse").toPandas()
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert len(n_lost) >= 3 * 2 * 3


def test_too_high_a_rate_is_cut(ratings):
    settings = {**SETTINGS, "learningRate": 5.0}
    fitted = BiasedSGD(schedule="constant", maxIter=30, **settings).fit(ratings)
    assert fitted.history.toPandas()["learning_rate"].max() < 5.0
    assert math.isfinite(rmse(fitted, ratings))


def test_noise_is_fitted_by_next_to_nothing(spark):
    """There is nothing to learn, so that the penalties that are chosen are as high as can be."""
    rng = np.random.default_rng(5)
    item = rng.integers(0, 60, 8000)
    item[:4000] = 0
    frame = pd.DataFrame({"user": rng.integers(0, 4000, 8000), "item": item}).drop_duplicates()
    frame["rating"] = rng.integers(1, 6, len(frame)).astype(float)
    model = BiasedSGD(rank=2, maxIter=3, seed=1).fit(frame)
    found = model.transform(frame).toPandas()["prediction"]
    assert found.std() < 0.3
    assert found.mean() == pytest.approx(frame["rating"].mean(), abs=0.1)


def test_a_hopeless_rate_ends_in_a_clear_error(spark):
    rows = [(u, i, float(u - i)) for u in range(6) for i in range(5)]
    data = spark.createDataFrame(rows, "user int, item int, rating double")
    with pytest.raises(DivergenceError, match="Check the ratings"):
        BiasedSGD(rank=2, schedule="constant", learningRate=1e9).fit(data)


@pytest.mark.parametrize("execution", ["one_task", "distributed"])
def test_validation_rows_decide_when_to_stop(noise, execution):
    fitted = BiasedSGD(
        rank=8, regParam=0.01, biasRegParam=0.01, maxIter=50, tol=1e-3,
        validationIndicatorCol="held", execution=execution,
    ).fit(noise)  # fmt: skip
    history = fitted.history.orderBy("iteration").toPandas()
    assert fitted.metadata.stopped == "validation"
    assert fitted.metadata.n_cold_validation == 1
    assert fitted.metadata.best_iteration == history["validation_rmse"].idxmin() + 1
    warm = noise.where("held and user > 0")
    assert rmse(fitted, warm) == pytest.approx(history["validation_rmse"].min(), rel=1e-5)


def test_params_are_checked():
    with pytest.raises(ConfigError, match=r"learningRate = 0.* is not allowed.*γ"):
        BiasedSGD(learningRate=0.0)
    with pytest.raises(TypeError, match="BiasedSGD has no parameter 'exchange'"):
        BiasedSGD(exchange="broadcast")
