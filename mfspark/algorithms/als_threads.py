"""Alternating least squares in one process: the rows of a half-step are shared out to threads."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from mfspark.algorithms.fitted_link import (
    FittedLink,
    arrays_of,
    fit_link,
    penalty_of,
    rest_of,
    start_links,
    with_arrays,
)
from mfspark.algorithms.history import Found, History
from mfspark.algorithms.indexed_ratings import IndexedRatings
from mfspark.algorithms.sharing import share_rows
from mfspark.algorithms.snapshots import LoopState, Saver, Snapshots, resume, save_arrays
from mfspark.columns import ITEM, Side
from mfspark.kernels.arrays import AlignedRows, Float32s, Float64s
from mfspark.kernels.csr import Csr, RatingBlock
from mfspark.kernels.half_step import half_step
from mfspark.kernels.moments import half_step_of_moments, row_moments
from mfspark.kernels.objective import Objective, PassSums, add_sums
from mfspark.settings import ALSSettings, Solver

# Biases without factors are iterated until none changes by more, in ratings' standard deviations.
_BIAS_CHANGE, _MOST_BIAS_ITERATIONS = 1e-4, 50


class ALSState(NamedTuple):
    """Rows x = [factors, bias] by side, float32 [n, rank + 1], and the links of the sides that have
    one."""

    rows: dict[Side, Float32s]
    links: dict[Side, FittedLink]


@dataclass(frozen=True)
class ThreadedALS:
    """A whole fit of ratings that lie in memory; travels to a task by pickling.

    ``scale``: what a unit of the ratings is in the unit of the user's. ``journal``:
    see :class:`mfspark.algorithms.history.History`. ``snapshots``: where the fit leaves its state,
    and goes on from that of an earlier one.
    """

    objective: Objective
    settings: ALSSettings
    scale: float = 1.0
    journal: str | None = None
    snapshots: Snapshots | None = None

    def learn(self, ratings: IndexedRatings, n_threads: int) -> Found:
        """The rows of the best iteration. Results depend on the seed, not on the threads (to
        float32 rounding)."""
        settings, objective = self.settings, self.objective
        loop, arrays = resume(self.snapshots)
        saver = Saver(self.snapshots)
        items = ratings.start(ITEM, settings.rank, settings.seed)
        history = History(
            settings.max_iter,
            settings.tol,
            self.scale,
            {ITEM: objective.items.total(ratings.n_ratings[ITEM], items)},
            journal=self.journal,
            state=None if loop is None else loop.history,
        )
        with ThreadPoolExecutor(n_threads) as pool:
            blocks = dict(zip(Side, pool.map(ratings.block, Side), strict=True))
            state = start_als(blocks, items, objective)
            if loop is not None:
                state = ALSState({ITEM: arrays["items"]}, with_arrays(state.links, arrays))
            for _ in history.iterations():
                begun, past = state, history.state
                for side in Side:
                    state, sums = run_half_step(
                        pool, n_threads, blocks[side], state, objective, side, settings.solver
                    )
                    history.add(side, sums, 0)
                if history.end_iteration():
                    best = state.rows
                if history.stopped is None and saver.is_due:
                    save_arrays(
                        saver,
                        LoopState.before_best(objective, past),
                        {"items": begun.rows[ITEM], **arrays_of(begun.links)},
                    )
            cold_biases = biases_alone(pool, n_threads, blocks, objective) if state.links else {}
        return Found(best, history, cold_biases=cold_biases)


def start_als(blocks: dict[Side, RatingBlock], items: Float32s, objective: Objective) -> ALSState:
    """The state before the first half-step, which is that of the users."""
    return ALSState({ITEM: items}, start_links(blocks, objective, items.shape[1] - 1))


def biases_alone(
    pool: ThreadPoolExecutor,
    n_threads: int,
    blocks: dict[Side, RatingBlock],
    objective: Objective,
) -> dict[Side, Float32s]:
    """b of the model μ + b_u + b_i under the penalties of ``objective``, by side float32 [n].

    Beside factors that are linked to features a bias is what is left for it to tell: p_u·q_i is
    not zero in the mean over all users. Where nothing is known of the user, b_i has to tell all.
    """
    alone = replace(objective, link_weight=None)
    state = start_als(blocks, np.zeros((blocks[ITEM].train.n_rows, 1), np.float32), alone)
    for _ in range(_MOST_BIAS_ITERATIONS):
        before = state.rows[ITEM]
        for side in Side:
            state, _ = run_half_step(pool, n_threads, blocks[side], state, alone, side, "exact")
        if np.abs(state.rows[ITEM] - before).max() < _BIAS_CHANGE:
            break
    return {side: rows[:, -1] for side, rows in state.rows.items()}


def run_half_step(
    pool: ThreadPoolExecutor,
    n_threads: int,
    block: RatingBlock,
    state: ALSState,
    objective: Objective,
    side: Side,
    solver: Solver,
) -> tuple[ALSState, PassSums]:
    """All rows of ``side``, given those of the other one and the link of theirs, if there is one;
    then the link, given these rows."""
    other, link = state.rows[side.other], state.links.get(side)
    if link is None:
        rows, sums = solve_side(pool, n_threads, block, other, objective, side, solver)
        return state._replace(rows={**state.rows, side: rows}), sums
    rest = rest_of(pool, n_threads, link, block, AlignedRows.of(other))
    around, sums = solve_side(pool, n_threads, rest, other, objective, side, solver)
    rows = around + link.offsets
    link = fit_link(pool, n_threads, link, rows)
    penalty = penalty_of(link, rows, block.train.counts, objective.penalty(side))
    state = ALSState({**state.rows, side: rows}, {**state.links, side: link})
    return state, sums._replace(penalty=penalty)


def solve_side(
    pool: ThreadPoolExecutor,
    n_threads: int,
    block: RatingBlock,
    other: Float32s,
    objective: Objective,
    side: Side,
    solver: Solver,
) -> tuple[Float32s, PassSums]:
    """One half-step: all rows of ``side``, given those of the ``other`` one."""
    fixed = AlignedRows.of(other)
    n_hot, ranges = share_rows(block.train.counts, n_threads)
    if not n_hot and len(ranges) == 1:
        # Short fits to few ratings are thousands of these.
        return half_step(block, fixed, objective, side, solver)
    done = pool.map(
        lambda rows: half_step(block.slice(*rows), fixed, objective, side, solver), ranges
    )
    hot = block.slice(0, n_hot)
    hot_done = half_step_of_moments(
        shared_moments(pool, n_threads, hot.train, fixed, objective.mean),
        row_moments(hot.validation, fixed, objective.mean),
        objective,
        side,
    )
    solved, sums = zip(hot_done, *done, strict=True)
    return np.concatenate(solved), add_sums(sums)


def shared_moments(
    pool: ThreadPoolExecutor, n_threads: int, rows: Csr, fixed: AlignedRows, mean: float
) -> Float64s:
    """Moments of each row (see ``row_moments``) from equal shares of its entries."""
    if not rows.n_rows:
        return np.zeros((0, fixed.rank + 2, fixed.rank + 2))
    shares = np.linspace(rows.indptr[:-1], rows.indptr[1:], n_threads + 1).astype(np.int64)
    parts = pool.map(
        lambda share: np.concatenate(
            [
                row_moments(rows._replace(indptr=shares[share : share + 2, row]), fixed, mean)
                for row in range(rows.n_rows)
            ]
        ),
        range(n_threads),
    )
    return np.asarray(np.sum(list(parts), axis=0))
