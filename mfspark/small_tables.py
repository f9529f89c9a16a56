"""Tables of a few rows that the driver has made, such as the figures of a report."""

from collections.abc import Sequence
from typing import Any, cast

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructType


def table_of(
    spark: SparkSession, rows: Sequence[Sequence[Any]], schema: str | StructType
) -> DataFrame:
    """``rows`` of Python or NumPy values as a table of that schema, in their order.

    They go by way of Arrow. ``createDataFrame`` of a list has a Python worker pickle them, which is
    forked by a daemon that no other task of Spark SQL uses: seconds for the first few rows.
    """
    kinds = cast(StructType, StructType.fromDDL(schema)) if isinstance(schema, str) else schema
    fields = to_arrow_schema(kinds)
    columns = zip(*rows, strict=True) if rows else [[] for _ in fields]
    arrays = [
        pa.array(list(column), field.type) for column, field in zip(columns, fields, strict=True)
    ]
    # Spark Connect infers nothing from a table without rows.
    return spark.createDataFrame(pa.Table.from_arrays(arrays, schema=fields), kinds)
