"""Splits: right sizes, no leaks, and the same rows whatever the partitioning."""

import pytest
from pyspark.sql import functions as F

from mfspark.data.split import SplitSettings, fold, split_ratings
from mfspark.errors import DataError


@pytest.fixture(scope="module")
def ratings(spark):
    return (
        spark.range(6000)
        .select(
            (F.col("id") % 120).alias("user"),
            (F.col("id") / 120).cast("long").alias("item"),
            F.lit(3.0).alias("rating"),
            F.pmod(F.xxhash64("id"), F.lit(100_000)).alias("timestamp"),
        )
        .where("user > 1 or item < 2 * user + 1")
        .cache()
    )


def parts(table):
    return {
        (row["user"], row["item"]): row["split"]
        for row in table.select("user", "item", "split").collect()
    }


@pytest.mark.parametrize("method", ["random", "per_user", "leave_last", "temporal"])
def test_same_split_whatever_the_partitioning_and_id_type(ratings, method):
    settings = SplitSettings(method=method, test=0.2, validation=0.1, seed=3)
    first = parts(split_ratings(ratings, settings))
    shuffled = ratings.repartition(13, "item").orderBy(F.rand(1))
    assert parts(split_ratings(shuffled, settings)) == first
    as_text = ratings.withColumn("user", F.col("user").cast("string"))
    text = parts(split_ratings(as_text, settings))
    assert {(int(user), item): part for (user, item), part in text.items()} == first
    assert len(first) == ratings.count()


def test_random_shares_and_seeds(ratings):
    def test_rows(seed):
        split = parts(split_ratings(ratings, SplitSettings(test=0.2, validation=0.1, seed=seed)))
        return {pair for pair, part in split.items() if part == "test"}, split

    rows, split = test_rows(0)
    n = len(split)
    assert abs(len(rows) / n - 0.2) < 0.02
    assert abs(sum(part == "validation" for part in split.values()) / n - 0.1) < 0.02
    other, _ = test_rows(1)
    # Independent of the first: a fifth in common.
    assert abs(len(rows & other) / len(rows) - 0.2) < 0.05


def test_per_user_shares_are_exact(ratings):
    split = split_ratings(ratings, SplitSettings(method="per_user", test=0.2, validation=0.1))
    for row in (
        split.groupBy("user").pivot("split", ["train", "validation", "test"]).count().collect()
    ):
        n = sum(row[part] or 0 for part in ("train", "validation", "test"))
        assert (row["test"] or 0) == min(round(n * 0.2 + 1e-9), n - 1)
        assert row["train"] >= 1


def test_leave_last_takes_the_latest(ratings):
    settings = SplitSettings(method="leave_last", leave_last_n=2, validation=0.1)
    split = split_ratings(ratings, settings).toPandas()
    for _, rows in split.groupby("user"):
        kept = rows[rows["split"] == "train"]
        if len(rows) <= 4:
            assert len(kept) == len(rows)
            continue
        assert (rows["split"] == "test").sum() == 2
        assert (rows["split"] == "validation").sum() == 2
        assert kept["timestamp"].max() <= rows[rows["split"] == "validation"]["timestamp"].min()
        assert (
            rows[rows["split"] == "validation"]["timestamp"].max()
            <= rows[rows["split"] == "test"]["timestamp"].min()
        )


def test_temporal_trains_on_the_past(ratings):
    split = split_ratings(
        ratings, SplitSettings(method="temporal", test=0.2, validation=0.1)
    ).toPandas()
    times = split.groupby("split")["timestamp"]
    assert times.max()["train"] < times.min()["validation"]
    assert times.max()["validation"] < times.min()["test"]
    assert abs((split["split"] == "test").mean() - 0.2) < 0.01


def test_time_needs_timestamps(ratings):
    without = ratings.withColumn("timestamp", F.lit(None).cast("long"))
    with pytest.raises(DataError, match=r"leave_last.*set data.columns.timestamp"):
        split_ratings(without, SplitSettings(method="leave_last"))


def test_folds_cover_everything_once(ratings):
    counts = ratings.groupBy(fold(0, 5).alias("fold")).count().collect()
    assert sorted(row["fold"] for row in counts) == [0, 1, 2, 3, 4]
    n = ratings.count()
    assert all(abs(row["count"] - n / 5) < 0.1 * n / 5 for row in counts)
