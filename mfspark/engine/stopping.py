"""When to stop iterating, and which iteration to keep."""

from dataclasses import dataclass
from typing import Literal

StopReason = Literal["max_iter", "validation", "converged"]


@dataclass
class StopRule:
    """Watches one figure per iteration: validation RMSE when there is one, else the objective.

    Stops at the ``patience``-th iteration in a row that does not lower the best figure so far by
    more than ``tol`` times that figure. ``best_iteration`` is the one to keep.
    """

    tol: float
    patience: int = 1
    in_vain: int = 0
    best: float = float("inf")
    best_iteration: int = 0

    def observe(
        self, iteration: int, objective: float, validation_rmse: float | None
    ) -> StopReason | None:
        """Take the figures of an iteration; returns why to stop, or None to go on."""
        figure = objective if validation_rmse is None else validation_rmse
        before = self.best
        if figure < before:
            self.best, self.best_iteration = figure, iteration
        if before == float("inf") or before - figure > self.tol * before:
            self.in_vain = 0
        else:
            self.in_vain += 1
        if self.in_vain < self.patience:
            return None
        return "converged" if validation_rmse is None else "validation"
