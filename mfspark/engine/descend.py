"""The loop of stochastic gradient descent, wherever its epochs run."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from mfspark.engine.alternate import history_row
from mfspark.engine.stopping import StopReason, StopRule
from mfspark.errors import DivergenceError
from mfspark.kernels.problem import HalfStepMetrics
from mfspark.settings import Schedule

logger = logging.getLogger("mfspark")

StateT = TypeVar("StateT")

# An epoch whose error is beyond this many times that of predicting μ has lost its way.
_EXPLODED = 2.0
# Epochs are noisy: one that gains nothing says little.
_PATIENCE = 3
# Halving the rate so often makes any rate that a sane person sets harmless.
_MOST_CUTS = 12


@dataclass(frozen=True)
class Rates:
    """The learning rate γ of each epoch (from 1).

    constant: γ. inverse_time: γ/(1 + decay·(epoch − 1)). bold_driver: γ · 1.05 after an epoch that
    lowered the objective; one that raised it is undone and γ halved (Battiti 1989). adagrad: γ,
    which the kernel divides for each row.
    """

    schedule: Schedule
    first: float
    decay: float

    @property
    def by_row(self) -> bool:
        """Whether rows have rates of their own."""
        return self.schedule == "adagrad"

    def at(self, epoch: int, base: float) -> float:
        """The rate of an epoch, ``base`` being what is left of γ after cuts and raises."""
        if self.schedule == "inverse_time":
            return base / (1 + self.decay * (epoch - 1))
        return base


@dataclass(frozen=True)
class Descent(Generic[StateT]):
    """State of the best epoch, a row of the history per epoch, and the end."""

    state: StateT
    history: list[dict[str, Any]]
    best_iteration: int
    stopped: StopReason


# (state, rate, epoch) → the state after the epoch, and its sums; the given state stays as it is.
Epoch = Callable[[StateT, float, int], tuple[StateT, HalfStepMetrics]]


def descend(
    run_epoch: Epoch[StateT],
    start: StateT,
    rates: Rates,
    null_error: float,
    tol: float,
    max_iter: int,
    bytes_shipped: int,
    scale: float,
    report: Callable[[dict[str, Any]], None],
) -> Descent[StateT]:
    """Run epochs until ``StopRule`` or ``max_iter`` ends it.

    ``null_error`` is Σ (r − μ)², ``scale`` as in ``alternate``. The errors that an epoch reports
    are those that it met on its way, each before its own update, so the objective of its row is
    that of a point within the epoch. An epoch that ends in numbers that are not finite, or
    explodes, is undone and the rate halved. Raises ``DivergenceError`` when that does not help.
    """
    state = best = start
    rule, base, before, n_cuts = StopRule(tol, _PATIENCE), rates.first, math.inf, 0
    history: list[dict[str, Any]] = []
    stopped: StopReason | None = None
    epoch = 0
    while stopped is None:
        epoch += 1
        started, rate = time.perf_counter(), rates.at(epoch, base)
        reached, metrics = run_epoch(state, rate, epoch)
        objective = metrics.squared_error + metrics.penalty
        if not math.isfinite(objective) or metrics.squared_error > _EXPLODED * null_error:
            n_cuts, base, epoch = n_cuts + 1, base / 2, epoch - 1
            if n_cuts > _MOST_CUTS:
                raise DivergenceError(
                    f"gradient descent diverged at a learning rate of {rate:.3g}, after "
                    f"{n_cuts} cuts by half; the factors would be NaN. Check the ratings for "
                    "values far off the scale, or set learningRate lower and regParam higher"
                )
            logger.warning(
                "epoch %d diverged at a learning rate of %.3g: undone, the rate is halved",
                epoch + 1, rate,
            )  # fmt: skip
            continue
        is_undone = rates.schedule == "bold_driver" and objective > before
        if is_undone:
            base /= 2
        else:
            if rates.schedule == "bold_driver" and epoch > 1:
                base *= 1.05
            state, before = reached, objective
            history.append(
                history_row(epoch, "both", metrics, 0.0, scale, started, bytes_shipped, rate)
            )
            report(history[-1])
            figure = history[-1]["validation_rmse"]
            stopped = rule.observe(epoch, objective, figure)
            if rule.best_iteration == epoch:
                best = state
        if stopped is None and epoch == max_iter:
            stopped = "max_iter"
    return Descent(best, history, rule.best_iteration, stopped)
