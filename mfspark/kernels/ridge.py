"""The ridge problem of one row, by the method that suits it; all of it compiled.

primal     d equations, from the Gram matrix of the row's features
dual       n equations, for a row with few ratings
in double  when single precision meets a matrix that is near singular

Arguments that all share: ``rated`` int32 [n], the fixed rows that were rated; ``ratings`` float32
[n]; ``fixed`` and ``bias``, the parts of a :class:`~mfspark.kernels.arrays.AlignedRows`; ``out``
float32 [rank + 1], the solution.
"""

import numpy as np

from mfspark.kernels.arrays import LANES
from mfspark.kernels.compiled import jit
from mfspark.kernels.products import BORDER, add_border, add_products, factor
from mfspark.kernels.vectors import prefetch

# Ratings gathered at a time: few enough to stay in the first-level cache.
TILE = 64
# Ratings between the fetch of a fixed row and its use.
AHEAD = 32
_EPSILON = np.float32(np.finfo(np.float32).eps)
# With fewer ratings than factors some pivots are nothing but the weight, beside what rounding left
# of the largest one: below this share of it a row is solved in double.
LEAST_WEIGHT = np.float32(1e-3)
# Of a pivot in double: less is taken for rounding of the float32 features.
_LEAST_LEFT = 1e-9


@jit
def _padded(n):  # type: ignore[no-untyped-def]
    return (n + LANES - 1) // LANES * LANES


@jit
def row_sums(columns, start, end, ratings, fixed, bias, mean, tile, gram, border):  # type: ignore[no-untyped-def]
    """Set gram to Σ q qᵀ (upper triangle), border to [Σ q, Σ q·target]; returns Σ target.

    The row has rated columns[start:end]. The gathered rows are [q, zeros to a multiple of 16, 1,
    target]. While one is gathered, a later one starts on its way to the cache, be it for the next
    rows of the block: with a fixed side beyond the cache this saves nearly half of the time.
    """
    width, last = fixed.shape[1], len(columns) - 1
    rated = columns[start:end]
    gram[:, :] = 0
    border[:, :] = 0
    total = 0.0
    for first in range(0, len(rated), TILE):
        n = min(TILE, len(rated) - first)
        for t in range(n):
            later = columns[min(start + first + t + AHEAD, last)]
            for f in range(0, width, LANES):
                prefetch(fixed, later * width + f)
            prefetch(bias, later)
            source, row = fixed[rated[first + t]], tile[t]
            for f in range(width):
                row[f] = source[f]
            target = ratings[first + t] - mean - bias[rated[first + t]]
            row[width] = 1
            row[width + 1] = target
            total += target
        add_products(tile, n, width, gram)
        add_border(tile, n, width, border)
    return total


@jit
def add_weight(gram, rank, weight):  # type: ignore[no-untyped-def]
    """Add the weight to the diagonal of gram[:rank, :rank]; returns the largest number on it."""
    largest = np.float32(0)
    for f in range(rank):
        gram[f, f] += weight
        largest = max(largest, gram[f, f])
    return largest


@jit
def solve_primal(  # type: ignore[no-untyped-def]
    gram, border, total, n, weight, bias_weight, fit_biases, out
):
    """Solve the normal equations; returns False, with out undefined, when they are near singular.

    The bias is eliminated last: with gram = UᵀU and z₁, z₂ the forward substitutions of Σ q and
    Σ q·target, it is b = (Σ target − z₁·z₂) / (n + λ_b − z₁·z₁), and then U p = z₂ − b z₁.
    """
    rank = len(out) - 1
    largest = add_weight(gram, rank, weight)
    if n < rank and weight < LEAST_WEIGHT * largest:
        return False
    if not _factor_with(gram, border, rank):
        return False
    bias = np.float32(0)
    if fit_biases:
        pivot = np.float64(n) + bias_weight
        smallest = 8 * _EPSILON * pivot
        for f in range(rank):
            pivot -= np.float64(border[0, f]) * border[0, f]
            total -= np.float64(border[0, f]) * border[1, f]
        if not pivot > smallest:
            return False
        bias = np.float32(total / pivot)
        for f in range(rank):
            border[1, f] -= bias * border[0, f]
    _substitute_back(gram, border[1], rank)
    out[:rank] = border[1, :rank]
    out[rank] = bias
    return True


@jit
def draw_primal(gram, border, total, n, ridge, shift, noise, out):  # type: ignore[no-untyped-def]
    """As solve_primal, with a full ridge matrix, ``shift`` added to the right-hand side, and
    ``noise`` added to the forward substitutions: out = R⁻¹ (R⁻ᵀ c + noise) where A = Rᵀ R."""
    rank = len(out) - 1
    for f in range(rank):
        for g in range(f, rank):
            gram[f, g] += ridge[f, g]
        border[0, f] += ridge[f, rank]
        border[1, f] += shift[f]
    if not _factor_with(gram, border, rank):
        return False
    pivot = np.float64(n) + ridge[rank, rank]
    smallest = 8 * _EPSILON * pivot
    total += shift[rank]
    for f in range(rank):
        pivot -= np.float64(border[0, f]) * border[0, f]
        total -= np.float64(border[0, f]) * border[1, f]
    if not pivot > smallest:
        return False
    bias = np.float32(total / pivot + noise[rank] / np.sqrt(pivot))
    for f in range(rank):
        border[1, f] += noise[f] - bias * border[0, f]
    _substitute_back(gram, border[1], rank)
    out[:rank] = border[1, :rank]
    out[rank] = bias
    return True


@jit
def draw_in_double(rated, ratings, fixed, bias, ridge, shift, noise, out):  # type: ignore[no-untyped-def]
    """As draw_primal, in float64; slow, and rare."""
    moments = _moments_of(rated, ratings, fixed, bias, 0.0, len(out) - 1)
    draw_moments(moments, ridge, shift, noise, out)


@jit
def draw_moments(moments, ridge, shift, noise, out):  # type: ignore[no-untyped-def]
    """Draw a row from its moments; ``ridge`` and ``shift`` float64."""
    size = len(out)
    system = moments[:size, :size] + ridge
    upper = np.linalg.cholesky(system).T.copy()
    center = np.linalg.solve(system, moments[:size, size] + shift)
    out[:] = center + np.linalg.solve(upper, noise.astype(np.float64))


@jit
def solve_dual(rated, ratings, fixed, bias, mean, weight, bias_weight, fit_biases, out):  # type: ignore[no-untyped-def]
    """Solve n equations for n ratings in place of rank equations; returns False as the primal.

    With features F [n, d] and ridge D, x = D⁻¹ Fᵀ a where (F D⁻¹ Fᵀ + I) a = target.
    """
    n, rank = len(rated), len(out) - 1
    width = _padded(n)
    features = np.zeros((rank, width), np.float32)
    border = np.zeros((BORDER, width), np.float32)
    scale = 1 / np.sqrt(weight)
    for t in range(n):
        source = fixed[rated[t]]
        for f in range(rank):
            features[f, t] = source[f] * scale
        border[1, t] = ratings[t] - mean - bias[rated[t]]
    kernel = np.zeros((width, width + LANES), np.float32)
    add_products(features, rank, width, kernel)
    for t in range(n):
        if fit_biases:
            for other in range(t, n):
                kernel[t, other] += 1 / bias_weight
        kernel[t, t] += 1
    if not _factor_with(kernel, border, n):
        return False
    _substitute_back(kernel, border[1], n)
    for f in range(rank):
        total = np.float32(0)
        for t in range(n):
            total += features[f, t] * border[1, t]
        out[f] = total * scale
    out[rank] = np.sum(border[1, :n]) / bias_weight if fit_biases else np.float32(0)
    return True


@jit
def _factor_with(matrix, border, n):  # type: ignore[no-untyped-def]
    """Factor matrix[:n, :n] and replace the rows b of border by U⁻ᵀ b."""
    width = border.shape[1]
    for i in range(width):
        # The places that pad n to whole vectors become equations x = 0.
        if i >= n:
            matrix[i, i] = 1
        for b in range(BORDER):
            matrix[i, width + b] = border[b, i]
    if not factor(matrix, np.empty((LANES, LANES), np.float32)):
        return False
    for i in range(n):
        for b in range(BORDER):
            border[b, i] = matrix[i, width + b]
    return True


@jit
def _substitute_back(upper, b, n):  # type: ignore[no-untyped-def]
    """Replace b by U⁻¹ b."""
    for i in range(n - 1, -1, -1):
        known, row = b[i + 1 : n], upper[i, i + 1 : n]
        total = b[i]
        for j in range(len(known)):
            total -= row[j] * known[j]
        b[i] = total / upper[i, i]


@jit
def solve_in_double(rated, ratings, fixed, bias, mean, weight, bias_weight, fit_biases, out):  # type: ignore[no-untyped-def]
    """Solve one row in float64; slow, and rare."""
    moments = _moments_of(rated, ratings, fixed, bias, mean, len(out) - 1)
    solve_moments(moments, weight, bias_weight, fit_biases, out)


@jit
def _moments_of(rated, ratings, fixed, bias, mean, rank):  # type: ignore[no-untyped-def]
    """Σ v vᵀ over the ratings of a row, v = [q, 1, target]; float64 [rank + 2, rank + 2]."""
    sums = np.zeros((rank + 2, rank + 2))
    row = np.ones(rank + 2)
    for t in range(len(rated)):
        source = fixed[rated[t]]
        for f in range(rank):
            row[f] = source[f]
        row[rank + 1] = np.float64(ratings[t]) - mean - bias[rated[t]]
        for f in range(rank + 2):
            for g in range(rank + 2):
                sums[f, g] += row[f] * row[g]
    return sums


@jit
def solve_moments(moments, weight, bias_weight, fit_biases, out):  # type: ignore[no-untyped-def]
    """Solve a row from its moments, if need be with the least extra ridge that works."""
    rank = len(out) - 1
    n_features = rank + 1 if fit_biases else rank
    if _solve_regular(moments, weight, bias_weight, n_features, out):
        return
    gram = moments[:n_features, :n_features]
    # Rounding of the float32 features is 1e-7 of the trace: no smaller ridge can help.
    jitter, step = 0.0, max(1e-7 * np.trace(gram), 1e-30)
    while True:
        system = gram.copy()
        for f in range(n_features):
            system[f, f] += jitter + (weight if f < rank else bias_weight)
        if np.linalg.cond(system) < 1e12:
            break
        jitter = max(10 * jitter, step)
    out[:n_features] = np.linalg.solve(system, moments[:n_features, rank + 1].copy())


@jit
def _solve_regular(moments, weight, bias_weight, n_features, out):  # type: ignore[no-untyped-def]
    """Solve a row from its moments; returns False, with out undefined, when they are near
    singular."""
    rank = len(out) - 1
    # The right-hand side as one more column: factored, it has been substituted forward.
    upper = np.empty((n_features, n_features + 1))
    for f in range(n_features):
        upper[f, :n_features] = moments[f, :n_features]
        upper[f, n_features] = moments[f, rank + 1]
        upper[f, f] += weight if f < rank else bias_weight
    least = _LEAST_LEFT * np.diag(upper)
    for i in range(n_features):
        if not upper[i, i] > least[i]:
            return False
        upper[i, i:] /= np.sqrt(upper[i, i])
        for j in range(i + 1, n_features):
            source, target, times = upper[i, j:], upper[j, j:], upper[i, j]
            for g in range(len(target)):
                target[g] -= times * source[g]
    for i in range(n_features - 1, -1, -1):
        total = upper[i, n_features]
        for j in range(i + 1, n_features):
            total -= upper[i, j] * upper[j, n_features]
        upper[i, n_features] = total / upper[i, i]
        out[i] = upper[i, n_features]
    return True
