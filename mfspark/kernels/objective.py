"""What ALS and SGD minimise, and the sums over ratings that say how far they got.

With e = r − μ − b_u − b_i − p_u·q_i over all ratings, and n ratings of a user or item,

    Σ e² + Σ_u n_u^ν (λ_u |p_u|² + λ_b b_u²) + Σ_i n_i^ν (λ_i |q_i|² + λ_b b_i²)
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mfspark.columns import Side
from mfspark.kernels.arrays import Float32s, Float64s, Int64s


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
        assert solved.shape[:1] == counts.shape
        squares = np.square(solved, dtype=np.float64)
        per_row = self.factors * squares[:, :-1].sum(axis=1) + self.bias * squares[:, -1]
        return float(np.dot(self.row_weights(counts), per_row * (counts > 0)))


@dataclass(frozen=True)
class Objective:
    """μ (which ratings still contain), whether biases are learnt, and the penalty of each side.

    ``link_weight`` is κ, of fits in which rows are linked to their features (see
    :mod:`mfspark.algorithms.fitted_link`); None in others.
    """

    mean: float
    fit_biases: bool
    users: Penalty
    items: Penalty
    link_weight: float | None = None

    def penalty(self, side: Side) -> Penalty:
        """The penalty of the users or of the items."""
        return self.users if side == Side.USER else self.items


class PassSums(NamedTuple):
    """Sums over some ratings and rows after a pass (a half-step, an epoch); they add up.

    ``penalty`` is that of the rows which the pass changed, of one side or of both.
    """

    squared_error: float
    n_ratings: int
    penalty: float
    validation_squared_error: float
    n_validation: int


def add_sums(parts: Iterable[Iterable[float]]) -> PassSums:
    """The sums over all parts, added in their order."""
    return PassSums(*(sum(values) for values in zip(*parts, strict=True)))
