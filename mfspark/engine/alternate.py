"""The loop of alternating least squares, wherever its half-steps run."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from mfspark.engine.stopping import StopReason, StopRule
from mfspark.errors import DivergenceError
from mfspark.kernels.problem import HalfStepMetrics

HISTORY_SCHEMA = (
    "iteration int, side string, objective double, train_rmse double, "
    "validation_rmse double, seconds double, bytes long, learning_rate double"
)

FactorsT = TypeVar("FactorsT")


class Solver(NamedTuple, Generic[FactorsT]):
    """Half-steps of one side: ``solve`` makes its factors and metrics of the fixed side's factors,
    and ships ``bytes_shipped`` bytes of these."""

    side: str
    solve: Callable[[FactorsT], tuple[FactorsT, HalfStepMetrics]]
    bytes_shipped: int


@dataclass(frozen=True)
class Outcome(Generic[FactorsT]):
    """Factors of the best iteration, a row of ``HISTORY_SCHEMA`` per half-step, and the end."""

    users: FactorsT
    items: FactorsT
    history: list[dict[str, Any]]
    best_iteration: int
    stopped: StopReason


def alternate(
    users: Solver[FactorsT],
    items: Solver[FactorsT],
    start: tuple[FactorsT, float],
    tol: float,
    max_iter: int,
    scale: float,
    report: Callable[[dict[str, Any]], None],
) -> Outcome[FactorsT]:
    """Solve users and items in turn until ``StopRule`` or ``max_iter`` ends it.

    ``start``: item factors to begin with and their penalty. ``scale``: what a unit of the fitted
    ratings is in the unit of the user's; the history is in the latter. ``report`` is told the last
    row of the history after each iteration. Raises ``DivergenceError`` when the objective is NaN or
    infinite.
    """
    item_factors, item_penalty = start
    rule = StopRule(tol)
    history: list[dict[str, Any]] = []
    stopped: StopReason | None = None
    iteration = 0
    while stopped is None:
        iteration += 1
        started = time.perf_counter()
        user_factors, metrics = users.solve(item_factors)
        history.append(
            history_row(
                iteration, users.side, metrics, item_penalty, scale, started, users.bytes_shipped
            )
        )
        started, user_penalty = time.perf_counter(), metrics.penalty
        item_factors, metrics = items.solve(user_factors)
        history.append(
            history_row(
                iteration, items.side, metrics, user_penalty, scale, started, items.bytes_shipped
            )
        )
        item_penalty = metrics.penalty
        if not math.isfinite(history[-1]["objective"]):
            raise DivergenceError(
                f"the objective of iteration {iteration} is {history[-1]['objective']}, so the "
                "factors are of no use; check the ratings for values far off the scale, or set "
                "regParam higher"
            )
        report(history[-1])
        stopped = rule.observe(iteration, history[-1]["objective"], history[-1]["validation_rmse"])
        if rule.best_iteration == iteration:
            best = user_factors, item_factors
        if stopped is None and iteration == max_iter:
            stopped = "max_iter"
    return Outcome(*best, history, rule.best_iteration, stopped)


def history_row(
    iteration: int,
    side: str,
    metrics: HalfStepMetrics,
    fixed_penalty: float,
    scale: float,
    started: float,
    bytes_shipped: int,
    learning_rate: float | None = None,
) -> dict[str, Any]:
    """One row of the history table; see ``HISTORY_SCHEMA``."""
    validation_rmse = None
    if metrics.n_validation:
        validation_rmse = scale * math.sqrt(metrics.validation_squared_error / metrics.n_validation)
    return {
        "iteration": iteration,
        "side": side,
        "objective": scale**2 * (metrics.squared_error + metrics.penalty + fixed_penalty),
        "train_rmse": scale * math.sqrt(metrics.squared_error / metrics.n_ratings),
        "validation_rmse": validation_rmse,
        "seconds": time.perf_counter() - started,
        "bytes": bytes_shipped,
        "learning_rate": learning_rate,
    }
