"""The ridge problem of one row by conjugate gradients; compiled.

With features v = [q, 1], ridge D and targets t = r − μ − b, the row x = [p, b_u] solves
A x = Σ v t, A = Σ v vᵀ + D (Hestenes and Stiefel, Methods of conjugate gradients for solving linear
systems, 1952). A product A·y is taken rating by rating, Σ v (v·y), so that A is never formed: a
step costs 4·n·d operations for n ratings and d features, where forming and factoring A costs n·d² +
d³/3. The steps needed hardly depend on d, since the ridge bounds the spread of the eigenvalues.
"""

import numpy as np

from mfspark.kernels.arrays import LANES
from mfspark.kernels.compiled import jit
from mfspark.kernels.vectors import add_rows, dots, prefetch

# Vectors of the length of a row that ``solve_by_cg`` works with, by their number.
N_VECTORS = 4
_X, _RESIDUAL, _DIRECTION, _IMAGE = range(N_VECTORS)
# Ratings are taken by so many.
N_AT_ONCE = 4
# Ratings between the fetch of a fixed row and its use.
_AHEAD = 16
# |A x − Σ v t| in parts of |Σ v t| at which the steps end, and how many there are at most.
_TOLERANCE = 1e-3
_MOST_STEPS, _RANK_PER_STEP = 16, 4


@jit
def solve_by_cg(  # type: ignore[no-untyped-def]
    columns, start, end, values, fixed, bias, mean, weight, bias_weight, fit_biases,
    vectors, left, along, out,
):  # fmt: skip
    """Solve the row of the ratings ``start`` to ``end``; returns Σ (r − r̂)², or −1, with ``out``
    undefined, where so many steps do not suffice.

    ``vectors`` float32 [4, width], zeros behind the rank; ``left`` and ``along`` float32
    [≥ ratings + 4]: scratch. Other arguments as in :mod:`mfspark.kernels.ridge`.
    """
    rank, n = len(out) - 1, end - start
    vectors[:, :] = 0
    total = _begin(columns, start, end, values, fixed, bias, mean, left, vectors)
    own_residual = total if fit_biases else 0.0
    own, own_direction, square = 0.0, own_residual, own_residual * own_residual
    for f in range(rank):
        vectors[_DIRECTION, f] = vectors[_RESIDUAL, f]
        square += np.float64(vectors[_RESIDUAL, f]) * vectors[_RESIDUAL, f]
    enough = square * _TOLERANCE * _TOLERANCE
    # So many that their time is about that of the exact solution, which takes their place then.
    most, step = max(_MOST_STEPS, rank // _RANK_PER_STEP), 0
    while square > enough:
        step += 1
        if step > most:
            return -1.0
        vectors[_IMAGE, :] = 0
        own_image = _apply(columns, start, end, fixed, np.float32(own_direction), along, vectors)
        own_image += bias_weight * own_direction
        curvature = own_image * own_direction if fit_biases else 0.0
        for f in range(rank):
            vectors[_IMAGE, f] += weight * vectors[_DIRECTION, f]
            curvature += np.float64(vectors[_IMAGE, f]) * vectors[_DIRECTION, f]
        if not curvature > 0:
            return -1.0
        length = square / curvature
        length_32 = np.float32(length)
        before, square = square, 0.0
        for f in range(rank):
            vectors[_X, f] += length_32 * vectors[_DIRECTION, f]
            vectors[_RESIDUAL, f] -= length_32 * vectors[_IMAGE, f]
            square += np.float64(vectors[_RESIDUAL, f]) * vectors[_RESIDUAL, f]
        if fit_biases:
            own += length * own_direction
            own_residual -= length * own_image
            square += own_residual * own_residual
        for t in range(n):
            left[t] -= length_32 * along[t]
        ratio = square / before
        ratio_32 = np.float32(ratio)
        for f in range(rank):
            vectors[_DIRECTION, f] = vectors[_RESIDUAL, f] + ratio_32 * vectors[_DIRECTION, f]
        own_direction = own_residual + ratio * own_direction
    for f in range(rank):
        out[f] = vectors[_X, f]
    out[rank] = own
    total = 0.0
    for t in range(n):
        total += np.float64(left[t]) * left[t]
    return total


@jit
def _begin(columns, start, end, values, fixed, bias, mean, left, vectors):  # type: ignore[no-untyped-def]
    """left = targets, residual += Σ q target; returns Σ target."""
    width, last = fixed.shape[1], len(columns) - 1
    total = 0.0
    for t in range(end - start):
        left[t] = values[start + t] - mean - bias[columns[start + t]]
        total += left[t]
    for t in range(N_AT_ONCE):
        left[end - start + t] = 0
    for at in range(start, end, N_AT_ONCE):
        for ahead in range(N_AT_ONCE):
            later = columns[min(at + _AHEAD + ahead, last)]
            for f in range(0, width, LANES):
                prefetch(fixed, later * width + f)
        a, b, c, d = _four(columns, at, end)
        t = at - start
        weights = (left[t], left[t + 1], left[t + 2], left[t + 3])
        add_rows(fixed, a, b, c, d, vectors, _RESIDUAL, weights)
    return total


@jit
def _apply(columns, start, end, fixed, own, along, vectors):  # type: ignore[no-untyped-def]
    """along = v·direction, image += Σ along q; returns Σ along."""
    total = 0.0
    for at in range(start, end, N_AT_ONCE):
        a, b, c, d = _four(columns, at, end)
        found = dots(fixed, a, b, c, d, vectors, _DIRECTION)
        t = at - start
        for k in range(N_AT_ONCE):
            along[t + k] = found[k] + own if at + k < end else np.float32(0)
            total += along[t + k]
        weights = (along[t], along[t + 1], along[t + 2], along[t + 3])
        add_rows(fixed, a, b, c, d, vectors, _IMAGE, weights)
    return total


@jit
def _four(columns, at, end):  # type: ignore[no-untyped-def]
    """Columns of four ratings from ``at`` on; the last one again where there are fewer."""
    last = end - 1
    return (
        columns[at],
        columns[min(at + 1, last)],
        columns[min(at + 2, last)],
        columns[min(at + 3, last)],
    )
