"""Arguments and results of a half-step: penalty, fixed side, metrics."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mfspark.kernels.csr import Float32s, Float64s, Int64s
from mfspark.kernels.vectors import LANES

_PAIR_OF_LINES = 128


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
        # At least one vector: the kernels do not ask whether there is any.
        width = max(1, -(-rank // LANES)) * LANES
        # Rows begin with a cache line (with a pair of them, which some processors fetch together).
        place = np.zeros(n * width + _PAIR_OF_LINES // 4, np.float32)
        first = -place.ctypes.data % _PAIR_OF_LINES // 4
        factors = place[first : first + n * width].reshape(n, width)
        return cls(factors, np.zeros(n, np.float32), rank)

    @classmethod
    def of(cls, rows: Float32s) -> "FixedSide":
        """From rows [factors, bias], float32 [n, rank + 1]."""
        fixed = cls.zeros(len(rows), rows.shape[1] - 1)
        fixed.fill(0, rows)
        return fixed

    def copy(self) -> "FixedSide":
        """The same rows elsewhere."""
        copied = FixedSide.zeros(len(self.factors), self.rank)
        copied.factors[:], copied.bias[:] = self.factors, self.bias
        return copied

    def fill(self, first: int, rows: Float32s) -> None:
        """Set the rows from ``first`` on to [factors, bias], float32 [n, rank + 1]."""
        places = slice(first, first + len(rows))
        self.factors[places, : self.rank] = rows[:, : self.rank]
        self.bias[places] = rows[:, self.rank]
