"""The learning rate of gradient descent: how it goes on, and what becomes of a bad epoch."""

import logging
import math
from typing import NamedTuple

from mfspark.errors import DivergenceError
from mfspark.kernels.objective import PassSums
from mfspark.settings import SGDSettings

logger = logging.getLogger("mfspark")

# An epoch whose error is beyond this many times that of predicting μ has diverged.
_EXPLODED = 2.0
# Halving the rate so often makes any rate that a sane person sets harmless.
_MOST_CUTS = 12


class RateState(NamedTuple):
    """γ before the schedule, the last objective that was accepted, and how often γ was cut."""

    base: float
    objective: float
    n_cuts: int


class LearningRate:
    """The learning rate γ of each epoch (from 1).

    constant: γ. inverse_time: γ/(1 + decay·(epoch − 1)). bold_driver: γ · 1.05 after an epoch that
    lowered the objective; one that raised it is undone and γ halved (Battiti 1989). adagrad: γ,
    which the kernel divides for each row.

    Under every schedule an epoch that ends in numbers that are not finite, or explodes, is to be
    undone and repeated, with γ halved. ``null_error`` is Σ (r − μ)². ``state``: where an earlier
    fit left off.
    """

    def __init__(
        self, settings: SGDSettings, null_error: float, state: RateState | None = None
    ) -> None:
        self._schedule, self._decay = settings.schedule, settings.rate_decay
        self._null_error = null_error
        state = state or RateState(settings.learning_rate, math.inf, 0)
        self._base, self._objective, self._n_cuts = state

    @property
    def state(self) -> RateState:
        """What it takes to go on from here, between two epochs."""
        return RateState(self._base, self._objective, self._n_cuts)

    @property
    def is_by_row(self) -> bool:
        """Whether rows have rates of their own."""
        return self._schedule == "adagrad"

    def of(self, epoch: int) -> float:
        """The rate of an epoch."""
        if self._schedule == "inverse_time":
            return self._base / (1 + self._decay * (epoch - 1))
        return self._base

    def has_diverged(self, epoch: int, sums: PassSums) -> bool:
        """Whether the epoch is to be undone and repeated; the rate is halved then. Raises
        ``DivergenceError`` when halving has not helped."""
        is_finite = math.isfinite(sums.squared_error + sums.penalty)
        if is_finite and sums.squared_error <= _EXPLODED * self._null_error:
            return False
        rate = self.of(epoch)
        self._n_cuts += 1
        self._base /= 2
        if self._n_cuts > _MOST_CUTS:
            raise DivergenceError(
                f"gradient descent diverged at a learning rate of {rate:.3g}, after "
                f"{self._n_cuts} cuts by half; the factors would be NaN. Check the ratings for "
                "values far off the scale, or set learningRate lower and regParam higher"
            )
        logger.warning(
            "epoch %d diverged at a learning rate of %.3g: undone, the rate is halved", epoch, rate
        )
        return True

    def rejects(self, sums: PassSums) -> bool:
        """Whether the bold driver has the epoch undone; it changes the rate either way."""
        if self._schedule != "bold_driver":
            return False
        objective = sums.squared_error + sums.penalty
        if objective > self._objective:
            self._base /= 2
            return True
        if self._objective < math.inf:
            self._base *= 1.05
        self._objective = objective
        return False
