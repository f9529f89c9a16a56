"""The plumbing: placing ids, exchanging factors, stopping."""

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import functions as F

from mfspark.engine.blocks import build_blocks
from mfspark.engine.index import index_side, place_heaviest_first
from mfspark.engine.stopping import StopRule
from mfspark.engine.workspace import Workspace


@given(
    weights=st.lists(st.integers(1, 1000), min_size=1, max_size=60),
    n_blocks=st.integers(1, 8),
)
def test_heaviest_first_keeps_within_the_bound_of_graham(weights, n_blocks):
    places = place_heaviest_first(weights, n_blocks)
    loads = np.bincount(places, weights, minlength=n_blocks)
    # 4/3 of the optimum, which is at least the mean, the heaviest, and any two that must share.
    ordered = sorted(weights, reverse=True)
    shared = sum(ordered[n_blocks - 1 : n_blocks + 1]) if len(weights) > n_blocks else 0
    assert loads.max() <= 4 / 3 * max(sum(weights) / n_blocks, ordered[0], shared)


def long_tailed(spark, n=30_000):
    draw = F.xxhash64(F.col("id"))
    return spark.range(n).select(
        (F.pow(F.pmod(draw, F.lit(10_000)) / 10_000, 3) * 800).cast("int").alias("user"),
        (F.pow(F.pmod(F.xxhash64(draw), F.lit(9_999)) / 9_999, 3) * 300).cast("int").alias("item"),
        F.lit(3.0).cast("float").alias("rating"),
        (F.col("id") % 10 == 0).alias("held_out"),
    )


def test_blocks_are_balanced_dense_and_hold_every_rating_once(spark):
    ratings = long_tailed(spark).cache()
    train = ratings.where(~F.col("held_out"))
    n = train.count()
    with Workspace(spark) as workspace:
        users = index_side(workspace, train, "user", 6, n, 0)
        items = index_side(workspace, train, "item", 5, n, 0)
        for side in (users, items):
            table = side.table.toPandas()
            assert sorted(table["position"]) == list(range(side.n_ids))
            loads = table.groupby("block")["n_ratings"].sum()
            assert loads.max() / loads.mean() < 1.02
        user_blocks, item_blocks = build_blocks(workspace, ratings, users, items)
        warm = ratings.join(train.select("user").distinct(), "user", "semi").join(
            train.select("item").distinct(), "item", "semi"
        )
        n_held_out = warm.where("held_out").count()
        for blocked in (user_blocks, item_blocks):
            rows = blocked.table.toPandas()
            assert sum(len(cell) // 4 for cell in rows["ratings"]) == n
            assert blocked.n_held_out == n_held_out
            assert rows["block"].is_unique
        positions = pd.DataFrame(
            [
                (user, item)
                for row in user_blocks.table.toPandas().itertuples()
                for user, item in zip(
                    np.repeat(
                        np.arange(len(np.frombuffer(row.indptr, np.int64)) - 1)
                        + users.offsets[row.block],
                        np.diff(np.frombuffer(row.indptr, np.int64)),
                    ),
                    np.frombuffer(row.needed, np.int32)[np.frombuffer(row.columns, np.int32)],
                    strict=True,
                )
            ],
            columns=["user_position", "item_position"],
        )
        index = {
            side: part.table.toPandas().set_index("id")["position"]
            for side, part in (("user", users), ("item", items))
        }
        expected = train.select("user", "item").toPandas()
        assert sorted(positions.itertuples(index=False, name=None)) == sorted(
            zip(index["user"][expected["user"]], index["item"][expected["item"]], strict=True)
        )
    ratings.unpersist()


def test_stop_rule_by_validation():
    rule = StopRule(tol=0.01)
    figures = [1.0, 0.9, 0.85, 0.849, 0.7]
    answers = [rule.observe(n, 100.0, figure) for n, figure in enumerate(figures[:4], 1)]
    assert answers == [None, None, None, "validation"]
    assert rule.best_iteration == 4


def test_stop_rule_keeps_the_best_iteration_when_validation_rises():
    rule = StopRule(tol=0.0)
    assert [rule.observe(n, 1.0, f) for n, f in enumerate([1.0, 0.9, 0.95], 1)] == [
        None,
        None,
        "validation",
    ]
    assert rule.best_iteration == 2


def test_stop_rule_by_objective():
    rule = StopRule(tol=0.1)
    assert [rule.observe(n, f, None) for n, f in enumerate([100.0, 80.0, 79.0], 1)] == [
        None,
        None,
        "converged",
    ]
    assert rule.best_iteration == 3


def test_workspace_nests(spark):
    setting = "spark.sql.adaptive.enabled"
    spark.conf.set(setting, "true")
    with Workspace(spark):
        with Workspace(spark):
            assert spark.conf.get(setting) == "false"
        assert spark.conf.get(setting) == "false"
    assert spark.conf.get(setting) == "true"
