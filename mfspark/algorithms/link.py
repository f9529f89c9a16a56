"""What features of users or items say about their rows: the link of Macau (Simm et al., Macau:
scalable Bayesian factorization with high-dimensional side information using MCMC, 2017).

A row x = [factors, bias] of a side has its own place in the prior, by its features f:

    x ~ N(m + βᵀ f, Λ⁻¹)    β_j ~ N(0, Λ_β⁻¹)

so that β [n_features, rank + 1] is a ridge regression of all rows on their features. Which items a
user has rated at all is such a feature, too: with f_ui = 1/√n_u for the n_u items that u rated,
βᵀ f is what Koren (2008) adds to the factors in SVD++.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from typing import NamedTuple

import numpy as np

from mfspark.algorithms.hyper_priors import draw_link_precision
from mfspark.algorithms.sparse_features import Features, conjugate_gradients, products
from mfspark.kernels.arrays import Float32s, Float64s
from mfspark.kernels.draw import Prior


class Link(NamedTuple):
    """β float32 [n_features, rank + 1], its precision Λ_β float64 [rank + 1, rank + 1], and F·β
    float32 [n_rows, rank + 1]."""

    coefficients: Float32s
    precision: Float64s
    offsets: Float32s

    def penalty(self) -> float:
        """Σ β_jᵀ Λ_β β_j."""
        doubles = self.coefficients.astype(np.float64)
        return float(np.sum((doubles.T @ doubles) * self.precision))


def no_link(features: Features, precision: Float64s) -> Link:
    """β = 0, which the next draw replaces; ``precision`` is its first Λ_β."""
    size = len(precision)
    return Link(
        np.zeros((features.by_feature.n_rows, size), np.float32),
        precision,
        np.zeros((features.by_row.n_rows, size), np.float32),
    )


def offsets_of(links: tuple[Link, ...]) -> Float32s | None:
    """What all links of a side add to m, float32 [n_rows, rank + 1]; None without links."""
    return reduce(np.add, (link.offsets for link in links)) if links else None


def draw_links(
    pool: ThreadPoolExecutor,
    n_threads: int,
    features: tuple[Features, ...],
    links: tuple[Link, ...],
    rows: Float32s,
    prior: Prior,
    normals: tuple[tuple[Float32s, Float32s], ...],
    rng: np.random.Generator,
) -> tuple[Link, ...]:
    """The links of a side, one after the other, each given what the others leave of the rows."""
    drawn = list(links)
    for n, (known, numbers) in enumerate(zip(features, normals, strict=True)):
        others = offsets_of((*drawn[:n], *drawn[n + 1 :]))
        rest = rows if others is None else rows - others
        drawn[n] = draw_link(pool, n_threads, known, drawn[n], rest, prior, numbers, rng)
    return tuple(drawn)


def draw_link(
    pool: ThreadPoolExecutor,
    n_threads: int,
    features: Features,
    link: Link,
    rows: Float32s,
    prior: Prior,
    normals: tuple[Float32s, Float32s],
    rng: np.random.Generator,
) -> Link:
    """β given the rows of the side, then Λ_β given β.

    With Λ = L Lᵀ and L⁻¹ Λ_β L⁻ᵀ = V diag(d) Vᵀ, the columns of b = β L V are independent, and each
    is a ridge regression of y = (x − m) L V, whose noise is standard normal. A draw of b is the
    solution of

        (Fᵀ F + d) b = Fᵀ (y + z₁) + √d z₂

    (Simm et al., equation 6). ``normals``: z₁ float32 [n_rows, rank + 1] and z₂ float32
    [n_features, rank + 1], independent standard normal numbers.
    """
    lower = np.linalg.cholesky(prior.precision)
    half = np.linalg.solve(lower, link.precision)
    ridge, vectors = np.linalg.eigh(np.linalg.solve(lower, half.T))
    ridge = np.maximum(ridge, np.finfo(np.float32).tiny)
    turn = lower @ vectors
    of_rows, of_features = normals
    centred = (rows - prior.mean.astype(np.float32)) @ turn.astype(np.float32)
    right = products(pool, n_threads, features.by_feature, centred + of_rows)
    right += np.sqrt(ridge).astype(np.float32) * of_features
    start = link.coefficients @ turn.astype(np.float32)
    solved = conjugate_gradients(pool, n_threads, features, ridge, right, start)
    coefficients = solved @ np.linalg.inv(turn).astype(np.float32)
    offsets = products(pool, n_threads, features.by_row, coefficients)
    return Link(coefficients, draw_link_precision(coefficients, rng), offsets)
