"""A factor table in other coordinates."""

from collections.abc import Iterator
from functools import partial

import pyarrow as pa
from pyspark.sql import DataFrame

from mfspark.columns import FACTORS
from mfspark.kernels.arrays import Float64s
from mfspark.models.list_columns import lists_of, matrix_of


def turned_factors(table: DataFrame, matrix: Float64s) -> DataFrame:
    """``table`` with each row of factors times ``matrix``, float64 [rank, rank]; the factors stand
    in the last column."""
    ordered = table.select(*[name for name in table.columns if name != FACTORS], FACTORS)
    return ordered.mapInArrow(partial(_turn, matrix=matrix), ordered.schema)


def _turn(batches: Iterator[pa.RecordBatch], matrix: Float64s) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        rows = matrix_of(batch.columns[-1], len(matrix)) @ matrix
        columns = [*batch.columns[:-1], lists_of(rows)]
        yield pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
