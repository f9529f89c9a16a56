"""What each rating of a row has moved in its solution.

With the fixed rows X [n, k] of the rated items, their ratings y less all that is not solved for,
and the penalty z D zᵀ, the ridge solution z = (XᵀX + D)⁻¹ Xᵀ y is a sum over the ratings: rating j
adds y_j (XᵀX + D)⁻¹ x_j. A prediction z·x for any x is the sum of these parts' products with x.
"""

import numpy as np

from mfspark.kernels.arrays import Float64s


def solution_parts(fixed: Float64s, targets: Float64s, penalty: Float64s) -> Float64s:
    """What each rating adds to the ridge solution, float64 [n, k]; their sum is the solution.

    ``fixed``: X float64 [n, k]; ``targets``: y float64 [n]; ``penalty``: D float64 [k, k],
    symmetric and positive semi-definite. Directions that neither ratings nor penalty know are zero.
    """
    k = fixed.shape[1]
    assert fixed.shape == (len(targets), k)
    assert penalty.shape == (k, k)
    inverse = np.linalg.pinv(fixed.T @ fixed + penalty, hermitian=True)
    parts: Float64s = targets[:, None] * (fixed @ inverse)
    return parts
