"""Whether a chain came to rest, and how many independent draws its draws are worth."""

import math
from typing import NamedTuple

import numpy as np

from mfspark.algorithms.history import Diagnostic
from mfspark.kernels.arrays import Float64s
from mfspark.kernels.draw import RowSums

# Halves of a chain with fewer draws say nothing.
_LEAST_DRAWS = 8


class Trace(NamedTuple):
    """What is followed of a draw, in standard deviations of the ratings.

    ``noise``: 1/√α. ``signal``: the root mean square of b_u + b_i + p_u·q_i over all pairs. (The
    parts alone would tell little: what one gains another may lose, at no price.) ``train_rmse``,
    ``validation_rmse``: of this draw, not of the mean; nan without validation rows.
    """

    noise: float
    signal: float
    train_rmse: float
    validation_rmse: float


def signal_norm(users: RowSums, items: RowSums) -> float:
    """Root mean square of b_u + b_i + p_u·q_i over all pairs: that of [p_u, b_u, 1]·[q_i, 1, b_i],
    from the Gram matrices of these."""
    of_users = _with_ones(users)
    rank = len(users.rows) - 1
    order = [*range(rank), rank + 1, rank]
    of_items = _with_ones(items)[np.ix_(order, order)]
    return math.sqrt(max(np.sum(of_users * of_items), 0.0) / (users.n_rows * items.n_rows))


def _with_ones(sums: RowSums) -> Float64s:
    """Σ [x, 1] [x, 1]ᵀ, float64 [rank + 2, rank + 2]."""
    corner = np.array([[float(sums.n_rows)]])
    return np.block([[sums.products, sums.rows[:, None]], [sums.rows[None], corner]])


def diagnose(chains: list[list[Trace]], scale: float) -> list[Diagnostic]:
    """Diagnostics of ``chains`` of equal length in the unit of the ratings, which is ``scale``
    times smaller. Chains are halved, so that one is enough to compare."""
    # It brings scipy.stats, which takes a second, and no other fit has need of it.
    from arviz_stats.base import array_stats  # type: ignore[attr-defined]

    half = len(chains[0]) // 2
    found = []
    for n, quantity in enumerate(Trace._fields):
        values = scale * np.array([[trace[n] for trace in chain] for chain in chains])
        if not np.isfinite(values).all():
            continue
        rhat = ess = None
        if len(chains[0]) >= _LEAST_DRAWS and values.std() > 0:
            halves = np.concatenate([values[:, :half], values[:, -half:]])
            axes = {"chain_axis": 0, "draw_axis": 1}
            rhat = _finite(array_stats.rhat(halves, **axes))  # type: ignore[no-untyped-call]
            ess = _finite(array_stats.ess(halves, **axes))  # type: ignore[no-untyped-call]
        found.append(Diagnostic(quantity, float(values.mean()), float(values.std()), rhat, ess))
    return found


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
