"""Factors of some rows as they stand in Arrow, lists of one length, and as a matrix."""

import numpy as np
import pyarrow as pa

from mfspark.kernels.arrays import Float32s, Float64s


def matrix_of(lists: pa.ListArray, length: int) -> Float64s:
    """float64 [n, length]."""
    flat = lists.flatten().to_numpy(zero_copy_only=False)
    matrix: Float64s = flat.astype(np.float64).reshape(len(lists), length)
    return matrix


def lists_of(rows: Float32s | Float64s) -> pa.ListArray:
    """list<float>, a list for each row of a matrix [n, length]."""
    ends = np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1]
    return pa.ListArray.from_arrays(ends, np.ascontiguousarray(rows, np.float32).ravel())
