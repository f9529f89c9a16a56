"""Varimax (Kaiser 1958): the orthogonal rotation after which each row has few large loadings."""

import numpy as np

from mfspark.kernels.arrays import Float64s

_PASSES, _LEAST_GAIN = 500, 1e-9


def varimax(loadings: Float64s) -> Float64s:
    """R, float64 [k, k] with Rᵀ R = 1, for which Σ_f var_i((A R)²_if) is as large as passes from
    R = 1 find it; A: ``loadings`` float64 [n, k].

    Each pass takes the rotation nearest to the gradient (its singular value decomposition), which
    raises the sum until it stays.
    """
    n, k = loadings.shape
    rotation: Float64s = np.eye(k)
    if not n or k < 2:
        return rotation
    before = 0.0
    for _ in range(_PASSES):
        rotated = loadings @ rotation
        gradient = loadings.T @ (rotated**3 - rotated * np.square(rotated).mean(axis=0))
        left, values, right = np.linalg.svd(gradient)
        rotation = left @ right
        total = float(values.sum())
        if total <= before * (1 + _LEAST_GAIN):
            break
        before = total
    return rotation
