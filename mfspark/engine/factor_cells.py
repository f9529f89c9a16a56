"""The wire format of factors: all rows of a block as one binary value of a table, a *cell*.

A cell of ALS holds rows [factors, bias], one of SGD rows [factors, bias, G of the factors, G of the
bias, n_ratings], float32. Beside it travel ``sums`` for the driver. A cell that is null says that
the task found no file of its block on its node (see :mod:`mfspark.engine.block_files`).
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from mfspark.columns import Side
from mfspark.engine.cells import kept_values
from mfspark.kernels.arrays import Float32s, Float64s

# What a half-step makes of each block: its number, its rows, and what the driver wants: the sums of
# the pass, and the moments of the block's shares in hot rows, float64 [2, n_hot, rank + 2,
# rank + 2] (training, validation). The schema is narrow because Spark's driver spends a millisecond
# or two on each column of a plan.
FACTORS_SCHEMA = "number int, rows binary, sums array<double>, hot binary"
# What of it the next half-step is given.
FACTORS = ("number", "rows")

# The parameters of SGD, both sides in one table. ``sums``: of a stratum [Σ e², n] beside the users,
# and the penalty beside both.
PARAMETERS_SCHEMA = "side string, number int, rows binary, sums array<double>"
PARAMETERS = ("side", "number", "rows")
_BESIDE_FACTORS = 4


def factors_cell(
    block: int,
    rows: Float32s | None = None,
    sums: list[float] | None = None,
    hot: Float64s | None = None,
) -> pa.RecordBatch:
    """One row of ``FACTORS_SCHEMA``; null without ``rows``, float32 [n, rank + 1]."""
    return pa.RecordBatch.from_arrays(
        [
            pa.array([block], pa.int32()),
            pa.array([None if rows is None else _bytes(rows)], pa.binary()),
            pa.array([sums], pa.list_(pa.float64())),
            pa.array([None if hot is None else hot.tobytes()], pa.binary()),
        ],
        names=["number", "rows", "sums", "hot"],
    )


def parameters_cell(
    side: Side, block: int, rows: Float32s | None = None, sums: list[float] | None = None
) -> pa.RecordBatch:
    """One row of ``PARAMETERS_SCHEMA``; null without ``rows``, float32 [n, rank + 4]."""
    return pa.RecordBatch.from_arrays(
        [
            pa.array([str(side)]),
            pa.array([block], pa.int32()),
            pa.array([None if rows is None else _bytes(rows)], pa.binary()),
            pa.array([sums], pa.list_(pa.float64())),
        ],
        names=["side", "number", "rows", "sums"],
    )


def _bytes(rows: Float32s) -> bytes:
    return rows.astype(np.float32, copy=False).tobytes()


def factor_rows(
    column: pa.Array | pa.ChunkedArray, rank: int, dtype: type = np.float32
) -> list[Float32s]:
    """The rows in each cell of a column, [n, rank + 1] of ``dtype``, without a copy. Raises
    ``LostCellError`` for null."""
    return list(_matrices(column, rank + 1, dtype))


def parameter_rows(column: pa.Array | pa.ChunkedArray, rank: int) -> list[Float32s]:
    """As ``factor_rows``, for cells of SGD: float32 [n, rank + 4]."""
    return list(_matrices(column, rank + _BESIDE_FACTORS, np.float32))


def _matrices(column: pa.Array | pa.ChunkedArray, width: int, dtype: type) -> Iterator[Float32s]:
    for cell in kept_values(column):
        yield np.frombuffer(cell, dtype).reshape(-1, width)
