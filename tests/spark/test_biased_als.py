"""The fit on Spark: its numbers, equal to an independent fit's, whatever the blocks."""

import math

import numpy as np
import pandas as pd
import pytest
from chispa import assert_df_equality
from pyspark.ml.evaluation import RegressionEvaluator
from pyspark.ml.recommendation import ALS
from pyspark.sql import functions as F

from mfspark import BayesianMF, BiasedALS, BiasedSGD
from mfspark.engine import one_task
from mfspark.engine.plan import Machine, Workload, one_task_bytes


def predictions(model, pairs) -> pd.Series:
    return model.transform(pairs).toPandas().set_index(["user", "item"])["prediction"].sort_index()


def test_training_objective_falls_over_every_half_step(model):
    history = model.history.orderBy("iteration", F.desc("side")).toPandas()
    assert list(history["side"][:2]) == ["user", "item"]
    assert len(history) == 12
    assert (np.diff(history["objective"]) <= 1e-6 * history["objective"][:-1]).all()


def test_history_and_tables_agree_on_the_rmse(model, ratings_frame, ratings):
    found = predictions(model, ratings)
    given = ratings_frame.set_index(["user", "item"])["rating"].sort_index()
    rmse = math.sqrt(np.mean((found - given) ** 2))
    last = model.history.orderBy(F.desc("iteration"), "side").first()
    assert rmse == pytest.approx(last["train_rmse"], rel=1e-5)


def test_tables_have_every_id_once_in_its_own_type(model, ratings_frame):
    users = model.user_factors.toPandas()
    counts = ratings_frame.groupby("user").size()
    assert model.user_factors.schema.simpleString() == (
        "struct<user:bigint,n_ratings:bigint,bias:float,factors:array<float>>"
    )
    assert users.set_index("user")["n_ratings"].sort_index().to_dict() == counts.to_dict()
    assert {len(factors) for factors in users["factors"]} == {3}


def test_factors_are_in_canonical_rotation(model):
    for table in (model.user_factors, model.item_factors):
        factors = np.stack(table.toPandas()["factors"]).astype(float)
        gram = factors.T @ factors
        np.testing.assert_allclose(
            gram, np.diag(model.metadata.rotation.singular_values), atol=1e-3 * gram.max()
        )
    items = np.stack(model.item_factors.toPandas()["factors"])
    assert (items.sum(axis=0) >= -1e-4).all()


@pytest.mark.parametrize(
    "arguments",
    [
        {"numUserBlocks": 1, "numItemBlocks": 1},
        {"numUserBlocks": 5, "numItemBlocks": 3, "exchange": "broadcast"},
        {"numUserBlocks": 4, "numItemBlocks": 7, "exchange": "routed"},
    ],
)
def test_blocks_and_exchange_do_not_change_the_predictions(model, ratings, arguments):
    other = BiasedALS(
        rank=3, maxIter=6, regParam=0.2, biasRegParam=0.1, seed=1, execution="distributed",
        **arguments,
    ).fit(ratings.repartition(7).orderBy(F.rand(3)))  # fmt: skip
    assert (model.metadata.execution, other.metadata.execution) == ("one_task", "distributed")
    np.testing.assert_allclose(predictions(other, ratings), predictions(model, ratings), atol=1e-5)
    figures = ["objective", "train_rmse"]
    np.testing.assert_allclose(
        other.history.select(*figures).toPandas(), model.history.select(*figures).toPandas(),
        rtol=1e-6,
    )  # fmt: skip


def test_factors_of_half_width_take_half_the_bytes_and_next_to_no_accuracy(model, ratings):
    settings = {"rank": 3, "maxIter": 6, "regParam": 0.2, "biasRegParam": 0.1, "seed": 1}
    spread = {"execution": "distributed", "numUserBlocks": 2, "numItemBlocks": 3}
    fits = [
        BiasedALS(**settings, **spread, exchange="routed", halfWidth=half).fit(ratings)
        for half in (False, True)
    ]
    whole, half = (fit.history.toPandas() for fit in fits)
    assert (half["bytes"] * 2).tolist() == whole["bytes"].tolist()
    # Not the same numbers, so it was done; and where they end no further away than is said.
    difference = np.abs(half["train_rmse"] - whole["train_rmse"])
    assert difference.max() > 0
    assert difference.iloc[-2:].max() < 1e-4
    np.testing.assert_allclose(
        predictions(fits[1], ratings), predictions(model, ratings), atol=5e-3
    )


@pytest.mark.parametrize("estimator", [BiasedALS, BayesianMF])
def test_tables_that_are_too_big_to_collect_at_once_are_the_same(estimator, ratings, monkeypatch):
    weights = GIVEN if estimator is BiasedALS else {}
    fits = []
    for limit in (one_task.BROADCAST_LIMIT, 0):
        monkeypatch.setattr(one_task, "BROADCAST_LIMIT", limit)
        learner = estimator(rank=2, maxIter=12, seed=3, execution="one_task", **weights)
        fits.append(learner.fit(ratings))
    collected, persisted = (
        [fit.user_factors, fit.item_factors, *fit.draws.values()] for fit in fits
    )
    assert len(collected) == len(persisted) == (2 if estimator is BiasedALS else 4)
    for found, other in zip(collected, persisted, strict=True):
        ids = found.columns[0]
        assert_df_equality(found.orderBy(ids), other.orderBy(ids), ignore_nullable=True)
    assert fits[0].metadata.rotation == fits[1].metadata.rotation


def test_many_ids_count_when_a_fit_in_one_task_is_planned(ratings, ratings_frame, monkeypatch):
    enough = one_task_bytes(Workload(len(ratings_frame), 0, 0, 2))
    for task_bytes, execution in ((2 * enough, "one_task"), (enough, "distributed")):
        machine = Machine(2, 2, task_bytes)
        monkeypatch.setattr("mfspark.engine.fit_als.machine_of", lambda _, machine=machine: machine)
        model = BiasedALS(rank=2, maxIter=2).fit(ratings)
        assert model.metadata.execution == execution
        assert model.metadata.n_users == ratings_frame["user"].nunique()


@pytest.mark.parametrize(
    ("estimator", "execution"),
    [(BiasedALS, "one_task"), (BiasedALS, "distributed"), (BiasedSGD, "distributed")],
)
def test_phases_of_a_fit_are_told(ratings, caplog, estimator, execution):
    with caplog.at_level("INFO", "mfspark"):
        fitted = estimator(rank=2, maxIter=2, regParam=0.2, execution=execution).fit(ratings)
    middle = {"one_task": ["task"], "distributed": ["count", "index", "build", "iterations"]}
    assert list(fitted.phases) == ["prepare", "penalties", *middle[execution], "tables"]
    assert min(fitted.phases.values()) >= 0
    (told,) = (record for record in caplog.records if hasattr(record, "phases"))
    assert list(told.phases) == list(fitted.phases)
    if execution == "distributed":
        passes = fitted.history.agg(F.sum("seconds")).first()[0]
        assert fitted.phases["iterations"] >= passes


def test_more_blocks_than_ids_leave_some_empty(ratings):
    few = ratings.where("item < 14")
    plain, spread = (
        BiasedALS(rank=2, maxIter=2, **arguments).fit(few)
        for arguments in (
            {},
            {"execution": "distributed", "numUserBlocks": 2, "numItemBlocks": 8,
             "exchange": "routed"},
        )
    )  # fmt: skip
    assert spread.metadata.n_items == 3
    np.testing.assert_allclose(predictions(spread, few), predictions(plain, few), atol=1e-5)


def test_ids_as_text_give_the_same_model(spark, model, ratings, ratings_frame):
    text = ratings_frame.assign(
        user="u" + ratings_frame["user"].astype(str), item=ratings_frame["item"].astype(str)
    )
    fitted = BiasedALS(rank=3, maxIter=6, regParam=0.2, biasRegParam=0.1, seed=1).fit(
        spark.createDataFrame(text)
    )
    assert set(fitted.user_factors.toPandas()["user"]) == set(text["user"])
    # Other user ids are other seeds on the user side only, and that side is solved first.
    found = fitted.transform(spark.createDataFrame(text)).toPandas()
    expected = predictions(model, ratings)
    key = [found["user"].str[1:].astype(int), found["item"].astype(int)]
    np.testing.assert_allclose(found.set_index(key)["prediction"].sort_index(), expected, atol=1e-4)


def test_agrees_with_pyspark_als_without_biases(spark, tmp_path):
    """With biases off and ν = 1 both minimise the same objective (Zhou et al. 2008)."""
    # Without checkpoints pyspark.ml ALS overflows the stack past some thirty iterations.
    spark.sparkContext.setCheckpointDir(str(tmp_path))
    rng = np.random.default_rng(3)
    p, q = rng.normal(1, 0.7, (150, 2)), rng.normal(1, 0.7, (90, 2))
    users, items = np.nonzero(rng.random((150, 90)) < 0.35)
    frame = pd.DataFrame(
        {
            "user": users,
            "item": items,
            "rating": (p @ q.T)[users, items] + rng.normal(0, 0.4, len(users)),
        }
    )
    is_test = rng.random(len(frame)) < 0.2
    train, test = spark.createDataFrame(frame[~is_test]), spark.createDataFrame(frame[is_test])
    common = {"rank": 2, "regParam": 0.05, "seed": 5}
    theirs = ALS(
        maxIter=40,
        checkpointInterval=5,
        userCol="user",
        itemCol="item",
        ratingCol="rating",
        **common,
    ).fit(train)
    # Ours is for ratings in units of their root mean square.
    unit = np.sqrt(np.square(frame[~is_test]["rating"]).mean())
    ours = BiasedALS(
        maxIter=40, fitBiases=False, regExponent=1.0, tol=0.0, **common | {"regParam": 0.05 / unit}
    ).fit(train)
    metadata = ours.metadata
    assert metadata.global_mean == 0
    assert ours.user_factors.where("bias != 0").count() == 0

    def of_mllib():
        user_factors = theirs.userFactors.toPandas().set_index("id")["features"]
        item_factors = theirs.itemFactors.toPandas().set_index("id")["features"]
        rows = frame[~is_test]
        p_hat, q_hat = np.stack(user_factors[rows["user"]]), np.stack(item_factors[rows["item"]])
        squares = np.square(rows["rating"] - (p_hat * q_hat).sum(axis=1)).sum()
        n_u, n_i = rows.groupby("user").size(), rows.groupby("item").size()
        for factors, n in ((user_factors, n_u), (item_factors, n_i)):
            norms = np.square(np.stack(factors.sort_index())).sum(axis=1)
            squares += 0.05 * (n.sort_index() * norms).sum()
        return squares

    # From the history, not the tables: the canonical rotation keeps every prediction, but it shares
    # the scale between P and Q otherwise than the penalty would.
    last = ours.history.orderBy(F.desc("iteration"), "side").first()
    assert last["objective"] == pytest.approx(of_mllib(), rel=0.005)
    evaluator = RegressionEvaluator(labelCol="rating", metricName="rmse")
    assert evaluator.evaluate(ours.transform(test)) == pytest.approx(
        evaluator.evaluate(theirs.transform(test)), rel=0.005
    )


def test_validation_rows_are_measured_but_not_fitted(noise):
    als = BiasedALS(
        rank=8,
        maxIter=30,
        regParam=0.01,
        biasRegParam=0.01,
        tol=1e-3,
        validationIndicatorCol="held",
        # The history does not clip.
        clipPredictions=False,
    )
    model = als.fit(noise)
    history = model.history.where("side = 'item'").orderBy("iteration").toPandas()
    best = int(history["validation_rmse"].idxmin()) + 1
    assert model.metadata.stopped == "validation"
    assert model.metadata.best_iteration == best < len(history)
    assert model.metadata.n_cold_validation == 1
    distributed = als.copy({als.execution: "distributed"}).fit(noise)
    assert distributed.metadata.n_cold_validation == 1
    np.testing.assert_allclose(
        distributed.history.where("side = 'item'").toPandas()["validation_rmse"],
        history["validation_rmse"],
        rtol=1e-5,
    )
    warm = noise.where("held and user > 0")
    found = predictions(model, warm)
    given = warm.toPandas().set_index(["user", "item"])["rating"].sort_index()
    assert math.sqrt(np.mean((found - given) ** 2)) == pytest.approx(
        history["validation_rmse"].min(), rel=1e-5
    )
    without = BiasedALS(rank=2, maxIter=1).fit(noise.where("not held"))
    assert model.global_mean == pytest.approx(without.global_mean)


def test_converged_fit_stops_by_the_objective(ratings):
    model = BiasedALS(rank=2, maxIter=100, tol=1e-2).fit(ratings)
    assert model.metadata.stopped == "converged"
    assert model.metadata.best_iteration < 100


def test_repeated_pairs_are_separate_observations(spark):
    rows = [(1, 1, 2.0), (1, 1, 4.0), (2, 1, 3.0), (2, 2, 3.0)]
    model = BiasedALS(rank=1, maxIter=2).fit(
        spark.createDataFrame(rows, "user int, item int, rating double")
    )
    assert model.user_factors.where("user = 1").first()["n_ratings"] == 2


GIVEN = {"regParam": 1.0, "biasRegParam": 0.3}


@pytest.mark.parametrize(
    "execution", ["one_task", pytest.param("distributed", marks=pytest.mark.thorough)]
)
@pytest.mark.parametrize("estimator", [BiasedALS, BiasedSGD])
def test_another_scale_of_ratings_gives_the_same_model(ratings, estimator, execution):
    """r → a·r + c makes r̂ → a·r̂ + c, in tables and history too."""
    # Penalties are chosen before the ways part.
    weights = {} if (estimator, execution) == (BiasedALS, "one_task") else GIVEN

    def fit(factor, shift):
        scaled = ratings.withColumn("rating", factor * F.col("rating") + shift)
        return estimator(rank=3, maxIter=5, seed=1, tol=0.0, execution=execution, **weights).fit(
            scaled
        )

    plain = fit(1.0, 0.0)

    def figures(model):
        table = model.transform(ratings).orderBy("user", "item").toPandas()["prediction"]
        history = model.history.orderBy("iteration", F.desc("side")).toPandas()
        biases = model.user_factors.orderBy("user").toPandas()["bias"]
        return table, history, biases

    expected = figures(plain)
    for factor, shift in ((0.01, 0.0), (1000.0, 0.0), (20.0, -100.0)):
        found = figures(fit(factor, shift))
        np.testing.assert_allclose(found[0], factor * expected[0] + shift, atol=2e-4 * factor)
        np.testing.assert_allclose(found[2], factor * expected[2], atol=1e-4 * factor)
        for name, power in (("objective", 2), ("train_rmse", 1)):
            np.testing.assert_allclose(
                found[1][name], factor**power * expected[1][name], rtol=1e-3
            )  # fmt: skip


def test_ratings_that_are_all_the_same_are_predicted_as_such(spark):
    rows = spark.createDataFrame(
        [(u, i, 4.0) for u in range(4) for i in range(3)], "user int, item int, rating double"
    )
    for estimator in (BiasedALS, BiasedSGD):
        found = estimator(rank=2, maxIter=30).fit(rows).transform(rows).toPandas()["prediction"]
        np.testing.assert_allclose(found, 4.0, atol=0.05)


@pytest.mark.parametrize("execution", ["one_task", "distributed"])
def test_ratings_at_the_end_of_single_precision_are_fitted(spark, execution):
    rows = [(u, i, 1e38 * (-1) ** ((u * i) % 3)) for u in range(8) for i in range(6)]
    data = spark.createDataFrame(rows, "user int, item int, rating double")
    model = BiasedALS(rank=2, maxIter=3, execution=execution).fit(data)
    predicted = model.transform(data).toPandas()["prediction"]
    assert np.isfinite(predicted).all()
    assert predicted.abs().max() > 1e37
    assert np.isfinite(model.history.toPandas()["objective"]).all()


def test_a_rank_above_the_number_of_ratings_is_warned_of(spark, caplog):
    few = spark.createDataFrame([(1, 1, 3.0), (1, 2, 4.0), (2, 1, 2.0)], ["user", "item", "rating"])
    BiasedALS(rank=4, maxIter=1).fit(few)
    assert "rank 4 is more than the 3 ratings can tell" in caplog.text
