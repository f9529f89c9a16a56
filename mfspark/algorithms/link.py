"""What features of users or items say about their rows: the link of Macau (Simm et al., Macau:
scalable Bayesian factorization with high-dimensional side information using MCMC, 2017).

A row x = [factors, bias] of a side has its own place in the prior, by its features f:

    x ~ N(m + βᵀ f, Λ⁻¹)    β_j ~ N(0, Λ_β⁻¹)

so that β [n_features, rank + 1] is a ridge regression of all rows on their features. Which items a
user has rated at all is such a feature, too: with f_ui = 1/√n_u for the n_u items that u rated,
βᵀ f is what Koren (2008) adds to the factors in SVD++.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from mfspark.algorithms.als_threads import row_ranges
from mfspark.algorithms.encoding import EncodedFeatures, sparse_rows
from mfspark.algorithms.hyper_priors import draw_link_precision
from mfspark.algorithms.start import start_keys
from mfspark.columns import Side
from mfspark.kernels.arrays import Float32s, Float64s, UInt64s
from mfspark.kernels.csr import Csr
from mfspark.kernels.draw import Prior
from mfspark.kernels.features import feature_sums

# β is exact to this share of the right-hand side. A hundredth takes twice the steps, and the means
# of chains on MovieLens 100K, latest-small and 1M are no better for it.
TOLERANCE = 0.1
_MOST_STEPS = 100


@dataclass(frozen=True)
class Features:
    """F, sparse, of the rows of a side: ``by_row`` and, transposed, ``by_feature``.

    ``keys`` uint64 [n_features]: what random numbers of each feature are drawn from.
    """

    by_row: Csr
    by_feature: Csr
    keys: UInt64s

    @cached_property
    def diagonal(self) -> Float32s:
        """That of Fᵀ F, float32 [n_features, 1]."""
        squares = self.by_feature._replace(values=np.square(self.by_feature.values))
        return feature_sums(squares, np.ones((self.by_row.n_rows, 1), np.float32))


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


def rated_features(train: dict[Side, Csr], keys: dict[Side, UInt64s]) -> dict[Side, Features]:
    """That a user rated an item, as a feature of both: the ratings' matrix with 1/√n in each row
    of n ratings. ``train`` and ``keys`` by side."""
    by_row, by_feature = {}, {}
    for side in Side:
        counts = train[side].counts
        weights = (1 / np.sqrt(np.maximum(counts, 1))).astype(np.float32)
        by_row[side] = train[side]._replace(values=np.repeat(weights, counts))
        other = train[side.other]
        by_feature[side] = other._replace(values=weights[other.columns])
    return {side: Features(by_row[side], by_feature[side], keys[side.other]) for side in Side}


def given_features(known: EncodedFeatures, side: Side, seed: int) -> Features:
    """What is known of the rated ids of a side beside ratings."""
    by_row = known.of_rated
    rows = np.repeat(np.arange(by_row.n_rows, dtype=np.int32), by_row.counts)
    by_feature = sparse_rows((by_row.columns, rows, by_row.values), len(known.names), by_row.n_rows)
    keys = start_keys(pa.array(known.names, pa.string()), f"{side} features", seed)
    return Features(by_row, by_feature, keys)


def no_link(features: Features, precision: Float64s) -> Link:
    """β = 0, which the next draw replaces; ``precision`` is its first Λ_β."""
    size = len(precision)
    return Link(
        np.zeros((len(features.keys), size), np.float32),
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
    right = _products(pool, n_threads, features.by_feature, centred + of_rows)
    right += np.sqrt(ridge).astype(np.float32) * of_features
    start = link.coefficients @ turn.astype(np.float32)
    solved = _conjugate_gradients(pool, n_threads, features, ridge, right, start)
    coefficients = solved @ np.linalg.inv(turn).astype(np.float32)
    offsets = _products(pool, n_threads, features.by_row, coefficients)
    return Link(coefficients, draw_link_precision(coefficients, rng), offsets)


def _conjugate_gradients(
    pool: ThreadPoolExecutor,
    n_threads: int,
    features: Features,
    ridge: Float64s,
    right: Float32s,
    start: Float32s,
) -> Float32s:
    """b with (Fᵀ F + ridge_k) b_k = right_k for every column k (Hestenes & Stiefel 1952), scaled by
    the diagonal of the matrix."""
    ridges = ridge.astype(np.float32)

    def times(b: Float32s) -> Float32s:
        forth = _products(pool, n_threads, features.by_row, b)
        return _products(pool, n_threads, features.by_feature, forth) + ridges * b

    scale = 1 / (features.diagonal + ridges)
    b = start.copy()
    rest = right - times(b)
    enough = TOLERANCE**2 * _dots(right, right)
    scaled = scale * rest
    direction, length = scaled, _dots(rest, scaled)
    for _ in range(_MOST_STEPS):
        if (_dots(rest, rest) <= enough).all():
            break
        image = times(direction)
        step = length / np.maximum(_dots(direction, image), np.finfo(np.float32).tiny)
        b += step * direction
        rest -= step * image
        scaled = scale * rest
        before, length = length, _dots(rest, scaled)
        direction = scaled + length / np.maximum(before, np.finfo(np.float32).tiny) * direction
    return b


def _dots(a: Float32s, b: Float32s) -> Float32s:
    """a_k · b_k of each column."""
    return np.asarray(np.einsum("nk,nk->k", a, b))


def _products(pool: ThreadPoolExecutor, n_threads: int, features: Csr, dense: Float32s) -> Float32s:
    """F·D by all threads."""
    dense = np.ascontiguousarray(dense)
    parts = pool.map(
        lambda part: feature_sums(features.slice(*part), dense),
        row_ranges(features.counts, n_threads),
    )
    return np.concatenate(list(parts))
