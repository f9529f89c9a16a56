"""Products of a sparse matrix of features with dense rows."""

import numpy as np

from mfspark.kernels.arrays import Float32s
from mfspark.kernels.compiled import jit
from mfspark.kernels.csr import Csr


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
