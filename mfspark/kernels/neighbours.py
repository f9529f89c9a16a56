"""Similarities between the rows of a sparse table, for a block of rows at a time.

Rows are items (or users), columns users (or items), values x the deviations of the ratings. Of two
rows a and b, with sums over the n columns that have both,

    cosine, pearson_baseline    s = Σ x_a x_b / √(Σ x_a² Σ x_b²)
    pearson                     the same with x_a and x_b centred on their means over those columns

and s is shrunk by n / (n + shrinkage) (Koren, Factor in the Neighbors, 2010, section 2.2). What x
is tells the methods apart: the rating itself (cosine, pearson), or what is left of it after biases
(pearson_baseline).
"""

from typing import NamedTuple

import numpy as np

from mfspark.kernels.arrays import Float32s, Float64s, Int32s, Int64s
from mfspark.kernels.compiled import jit
from mfspark.kernels.csr import Csr

# Sums for each pair of rows: n, Σ x_a x_b, Σ x_a², Σ x_b², Σ x_a, Σ x_b.
N_SUMS = 6


def add_common(sums: Float32s, first: int, by_column: Csr) -> None:
    """Add what some columns contribute to the pairs (a, b), a = ``first`` …, b any row.

    ``sums`` float32 [n_a, n_rows, 6] is changed in place. ``by_column`` lists the rows of each
    column in ascending order, and their values.
    """
    by_column.check()
    n_a, n_rows, n_sums = sums.shape
    assert n_sums == N_SUMS
    assert sums.dtype == np.float32
    assert 0 <= first <= n_rows - n_a
    _add_common(sums, first, *by_column)


@jit
def _add_common(sums, first, indptr, rows, values):  # type: ignore[no-untyped-def]
    """For every column the pairs of its rows, one of them in the block."""
    last = first + len(sums)
    for column in range(len(indptr) - 1):
        start, end = indptr[column], indptr[column + 1]
        for t in range(start, end):
            a = rows[t]
            if a < first or a >= last:
                continue
            target, x = sums[a - first], values[t]
            for other in range(start, end):
                pair, y = target[rows[other]], values[other]
                pair[0] += 1
                pair[1] += x * y
                pair[2] += x * x
                pair[3] += y * y
                pair[4] += x
                pair[5] += y


def nearest(
    sums: Float32s, first: int, n: int, centred: bool, shrinkage: float, min_support: int
) -> tuple[Int64s, Int32s, Float32s]:
    """The ``n`` most similar rows of each row a = ``first`` …: how many there are int64 [n_a], then
    their numbers int32 and similarities float32, one row's after another's, the nearest first.

    Pairs with fewer than ``min_support`` common columns, and similarities that are not above zero,
    do not count as neighbours.
    """
    parts = sums.astype(np.float64)
    common, xy, xx, yy, x, y = (parts[:, :, place] for place in range(N_SUMS))
    if centred:
        safe = np.maximum(common, 1)
        xy, xx, yy = xy - x * y / safe, xx - x * x / safe, yy - y * y / safe
    scale = np.sqrt(np.maximum(xx, 0) * np.maximum(yy, 0))
    # Rounding leaves a little of what is exactly zero.
    found = np.divide(xy, scale, out=np.zeros_like(xy), where=scale > 1e-6 * np.maximum(common, 1))
    found = np.clip(found, -1, 1) * common / np.maximum(common + shrinkage, 1)
    found[common < max(min_support, 1)] = 0
    own = np.arange(len(found))
    found[own, first + own] = 0
    order = np.argsort(-found, axis=1, kind="stable")[:, :n]
    best = np.take_along_axis(found, order, axis=1)
    is_neighbour = best > 0
    return (
        is_neighbour.sum(axis=1),
        order[is_neighbour].astype(np.int32),
        best[is_neighbour].astype(np.float32),
    )


class Lists(NamedTuple):
    """A list of int32 and one of float32 for each row: row t has places ``starts[t]`` to
    ``starts[t + 1]`` − 1."""

    starts: Int64s
    numbers: Int32s
    values: Float32s

    def check(self) -> None:
        """Assert what compiled code relies on."""
        assert self.starts.dtype == np.int64
        assert self.numbers.shape == self.values.shape
        assert self.numbers.dtype == np.int32
        assert self.values.dtype == np.float32
        assert self.starts[-1] <= len(self.numbers)


def corrections(neighbours: Lists, rated: Lists, n: int, damping: float) -> Float64s:
    """Σ s_j x_j / (``damping`` + Σ s_j) over the ``n`` nearest neighbours j that were rated.

    float64 [pairs]; the damping is that of Bell & Koren, Scalable collaborative filtering with
    jointly derived neighborhood interpolation weights, 2007, for predictions from few neighbours.

    For each pair: the ``neighbours`` of its one id with their similarities s, the nearest first,
    and what its other id has ``rated``, in ascending order, with the deviations x. Zero where no
    neighbour was rated.
    """
    neighbours.check()
    rated.check()
    assert neighbours.starts.shape == rated.starts.shape
    assert damping >= 0
    found = np.zeros(len(neighbours.starts) - 1)
    _correct(*neighbours, *rated, n, float(damping), found)
    return found


@jit
def _correct(  # type: ignore[no-untyped-def]
    starts, numbers, similarities, rated_starts, rated_numbers, deviations, n, damping, found
):
    """For every pair walk down the neighbours until ``n`` of them were rated."""
    for pair in range(len(found)):
        rated = rated_numbers[rated_starts[pair] : rated_starts[pair + 1]]
        own = deviations[rated_starts[pair] : rated_starts[pair + 1]]
        total = weight = 0.0
        taken = 0
        for t in range(starts[pair], starts[pair + 1]):
            place = np.searchsorted(rated, numbers[t])
            if place < len(rated) and rated[place] == numbers[t]:
                total += similarities[t] * own[place]
                weight += similarities[t]
                taken += 1
                if taken == n:
                    break
        if weight > 0:
            found[pair] = total / (damping + weight)
