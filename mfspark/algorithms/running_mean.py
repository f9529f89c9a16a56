"""The mean over draws of a factor model, as a factor model.

The mean of t predictions b_u + b_i + p_u·q_i has the mean biases, and as interaction the product of
all draws side by side, A = [P₁, …, P_t] / √t and B = [Q₁, …, Q_t] / √t. Only its greatest singular
directions are kept, found anew whenever some draws have come (see :mod:`mfspark.kernels.rotation`),
so that memory does not grow with the draws.
"""

from collections.abc import Mapping
from concurrent.futures import Executor
from types import MappingProxyType

import numpy as np

from mfspark.columns import ITEM, USER, Side
from mfspark.kernels.arrays import Array, Float32s, Float64s
from mfspark.kernels.rotation import canonical_rotation

# Directions that are kept, in multiples of the rank, and draws that are added at a time: the cost
# per draw hardly depends on the latter.
KEPT, DRAWS_AT_A_TIME = 2, 5
# Rows that are worked on at a time, so that the draws side by side need no memory of their own.
_ROWS_PER_PART = 2048
_FACTORS_OF = {side: f"mean_{side}_factors" for side in Side}
_BIAS_OF = {side: f"mean_{side}_bias" for side in Side}


class RunningMean:
    """Takes draws one after the other: rows [factors, bias] by side, float32 [n, rank + 1].

    ``arrays``: what an earlier fit had of ``n_draws`` draws.
    """

    def __init__(
        self, rank: int, n_draws: int = 0, arrays: Mapping[str, Array] = MappingProxyType({})
    ) -> None:
        self.rank = rank
        self.n_draws = n_draws
        sides = Side if n_draws else ()
        self._factors: dict[Side, Float32s] = {side: arrays[_FACTORS_OF[side]] for side in sides}
        self._bias: dict[Side, Float64s] = {side: arrays[_BIAS_OF[side]] for side in sides}
        self._waiting: list[dict[Side, Float32s]] = []

    @property
    def is_waiting(self) -> bool:
        """Whether there are draws that are not in the mean."""
        return bool(self._waiting)

    @property
    def arrays(self) -> dict[str, Array]:
        """The mean, by name; without the draws that wait."""
        factors = {_FACTORS_OF[side]: part for side, part in self._factors.items()}
        return factors | {_BIAS_OF[side]: part for side, part in self._bias.items()}

    def add(self, draw: dict[Side, Float32s], pool: Executor) -> bool:
        """Take one more draw; whether all draws are in the mean now, or some still wait."""
        self._waiting.append(draw)
        if len(self._waiting) < DRAWS_AT_A_TIME:
            return False
        self._fold(KEPT * self.rank, pool)
        return True

    @property
    def rows(self) -> dict[Side, Float32s]:
        """The mean so far as rows [factors, bias] by side, float32 [n, at most 2 rank + 1]."""
        return {
            side: np.column_stack([factors, self._bias[side].astype(np.float32)])
            for side, factors in self._factors.items()
        }

    def final(self, pool: Executor) -> dict[Side, Float32s]:
        """The mean of all draws as rows of their own rank, float32 [n, rank + 1]."""
        self._fold(self.rank, pool)
        return self.rows

    def _fold(self, n_kept: int, pool: Executor) -> None:
        """Bring what is waiting into the mean, and the mean to at most ``n_kept`` directions."""
        n_new, n_old = len(self._waiting), self.n_draws
        for side in Side:
            total = n_old * self._bias.get(side, np.zeros(1))
            for draw in self._waiting:
                total = total + draw[side][:, -1]
            self._bias[side] = total / (n_old + n_new)
        parts = [(side, part) for side in Side for part in self._parts(side)]
        sums = list(pool.map(self._sums, *zip(*parts, strict=True)))
        grams, columns = (
            {
                side: np.sum(
                    [each[n] for owner, each in zip(parts, sums, strict=True) if owner[0] == side],
                    axis=0,
                )
                for side in Side
            }
            for n in (0, 1)
        )
        rotation = canonical_rotation(grams[USER], grams[ITEM], columns[ITEM])
        matrices = {USER: rotation.users, ITEM: rotation.items}

        def rotate(side: Side, part: slice) -> Float32s:
            return self._beside(side, part) @ matrices[side][:, :n_kept].astype(np.float32)

        rotated = list(pool.map(rotate, *zip(*parts, strict=True)))
        for side in Side:
            of_side = [rows for owner, rows in zip(parts, rotated, strict=True) if owner[0] == side]
            self._factors[side] = np.concatenate(of_side)
        self._waiting.clear()
        self.n_draws = n_old + n_new

    def _parts(self, side: Side) -> list[slice]:
        n_rows = len(self._bias[side])
        return [slice(at, at + _ROWS_PER_PART) for at in range(0, n_rows, _ROWS_PER_PART)]

    def _beside(self, side: Side, part: slice) -> Float32s:
        """Some rows of A or B: the mean so far and the waiting draws side by side, weighted."""
        n = self.n_draws + len(self._waiting)
        weighted = [draw[side][part, :-1] / np.float32(np.sqrt(n)) for draw in self._waiting]
        if self.n_draws:
            share = np.float32(np.sqrt(self.n_draws / n))
            weighted.insert(0, share * self._factors[side][part])
        return np.concatenate(weighted, axis=1)

    def _sums(self, side: Side, part: slice) -> tuple[Float64s, Float64s]:
        rows = self._beside(side, part).astype(np.float64)
        return rows.T @ rows, rows.sum(axis=0)
