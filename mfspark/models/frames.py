"""DataFrames of pandas where those of Spark are asked for, and ratings out of Spark's plans."""

import threading
from typing import Any

import pandas as pd
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from mfspark.engine.machine import is_connect
from mfspark.errors import DataError
from mfspark.spark_errors import SPARK_ERRORS

# Up to here a table is quickest as a part of the plan.
_FEW_BYTES = 2**18
_THRESHOLD = "spark.sql.execution.arrow.localRelationThreshold"
_changing = threading.Lock()


class FitsFrames:
    """An estimator whose ``fit`` takes a DataFrame of Spark or of pandas."""

    def fit(self, dataset: Any, params: Any = None) -> Any:
        """Fit to ``dataset``, a DataFrame of Spark or of pandas; ``params``: as in pyspark.ml."""
        return super().fit(spark_frame(dataset), params)  # type: ignore[misc]


class TransformsFrames:
    """A model whose ``transform`` takes a DataFrame of Spark or of pandas."""

    def transform(self, dataset: Any, params: Any = None) -> DataFrame:
        """Predict ``dataset``, a DataFrame of Spark or of pandas; returns one of Spark."""
        found: DataFrame = super().transform(spark_frame(dataset), params)  # type: ignore[misc]
        return found


def spark_frame(dataset: Any) -> DataFrame:
    """``dataset`` as a DataFrame of Spark; its index is left out.

    Raises ``DataError`` for anything else, and for columns of mixed types.
    """
    if not isinstance(dataset, pd.DataFrame):
        # Classic and Connect have classes of their own.
        if hasattr(dataset, "sparkSession") and hasattr(dataset, "mapInArrow"):
            return dataset  # type: ignore[no-any-return]
        raise DataError(
            f"found a {type(dataset).__name__} where ratings are asked for; give a DataFrame of "
            "Spark or of pandas with columns of users, items and ratings"
        )
    categories = {
        name: kind.categories.dtype
        for name, kind in dataset.dtypes.items()
        if isinstance(kind, pd.CategoricalDtype)
    }
    try:
        table = pa.Table.from_pandas(dataset.astype(categories), preserve_index=False)
    except (pa.ArrowException, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"the pandas DataFrame cannot be handed to Spark ({reason}); make every column of one "
            'type, as with frame.astype({"user": str})'
        ) from None
    return _frame_of(table, SparkSession.builder.getOrCreate())


def with_rows_apart(table: DataFrame) -> DataFrame:
    """``table``, whose rows are on the driver as a part of its plan, with the same rows beside it.

    Spark's planner copies a plan many times for each query, and each time with all rows: of a
    million rows a query takes half a second more. On Connect, where rows that a client sends are a
    part of the plan in any case, ``table`` is returned as it is, as is one of few rows.
    """
    if is_connect(table.sparkSession):
        return table
    rows = table.toArrow()
    if rows.nbytes <= _FEW_BYTES:
        return table
    return _frame_of(rows, table.sparkSession, table.schema)


def _frame_of(rows: pa.Table, spark: SparkSession, schema: StructType | None = None) -> DataFrame:
    """``rows`` as a DataFrame, which has them beside its plan if they are many, and the session
    lets its settings be changed."""
    with _changing:
        try:
            before = str(spark.conf.get(_THRESHOLD))
            spark.conf.set(_THRESHOLD, str(_FEW_BYTES))
        except SPARK_ERRORS:
            return spark.createDataFrame(rows, schema)
        try:
            return spark.createDataFrame(rows, schema)
        finally:
            spark.conf.set(_THRESHOLD, before)
