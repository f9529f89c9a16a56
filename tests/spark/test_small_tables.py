"""Tables of a few rows of the driver."""

import math
from datetime import date
from decimal import Decimal

import numpy as np
from pyspark.sql.types import IntegerType, StructField, StructType

from mfspark.small_tables import table_of

SCHEMA = (
    "small int, name string, flag boolean, number double, big long, numbers array<double>, "
    "day date, exact decimal(9,2)"
)
ROWS = [
    (1, "ü", True, 0.5, 2**40, [1.0, 2.0], date(2024, 2, 29), Decimal("1.25")),
    (2, None, None, None, None, None, None, None),
    (np.int64(3), "", np.True_, np.float64(4), np.int64(5), [], date(1, 1, 1), Decimal("-0.01")),
]


def test_rows_are_those_of_a_table_made_of_the_list(spark):
    found = table_of(spark, ROWS, SCHEMA)
    expected = spark.createDataFrame([[*map(as_python, row)] for row in ROWS], SCHEMA)
    assert found.schema == expected.schema
    assert found.collect() == expected.collect()


def as_python(value):
    return value.item() if isinstance(value, np.generic) else value


def test_no_rows_nan_and_whole_numbers_for_doubles(spark):
    assert table_of(spark, [], SCHEMA).schema == spark.createDataFrame([], SCHEMA).schema
    assert table_of(spark, [], SCHEMA).count() == 0
    kind = StructType([StructField("n", IntegerType())])
    assert table_of(spark, [(7,)], kind).first() == (7,)
    rows = table_of(spark, [(math.nan,), (3,)], "x double").collect()
    assert math.isnan(rows[0][0])
    assert rows[1][0] == 3.0
