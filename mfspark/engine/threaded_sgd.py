"""Stratified SGD in one task: blocks that share no user and no item are visited side by side.

Results depend on the number of blocks and the seed, not on the threads.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from mfspark.columns import ITEM, USER
from mfspark.engine.alternate import Outcome
from mfspark.engine.descend import Rates, descend
from mfspark.engine.one_task import Indexed
from mfspark.engine.strata import cut_strata, deal_out, draw_key, draw_meetings
from mfspark.kernels.csr import Csr, Float32s, Int64s
from mfspark.kernels.half_step import squared_error
from mfspark.kernels.problem import HalfStepMetrics, Problem
from mfspark.kernels.sgd import Entries, SGDSide, shuffle, visit

SIDES = (USER, ITEM)


class State(NamedTuple):
    """Parameters of both sides."""

    users: SGDSide
    items: SGDSide


@dataclass(frozen=True)
class ThreadedSGD:
    """A :class:`~mfspark.engine.one_task.Learner`: both problems, rates, when to stop, the seed,
    and the number of blocks of each side."""

    rank: int
    problems: dict[str, Problem]
    rates: Rates
    max_iter: int
    tol: float
    seed: int
    scale: float
    n_blocks: int

    def learn(
        self, pool: ThreadPoolExecutor, n_threads: int, ratings: Indexed
    ) -> Outcome[Float32s]:
        """See ``Learner``."""
        order = {side: deal_out(len(ratings.ids[side]), self.n_blocks) for side in SIDES}
        ratings = ratings.ordered(order)
        block = ratings.block(USER, ITEM)
        strata = cut_strata(block.train, len(order[ITEM]), self.n_blocks)
        start = State(*(self._start(ratings, side) for side in SIDES))
        done = descend(
            partial(self._epoch, pool, strata, block.validation, ratings.n_ratings),
            start,
            self.rates,
            # Of ratings whose mean square deviation is 1.
            float(block.train.n_entries),
            self.tol,
            self.max_iter,
            0,
            self.scale,
            lambda _: None,
        )
        users, items = (
            # Back in the order of positions.
            reached.rows[np.argsort(order[side])]
            for side, reached in zip(SIDES, done.state, strict=True)
        )
        return Outcome(users, items, done.history, done.best_iteration, done.stopped)

    def _start(self, ratings: Indexed, side: str) -> SGDSide:
        rows = ratings.start(side, self.rank, self.seed)
        exponent = self.problems[side].penalty.exponent
        return SGDSide.start(rows, ratings.n_ratings[side], exponent)

    def _epoch(
        self,
        pool: ThreadPoolExecutor,
        strata: list[list[Entries]],
        validation: Csr,
        counts: dict[str, Int64s],
        state: State,
        rate: float,
        epoch: int,
    ) -> tuple[State, HalfStepMetrics]:
        state = State(*(side.copy() for side in state))
        problems = self.problems[USER], self.problems[ITEM]
        error = 0.0
        for meetings in draw_meetings(self.n_blocks, self.seed, epoch):

            def meet(pair: tuple[int, int]) -> float:
                entries = strata[pair[0]][pair[1]]
                shuffle(entries, draw_key(self.seed, epoch, *pair))
                return visit(entries, *state, problems, rate, self.rates.by_row)

            error += sum(pool.map(meet, meetings))
        rows = state.users.rows, state.items.rows
        penalty = sum(
            problem.penalty.total(counts[side], part)
            for problem, side, part in zip(problems, SIDES, rows, strict=True)
        )
        n_ratings = sum(len(entries.rows) for row in strata for entries in row)
        missed = squared_error(validation, rows[0], state.items.at, problems[0].mean)
        return state, HalfStepMetrics(error, n_ratings, penalty, missed, validation.n_entries)
