"""The distributed chain: the numbers of the one in one task, wherever its rows and files are."""

import numpy as np
import pandas as pd
import pytest
from chispa.schema_comparer import assert_schema_equality
from conftest import planted_ratings, session_setting
from pyspark.sql import functions as F
from scratch import scratch_folder

from mfspark import BayesianMF
from mfspark.engine import gibbs_sweep
from mfspark.errors import DataError

CHAIN = {
    "rank": 2, "maxIter": 9, "burnIn": 2, "tol": 0.0, "seed": 1, "keepDraws": 3,
    "implicitFeatures": False, "predictionStdCol": "std", "validationIndicatorCol": "held",
}  # fmt: skip


@pytest.fixture(scope="module")
def skewed(spark):
    """Ratings with validation rows, of which some items and one user have more than the fair share
    of a block."""
    frame = planted_ratings(n_users=300, n_items=80, density=0.03)
    rng = np.random.default_rng(3)
    users, items = frame["user"].unique(), frame["item"].unique()
    more = [
        pd.DataFrame({"user": users, "item": 5, "rating": rng.normal(4, 0.5, len(users))}),
        pd.DataFrame({"user": 100, "item": items, "rating": rng.normal(2, 0.5, len(items))}),
        pd.DataFrame({"user": np.repeat(users, 4), "item": 8, "rating": 3.0}),
    ]
    table = spark.createDataFrame(pd.concat([frame, *more], ignore_index=True))
    return table.withColumn("held", F.xxhash64("user", "item", "rating") % 9 == 0).cache()


@pytest.fixture(scope="module")
def in_one_task(skewed):
    return BayesianMF(execution="one_task", numChains=2, **CHAIN).fit(skewed)


def sorted_column(model, rows, name):
    return model.transform(rows).orderBy("user", "item", "rating").toPandas()[name]


def assert_same(found, expected, rows):
    for name in ("prediction", "std"):
        np.testing.assert_allclose(
            sorted_column(found, rows, name), sorted_column(expected, rows, name), atol=3e-4
        )
    figures = ["iteration", "objective", "train_rmse", "validation_rmse"]
    left, right = (
        m.history.orderBy("iteration").select(figures).toPandas() for m in (found, expected)
    )
    pd.testing.assert_frame_equal(left, right, rtol=1e-4)


@pytest.mark.parametrize(
    "ways",
    [
        "broadcast",
        pytest.param("routed, durable", marks=pytest.mark.thorough),
        pytest.param("routed, checkpoints", marks=pytest.mark.thorough),
    ],
)  # fmt: skip
def test_the_same_numbers_as_in_one_task(skewed, in_one_task, monkeypatch, tmp_path, ways):
    exchange, _, where = ways.partition(", ")
    if where:
        monkeypatch.setattr("mfspark.engine.plan.BROADCAST_LIMIT", 0)
        monkeypatch.setattr("mfspark.engine.workspace.BROADCAST_LIMIT", 0)
        monkeypatch.setattr("mfspark.engine.plan.CHEAP_BYTES", 0)
    with session_setting(
        "spark.checkpoint.dir", str(tmp_path / "checkpoints"), where == "checkpoints"
    ):
        found = BayesianMF(execution="distributed", numChains=2, **CHAIN).fit(skewed)
    assert_same(found, in_one_task, skewed)
    meta, expected = found.metadata, in_one_task.metadata
    assert meta.execution == "distributed"
    assert set(meta.exchange.values()) == {exchange}
    assert meta.posterior.n_draws == expected.posterior.n_draws > 1
    for name in ("noise", "cold_user", "cold_item"):
        assert getattr(meta.posterior, name) == pytest.approx(
            getattr(expected.posterior, name), rel=1e-4
        )
    means, expected_means = (
        {each.quantity: each.mean for each in facts.posterior.diagnostics}
        for facts in (meta, expected)
    )
    assert means == pytest.approx(expected_means, rel=1e-4)
    np.testing.assert_allclose(
        meta.rotation.singular_values, expected.rotation.singular_values, rtol=1e-3
    )
    for name in ("n_users", "n_items", "n_ratings", "n_cold_validation", "best_iteration"):
        assert getattr(meta, name) == getattr(expected, name)
    assert not any((tmp_path / "checkpoints").glob("mfspark-fit-*"))


def test_hot_rows_are_among_those(skewed, monkeypatch):
    """The test above says something of them."""
    hot, start = [], gibbs_sweep.start_chain

    def watch(workspace, solved, *arguments):
        hot.extend(each.blocks.layout.n_hot for each in solved.values())
        return start(workspace, solved, *arguments)

    monkeypatch.setattr("mfspark.engine.fit_bayes.start_chain", watch)
    BayesianMF(execution="distributed", **{**CHAIN, "maxIter": 3}).fit(skewed)
    assert sum(hot) > 0


def test_files_lost_before_every_sweep_are_made_again(spark, skewed, monkeypatch):
    run, lost, scratch = gibbs_sweep.run_sweep, [], scratch_folder(spark)

    def lose_files(*arguments):
        paths = list(scratch.glob("mfspark-block-*.arrow"))
        for path in paths:
            path.unlink()
        lost.append(len(paths))
        return run(*arguments)

    settings = {**CHAIN, "maxIter": 4}
    expected = BayesianMF(execution="one_task", **settings).fit(skewed)
    monkeypatch.setattr("mfspark.engine.fit_bayes.run_sweep", lose_files)
    found = BayesianMF(execution="distributed", **settings).fit(skewed)
    assert len(lost) == 4
    assert min(lost) > 0
    assert_same(found, expected, skewed)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("rank", "length", "stopped"),
    [(0, {"maxIter": 4, "tol": 0.0}, "max_iter"), (3, {"maxIter": 60, "tol": 0.05}, "converged")],
)
def test_without_validation_or_stored_draws(skewed, rank, length, stopped):
    train = skewed.where("not held").drop("held")
    settings = {
        **CHAIN, **length, "rank": rank, "keepDraws": 0, "predictionStdCol": None,
        "validationIndicatorCol": None,
    }  # fmt: skip
    found, expected = (
        BayesianMF(execution=where, **settings).fit(train) for where in ("distributed", "one_task")
    )
    assert found.metadata.stopped == expected.metadata.stopped == stopped
    assert found.metadata.best_iteration == expected.metadata.best_iteration < 60
    assert found.draws == {}
    np.testing.assert_allclose(
        *(sorted_column(model, train, "prediction") for model in (found, expected)), atol=3e-4
    )


def test_starts_from_a_model_and_has_its_tables(skewed, in_one_task, tmp_path):
    in_one_task.save(str(tmp_path / "model"))
    settings = {**CHAIN, "maxIter": 4, "initialModel": str(tmp_path / "model")}
    found, expected = (
        BayesianMF(execution=where, **settings).fit(skewed) for where in ("distributed", "one_task")
    )
    assert_same(found, expected, skewed)
    tables = [
        (found.user_factors, expected.user_factors),
        (found.item_factors, expected.item_factors),
        *((found.draws[side], expected.draws[side]) for side in ("user", "item")),
    ]
    for ours, theirs in tables:
        assert_schema_equality(ours.schema, theirs.schema, ignore_nullable=True)


def test_nothing_stays_persisted(spark, skewed):
    before = set(spark.sparkContext._jsc.getPersistentRDDs())
    model = BayesianMF(execution="distributed", **{**CHAIN, "maxIter": 4}).fit(skewed)
    model.unpersist()
    assert set(spark.sparkContext._jsc.getPersistentRDDs()) <= before


def test_bad_ratings_are_refused_all_the_same(skewed):
    bad = skewed.withColumn("rating", F.when(F.col("user") > 150, F.col("rating")))
    with pytest.raises(DataError, match="ratings that are null"):
        BayesianMF(execution="distributed", **CHAIN).fit(bad)
