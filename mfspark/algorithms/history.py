"""The passes of a fit: a row of figures each, when to stop, and which iteration to keep."""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Literal, NamedTuple

import pyarrow as pa

from mfspark.columns import Side
from mfspark.errors import DivergenceError
from mfspark.kernels.arrays import Float32s
from mfspark.kernels.objective import PassSums
from mfspark.settings import ExchangeName

StopReason = Literal["max_iter", "validation", "converged"]

HISTORY_SCHEMA = (
    "iteration int, side string, objective double, train_rmse double, "
    "validation_rmse double, seconds double, bytes long, learning_rate double"
)


class HistoryRow(NamedTuple):
    """The figures of one pass, a row of ``HISTORY_SCHEMA``: a half-step of one ``side``, or an
    epoch over ``both``. Objective and errors are in the unit of the user's ratings; ``bytes``:
    factors sent through Spark."""

    iteration: int
    side: str
    objective: float
    train_rmse: float
    validation_rmse: float | None
    seconds: float
    bytes: int
    learning_rate: float | None


class HistoryState(NamedTuple):
    """What a history knows after its last iteration: see ``History``, whose fields these are."""

    rows: list[HistoryRow]
    best_iteration: int
    best: float
    in_vain: int
    penalties: dict[str, float]
    errors: list[float]
    stopped: StopReason | None


class History:
    """Takes the sums of each pass, and decides by them.

    One figure counts for each iteration: the validation RMSE, or without validation ratings the
    objective. The fit stops at the ``patience``-th iteration in a row that does not lower the best
    figure so far by more than ``tol`` times that figure, or after ``max_iter`` iterations.
    ``best_iteration`` is the one to keep.

    ``scale``: what a unit of the fitted ratings is in the unit of the user's. ``penalties``: that
    of each side which the first pass does not change. ``journal``: a file to which the rows of each
    iteration are added when it ends, as a line of JSON; where it is not there (a task on another
    machine than the driver, or of another account), nothing is written. ``state``: of the history
    that this one goes on with.
    """

    def __init__(
        self,
        max_iter: int,
        tol: float,
        scale: float,
        penalties: Mapping[str, float] | None = None,
        patience: int = 1,
        journal: str | None = None,
        state: HistoryState | None = None,
    ) -> None:
        state = state or HistoryState([], 0, math.inf, 0, dict(penalties or {}), [], None)
        self.rows = list(state.rows)
        self.best_iteration = state.best_iteration
        self.stopped = state.stopped
        self._max_iter, self._tol, self._scale, self._patience = max_iter, tol, scale, patience
        self._penalties = dict(state.penalties)
        self._iteration = self.rows[-1].iteration if self.rows else 0
        self._started = 0.0
        self._best = state.best
        self._in_vain = state.in_vain
        self._errors = list(state.errors)
        self._journal, self._n_written = journal, 0

    @property
    def state(self) -> HistoryState:
        """What it takes to go on from here, between two iterations."""
        return HistoryState(
            list(self.rows),
            self.best_iteration,
            self._best,
            self._in_vain,
            dict(self._penalties),
            list(self._errors),
            self.stopped,
        )

    @property
    def reason(self) -> StopReason:
        """Why the fit has ended."""
        assert self.stopped is not None
        return self.stopped

    def iterations(self) -> Iterator[int]:
        """Numbers of iterations, from 1, until there is a reason to stop."""
        while self.stopped is None:
            if self._iteration == self._max_iter:
                self.stopped = "max_iter"
                break
            self._iteration += 1
            self._started = time.perf_counter()
            yield self._iteration
            self._write_journal()

    def _write_journal(self) -> None:
        new = self.rows[self._n_written :]
        if self._journal is None or not new or not os.path.isfile(self._journal):
            return
        # A fit does not end for want of a line about it.
        with suppress(OSError), open(self._journal, "a", encoding="utf-8") as file:
            file.write(json.dumps(new) + "\n")
            self._n_written = len(self.rows)

    def repeat_iteration(self) -> None:
        """Have the next iteration bear the number of this one, which is undone."""
        self._iteration -= 1

    def add(
        self, side: str, sums: PassSums, bytes_sent: int, learning_rate: float | None = None
    ) -> None:
        """A row for the pass that ends now. Raises ``DivergenceError`` when the objective is NaN or
        infinite."""
        self._penalties[side] = sums.penalty
        objective = self._scale**2 * (sums.squared_error + sum(self._penalties.values()))
        if not math.isfinite(objective):
            raise DivergenceError(
                f"the objective of iteration {self._iteration} is {objective}, so the factors are "
                "of no use; check the ratings for values far off the scale, or set regParam higher"
            )
        validation_rmse = None
        if sums.n_validation:
            mean_square = sums.validation_squared_error / sums.n_validation
            validation_rmse = self._scale * math.sqrt(mean_square)
        now = time.perf_counter()
        self.rows.append(
            HistoryRow(
                iteration=self._iteration,
                side=str(side),
                objective=objective,
                train_rmse=self._scale * math.sqrt(sums.squared_error / sums.n_ratings),
                validation_rmse=validation_rmse,
                seconds=now - self._started,
                bytes=bytes_sent,
                learning_rate=learning_rate,
            )
        )
        self._started = now

    def end_iteration(self) -> bool:
        """Judge the iteration by its last pass; whether it is the best so far."""
        last = self.rows[-1]
        figure = last.objective if last.validation_rmse is None else last.validation_rmse
        before = self._best
        if before == math.inf or before - figure > self._tol * before:
            self._in_vain = 0
        else:
            self._in_vain += 1
        if self._in_vain == self._patience:
            self.stopped = "converged" if last.validation_rmse is None else "validation"
        if figure >= before:
            return False
        self._best, self.best_iteration = figure, last.iteration
        return True

    def end_draws(self, error: float) -> None:
        """Judge the mean over all draws so far, by its squared error on validation ratings, or
        where there are none, on training ratings.

        The fit stops when the last five errors differ by less than ``tol`` times themselves, unless
        ``tol`` is 0. That an error fell no further would not do: that on training ratings has a
        minimum on its way.
        """
        self._errors.append(math.sqrt(error))
        last = self._errors[-5:]
        if len(last) == 5 and max(last) - min(last) < self._tol * last[-1]:
            is_validation = self.rows[-1].validation_rmse is not None
            self.stopped = "validation" if is_validation else "converged"


class Diagnostic(NamedTuple):
    """Of a quantity over all draws: mean, standard deviation, R̂ and effective sample size (Vehtari
    et al., Rank-normalization, folding, and localization, 2021); None where nothing can be said."""

    quantity: str
    mean: float
    std: float
    rhat: float | None
    ess: float | None


class Spread(NamedTuple):
    """Parts of the variance of a rating around its prediction.

    ``noise``: mean of 1/α over the draws. ``cold_user``, ``cold_item``: the mean variance of r̂ for
    a user or an item of whom nothing is known but that it is one of the rows x ~ N(m, Λ⁻¹).
    """

    noise: float
    cold_user: float
    cold_item: float

    def scaled(self, scale: float) -> "Spread":
        """For ratings in a unit that is ``scale`` times smaller."""
        return Spread(*(part * scale**2 for part in self))


@dataclass(frozen=True)
class Posterior:
    """``draws``: rows [factors, bias] of some draws, by side float32 [n, n_draws, rank + 1].

    ``diagnostics``: of what was followed of all draws, in the unit of the user's ratings.
    """

    draws: dict[Side, Float32s]
    spread: Spread
    diagnostics: list[Diagnostic] = field(default_factory=list)

    @property
    def n_draws(self) -> int:
        """Number of draws."""
        return next((rows.shape[1] for rows in self.draws.values()), 0)


class FeatureCounts(NamedTuple):
    """Of a side with features: how many there are, ids with ratings and features, and ids with
    features alone."""

    n_features: int
    n_rated: int
    n_unrated: int


class Found(NamedTuple):
    """What a fit in one process ends in.

    ``rows``: [factors, bias] by side and position, float32 [n, rank + 1], behind which stand those
    of ids that have features alone, the ``unrated`` ones. ``posterior``: of the fits that draw from
    one. ``features``: of the sides that have some, as ``unrated``. ``cold_biases``: by side float32
    [number of ``rows``], in place of the bias where the other id has no rating; of fits in which
    rows have features, given or implicit.
    """

    rows: dict[Side, Float32s]
    history: History
    posterior: Posterior | None = None
    features: Mapping[Side, FeatureCounts] = MappingProxyType({})
    unrated: Mapping[Side, pa.Array] = MappingProxyType({})
    cold_biases: Mapping[Side, Float32s] = MappingProxyType({})

    @property
    def best_iteration(self) -> int:
        """The iteration that the rows are of, or the last one whose draw is in them."""
        if self.posterior is None:
            return self.history.best_iteration
        return self.history.rows[-1].iteration


@dataclass(frozen=True)
class Learnt:
    """What is told of a fit beside its factor tables.

    ``n_cold_validation``: validation ratings left out because their user or item has no training
    rating. ``singular_values`` and, of fits that minimise a penalty, ``user_penalty``: see
    :mod:`mfspark.kernels.rotation`; in the unit of the user's ratings. ``exchange``: how factors
    reached the blocks of each side of a distributed fit. ``n_draws``: stored of the posterior;
    ``spread``: how ratings spread around predictions, in the unit of the user's ratings;
    ``diagnostics`` as in ``Posterior``; of the fits that draw from one. ``n_users`` and ``n_items``
    have ratings; ``features`` by side, where features were given.
    """

    n_users: int
    n_items: int
    n_cold_validation: int
    singular_values: list[float]
    history: list[HistoryRow]
    best_iteration: int
    stopped: StopReason
    execution: Literal["one_task", "distributed"]
    exchange: dict[Side, ExchangeName]
    user_penalty: list[list[float]] = field(default_factory=list)
    n_draws: int = 0
    spread: Spread | None = None
    diagnostics: list[Diagnostic] = field(default_factory=list)
    features: dict[Side, FeatureCounts] = field(default_factory=dict)

    @classmethod
    def without_passes(cls, n_users: int, n_items: int, stopped: StopReason) -> "Learnt":
        """Of tables that were made without iterating."""
        return cls(
            n_users=n_users,
            n_items=n_items,
            n_cold_validation=0,
            singular_values=[],
            history=[],
            best_iteration=0,
            stopped=stopped,
            execution="distributed",
            exchange={},
        )

    def to_json(self) -> str:
        """As text, for the way out of a task."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Learnt":
        """What ``to_json`` wrote."""
        fields = json.loads(text)
        fields["history"] = [HistoryRow(*row) for row in fields["history"]]
        fields["exchange"] = {Side(side): name for side, name in fields["exchange"].items()}
        fields["spread"] = None if fields["spread"] is None else Spread(*fields["spread"])
        fields["diagnostics"] = [Diagnostic(*row) for row in fields["diagnostics"]]
        fields["features"] = {
            Side(side): FeatureCounts(*counts) for side, counts in fields["features"].items()
        }
        return cls(**fields)
