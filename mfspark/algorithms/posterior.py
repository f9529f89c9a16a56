"""What is stored of a posterior beside its mean: some draws, and how wide predictions spread."""

from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np

from mfspark.algorithms.history import Posterior, Spread
from mfspark.columns import Side
from mfspark.kernels.arrays import Float32s
from mfspark.kernels.draw import Prior, RowSums

DrawT = TypeVar("DrawT")


class StoredDraws(Generic[DrawT]):
    """Keeps at most ``n_kept`` of the draws, more than half as many, at equal distances.

    ``kept`` and ``spreads``: those that an earlier fit left.
    """

    def __init__(
        self, n_kept: int, kept: Sequence[DrawT] = (), spreads: Sequence[Spread] = ()
    ) -> None:
        self.kept = list(kept)
        self.spreads = list(spreads)
        self._n_kept = n_kept
        self._distance = 1
        # Twice the distance whenever there was no room for one more.
        while n_kept and -(-len(self.spreads) // self._distance) > n_kept:
            self._distance *= 2

    def add(self, draw: DrawT, spread: Spread) -> None:
        """Take one more draw."""
        if self._n_kept and len(self.spreads) % self._distance == 0:
            if len(self.kept) == self._n_kept:
                self.kept = self.kept[::2]
                self._distance *= 2
            if len(self.spreads) % self._distance == 0:
                self.kept.append(draw)
        self.spreads.append(spread)

    @property
    def spread(self) -> Spread:
        """The mean over all draws."""
        return Spread(*np.mean(self.spreads, axis=0).tolist())


def posterior_of(stored: StoredDraws[dict[Side, Float32s]]) -> Posterior:
    """What there is in the end, of draws by side float32 [n, rank + 1]."""
    draws = {
        side: np.stack([rows[side] for rows in stored.kept], axis=1) for side in Side if stored.kept
    }
    return Posterior(draws, stored.spread)


def spread_of(
    noise_precision: float, priors: dict[Side, Prior], sums: dict[Side, RowSums]
) -> Spread:
    """The parts of the variance according to one draw."""
    cold = {}
    for side in Side:
        # E vᵀ Λ⁻¹ v over the rows v = [q, 1] of the other side.
        other = sums[side.other]
        features = other.products.copy()
        features[-1, :] = features[:, -1] = other.rows
        features[-1, -1] = other.n_rows
        covariance = np.linalg.inv(priors[side].precision)
        cold[side] = float(np.sum(features * covariance)) / other.n_rows
    return Spread(1 / noise_precision, *cold.values())
