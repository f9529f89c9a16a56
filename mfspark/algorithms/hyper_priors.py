"""Draws of what the rows of a side have in common, and of the noise, given sums over all of them.

In units of the ratings' standard deviation (Salakhutdinov & Mnih 2008, equations 5 to 8 and 14):

    x ~ N(m, Λ⁻¹)    m ~ N(0, (β₀ Λ)⁻¹)    Λ ~ Wishart(W₀, ν₀)    1/α ~ inverse gamma
"""

import math

import numpy as np

from mfspark.kernels.arrays import Float32s, Float64s
from mfspark.kernels.draw import Prior, RowSums

# β₀: the mean of the rows is known a priori as if from this many of them.
_PRIOR_ROWS = 2.0
# W₀⁻¹ is this times the unit matrix: so little that directions without signal shrink away.
PRIOR_SCATTER = 0.01
# A priori α is gamma distributed with this shape and rate: about one rating's worth.
_NOISE_SHAPE = _NOISE_RATE = 1.0
# Ratings without noise would have α grow until single precision fails.
_MOST_PRECISE = 1e6


def draw_prior(sums: RowSums, rng: np.random.Generator) -> Prior:
    """m and Λ given the rows of a side, with ν₀ = rank + 1.

    Given n rows of mean x̄ and scatter S = Σ (x − x̄)(x − x̄)ᵀ,

        Λ ~ Wishart((W₀⁻¹ + S + β₀n/(β₀ + n) x̄ x̄ᵀ)⁻¹, ν₀ + n)
        m ~ N(n x̄ / (β₀ + n), ((β₀ + n) Λ)⁻¹)
    """
    n, size = sums.n_rows, len(sums.rows)
    assert sums.products.shape == (size, size)
    center = sums.rows / (_PRIOR_ROWS + n)
    inverse_scale = PRIOR_SCATTER * np.eye(size) + sums.products
    inverse_scale -= (_PRIOR_ROWS + n) * np.outer(center, center)
    precision = _wishart(inverse_scale, size + n, rng)
    # Λ = L Lᵀ, so L⁻ᵀ z has the covariance Λ⁻¹.
    lower = np.linalg.cholesky(precision)
    spread = np.linalg.solve(lower.T, rng.standard_normal(size))
    return Prior(center + spread / math.sqrt(_PRIOR_ROWS + n), precision)


def draw_link_precision(coefficients: Float32s, rng: np.random.Generator) -> Float64s:
    """Λ_β given β float32 [n, size], whose rows are N(0, Λ_β⁻¹).

    Λ_β ~ Wishart((W₀⁻¹ + βᵀβ)⁻¹, ν₀ + n).
    """
    n, size = coefficients.shape
    doubles = coefficients.astype(np.float64)
    inverse_scale = PRIOR_SCATTER * np.eye(size) + doubles.T @ doubles
    return _wishart(inverse_scale, size + n, rng)


def draw_noise_precision(squared_error: float, n_ratings: int, rng: np.random.Generator) -> float:
    """α given Σ (r − r̂)² over all ratings: gamma with a₀ + n/2 and b₀ + Σ/2."""
    shape, rate = _NOISE_SHAPE + n_ratings / 2, _NOISE_RATE + squared_error / 2
    return min(float(rng.gamma(shape)) / rate, _MOST_PRECISE)


def _wishart(inverse_scale: Float64s, freedom: int, rng: np.random.Generator) -> Float64s:
    """A draw of mean ``freedom`` · inverse_scale⁻¹ (Bartlett 1933): with inverse_scale = L Lᵀ it is
    L⁻ᵀ B Bᵀ L⁻¹, B lower triangular with √χ² on its diagonal and normal numbers below."""
    size = len(inverse_scale)
    factor = np.tril(rng.standard_normal((size, size)), -1)
    factor[np.diag_indices(size)] = np.sqrt(rng.chisquare(freedom - np.arange(size)))
    root = np.linalg.solve(np.linalg.cholesky(inverse_scale).T, factor)
    return np.asarray(root @ root.T)
