"""The plumbing: placing ids, exchanging factors, stopping."""

import logging
import os
import time
from itertools import count

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from conftest import session_setting
from hypothesis import given
from hypothesis import strategies as st
from pyspark import TaskContext
from pyspark.sql import functions as F
from scratch import scratch_folder

from mfspark import BiasedALS, BiasedSGD
from mfspark.columns import ITEM, USER
from mfspark.engine import als_half_step, block_files, factor_tables, sgd_epoch
from mfspark.engine.blocks import RatingBlockFormat, build_blocks, open_block
from mfspark.engine.encoded import encode_ratings
from mfspark.engine.index import count_ids, index_sides, place_heaviest_first
from mfspark.engine.packed import Unit, pack_ratings
from mfspark.engine.workspace import Workspace
from mfspark.errors import FitError

FORMATS = dict.fromkeys((USER, ITEM), RatingBlockFormat())


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


def indexed(workspace, ratings, n_blocks, n_ratings, has_few_ids=False):
    packs, _ = pack_ratings(workspace, ratings, rank=1)
    encoded = encode_ratings(workspace, packs, Unit(), n_blocks, ratings.count(), 3, has_few_ids)
    on_driver = n_blocks if has_few_ids else ()
    counted = count_ids(workspace, encoded, n_ratings, on_driver)
    return encoded, index_sides(workspace, counted, n_blocks)


def long_tailed(spark, n=30_000):
    draw = F.xxhash64(F.col("id"))
    return spark.range(n).select(
        (F.pow(F.pmod(draw, F.lit(10_000)) / 10_000, 3) * 800).cast("int").alias("user"),
        (F.pow(F.pmod(F.xxhash64(draw), F.lit(9_999)) / 9_999, 3) * 300).cast("int").alias("item"),
        F.lit(3.0).cast("float").alias("rating"),
        (F.col("id") % 10 == 0).alias("is_validation"),
    )


@pytest.mark.parametrize("has_few_ids", [False, True])
def test_blocks_are_balanced_dense_and_hold_every_rating_once(spark, has_few_ids):
    ratings = long_tailed(spark).cache()
    train = ratings.where(~F.col("is_validation"))
    n = train.count()
    with Workspace(spark) as workspace:
        encoded, indices = indexed(workspace, ratings, {USER: 6, ITEM: 5}, n, has_few_ids)
        positions = {}
        for side, index in indices.items():
            table = index.table.toPandas()
            assert sorted(table["position"]) == list(range(index.layout.n_rows))
            positions[side] = table.set_index("id")["position"]
            expected = train.groupBy(side).count().toPandas().set_index(side)["count"]
            assert (
                table.set_index("id")["n_ratings"]
                .sort_index()
                .equals(expected.sort_index().rename_axis("id").rename("n_ratings"))
            )
        blocks = build_blocks(workspace, encoded, indices, FORMATS)
        warm = ratings.join(train.select("user").distinct(), "user", "semi").join(
            train.select("item").distinct(), "item", "semi"
        )
        n_validation = warm.where("is_validation").count()
        for side, other in (("user", "item"), ("item", "user")):
            contents = read_blocks(blocks[side])
            loads = [content[0].train.n_entries for content in contents.values()]
            assert sum(loads) == n
            assert max(loads) / np.mean(loads) < 1.02
            assert blocks[side].n_validation == n_validation
            expected = train.select(side, other).toPandas()
            assert sorted(located(contents, indices[side].layout)) == sorted(
                zip(positions[side][expected[side]], positions[other][expected[other]], strict=True)
            )
    ratings.unpersist()


def test_blocks_of_one_side_are_made_when_those_of_the_other_are(spark, monkeypatch):
    """Jobs beside each other would put the blocks of a side on some of the executors."""
    running: list[int] = []
    seen = []
    recovering = block_files.recovering

    def watched(workspace, n_blocks, job):
        running.append(n_blocks)
        seen.append(tuple(running))
        try:
            return recovering(workspace, n_blocks, job)
        finally:
            running.remove(n_blocks)

    monkeypatch.setattr(block_files, "recovering", watched)
    with Workspace(spark) as workspace:
        ratings = long_tailed(spark, 1000)
        encoded, indices = indexed(workspace, ratings, {USER: 2, ITEM: 3}, 900)
        build_blocks(workspace, encoded, indices, FORMATS)
    assert seen == [(2,), (3,)]


def read_blocks(side) -> dict[int, tuple]:
    """Every block with what it needs, read by the workers, which know the folder of the files."""

    def locate(batches):
        for batch in batches:
            folder = [os.environ["SPARK_LOCAL_DIRS"]] * batch.num_rows
            yield batch.append_column("folder", pa.array(folder, pa.string()))

    places = side.blocks.places.select("block")
    places = places.mapInArrow(locate, "block int, folder string").collect()
    blocks = {}
    for place in places:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SPARK_LOCAL_DIRS", place["folder"])
            blocks[place["block"]] = open_block(side.blocks.files, place["block"])
    assert len(blocks) == len(places)
    return blocks


def located(blocks: dict[int, tuple], layout) -> list[tuple[int, int]]:
    """(position, position on the other side) of every training rating."""
    pairs = []
    for block, (content, needed) in blocks.items():
        n_own = layout.sizes[block]
        assert content.train.n_rows == n_own + layout.n_hot
        own = layout.offsets[block] + np.arange(n_own)
        hot = layout.offsets[-1] + np.arange(layout.n_hot)
        rows = np.repeat(np.concatenate([own, hot]), content.train.counts)
        pairs += zip(rows, needed[content.train.columns], strict=True)
    return pairs


def with_hot_item(n: int = 20_000) -> pd.DataFrame:
    """Thirty percent of all ratings are of item 0, ten percent of item 1."""
    rng = np.random.default_rng(2)
    item = np.where(rng.random(n) < 0.3, 0, rng.integers(1, 200, n))
    item = np.where(rng.random(n) < 0.1, 1, item)
    frame = pd.DataFrame({"user": rng.integers(0, 3000, n), "item": item})
    frame["rating"] = rng.integers(1, 6, n).astype(float)
    frame["is_validation"] = rng.random(n) < 0.1
    return frame


def test_hot_rows_are_shared_out_to_all_blocks(spark):
    frame = with_hot_item()
    ratings = spark.createDataFrame(frame).withColumn("rating", F.col("rating").cast("float"))
    train = frame[~frame["is_validation"]]
    with Workspace(spark) as workspace:
        n_blocks = {USER: 4, ITEM: 12}
        encoded, indices = indexed(workspace, ratings, n_blocks, len(train))
        layout = indices["item"].layout
        assert layout.n_hot == 2
        hot = indices["item"].table.where("block = 12").orderBy("local").toPandas()
        assert list(hot["id"]) == [0, 1]
        contents = read_blocks(build_blocks(workspace, encoded, indices, FORMATS)["item"])
        loads = np.array([content.train.n_entries for content, _ in contents.values()])
        assert loads.sum() == len(train)
        assert loads.max() < 1.1 * loads.mean()
        assert len(located(contents, layout)) == len(train)


@pytest.mark.parametrize("exchange", ["broadcast", "routed"])
def test_a_fit_with_hot_rows_is_the_fit_in_one_block(spark, exchange):
    ratings = spark.createDataFrame(with_hot_item()).cache()

    def fit(**blocks):
        return BiasedALS(
            rank=3, maxIter=4, regParam=0.2, biasRegParam=0.1, seed=1, execution="distributed",
            validationIndicatorCol="is_validation", **blocks,
        ).fit(ratings)  # fmt: skip

    plain = fit(numUserBlocks=1, numItemBlocks=1)
    split = fit(numUserBlocks=3, numItemBlocks=12, exchange=exchange)
    figures = ["objective", "train_rmse", "validation_rmse"]
    np.testing.assert_allclose(
        split.history.select(*figures).toPandas(), plain.history.select(*figures).toPandas(),
        rtol=1e-5,
    )  # fmt: skip
    found, expected = (
        model.transform(ratings.select("user", "item").distinct())
        .orderBy("user", "item")
        .toPandas()["prediction"]
        for model in (split, plain)
    )
    np.testing.assert_allclose(found, expected, atol=1e-4)
    ratings.unpersist()


def delete(path):
    path.unlink()


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("exchange", ["broadcast", "routed"])
@pytest.mark.parametrize("damage", [delete, pytest.param(truncate, marks=pytest.mark.thorough)])
def test_files_lost_before_every_half_step_are_made_again(
    spark, model, ratings, monkeypatch, exchange, damage
):
    calls = []
    run = als_half_step.run_half_step

    scratch = scratch_folder(spark)

    def lose_files(workspace, side, fixed):
        paths = list(scratch.glob("mfspark-block-*.arrow"))
        for path in paths:
            damage(path)
        calls.append(len(paths))
        return run(workspace, side, fixed)

    monkeypatch.setattr("mfspark.engine.fit_als.run_half_step", lose_files)
    found = BiasedALS(
        rank=3, maxIter=6, regParam=0.2, biasRegParam=0.1, seed=1, execution="distributed",
        exchange=exchange, numUserBlocks=3, numItemBlocks=2,
    ).fit(ratings)  # fmt: skip
    assert len(calls) == 12
    assert min(calls) > 0
    last, expected = (
        m.history.orderBy(F.desc("iteration"), "side").first() for m in (found, model)
    )
    assert last["objective"] == pytest.approx(expected["objective"], rel=1e-5)


@pytest.mark.parametrize("keep", ["driver", "executors", "durable", "checkpoints"])
@pytest.mark.parametrize(
    "estimator", [BiasedALS, pytest.param(BiasedSGD, marks=pytest.mark.thorough)]
)
def test_factors_are_the_same_wherever_they_are_kept(
    spark, ratings, monkeypatch, tmp_path, keep, estimator
):
    exchange = {"exchange": "broadcast"} if estimator is BiasedALS else {}

    def fit():
        return estimator(
            rank=3, maxIter=4, regParam=0.2, biasRegParam=0.1, seed=1, execution="distributed",
            **exchange,
        ).fit(ratings)  # fmt: skip

    expected = fit()
    limits = {"driver": (2**20, 2**20), "executors": (2**20, 0)}.get(keep, (0, 0))
    monkeypatch.setattr("mfspark.engine.plan.BROADCAST_LIMIT", limits[0])
    monkeypatch.setattr("mfspark.engine.workspace.BROADCAST_LIMIT", limits[0])
    monkeypatch.setattr("mfspark.engine.plan.CHEAP_BYTES", limits[1])
    with session_setting(
        "spark.checkpoint.dir", str(tmp_path / "my checkpoints"), keep == "checkpoints"
    ):
        found = fit()
    assert_same_predictions(found, expected, ratings)
    assert not any((tmp_path / "my checkpoints").glob("mfspark-fit-*"))


@pytest.mark.parametrize("exchange", ["broadcast", "routed"])
@pytest.mark.parametrize(
    "when", ["in an iteration", pytest.param("after the last one", marks=pytest.mark.thorough)]
)
def test_factors_lost_with_the_files_they_are_made_of_are_made_again(
    spark, ratings, monkeypatch, caplog, exchange, when
):
    """Spark computes a lost table again where no file is, and so makes nulls of it."""
    estimator = BiasedALS(
        rank=3, maxIter=4, regParam=0.2, biasRegParam=0.1, tol=0.0, seed=1, execution="distributed",
        exchange=exchange, numUserBlocks=3, numItemBlocks=2,
    )  # fmt: skip
    expected = estimator.fit(ratings)
    monkeypatch.setattr("mfspark.engine.plan.CHEAP_BYTES", 0)
    scratch, calls = scratch_folder(spark), []
    run, write = als_half_step.run_half_step, factor_tables.factor_tables

    def lose():
        files_lost = list(scratch.glob("mfspark-block-*.arrow"))
        for path in files_lost:
            path.unlink()
        persisted = dict(spark.sparkContext._jsc.getPersistentRDDs())
        persisted[max(persisted)].unpersist(True)
        calls.append(len(files_lost))

    def lose_in_an_iteration(workspace, side, fixed):
        if when == "in an iteration" and workspace.n_kept in (4, 7):
            lose()
        return run(workspace, side, fixed)

    def lose_after_the_last_one(*arguments):
        if when == "after the last one":
            lose()
        return write(*arguments)

    monkeypatch.setattr("mfspark.engine.fit_als.run_half_step", lose_in_an_iteration)
    monkeypatch.setattr("mfspark.engine.fit_als.factor_tables", lose_after_the_last_one)
    found = estimator.fit(ratings)
    assert calls
    assert min(calls) > 0
    assert "making both again" in caplog.text
    assert_same_predictions(found, expected, ratings)


@pytest.mark.parametrize(
    ("kind", "how_often"),
    [
        ("als", "once"),
        ("als", "always"),
        ("before its blocks", "always"),
        pytest.param("sgd", "once", marks=pytest.mark.thorough),
        pytest.param("sgd", "always", marks=pytest.mark.thorough),
    ],
)
def test_blocks_made_again_of_other_ratings_are_noticed(
    spark, ratings, monkeypatch, caplog, tmp_path, kind, how_often
):
    """Where a fit loses its blocks and the table then has fewer rows than before."""
    spoilt = tmp_path / "spoilt"

    def drop(batches):
        mark = spoilt / str(TaskContext.get().partitionId())
        is_spoilt = mark.exists()
        if how_often == "once":
            mark.unlink(missing_ok=True)
        for batch in batches:
            yield batch.slice(7 if is_spoilt else 0)

    estimator, module, station, at = {
        "als": (BiasedALS(exchange="broadcast"), "fit_als", als_half_step.run_half_step, 4),
        "before its blocks": (BiasedALS(exchange="broadcast"), "fit_als", build_blocks, 1),
        "sgd": (BiasedSGD(numBlocks=2), "fit_sgd", sgd_epoch.run_epoch, 2),
    }[kind]
    estimator.setParams(rank=3, maxIter=4, tol=0.0, seed=1, execution="distributed")
    estimator.setParams(regParam=0.2, biasRegParam=0.1)
    expected = estimator.fit(ratings)
    scratch, calls = scratch_folder(spark), count(1)

    def lose(workspace, *others):
        if next(calls) == at:
            spoilt.mkdir()
            for number in range(ratings.rdd.getNumPartitions()):
                (spoilt / str(number)).touch()
            for path in scratch.glob("mfspark-block-*.arrow"):
                path.unlink()
            # As if the executors that had them were gone, with all that they had shuffled.
            workspace.renew("ratings")
        return station(workspace, *others)

    monkeypatch.setattr(f"mfspark.engine.{module}.{station.__name__}", lose)
    changing = ratings.mapInArrow(drop, ratings.schema)
    if how_often == "always":
        with pytest.raises(FitError, match=r"write it to files or to a table"):
            estimator.fit(changing)
        return
    found = estimator.fit(changing)
    assert "making all blocks again" in caplog.text
    assert_same_predictions(found, expected, ratings)


def assert_same_predictions(found, expected, ratings):
    frames = [m.transform(ratings).orderBy("user", "item").toPandas() for m in (found, expected)]
    np.testing.assert_allclose(frames[0]["prediction"], frames[1]["prediction"], atol=1e-5)


def test_what_killed_fits_left_is_removed_and_nothing_else(tmp_path, monkeypatch):
    live = tmp_path / "spark-2/executor-2/blockmgr-2"
    dead = tmp_path / "spark-1/executor-1/blockmgr-1"
    for folder in (live, dead):
        folder.mkdir(parents=True)
    old, young, other = (
        dead / name for name in ("mfspark-block-a-0.arrow", "mfspark-block-b-0.arrow", "shuffle_0")
    )
    for path in (old, young, other):
        path.touch()
    two_days_ago = time.time() - 2 * 24 * 3600
    for path in (old, other):
        os.utime(path, (two_days_ago, two_days_ago))
    monkeypatch.setenv("SPARK_LOCAL_DIRS", str(live))
    block_files.remove_abandoned.cache_clear()
    block_files.remove_abandoned()
    assert not old.exists()
    assert young.exists()
    assert other.exists()


def test_workspace_nests(spark):
    setting = "spark.sql.adaptive.enabled"
    spark.conf.set(setting, "true")
    with Workspace(spark):
        with Workspace(spark):
            assert spark.conf.get(setting) == "false"
        assert spark.conf.get(setting) == "false"
    assert spark.conf.get(setting) == "true"


def test_settings_come_back_when_checkpoints_cannot_be_removed(
    spark, monkeypatch, caplog, tmp_path
):
    before = spark.conf.get("spark.sql.adaptive.enabled")

    def refuse(path):
        raise OSError("the file system is gone")

    monkeypatch.setattr("mfspark.files.remove", refuse)
    logging.getLogger("mfspark").propagate = True
    with (
        session_setting("spark.checkpoint.dir", str(tmp_path), True),
        Workspace(spark) as workspace,
    ):
        made = spark.range(1).select("id", F.col("id").alias("rows"))
        workspace.keep(made, "durable", ("id", "rows"))
    assert spark.conf.get("spark.sql.adaptive.enabled") == before
    assert "the file system is gone" in caplog.text
