"""Bayesian matrix factorisation in one process: a Gibbs sampler whose rows are shared out to
threads (Salakhutdinov & Mnih 2008)."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from mfspark.algorithms.als_threads import (
    row_ranges,
    share_rows,
    shared_moments,
    solve_side,
)
from mfspark.algorithms.history import Found, History
from mfspark.algorithms.hyper_priors import draw_noise_precision, draw_prior
from mfspark.algorithms.indexed_ratings import IndexedRatings
from mfspark.algorithms.posterior import StoredDraws, spread_of
from mfspark.algorithms.running_mean import RunningMean
from mfspark.algorithms.start import start_keys
from mfspark.columns import ITEM, USER, Side
from mfspark.kernels.arrays import AlignedRows, Float32s, UInt64s
from mfspark.kernels.csr import Csr, RatingBlock
from mfspark.kernels.draw import Prior, RowSums, draw_rows, draw_rows_of_moments
from mfspark.kernels.half_step import squared_error
from mfspark.kernels.objective import Objective, PassSums
from mfspark.kernels.random import normal_rows
from mfspark.settings import BayesianSettings

# Iterations of ALS before the first draw: they bring the chain near to where it will stay.
_WARM_UP = 5
_KEYS_PER_PART = 2048


class ChainState(NamedTuple):
    """Where the chain is: rows [factors, bias] by side, their sums, and Σ (r − r̂)²."""

    rows: dict[Side, Float32s]
    sums: dict[Side, RowSums]
    squared_error: float


class Hyper(NamedTuple):
    """What all rows have in common: α, and the prior of the rows of each side."""

    noise_precision: float
    priors: dict[Side, Prior]

    def penalty(self, sums: dict[Side, RowSums]) -> float:
        """What the priors add to Σ (r − r̂)² in the negative logarithm of the density, times
        2/α."""
        return sum(self.priors[side].penalty(sums[side]) for side in Side) / self.noise_precision


@dataclass(frozen=True)
class ThreadedGibbs:
    """A whole fit of ratings that lie in memory; travels to a task by pickling.

    ``objective``: of the iterations of ALS before the first draw. ``scale``: what a unit of the
    ratings is in the unit of the user's.
    """

    objective: Objective
    settings: BayesianSettings
    scale: float = 1.0

    def learn(self, ratings: IndexedRatings, n_threads: int) -> Found:
        """The mean over all draws after burn-in. Results depend on the seed, not on the threads (to
        float32 rounding)."""
        settings = self.settings
        history = History(settings.max_iter, settings.tol, self.scale)
        keys = {side: start_keys(ratings.ids[side], side, settings.seed) for side in Side}
        mean, stored = RunningMean(settings.rank), StoredDraws(settings.keep_draws)
        # The threads of the linear algebra library would take turns with ours, and spin meanwhile.
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(n_threads) as pool:
            blocks = dict(zip(Side, pool.map(ratings.block, Side), strict=True))
            train, validation = blocks[USER].train, blocks[USER].validation
            state = self._warm_up(pool, n_threads, ratings, blocks)
            for sweep in history.iterations():
                rng = np.random.default_rng([settings.seed, sweep])
                normals = {
                    side: _normal_rows(pool, keys[side], sweep, settings.rank + 1) for side in Side
                }
                state, hyper = run_sweep(pool, n_threads, blocks, state, normals, rng)
                sums = PassSums(
                    squared_error=state.squared_error,
                    n_ratings=train.n_entries,
                    penalty=hyper.penalty(state.sums),
                    validation_squared_error=0.0,
                    n_validation=0,
                )
                if sweep <= settings.burn_in:
                    history.add("both", sums, 0)
                    continue
                stored.add(state.rows, spread_of(hyper.noise_precision, hyper.priors, state.sums))
                if not mean.add(state.rows, pool):
                    history.add("both", sums, 0)
                    continue
                watched = validation if validation.n_entries else train
                error = _squared_error(pool, n_threads, watched, mean.rows)
                if validation.n_entries:
                    sums = sums._replace(
                        validation_squared_error=error, n_validation=validation.n_entries
                    )
                history.add("both", sums, 0)
                history.end_draws(error)
            return Found(mean.final(pool), history, stored.posterior())

    def _warm_up(
        self,
        pool: ThreadPoolExecutor,
        n_threads: int,
        ratings: IndexedRatings,
        blocks: dict[Side, RatingBlock],
    ) -> ChainState:
        """The state after some iterations of ALS."""
        rows = {ITEM: ratings.start(ITEM, self.settings.rank, self.settings.seed)}
        for _ in range(_WARM_UP):
            for side in Side:
                rows[side], found = solve_side(
                    pool, n_threads, blocks[side], rows[side.other], self.objective, side
                )
        sums = {side: RowSums.of(rows[side]) for side in Side}
        return ChainState(rows, sums, found.squared_error)


def run_sweep(
    pool: ThreadPoolExecutor,
    n_threads: int,
    blocks: dict[Side, RatingBlock],
    state: ChainState,
    normals: dict[Side, Float32s],
    rng: np.random.Generator,
) -> tuple[ChainState, Hyper]:
    """Draw α, and of each side m, Λ and all rows, each given the latest of everything else.

    ``normals`` by side: standard normal numbers, float32 [n, rank + 1].
    """
    noise_precision = draw_noise_precision(state.squared_error, blocks[USER].train.n_entries, rng)
    rows, sums, priors = dict(state.rows), dict(state.sums), {}
    for side in Side:
        priors[side] = draw_prior(sums[side], rng)
        rows[side], sums[side], squared_error = draw_side(
            pool, n_threads, blocks[side].train, rows[side.other], priors[side], noise_precision,
            normals[side],
        )  # fmt: skip
    return ChainState(rows, sums, squared_error), Hyper(noise_precision, priors)


def _normal_rows(pool: ThreadPoolExecutor, keys: UInt64s, sweep: int, n: int) -> Float32s:
    """As ``normal_rows``, by all threads."""
    parts = np.array_split(keys, -(-len(keys) // _KEYS_PER_PART))
    return np.concatenate(list(pool.map(lambda part: normal_rows(part, sweep, n), parts)))


def _squared_error(
    pool: ThreadPoolExecutor, n_threads: int, ratings: Csr, rows: dict[Side, Float32s]
) -> float:
    """Σ (r − r̂)² over the ratings of all users."""
    items = AlignedRows.of(rows[ITEM])
    parts = pool.map(
        lambda part: squared_error(ratings.slice(*part), rows[USER][slice(*part)], items, 0.0),
        row_ranges(ratings.counts, n_threads),
    )
    return sum(parts)


def draw_side(
    pool: ThreadPoolExecutor,
    n_threads: int,
    train: Csr,
    other: Float32s,
    prior: Prior,
    noise_precision: float,
    normals: Float32s,
) -> tuple[Float32s, RowSums, float]:
    """One draw of all rows of a side, given those of the ``other`` one: rows, their sums, and Σ
    (r − r̂)²; see ``draw_rows``."""
    fixed = AlignedRows.of(other)
    n_hot, ranges = share_rows(train.counts, n_threads)

    def draw(first: int, last: int) -> tuple[Float32s, RowSums, float]:
        rows, error = draw_rows(
            train.slice(first, last), fixed, prior, noise_precision, normals[first:last]
        )
        return rows, RowSums.of(rows), error

    done = pool.map(lambda rows: draw(*rows), ranges)
    moments = shared_moments(pool, n_threads, train.slice(0, n_hot), fixed, 0.0)
    hot, hot_error = draw_rows_of_moments(moments, prior, noise_precision, normals[:n_hot])
    drawn, sums, errors = zip((hot, RowSums.of(hot), hot_error), *done, strict=True)
    return np.concatenate(drawn), reduce(add, sums), float(sum(errors))
