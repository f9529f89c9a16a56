"""Rows of one table together with whole other tables: both travel as cells, the others by
broadcast."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.columns import BIAS, COLD_BIAS, FACTORS, N_RATINGS
from mfspark.engine.cells import from_cell, packs, to_cell, values
from mfspark.kernels.arrays import Float32s
from mfspark.kernels.predict import ModelRows

# A cell is worth its overhead, and a task can hold one beside the model.
_CELL_BYTES = 32 * 2**20


def with_tables(rows: DataFrame, tables: list[DataFrame]) -> DataFrame:
    """The rows of each partition as some cells, and beside the first of them each whole table.

    ``tables`` are broadcast, so they must be small. :func:`read` takes the cells apart again.
    """
    result = rows.mapInArrow(_pack, "number int, cell binary")
    for n, table in enumerate(tables):
        packed = table.repartition(1).mapInArrow(_pack_all, f"table{n} binary")
        result = result.crossJoin(F.broadcast(packed))
    # Once per partition is enough, and many copies could overflow an Arrow array (2 GiB).
    is_first = F.col("number") == 0
    return result.select(
        "cell", *[F.when(is_first, F.col(f"table{n}")) for n in range(len(tables))]
    )


def read(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[pa.Table, list[pa.Table]]]:
    """(rows, tables) of each cell of a partition; the tables are the same objects each time."""
    tables: list[pa.Table] = []
    for batch in batches:
        for cell, *beside in zip(*map(values, batch.columns), strict=True):
            if beside[0]:
                tables = [from_cell(part).combine_chunks() for part in beside]
            yield from_cell(cell).combine_chunks(), tables


def _pack(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    tables = packs(batches, _CELL_BYTES, lambda batch: int(batch.nbytes))
    for number, table in enumerate(tables):
        yield pa.RecordBatch.from_arrays(
            [pa.array([number], pa.int32()), pa.array([to_cell(table)])], names=["number", "cell"]
        )


def _pack_all(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    parts = list(batches)
    if parts:
        table = pa.Table.from_batches(parts)
        # A fixed order decides ties between equal scores.
        ordered = table.sort_by(table.column_names[0])
        yield pa.RecordBatch.from_arrays([pa.array([to_cell(ordered)])], names=["table"])


def model_rows(table: pa.Table, rank: int) -> ModelRows:
    """The rows of a factor table; without cold biases of their own they have ratings and one bias
    for all ids."""
    flat = table[FACTORS].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    factors: Float32s = flat.reshape(table.num_rows, rank).astype(np.float32, copy=False)
    bias: Float32s = table[BIAS].to_numpy().astype(np.float32, copy=False)
    if COLD_BIAS not in table.column_names:
        return ModelRows(factors, bias, bias, np.ones(len(bias), np.bool_))
    cold_bias: Float32s = table[COLD_BIAS].to_numpy().astype(np.float32, copy=False)
    return ModelRows(factors, bias, cold_bias, table[N_RATINGS].to_numpy() > 0)
