"""One half-step on one block: solve every row of the solved side, the fixed side being given.

A side is a float32 matrix [n, rank + 1] whose row is x = [factors, bias]. With the items fixed, the
row of user u minimises (Zhou et al. 2008 for the count-scaled penalty; Koren, Bell, Volinsky 2009
for the biases)

    Σ_i (r_ui − μ − b_i − p_u·q_i − b_u)² + n_u^ν (λ |p_u|² + λ_b b_u²)

which is ridge regression of r_ui − μ − b_i on the features [q_i, 1]. The item side is the mirror
image. Without biases the last column stays zero and the features are q_i alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np

from mfspark.kernels.csr import Csr, Float32s, Float64s, Int64s, RatingBlock
from mfspark.kernels.products import (
    BORDER,
    LANES,
    add_border,
    add_products,
    dot,
    factor,
)

# Ratings gathered at a time: few enough to stay in the first-level cache.
_TILE = 64
_SHORT_SUM = 4096
_EPSILON = np.float32(np.finfo(np.float32).eps)

# Reassociation lets sums run in vector registers; NaN and infinity keep their meaning.
_jit = numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz", "arcp"})


@dataclass(frozen=True)
class Penalty:
    """Ridge weights of one side: a row with n ratings has λ·n^ν on factors and λ_b·n^ν on bias."""

    factors: float
    bias: float
    exponent: float

    def row_weights(self, counts: Int64s | Float64s) -> Float64s:
        """n^ν per row, float64; rows without ratings weigh 1, which keeps their solution zero."""
        weights: Float64s = np.maximum(counts, 1).astype(np.float64) ** self.exponent
        return weights

    def total(self, counts: Int64s | Float64s, solved: Float32s) -> float:
        """Σ n^ν (λ |p|² + λ_b b²) over the rows that have ratings."""
        squares = np.square(solved, dtype=np.float64)
        per_row = self.factors * squares[:, :-1].sum(axis=1) + self.bias * squares[:, -1]
        return float(np.dot(self.row_weights(counts), per_row * (counts > 0)))


@dataclass(frozen=True)
class Problem:
    """What stays the same in all half-steps that solve one side; ``mean`` is μ."""

    mean: float
    penalty: Penalty
    fit_biases: bool


class HalfStepMetrics(NamedTuple):
    """Sums over some rows after their half-step; adding them gives the global figures."""

    squared_error: float
    n_ratings: int
    penalty: float
    validation_squared_error: float
    n_validation: int


def add_metrics(parts: Iterable[Iterable[float]]) -> HalfStepMetrics:
    """The sums over the rows of all parts, added in their order."""
    return HalfStepMetrics(*(sum(values) for values in zip(*parts, strict=True)))


class FixedSide(NamedTuple):
    """The fixed rows as the kernels want them: whole vectors, zeros behind the last factor.

    ``factors`` float32 [n, width], C-contiguous, width = rank rounded up to a multiple of 16;
    ``bias`` float32 [n].
    """

    factors: Float32s
    bias: Float32s
    rank: int

    @classmethod
    def zeros(cls, n: int, rank: int) -> "FixedSide":
        """``n`` rows to be filled."""
        width = -(-rank // LANES) * LANES
        return cls(np.zeros((n, width), np.float32), np.zeros(n, np.float32), rank)

    @classmethod
    def of(cls, rows: Float32s) -> "FixedSide":
        """From rows [factors, bias], float32 [n, rank + 1]."""
        fixed = cls.zeros(len(rows), rows.shape[1] - 1)
        fixed.fill(0, rows)
        return fixed

    def fill(self, first: int, rows: Float32s) -> None:
        """Set the rows from ``first`` on to [factors, bias], float32 [n, rank + 1]."""
        places = slice(first, first + len(rows))
        self.factors[places, : self.rank] = rows[:, : self.rank]
        self.bias[places] = rows[:, self.rank]


def half_step(
    block: RatingBlock, fixed: FixedSide, problem: Problem
) -> tuple[Float32s, HalfStepMetrics]:
    """Solve all rows of ``block``.

    ``fixed`` holds the rows that the block's columns refer to. Returns the solved side float32
    [n_rows, rank + 1] and its metrics. A row without ratings gets zeros. Cost: about n·d² +
    n_rows·d³/3 floating-point operations.
    """
    train, validation = block.train, block.validation
    solved, train_error = solve_rows(train, fixed, problem)
    return solved, HalfStepMetrics(
        train_error,
        train.n_entries,
        problem.penalty.total(train.counts, solved),
        squared_error(validation, solved, fixed, problem.mean),
        validation.n_entries,
    )


def half_step_of_moments(
    train: Float64s, validation: Float64s, problem: Problem
) -> tuple[Float32s, HalfStepMetrics]:
    """The half-step of rows given by their moments (see :func:`row_moments`), float64
    [n_rows, rank + 2, rank + 2]; in double precision, and slow."""
    solved = np.zeros((len(train), train.shape[1] - 1), np.float32)
    counts, penalty = train[:, -2, -2], problem.penalty
    for row, weight in enumerate(penalty.row_weights(counts)):
        ridge = weight * penalty.factors, weight * penalty.bias
        _solve_moments(train[row], *ridge, problem.fit_biases, solved[row])
    return solved, HalfStepMetrics(
        _moments_error(train, solved),
        int(counts.sum()),
        penalty.total(counts, solved),
        _moments_error(validation, solved),
        int(validation[:, -2, -2].sum()),
    )


def _moments_error(moments: Float64s, solved: Float32s) -> float:
    """Σ (r − r̂)² over the entries of all rows, from their moments."""
    signed = np.column_stack([-solved.astype(np.float64), np.ones(len(solved))])
    return float(np.einsum("nf,nfg,ng->", signed, moments, signed))


def solve_rows(train: Csr, fixed: FixedSide, problem: Problem) -> tuple[Float32s, float]:
    """Solve the ridge problem of every row: float32 [n_rows, rank + 1], and Σ (r − r̂)²."""
    solved = np.zeros((train.n_rows, fixed.rank + 1), np.float32)
    weights = problem.penalty.row_weights(train.counts)
    error = _solve_rows(
        *train,
        fixed.factors,
        fixed.bias,
        np.float32(problem.mean),
        (weights * problem.penalty.factors).astype(np.float32),
        (weights * problem.penalty.bias).astype(np.float32),
        problem.fit_biases,
        solved,
    )
    return solved, float(error)


@_jit
def _solve_rows(  # type: ignore[no-untyped-def]
    indptr, columns, values, fixed, bias, mean, factor_weights, bias_weights, fit_biases, solved
):
    """Each row by the method that is cheapest for its number of ratings; returns Σ (r − r̂)²."""
    rank, width = solved.shape[1] - 1, fixed.shape[1]
    tile = np.zeros((_TILE, width + LANES), np.float32)
    gram = np.empty((width, width + LANES), np.float32)
    border = np.empty((BORDER, width), np.float32)
    padded = np.zeros((1, width), np.float32)
    error = 0.0
    for row in range(len(indptr) - 1):
        rated, ratings = (
            columns[indptr[row] : indptr[row + 1]],
            values[indptr[row] : indptr[row + 1]],
        )
        weight, bias_weight, out = factor_weights[row], bias_weights[row], solved[row]
        if len(rated) == 0:
            continue
        is_short = 2 * len(rated) <= rank and weight > 0 and (bias_weight > 0 or not fit_biases)
        if is_short:
            done = _solve_dual(
                rated, ratings, fixed, bias, mean, weight, bias_weight, fit_biases, out
            )
        else:
            total = _row_sums(rated, ratings, fixed, bias, mean, tile, gram, border)
            done = _solve_primal(
                gram, border, total, len(rated), weight, bias_weight, fit_biases, out
            )
        if not done:
            # Single precision met a pivot that rounding could have produced.
            _solve_in_double(
                rated, ratings, fixed, bias, mean, weight, bias_weight, fit_biases, out
            )
        # Right after the solve, while the row's part of the fixed side is in the cache.
        padded[0, :rank] = out[:rank]
        error += _row_error(rated, ratings, fixed, bias, mean, padded, out[rank])
    return error


@_jit
def _padded(n):  # type: ignore[no-untyped-def]
    return (n + LANES - 1) // LANES * LANES


@_jit
def _row_sums(rated, ratings, fixed, bias, mean, tile, gram, border):  # type: ignore[no-untyped-def]
    """Set gram to Σ q qᵀ (upper triangle), border to [Σ q, Σ q·target]; returns Σ target.

    The gathered rows are [q, zeros to a multiple of 16, 1, target].
    """
    width = fixed.shape[1]
    gram[:, :] = 0
    border[:, :] = 0
    total = 0.0
    for first in range(0, len(rated), _TILE):
        n = min(_TILE, len(rated) - first)
        for t in range(n):
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


@_jit
def _solve_primal(  # type: ignore[no-untyped-def]
    gram, border, total, n, weight, bias_weight, fit_biases, out
):
    """Solve the normal equations; returns False, with out undefined, when they are near singular.

    The bias is eliminated last: with gram = UᵀU and z₁, z₂ the forward substitutions of Σ q and
    Σ q·target, it is b = (Σ target − z₁·z₂) / (n + λ_b − z₁·z₁), and then U p = z₂ − b z₁.
    """
    rank = len(out) - 1
    for f in range(rank):
        gram[f, f] += weight
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


@_jit
def _solve_dual(rated, ratings, fixed, bias, mean, weight, bias_weight, fit_biases, out):  # type: ignore[no-untyped-def]
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


@_jit
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


@_jit
def _substitute_back(upper, b, n):  # type: ignore[no-untyped-def]
    """Replace b by U⁻¹ b."""
    for i in range(n - 1, -1, -1):
        known, row = b[i + 1 : n], upper[i, i + 1 : n]
        total = b[i]
        for j in range(len(known)):
            total -= row[j] * known[j]
        b[i] = total / upper[i, i]


@_jit
def _solve_in_double(rated, ratings, fixed, bias, mean, weight, bias_weight, fit_biases, out):  # type: ignore[no-untyped-def]
    """Solve one row in float64; slow, and rare."""
    rank = len(out) - 1
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
    _solve_moments(sums, weight, bias_weight, fit_biases, out)


@_jit
def _solve_moments(moments, weight, bias_weight, fit_biases, out):  # type: ignore[no-untyped-def]
    """Solve a row from its moments, if need be with the least extra ridge that works."""
    rank = len(out) - 1
    n_features = rank + 1 if fit_biases else rank
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


def row_moments(ratings: Csr, fixed: FixedSide, mean: float) -> Float64s:
    """Σ v vᵀ over all entries of each row, v = [q, 1, r − μ − b_i], float64
    [n_rows, rank + 2, rank + 2].

    They hold all that a row's solution and error depend on, and they add up: the ratings of one row
    may lie in many blocks.
    """
    size = fixed.rank + 2
    moments = np.zeros((ratings.n_rows, size, size))
    _add_moments(*ratings, fixed.factors, fixed.bias, np.float32(mean), moments)
    return moments


@_jit
def _add_moments(indptr, columns, values, fixed, bias, mean, moments):  # type: ignore[no-untyped-def]
    rank, width = moments.shape[1] - 2, fixed.shape[1]
    tile = np.zeros((_TILE, width + LANES), np.float32)
    gram = np.empty((width, width + LANES), np.float32)
    border = np.empty((BORDER, width), np.float32)
    for row in range(len(indptr) - 1):
        sums = moments[row]
        # Some thousand ratings at a time in single precision; these sums are added in double.
        for first in range(indptr[row], indptr[row + 1], _SHORT_SUM):
            last = min(first + _SHORT_SUM, indptr[row + 1])
            rated, ratings = columns[first:last], values[first:last]
            total = _row_sums(rated, ratings, fixed, bias, mean, tile, gram, border)
            for f in range(rank):
                for g in range(f, rank):
                    sums[f, g] += gram[f, g]
                sums[f, rank] += border[0, f]
                sums[f, rank + 1] += border[1, f]
            sums[rank, rank] += last - first
            sums[rank, rank + 1] += total
            for t in range(last - first):
                target = np.float64(ratings[t]) - mean - bias[rated[t]]
                sums[rank + 1, rank + 1] += target * target
        for f in range(rank + 2):
            for g in range(f):
                sums[f, g] = sums[g, f]


@_jit
def _row_error(rated, ratings, fixed, bias, mean, solved, solved_bias):  # type: ignore[no-untyped-def]
    """Σ (r − μ − b_u − b_i − p_u·q_i)² over the ratings of one row, summed in float64."""
    total = 0.0
    own = np.float64(mean) + solved_bias
    for t in range(len(rated)):
        error = ratings[t] - own - bias[rated[t]] - dot(fixed, rated[t], solved, 0)
        total += error * error
    return total


def squared_error(ratings: Csr, solved: Float32s, fixed: FixedSide, mean: float) -> float:
    """Σ (r − r̂)² over the ratings of all rows."""
    if not ratings.n_entries:
        return 0.0
    return float(_squared_error(*ratings, solved, fixed.factors, fixed.bias, np.float32(mean)))


@_jit
def _squared_error(indptr, columns, values, solved, fixed, bias, mean):  # type: ignore[no-untyped-def]
    rank = solved.shape[1] - 1
    padded = np.zeros((1, fixed.shape[1]), np.float32)
    total = 0.0
    for row in range(len(indptr) - 1):
        entries = slice(indptr[row], indptr[row + 1])
        padded[0, :rank] = solved[row, :rank]
        total += _row_error(
            columns[entries], values[entries], fixed, bias, mean, padded, solved[row, rank]
        )
    return total
