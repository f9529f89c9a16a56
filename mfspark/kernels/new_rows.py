"""New rows of one side beside the rows that a model has of the other: a half-step after the fit.

The rows of a model are in canonical rotation and in the unit of the ratings; what is minimised was
written for other coordinates (see :mod:`mfspark.kernels.rotation`). With M of the user factors and
M = R Rᵀ, p R and q R⁻ᵀ / scale are as good as those that the fit had: their products are those of
the fitted unit, and |p R|² = p M pᵀ.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mfspark.columns import Side
from mfspark.kernels.arrays import AlignedRows, Float32s, Float64s
from mfspark.kernels.csr import Csr
from mfspark.kernels.draw import Prior, draw_rows
from mfspark.kernels.half_step import solve_rows
from mfspark.kernels.objective import Objective

# Directions whose share of M is below float32 rounding are those of factors that are zero.
_NEGLIGIBLE = 1e-12


def penalty_root(user_penalty: Float64s) -> tuple[Float64s, Float64s]:
    """R and R⁻ᵀ, float64 [rank, rank], of M = R Rᵀ, which is symmetric and positive semi-definite;
    the inverse is zero where M is."""
    values, vectors = np.linalg.eigh(user_penalty)
    keep = values > _NEGLIGIBLE * max(float(values.max(initial=0)), np.finfo(np.float64).tiny)
    roots = np.sqrt(np.where(keep, values, 0))
    inverses = np.divide(1, roots, out=np.zeros_like(roots), where=keep)
    return vectors * roots, vectors * inverses


class FoldIn(NamedTuple):
    """``root``: R; ``inverse``: R⁻ᵀ, with zeros where M has none; both float64 [rank, rank].
    ``scale``: what a unit of the fit is in the unit of the ratings. ``objective``: of the fit."""

    root: Float64s
    inverse: Float64s
    scale: float
    objective: Objective

    @classmethod
    def of(cls, user_penalty: Float64s, scale: float, objective: Objective) -> "FoldIn":
        """From M, float64 [rank, rank]."""
        return cls(*penalty_root(user_penalty), scale, objective)

    @property
    def n_factors(self) -> int:
        """Numbers of a fixed row beside its bias."""
        return len(self.root)

    def user_penalty(self) -> Float64s:
        """D, float64 [rank + 1, rank + 1], of a user with one rating, in the coordinates and the
        unit of the model: n^ν D for n ratings (see :mod:`mfspark.kernels.influence`)."""
        rank, penalty = len(self.root), self.objective.users
        matrix = np.zeros((rank + 1, rank + 1))
        matrix[:rank, :rank] = self.scale**2 * penalty.factors * self.root @ self.root.T
        matrix[rank, rank] = penalty.bias
        return matrix

    def fixed_rows(self, rows: Float32s, side: Side) -> AlignedRows:
        """Rows [factors, bias] of the model, float32 [n, rank + 1], as the solver of the other side
        wants them; they are of ``side``."""
        matrix = self.root if side == Side.USER else self.inverse / self.scale
        return AlignedRows.of(_turned(rows, matrix, 1 / self.scale))

    def solve(self, ratings: Csr, fixed: AlignedRows, side: Side) -> Float32s:
        """Rows [factors, bias] of the model for the rows of ``ratings`` (in the unit of the
        ratings), which are of ``side``: float32 [n_rows, rank + 1]; zeros without ratings."""
        values = (ratings.values / self.scale).astype(np.float32)
        solved, _ = solve_rows(
            ratings._replace(values=values), fixed, self.objective, side, "exact"
        )
        matrix = self.inverse.T if side == Side.USER else self.scale * self.root.T
        return _turned(solved, matrix, self.scale)


class DrawnFoldIn(NamedTuple):
    """The same beside stored draws of a posterior (see :mod:`mfspark.kernels.draw`).

    With x = [p, b] of an id and v = [q, 1] of the other side, each draw s has its own rows v_s, and
    the id's row given these is normal. Its expectation ε_s makes the predictions b_s + v_s·ε_s,
    whose mean over the draws is laid on the rows of the model by least squares over all of them:

        x = (1/S) Σ_s maps_s ε_s + shift    maps_s = (Σ v vᵀ)⁻¹ Σ v v_sᵀ
                                            shift = (Σ v vᵀ)⁻¹ Σ v (b̄_s − b)

    A draw of the id's row is ε_s with noise of its covariance. The noise is the same for all ids:
    what matters is how much one id's rows differ. All in the coordinates and the unit of the model.

    ``mean`` μ; ``noise`` 1/α; ``priors`` of each draw; ``maps`` float64 [n_draws, rank + 1,
    rank + 1]; ``shift`` float64 [rank + 1]; ``normals`` float32 [n_draws, rank + 1].
    """

    mean: float
    noise: float
    priors: Sequence[Prior]
    maps: Float64s
    shift: Float64s
    normals: Float32s

    @property
    def n_factors(self) -> int:
        """Numbers of a fixed row: those of all its draws."""
        return self.normals.size

    def fixed_rows(self, rows: Float32s, side: Side) -> list[AlignedRows]:
        """Of each draw its rows, from float32 [n, n_draws · (rank + 1) + 1], the last of them not
        being used."""
        parts = rows[:, :-1].reshape(len(rows), *self.normals.shape)
        return [AlignedRows.of(np.ascontiguousarray(parts[:, n])) for n in range(len(self.normals))]

    def solve(self, ratings: Csr, fixed: list[AlignedRows], side: Side) -> Float32s:
        """[factors, draws, bias] for the rows of ``ratings``, float32 [n_rows,
        rank + n_draws · (rank + 1) + 1]."""
        centred = ratings._replace(values=(ratings.values - self.mean).astype(np.float32))
        n_rows, (n_draws, size) = ratings.n_rows, self.normals.shape
        total, draws = np.zeros((n_rows, size)), []
        for prior, rows, turn, normal in zip(
            self.priors, fixed, self.maps, self.normals, strict=True
        ):
            precision = 1 / self.noise
            zero = np.zeros((n_rows, size), np.float32)
            expected, _ = draw_rows(centred, rows, prior, precision, zero)
            drawn, _ = draw_rows(centred, rows, prior, precision, zero + normal)
            total += expected @ turn.T
            draws.append(drawn)
        mean = total / n_draws + self.shift
        parts = [mean[:, :-1], *draws, mean[:, -1:]]
        return np.ascontiguousarray(np.concatenate(parts, axis=1), np.float32)


def common_normals(n_draws: int, size: int) -> Float32s:
    """Standard normal numbers, float32 [n_draws, size], whose mean over the draws is 0 and whose
    mean square is that of a sample: 1 − 1/n_draws."""
    found = np.random.default_rng(0).standard_normal((n_draws, size))
    found -= found.mean(axis=0)
    found *= np.sqrt((1 - 1 / n_draws) / np.mean(found**2, axis=0))
    return found.astype(np.float32)


def _turned(rows: Float32s, matrix: Float64s, bias_unit: float) -> Float32s:
    factors = rows[:, :-1].astype(np.float64) @ matrix
    return np.column_stack([factors, bias_unit * rows[:, -1]]).astype(np.float32)
