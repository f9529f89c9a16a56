"""One half-step on one block: solve every row of the solved side, the fixed side being given.

A side is a float32 matrix [n, rank + 1] whose row is x = [factors, bias]. With the items fixed, the
row of user u minimises (Zhou et al. 2008 for the count-scaled penalty; Koren, Bell, Volinsky 2009
for the biases)

    Σ_i (r_ui − μ − b_i − p_u·q_i − b_u)² + n_u^ν (λ |p_u|² + λ_b b_u²)

which is ridge regression of r_ui − μ − b_i on the features [q_i, 1]. The item side is the mirror
image. Without biases the last column stays zero and the features are q_i alone.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np

from mfspark.kernels.csr import Csr, Float32s, Float64s, Int32s, Int64s, RatingBlock

# Ratings gathered at a time: whole vectors, and few enough to stay in the first-level cache.
_TILE = 64

# Reassociation lets sums run in vector registers; NaN and infinity keep their meaning.
_jit = numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz", "arcp"})


@dataclass(frozen=True)
class Penalty:
    """Ridge weights of one side: a row with n ratings has λ·n^ν on factors and λ_b·n^ν on bias."""

    factors: float
    bias: float
    exponent: float

    def row_weights(self, counts: Int64s) -> Float64s:
        """n^ν per row, float64; rows without ratings weigh 1, which keeps their solution zero."""
        weights: Float64s = np.maximum(counts, 1).astype(np.float64) ** self.exponent
        return weights

    def total(self, counts: Int64s, solved: Float32s) -> float:
        """Σ n^ν (λ |p|² + λ_b b²) over the rows that have ratings."""
        squares = np.square(solved, dtype=np.float64)
        per_row = self.factors * squares[:, :-1].sum(axis=1) + self.bias * squares[:, -1]
        return float(np.dot(self.row_weights(counts), per_row * (counts > 0)))


class HalfStepMetrics(NamedTuple):
    """Sums over one block after its half-step; adding them over blocks gives the global figures."""

    squared_error: float
    n_ratings: int
    penalty: float
    validation_squared_error: float
    n_validation: int


def half_step(
    block: RatingBlock, fixed: Float32s, mean: float, penalty: Penalty, fit_biases: bool
) -> tuple[Float32s, HalfStepMetrics]:
    """Solve all rows of ``block``.

    ``fixed`` float32 [len(block.needed), rank + 1] holds the fixed side's rows in the order of
    ``block.needed``. Returns the solved side float32 [n_rows, rank + 1] and its metrics. A row
    without ratings gets zeros. Cost: about n·d² + n_rows·d³/3 floating-point operations.
    """
    if fixed.shape[0] != len(block.needed):
        raise ValueError(f"got {fixed.shape[0]} fixed rows for {len(block.needed)} needed ones")
    train, validation = block.train, block.validation
    solved = solve_rows(train, fixed, mean, penalty, fit_biases)
    return solved, HalfStepMetrics(
        squared_error(*train, solved, fixed, mean),
        len(train.values),
        penalty.total(train.counts, solved),
        squared_error(*validation, solved, fixed, mean),
        len(validation.values),
    )


def solve_rows(
    train: Csr, fixed: Float32s, mean: float, penalty: Penalty, fit_biases: bool
) -> Float32s:
    """Solve the ridge problem of every row; float32 [n_rows, rank + 1]."""
    solved = np.zeros((train.n_rows, fixed.shape[1]), np.float32)
    weights = penalty.row_weights(train.counts)
    _solve_rows(
        *train,
        np.ascontiguousarray(fixed),
        np.float32(mean),
        (weights * penalty.factors).astype(np.float32),
        (weights * penalty.bias).astype(np.float32),
        fit_biases,
        solved,
    )
    return solved


@_jit
def _solve_rows(  # type: ignore[no-untyped-def]
    indptr, columns, values, fixed, mean, factor_weights, bias_weights, fit_biases, solved
):
    n_features = fixed.shape[1] if fit_biases else fixed.shape[1] - 1
    width = (n_features + 1 + 3) // 4 * 4
    tile = np.zeros((width, _TILE), np.float32)
    system = np.zeros((width, width), np.float32)
    system64 = np.zeros((width, width), np.float64)
    for row in range(len(indptr) - 1):
        start, stop = indptr[row], indptr[row + 1]
        if start == stop:
            continue
        _row_system(columns[start:stop], values[start:stop], fixed, mean, n_features, tile, system)
        _add_ridge(system, n_features, factor_weights[row], bias_weights[row], fit_biases)
        if _cholesky_solve(system, n_features):
            solved[row, :n_features] = system[:n_features, n_features]
        else:
            # Single precision met a pivot that is not positive: a nearly singular row, solved
            # again in double precision, and if need be with the least extra ridge that works.
            _solve_row_in_double(
                columns[start:stop], values[start:stop], fixed, mean, n_features, tile, system64,
                factor_weights[row], bias_weights[row], fit_biases,
            )  # fmt: skip
            solved[row, :n_features] = system64[:n_features, n_features]


@_jit
def _row_system(  # type: ignore[no-untyped-def]
    columns, values, fixed, mean, n_features, tile, system
):
    """Fill the upper triangle of system with [A | b]: A = Σ f fᵀ, b = Σ f·target in column d."""
    rank = fixed.shape[1] - 1
    system[:, :] = 0
    for first in range(0, len(columns), _TILE):
        n = min(_TILE, len(columns) - first)
        padded = (n + 15) // 16 * 16
        for t in range(n):
            source = fixed[columns[first + t]]
            for f in range(rank):
                tile[f, t] = source[f]
            # Without biases n_features == rank and the next line overwrites this one.
            tile[rank, t] = 1
            tile[n_features, t] = values[first + t] - mean - source[rank]
        tile[: n_features + 1, n:padded] = 0
        _add_products(tile, padded, system)


@_jit
def _add_products(tile, n, system):  # type: ignore[no-untyped-def]
    """Add Σ_t tile[:, t] tile[:, t]ᵀ, t < n, to the upper triangle as 4×4 squares in registers.

    Each square reads eight vectors for sixteen multiply-adds; a rank-one update per rating would
    read and write the whole system for every rating and run five times slower.
    """
    width = system.shape[0]
    for i in range(0, width, 4):
        a0, a1, a2, a3 = tile[i], tile[i + 1], tile[i + 2], tile[i + 3]
        for j in range(i, width, 4):
            b0, b1, b2, b3 = tile[j], tile[j + 1], tile[j + 2], tile[j + 3]
            s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = np.float32(0)
            s20 = s21 = s22 = s23 = s30 = s31 = s32 = s33 = np.float32(0)
            for t in range(n):
                s00 += a0[t] * b0[t]
                s01 += a0[t] * b1[t]
                s02 += a0[t] * b2[t]
                s03 += a0[t] * b3[t]
                s10 += a1[t] * b0[t]
                s11 += a1[t] * b1[t]
                s12 += a1[t] * b2[t]
                s13 += a1[t] * b3[t]
                s20 += a2[t] * b0[t]
                s21 += a2[t] * b1[t]
                s22 += a2[t] * b2[t]
                s23 += a2[t] * b3[t]
                s30 += a3[t] * b0[t]
                s31 += a3[t] * b1[t]
                s32 += a3[t] * b2[t]
                s33 += a3[t] * b3[t]
            r0, r1, r2, r3 = system[i], system[i + 1], system[i + 2], system[i + 3]
            r0[j] += s00
            r0[j + 1] += s01
            r0[j + 2] += s02
            r0[j + 3] += s03
            r1[j] += s10
            r1[j + 1] += s11
            r1[j + 2] += s12
            r1[j + 3] += s13
            r2[j] += s20
            r2[j + 1] += s21
            r2[j + 2] += s22
            r2[j + 3] += s23
            r3[j] += s30
            r3[j + 1] += s31
            r3[j + 2] += s32
            r3[j + 3] += s33


@_jit
def _add_ridge(  # type: ignore[no-untyped-def]
    system, n_features, factor_weight, bias_weight, fit_biases
):
    n_factors = n_features - 1 if fit_biases else n_features
    for f in range(n_factors):
        system[f, f] += factor_weight
    if fit_biases:
        system[n_factors, n_factors] += bias_weight


@_jit
def _cholesky_solve(system, n):  # type: ignore[no-untyped-def]
    """Solve A x = b in place for [A | b] in the first n + 1 columns; x replaces b.

    Right-looking UᵀU factorisation whose inner loops run along rows; b is carried as one more
    column, so the forward substitution comes with the factorisation. Returns False at a pivot
    that rounding could have produced, leaving the system destroyed.
    """
    largest = system[0, 0]
    for i in range(n):
        largest = max(largest, system[i, i])
    tolerance = 8 * np.finfo(system.dtype).eps * largest
    for i in range(n):
        if not system[i, i] > tolerance:
            return False
        pivot_row = system[i, i : n + 1]
        scale = 1 / np.sqrt(pivot_row[0])
        for j in range(len(pivot_row)):
            pivot_row[j] *= scale
        for r in range(i + 1, n):
            factor = system[i, r]
            source, target = system[i, r : n + 1], system[r, r : n + 1]
            for j in range(len(target)):
                target[j] -= factor * source[j]
    for i in range(n - 1, -1, -1):
        total = system[i, n]
        for j in range(i + 1, n):
            total -= system[i, j] * system[j, n]
        system[i, n] = total / system[i, i]
    return True


@_jit
def _solve_row_in_double(  # type: ignore[no-untyped-def]
    columns, values, fixed, mean, n_features, tile, system, factor_weight, bias_weight, fit_biases
):
    jitter = 0.0
    while True:
        _row_system(columns, values, fixed, mean, n_features, tile, system)
        trace = 0.0
        for f in range(n_features):
            trace += system[f, f]
        _add_ridge(system, n_features, factor_weight + jitter, bias_weight + jitter, fit_biases)
        if _cholesky_solve(system, n_features):
            return
        # Single-precision rounding of the sums is 1e-7 of the trace; start there.
        jitter = max(10 * jitter, 1e-7 * trace, 1e-30)


@_jit
def squared_error(  # type: ignore[no-untyped-def]
    indptr: Int64s,
    columns: Int32s,
    values: Float32s,
    solved: Float32s,
    fixed: Float32s,
    mean: float,
) -> float:
    """Σ (r − μ − b_u − b_i − p_u·q_i)² over all entries, summed in float64."""
    rank = fixed.shape[1] - 1
    total = 0.0
    for row in range(len(indptr) - 1):
        for entry in range(indptr[row], indptr[row + 1]):
            source = fixed[columns[entry]]
            error = np.float64(values[entry]) - mean - solved[row, rank] - source[rank]
            dot = np.float32(0)
            for f in range(rank):
                dot += solved[row, f] * source[f]
            error -= dot
            total += error * error
    return total
