"""When to stop iterating, and which iteration to keep."""

from dataclasses import dataclass
from typing import Literal

StopReason = Literal["max_iter", "validation", "converged"]


@dataclass
class StopRule:
    """Watches one figure per iteration: validation RMSE when there is one, else the objective.

    Stops at the first iteration that does not lower the best figure so far by more than ``tol``
    times that figure. ``best_iteration`` is the one to keep.
    """

    tol: float
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
        if iteration == 1 or before - figure > self.tol * before:
            return None
        return "converged" if validation_rmse is None else "validation"
