"""A factor table in other coordinates."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from mfspark.columns import FACTORS
from mfspark.kernels.arrays import Float64s


def turned_factors(table: DataFrame, matrix: Float64s) -> DataFrame:
    """``table`` with each row of factors times ``matrix``, float64 [rank, rank]; the factors stand
    in the last column."""
    ordered = table.select(*[name for name in table.columns if name != FACTORS], FACTORS)
    return ordered.mapInArrow(partial(_turn, matrix=matrix), ordered.schema)


def _turn(batches: Iterator[pa.RecordBatch], matrix: Float64s) -> Iterator[pa.RecordBatch]:
    rank = len(matrix)
    for batch in batches:
        flat = batch.columns[-1].flatten().to_numpy(zero_copy_only=False)
        rows = (flat.astype(np.float64).reshape(batch.num_rows, rank) @ matrix).astype(np.float32)
        ends = np.arange(batch.num_rows + 1, dtype=np.int32) * rank
        columns = [*batch.columns[:-1], pa.ListArray.from_arrays(ends, rows.ravel())]
        yield pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
