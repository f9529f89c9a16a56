"""λ and λ_b from the data: short fits of a range of values, judged by ratings held out of them.

One weight after the other is looked for on the scale of its logarithm: doubled or halved for as
long as the error falls, then half a step to either side, and a parabola through the last three
errors. The biases come first, as a model of their own, since without factors a fit costs next to
nothing; then λ with these biases; then κ of links, where rows have them; then both λ_b together
with all that. The optimum depends on λ for users and λ for items by their product alone (a factor
that is c times as large on one side and c times as small on the other predicts the same), so one of
them is enough. Ratings are standardised, which makes the way short whatever their unit was.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from mfspark.algorithms.als_threads import run_half_step, start_als
from mfspark.algorithms.indexed_ratings import IndexedRatings
from mfspark.algorithms.start import start_keys
from mfspark.columns import ITEM, USER, Side
from mfspark.kernels.arrays import Int64s
from mfspark.kernels.csr import RatingBlock
from mfspark.kernels.objective import Objective
from mfspark.kernels.random import GAMMA, mix, uniform

# Iterations of the short fits of factors and of biases.
_ITERATIONS, _BIAS_ITERATIONS = 7, 3
# The share of the ratings that is held out at a time, and how few of them say nothing.
_HELD_OUT, _TOO_FEW = 0.1, 20
# Of few ratings a tenth is no good judge: tenths are held out, one after the other, until they are
# so many together, or half of all.
_ENOUGH, _MOST_FOLDS = 6_000, 5
# Doublings or halvings, at most.
_MOST_STEPS = 6


class Weights(NamedTuple):
    """Some weights of an objective: λ of the sides ``factors``, λ_b of the sides ``biases``, κ."""

    factors: tuple[Side, ...] = ()
    biases: tuple[Side, ...] = ()
    link: bool = False


@dataclass(frozen=True)
class Chosen:
    """An objective with weights from the data, the RMSE that it has on held-out ratings, their
    number (0: too few, and nothing was chosen), and the number of objectives tried."""

    objective: Objective
    rmse: float
    n_held_out: int
    n_fits: int


@dataclass(frozen=True)
class PenaltySearch:
    """Chooses some weights of ``objective``, whose others stay as they are.

    ``factors``: the sides whose λ is chosen; ``biases``: whether the λ_b are, ``link``: whether κ
    is. ``scale``: what a unit of the ratings is in the unit of the user's.
    """

    objective: Objective
    factors: tuple[Side, ...]
    biases: bool
    link: bool
    rank: int
    seed: int
    scale: float

    def choose(self, ratings: IndexedRatings, n_threads: int) -> Chosen:
        """The best objective for training ``ratings``. Depends on them and the seed alone (to
        float32 rounding)."""
        n_ratings = len(ratings.rating)
        n_folds = min(_MOST_FOLDS, math.ceil(_ENOUGH / (_HELD_OUT * max(n_ratings, 1))))
        with ThreadPoolExecutor(n_threads) as pool:
            trials = _Trials(pool, n_threads, ratings, n_folds, self.seed)
            if trials.n_held_out < _TOO_FEW:
                return Chosen(self.objective, math.nan, 0, 0)
            found = replace(self._first_guess(ratings), link_weight=None)
            if self.biases:
                for sides in (tuple(Side), (ITEM,), (USER,)):
                    found = trials.best(found, Weights(biases=sides), rank=0)
            if self.factors:
                found = trials.best(found, Weights(factors=self.factors), self.rank)
            found = replace(found, link_weight=self.objective.link_weight)
            if self.link:
                found = trials.best(found, Weights(link=True), self.rank)
            if self.biases and self.rank:
                found = trials.best(found, Weights(biases=tuple(Side)), self.rank)
            # The last search measured what it found, or a place beside it.
            return Chosen(found, self.scale * trials.error, trials.n_held_out, trials.n_fits)

    def _first_guess(self, ratings: IndexedRatings) -> Objective:
        """The objective with the weights to choose such that λ n^ν of a row with an average number
        of ratings is what it would be with ν = ½: too great a weight would shrink all factors to
        zero, and twice or half as much would do so, too."""
        n_rows = math.sqrt(len(ratings.ids[USER]) * len(ratings.ids[ITEM]))
        by = (len(ratings.rating) / n_rows) ** (0.5 - self.objective.users.exponent)
        chosen = Weights(self.factors, tuple(Side) if self.biases else ())
        return multiplied(self.objective, chosen, by)


def tenths(ratings: IndexedRatings, seed: int) -> Int64s:
    """The tenth 0 … 9 of each rating, int64 [n], by its ids and the seed."""
    keys = {
        side: start_keys(ratings.ids[side], f"held out/{side}", seed)[ratings.positions[side]]
        for side in Side
    }
    places = uniform(mix(keys[USER] ^ keys[ITEM] * GAMMA), 1)[:, 0]
    return np.asarray((places / _HELD_OUT).astype(np.int64))


class _Trials:
    """Short fits to the same ratings, each time without a part that judges them."""

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        n_threads: int,
        ratings: IndexedRatings,
        n_folds: int,
        seed: int,
    ) -> None:
        self._pool = pool
        self._n_threads = n_threads
        self._ratings = ratings
        self._seed = seed
        folds = tenths(ratings, seed)
        parts = [replace(ratings, is_validation=folds == n) for n in range(n_folds)]
        self._folds = [dict(zip(Side, pool.map(part.block, Side), strict=True)) for part in parts]
        self.n_held_out = sum(blocks[USER].validation.n_entries for blocks in self._folds)
        self.error = math.nan
        self.n_fits = 0

    def best(self, start: Objective, weights: Weights, rank: int) -> Objective:
        """``start`` with some weights multiplied by whatever fits best."""

        def error(step: float) -> float:
            return self._rmse(multiplied(start, weights, 2**step), rank)

        step, self.error = lowest(error)
        return multiplied(start, weights, 2**step)

    def _rmse(self, objective: Objective, rank: int) -> float:
        """On held-out ratings, after short fits to the others."""
        self.n_fits += 1
        total = sum(self._squared_error(blocks, objective, rank) for blocks in self._folds)
        return math.sqrt(total / self.n_held_out) if math.isfinite(total) else math.inf

    def _squared_error(
        self, blocks: dict[Side, RatingBlock], objective: Objective, rank: int
    ) -> float:
        pool, n_threads = self._pool, self._n_threads
        items = self._ratings.start(ITEM, rank, self._seed)
        state = start_als(blocks, items, objective)
        for _ in range(_ITERATIONS if rank else _BIAS_ITERATIONS):
            for side in Side:
                state, sums = run_half_step(
                    pool, n_threads, blocks[side], state, objective, side, "auto"
                )
        return sums.validation_squared_error


def multiplied(objective: Objective, weights: Weights, by: float) -> Objective:
    """``objective`` with some of its weights times ``by``."""
    penalties = {
        side: replace(
            old := objective.penalty(side),
            factors=old.factors * (by if side in weights.factors else 1),
            bias=old.bias * (by if side in weights.biases else 1),
        )
        for side in Side
    }
    link_weight = objective.link_weight
    if weights.link and link_weight is not None:
        link_weight *= by
    return replace(objective, users=penalties[USER], items=penalties[ITEM], link_weight=link_weight)


def lowest(error: Callable[[float], float]) -> tuple[float, float]:
    """Where ``error`` is lowest, walking from 0 in whole steps and refined by half steps and a
    parabola, and the lowest value that was met."""
    met = {0.0: error(0.0)}

    def at(place: float) -> float:
        if place not in met:
            met[place] = error(place)
        return met[place]

    best = 0.0
    for direction in (1.0, -1.0):
        while abs(best) < _MOST_STEPS and at(best + direction) < at(best):
            best += direction
        if best:
            break
    for side in (best - 0.5, best + 0.5):
        at(side)
    best = min(met, key=met.__getitem__)
    left, right = met.get(best - 0.5), met.get(best + 0.5)
    if left is None or right is None or not np.isfinite([left, right]).all():
        return best, met[best]
    curvature = left + right - 2 * met[best]
    shift = 0.25 * (left - right) / curvature if curvature > 0 else 0.0
    return best + float(np.clip(shift, -0.25, 0.25)), met[best]
