"""One draw of all rows of a block from their posterior, the fixed side being given.

The rows of a side are x = [factors, bias] as in :mod:`mfspark.kernels.half_step`. With the noise
r − r̂ ~ N(0, 1/α) and the prior x ~ N(m, Λ⁻¹), a row with features v = [q, 1] and targets
t = r − μ − b_i has the posterior (Salakhutdinov & Mnih 2008, equations 11 to 13)

    x ~ N(A⁻¹ c, (α A)⁻¹)    A = Σ v vᵀ + Λ/α    c = Σ v t + Λ m/α

so a draw is the ridge solution with noise in the back substitution: with A = Rᵀ R and standard
normal z it is x = R⁻¹ (R⁻ᵀ c + z/√α).
"""

from dataclasses import dataclass

import numpy as np

from mfspark.kernels.arrays import LANES, AlignedRows, Float32s, Float64s
from mfspark.kernels.compiled import jit
from mfspark.kernels.csr import Csr
from mfspark.kernels.half_step import row_error
from mfspark.kernels.moments import moments_error
from mfspark.kernels.one_vector import sums_at_rank
from mfspark.kernels.products import BORDER
from mfspark.kernels.ridge import TILE, draw_in_double, draw_moments, draw_primal

# Of rows that are all zero: far below what ratings in units of their standard deviation have.
_LEAST_SQUARE = 1e-6


@dataclass(frozen=True)
class Prior:
    """What is known of the rows of one side before any rating: x ~ N(mean, precision⁻¹).

    ``mean`` float64 [rank + 1], ``precision`` float64 [rank + 1, rank + 1].
    """

    mean: Float64s
    precision: Float64s

    def check(self, size: int) -> None:
        """Assert the shapes for rows of ``size`` = rank + 1."""
        assert self.mean.shape == (size,)
        assert self.precision.shape == (size, size)
        assert self.mean.dtype == self.precision.dtype == np.float64

    def penalty(self, sums: "RowSums") -> float:
        """Σ (x − m)ᵀ Λ (x − m) over the rows that ``sums`` are of."""
        self.check(len(sums.rows))
        crossed = np.outer(sums.rows, self.mean)
        around = sums.products - crossed - crossed.T
        around += sums.n_rows * np.outer(self.mean, self.mean)
        return float(np.sum(around * self.precision))


@dataclass(frozen=True)
class RowSums:
    """Sums over some rows x = [factors, bias]; they add up.

    ``rows`` Σ x, float64 [rank + 1]; ``products`` Σ x xᵀ, float64 [rank + 1, rank + 1].
    """

    n_rows: int
    rows: Float64s
    products: Float64s

    @classmethod
    def of(cls, rows: Float32s) -> "RowSums":
        """Of rows float32 [n, rank + 1]."""
        doubles = rows.astype(np.float64)
        return cls(len(rows), doubles.sum(axis=0), doubles.T @ doubles)

    def precision(self) -> Float64s:
        """The inverse of the rows' mean square, with 1 % of its trace on the diagonal."""
        square = self.products / max(self.n_rows, 1)
        size = len(square)
        square += (0.01 * np.trace(square) / size + _LEAST_SQUARE) * np.eye(size)
        return np.asarray(np.linalg.inv(square))

    def __add__(self, other: "RowSums") -> "RowSums":
        return RowSums(
            self.n_rows + other.n_rows, self.rows + other.rows, self.products + other.products
        )


def draw_rows(
    train: Csr,
    fixed: AlignedRows,
    prior: Prior,
    noise_precision: float,
    normals: Float32s,
    offsets: Float32s | None = None,
) -> tuple[Float32s, float]:
    """Draw every row: float32 [n_rows, rank + 1], and Σ (r − r̂)² over all ratings.

    ``noise_precision`` is α; ``normals`` float32 [n_rows, rank + 1] are independent standard normal
    numbers; ``offsets`` float32 [n_rows, rank + 1] are added to m, a row to each. A row without
    ratings is drawn from the prior. Cost: about n·d² + n_rows·d³/3 floating-point operations.
    """
    train.check()
    fixed.check()
    size = fixed.rank + 1
    prior.check(size)
    assert normals.shape == (train.n_rows, size)
    assert normals.dtype == np.float32
    ridge = prior.precision / noise_precision
    drawn = np.empty((train.n_rows, size), np.float32)
    error = _draw_rows(
        *train,
        fixed.factors,
        fixed.bias,
        ridge,
        _shifts(prior, ridge, offsets, train.n_rows),
        normals / np.float32(np.sqrt(noise_precision)),
        drawn,
    )
    return drawn, float(error)


def draw_rows_of_moments(
    moments: Float64s,
    prior: Prior,
    noise_precision: float,
    normals: Float32s,
    offsets: Float32s | None = None,
) -> tuple[Float32s, float]:
    """As ``draw_rows``, for rows given by their moments (see
    :func:`~mfspark.kernels.moments.row_moments`), float64 [n_rows, rank + 2, rank + 2]."""
    n_rows, size = normals.shape
    assert moments.shape == (n_rows, size + 1, size + 1)
    assert moments.dtype == np.float64
    assert normals.dtype == np.float32
    prior.check(size)
    ridge = prior.precision / noise_precision
    shifts = _shifts(prior, ridge, offsets, n_rows)
    noise = normals / np.float32(np.sqrt(noise_precision))
    drawn = np.empty((n_rows, size), np.float32)
    for row in range(n_rows):
        draw_moments(moments[row], ridge, shifts[row], noise[row], drawn[row])
    return drawn, moments_error(moments, drawn)


def _shifts(prior: Prior, ridge: Float64s, offsets: Float32s | None, n_rows: int) -> Float64s:
    """Λ m_row/α of each row, float64 [n_rows, rank + 1]."""
    shift = ridge @ prior.mean
    if offsets is None:
        return np.tile(shift, (n_rows, 1))
    assert offsets.shape == (n_rows, len(shift))
    return np.asarray(offsets @ ridge + shift)


@jit
def _draw_rows(indptr, columns, values, fixed, bias, ridge, shifts, noise, drawn):  # type: ignore[no-untyped-def]
    """Each row from its normal equations; returns Σ (r − r̂)²."""
    rank, width = drawn.shape[1] - 1, fixed.shape[1]
    tile = np.zeros((TILE, width + LANES), np.float32)
    gram = np.empty((width, width + LANES), np.float32)
    border = np.empty((BORDER, width), np.float32)
    padded = np.zeros((1, width), np.float32)
    single_ridge = ridge.astype(np.float32)
    mean = np.float32(0)
    error = 0.0
    for row in range(len(indptr) - 1):
        start, end = indptr[row], indptr[row + 1]
        rated, ratings, out = columns[start:end], values[start:end], drawn[row]
        total = sums_at_rank(
            rank, columns, start, end, ratings, fixed, bias, mean, tile, gram, border
        )
        if not draw_primal(
            gram, border, total, len(rated), single_ridge, shifts[row], noise[row], out
        ):
            # Single precision met a pivot that rounding could have produced.
            draw_in_double(rated, ratings, fixed, bias, ridge, shifts[row], noise[row], out)
        padded[0, :rank] = out[:rank]
        error += row_error(rated, ratings, fixed, bias, mean, padded, out[rank])
    return error
