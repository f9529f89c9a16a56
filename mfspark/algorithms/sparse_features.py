"""Features of the rows of a side as a sparse matrix, and ridge regression on it."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mfspark.algorithms.encoding import EncodedFeatures, sparse_rows
from mfspark.algorithms.sharing import results_of, row_ranges
from mfspark.columns import Side
from mfspark.kernels.arrays import Float32s, Float64s
from mfspark.kernels.csr import Csr
from mfspark.kernels.features import feature_sums

# β is exact to this share of the right-hand side. A hundredth takes twice the steps, and the means
# of chains on MovieLens 100K, latest-small and 1M are no better for it.
TOLERANCE = 0.1
_MOST_STEPS = 100


@dataclass(frozen=True)
class Features:
    """F, sparse, of the rows of a side: ``by_row`` and, transposed, ``by_feature``."""

    by_row: Csr
    by_feature: Csr

    @cached_property
    def diagonal(self) -> Float32s:
        """That of Fᵀ F, float32 [n_features, 1]."""
        squares = self.by_feature._replace(values=np.square(self.by_feature.values))
        return feature_sums(squares, np.ones((self.by_row.n_rows, 1), np.float32))


def rated_features(train: dict[Side, Csr]) -> dict[Side, Features]:
    """That a user rated an item, as a feature of both: the ratings' matrix with 1/√n in each row
    of n ratings. ``train`` by side."""
    by_row, by_feature = {}, {}
    for side in Side:
        counts = train[side].counts
        weights = (1 / np.sqrt(np.maximum(counts, 1))).astype(np.float32)
        by_row[side] = train[side]._replace(values=np.repeat(weights, counts))
        other = train[side.other]
        by_feature[side] = other._replace(values=weights[other.columns])
    return {side: Features(by_row[side], by_feature[side]) for side in Side}


def given_features(known: EncodedFeatures) -> Features:
    """What is known of the rated ids of a side beside ratings."""
    by_row = known.of_rated
    rows = np.repeat(np.arange(by_row.n_rows, dtype=np.int32), by_row.counts)
    by_feature = sparse_rows((by_row.columns, rows, by_row.values), len(known.names), by_row.n_rows)
    return Features(by_row, by_feature)


def conjugate_gradients(
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
        forth = products(pool, n_threads, features.by_row, b)
        return products(pool, n_threads, features.by_feature, forth) + ridges * b

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


def products(pool: ThreadPoolExecutor, n_threads: int, features: Csr, dense: Float32s) -> Float32s:
    """F·D by all threads."""
    dense = np.ascontiguousarray(dense)
    parts = results_of(
        pool,
        lambda part: feature_sums(features.slice(*part), dense),
        row_ranges(features.counts, n_threads),
    )
    return np.concatenate(parts)
