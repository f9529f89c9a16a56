"""Rows whose ratings lie in several places: sums that add up, and the half-step made of them."""

import numpy as np

from mfspark.columns import Side
from mfspark.kernels.arrays import LANES, AlignedRows, Bools, Float32s, Float64s
from mfspark.kernels.compiled import jit
from mfspark.kernels.csr import Csr
from mfspark.kernels.objective import Objective, PassSums
from mfspark.kernels.one_vector import sums_at_rank
from mfspark.kernels.products import BORDER
from mfspark.kernels.ridge import TILE, solve_moments

# Ratings that are added up in single precision.
_SHORT_SUM = 4096


def row_moments(ratings: Csr, fixed: AlignedRows, mean: float) -> Float64s:
    """Σ v vᵀ over all entries of each row, v = [q, 1, r − μ − b_i], float64
    [n_rows, rank + 2, rank + 2].

    They hold all that a row's solution and error depend on, and they add up: the ratings of one row
    may lie in many blocks.
    """
    ratings.check()
    fixed.check()
    size = fixed.rank + 2
    moments = np.zeros((ratings.n_rows, size, size))
    _add_moments(*ratings, fixed.factors, fixed.bias, np.float32(mean), moments)
    return moments


def packed_moments(ratings: Csr, chosen: Bools, fixed: AlignedRows, mean: float) -> Float32s:
    """The upper triangles of :func:`row_moments` of the ``chosen`` rows, row by row, float32
    [n_chosen, (rank + 2)(rank + 3) / 2]."""
    ratings.check()
    fixed.check()
    assert chosen.shape == (ratings.n_rows,)
    rows = np.flatnonzero(chosen)
    size = fixed.rank + 2
    packed = np.empty((len(rows), size * (size + 1) // 2), np.float32)
    _pack_moments(*ratings, rows, fixed.factors, fixed.bias, np.float32(mean), size, packed)
    return packed


def unpacked_moments(packed: Float64s, rank: int) -> Float64s:
    """Symmetric matrices [..., rank + 2, rank + 2] of their upper triangles, row by row."""
    size = rank + 2
    place = np.empty((size, size), np.intp)
    upper = np.triu_indices(size)
    place[upper] = np.arange(len(upper[0]))
    place.T[upper] = place[upper]
    return np.take(packed, place, axis=-1)


@jit
def _add_moments(indptr, columns, values, fixed, bias, mean, moments):  # type: ignore[no-untyped-def]
    """Add v vᵀ of every entry to its row's ``moments``."""
    size, width = moments.shape[1], fixed.shape[1]
    tile = np.zeros((TILE, width + LANES), np.float32)
    gram = np.empty((width, width + LANES), np.float32)
    border = np.empty((BORDER, width), np.float32)
    for row in range(len(indptr) - 1):
        start, end, sums = indptr[row], indptr[row + 1], moments[row]
        _add_row(columns, values, start, end, fixed, bias, mean, tile, gram, border, sums)
        for f in range(size):
            for g in range(f):
                sums[f, g] = sums[g, f]


@jit
def _pack_moments(indptr, columns, values, rows, fixed, bias, mean, size, packed):  # type: ignore[no-untyped-def]
    """Set packed to the upper triangles of Σ v vᵀ of some rows."""
    width = fixed.shape[1]
    tile = np.zeros((TILE, width + LANES), np.float32)
    gram = np.empty((width, width + LANES), np.float32)
    border = np.empty((BORDER, width), np.float32)
    sums = np.empty((size, size))
    for n, row in enumerate(rows):
        start, end = indptr[row], indptr[row + 1]
        sums[:, :] = 0
        _add_row(columns, values, start, end, fixed, bias, mean, tile, gram, border, sums)
        at = 0
        for f in range(size):
            for g in range(f, size):
                packed[n, at + g - f] = sums[f, g]
            at += size - f


@jit
def _add_row(  # type: ignore[no-untyped-def]
    columns, values, start, end, fixed, bias, mean, tile, gram, border, sums
):
    """Add v vᵀ of the entries of a row to the upper triangle of sums, in tiles whose own sums are
    short."""
    rank = len(sums) - 2
    # These short sums are added in double.
    for first in range(start, end, _SHORT_SUM):
        last = min(first + _SHORT_SUM, end)
        rated, ratings = columns[first:last], values[first:last]
        total = sums_at_rank(
            rank, columns, first, last, ratings, fixed, bias, mean, tile, gram, border
        )
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


def half_step_of_moments(
    train: Float64s, validation: Float64s | None, objective: Objective, side: Side
) -> tuple[Float32s, PassSums]:
    """The half-step of rows of ``side``, given by their moments (see :func:`row_moments`), float64
    [n_rows, rank + 2, rank + 2], those of validation ratings where there are any; in double
    precision."""
    n_rows, size, _ = train.shape
    for moments in (train, validation):
        assert moments is None or moments.shape == (n_rows, size, size)
        assert moments is None or moments.dtype == np.float64
    solved = np.zeros((n_rows, size - 1), np.float32)
    counts, penalty = train[:, -2, -2], objective.penalty(side)
    weights = penalty.row_weights(counts)
    ridges = weights * penalty.factors, weights * penalty.bias
    _solve_rows(train, *ridges, objective.fit_biases, solved)
    return solved, PassSums(
        squared_error=moments_error(train, solved),
        n_ratings=int(counts.sum()),
        penalty=penalty.total(counts, solved),
        validation_squared_error=0.0 if validation is None else moments_error(validation, solved),
        n_validation=0 if validation is None else int(validation[:, -2, -2].sum()),
    )


@jit
def _solve_rows(moments, weights, bias_weights, fit_biases, solved):  # type: ignore[no-untyped-def]
    for row in range(len(solved)):
        solve_moments(moments[row], weights[row], bias_weights[row], fit_biases, solved[row])


def moments_error(moments: Float64s, solved: Float32s) -> float:
    """Σ (r − r̂)² over the entries of all rows, from their moments; arguments as above."""
    assert solved.shape == (len(moments), moments.shape[1] - 1)
    # numba compiles for each combination of types.
    arrays = (
        np.require(moments, np.float64, ("C", "W")),
        np.require(solved, np.float32, ("C", "W")),
    )
    return float(_moments_error(*arrays))


@jit
def _moments_error(moments, solved):  # type: ignore[no-untyped-def]
    size = moments.shape[1]
    signed = np.ones(size)
    total = 0.0
    for row in range(len(solved)):
        for f in range(size - 1):
            signed[f] = -np.float64(solved[row, f])
        for f in range(size):
            inner = 0.0
            for g in range(size):
                inner += moments[row, f, g] * signed[g]
            total += signed[f] * inner
    return total
