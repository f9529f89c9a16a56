"""Ratings in tables of Spark's catalog."""

import pandas as pd
import pytest

from mfspark.data.read import read_catalog_ratings
from mfspark.data.source import ColumnMapping
from mfspark.errors import DataError

COLUMNS = ColumnMapping(user="customer", item="product", rating="stars", timestamp="at")


@pytest.fixture(scope="module")
def table(spark):
    """A table with partitions by day."""
    spark.sql("CREATE DATABASE IF NOT EXISTS shop")
    rows = pd.DataFrame(
        {
            "customer": ["a", "a", "b"],
            "product": [1, 2, 1],
            "stars": [4.5, None, 3.0],
            "at": pd.to_datetime(["2026-01-01", "2026-01-02", "2026-01-02"]),
            "day": ["2026-01-01", "2026-01-02", "2026-01-02"],
        }
    )
    spark.createDataFrame(rows).write.partitionBy("day").saveAsTable("shop.ratings")
    yield "shop.ratings"
    spark.sql("DROP DATABASE shop CASCADE")


def test_rows_come_as_they_are(spark, table):
    raw = read_catalog_ratings(spark, table, None, COLUMNS)
    assert raw.table.columns == ["user", "item", "rating", "timestamp", "origin", "malformed"]
    found = raw.table.orderBy("user", "item").toPandas()
    assert list(found["user"]) == ["a", "a", "b"]
    assert list(found["origin"].unique()) == [table]
    assert raw.has_timestamps


def test_a_condition_on_a_partition_reads_those_partitions(spark, table):
    raw = read_catalog_ratings(spark, f"spark_catalog.{table}", "day >= '2026-01-02'", COLUMNS)
    assert raw.table.count() == 2
    plan = raw.table._jdf.queryExecution().toString()
    assert "PartitionFilters: [isnotnull(day" in plan


@pytest.mark.parametrize(
    ("name", "condition", "columns", "message"),
    [
        ("shop.nothing", None, COLUMNS, "table shop.nothing cannot be read .*check data.table"),
        ("shop.ratings", "weekday = 1", COLUMNS, "cannot be read .*weekday"),
        ("shop.ratings", "day =", COLUMNS, "cannot be read .*data.table_filter"),
        (
            "shop.ratings",
            None,
            ColumnMapping(),
            "has no column 'user' .* data.columns.user=customer",
        ),
    ],
)
def test_errors_say_what_to_do(spark, table, name, condition, columns, message):
    with pytest.raises(DataError, match=message):
        read_catalog_ratings(spark, name, condition, columns)
