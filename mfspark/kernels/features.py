"""Products of a sparse matrix of features with dense rows, and what these leave of ratings."""

import numpy as np

from mfspark.kernels.arrays import AlignedRows, Float32s
from mfspark.kernels.compiled import jit
from mfspark.kernels.csr import Csr
from mfspark.kernels.vectors import dot


def feature_sums(features: Csr, dense: Float32s) -> Float32s:
    """F·D, float32 [n_rows, n]: of each row of ``features`` Σ_j f_j · (row j of ``dense``).

    ``dense`` float32 [n_features, n], C-contiguous. Cost: 2·n operations per entry.
    """
    features.check()
    assert dense.ndim == 2
    assert dense.dtype == np.float32
    assert dense.flags.c_contiguous
    sums = np.zeros((features.n_rows, dense.shape[1]), np.float32)
    _add_feature_sums(*features, dense, sums)
    return sums


@jit
def _add_feature_sums(indptr, columns, values, dense, sums):  # type: ignore[no-untyped-def]
    for row in range(len(indptr) - 1):
        out = sums[row]
        for entry in range(indptr[row], indptr[row + 1]):
            value, feature = values[entry], dense[columns[entry]]
            for place in range(len(out)):
                out[place] += value * feature[place]


def less_offsets(ratings: Csr, fixed: AlignedRows, offsets: Float32s) -> Float32s:
    """r − o·q − o_b of the entries of these rows, float32 [n_entries].

    ``offsets`` float32 [n_rows, rank + 1] has [o, o_b] of each row, ``fixed`` the q that the
    columns refer to. Cost: 2·rank operations per entry.
    """
    ratings.check()
    fixed.check()
    assert offsets.shape == (ratings.n_rows, fixed.rank + 1)
    assert offsets.dtype == np.float32
    rest = np.empty(ratings.n_entries, np.float32)
    _subtract_offsets(*ratings, fixed.factors, offsets, rest)
    return rest


@jit
def _subtract_offsets(indptr, columns, values, fixed, offsets, rest):  # type: ignore[no-untyped-def]
    rank, first = offsets.shape[1] - 1, indptr[0]
    padded = np.zeros((1, fixed.shape[1]), np.float32)
    for row in range(len(indptr) - 1):
        padded[0, :rank] = offsets[row, :rank]
        for entry in range(indptr[row], indptr[row + 1]):
            product = dot(fixed, columns[entry], padded, 0)
            rest[entry - first] = values[entry] - offsets[row, rank] - product
