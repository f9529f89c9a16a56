"""Stratified SGD in one task: blocks that share no user and no item are visited side by side.

Users and items are dealt out to B blocks each. An epoch has B sub-epochs; in each, every block of
users meets one block of items, a different one for each, so threads never touch the same row
(Gemulla, Nijkamp, Haas, Sismanis: Large-scale matrix factorization with distributed stochastic
gradient descent, KDD 2011). Results depend on B and the seed, not on the threads.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from mfspark.columns import ITEM, USER
from mfspark.engine.alternate import Outcome
from mfspark.engine.descend import Rates, descend
from mfspark.engine.index import initial_keys
from mfspark.engine.one_task import Indexed
from mfspark.kernels.csr import Csr, Float32s, Int64s, build_block
from mfspark.kernels.half_step import squared_error
from mfspark.kernels.initialise import initial_rows
from mfspark.kernels.problem import HalfStepMetrics, Problem
from mfspark.kernels.sgd import Entries, SGDSide, entries_of, shuffle, split, visit

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
    n_blocks: int

    def learn(
        self, pool: ThreadPoolExecutor, n_threads: int, ratings: Indexed
    ) -> Outcome[Float32s]:
        """See ``Learner``."""
        block = build_block(
            ratings.positions[USER],
            ratings.positions[ITEM],
            ratings.rating,
            ratings.held_out,
            len(ratings.ids[USER]),
            len(ratings.ids[ITEM]),
        )
        strata = make_strata(block.train, self.n_blocks)
        start = State(*(self._start(ratings, side) for side in SIDES))
        deviations = block.train.values.astype(np.float64) - self.problems[USER].mean
        done = descend(
            partial(self._epoch, pool, strata, block.validation, ratings.n_ratings),
            start,
            self.rates,
            float(np.square(deviations).sum()),
            self.tol,
            self.max_iter,
            0,
            lambda _: None,
        )
        users, items = (side.rows for side in done.state)
        return Outcome(users, items, done.history, done.best_iteration, done.stopped)

    def _start(self, ratings: Indexed, side: str) -> SGDSide:
        rows = initial_rows(initial_keys(ratings.ids[side], side, self.seed), self.rank)
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


def make_strata(train: Csr, n_blocks: int) -> list[list[Entries]]:
    """Training ratings by block of users and block of items: every rating is in one of them.

    Positions go by popularity, so dealing them out in turn balances the blocks.
    """
    entries = entries_of(train)
    stratum = (entries.rows % n_blocks) * n_blocks + entries.columns % n_blocks
    parts = split(entries, stratum, n_blocks**2)
    return [parts[row * n_blocks : (row + 1) * n_blocks] for row in range(n_blocks)]


def draw_meetings(n_blocks: int, seed: int, epoch: int) -> list[list[tuple[int, int]]]:
    """Sub-epochs of an epoch: which block of items each block of users meets.

    A Latin square with its rows, columns and symbols drawn anew each epoch: every pair of blocks
    meets once, and no sub-epoch has a block twice.
    """
    rng = np.random.default_rng((seed % 2**63, epoch))
    users, items, turns = (rng.permutation(n_blocks) for _ in range(3))
    return [
        [(int(users[b]), int(items[(b + turn) % n_blocks])) for b in range(n_blocks)]
        for turn in turns
    ]


def draw_key(seed: int, epoch: int, user_block: int, item_block: int) -> int:
    """What the order of visits in a meeting is drawn from, 64 bits."""
    words = np.random.SeedSequence((seed % 2**63, epoch, user_block, item_block))
    return int(words.generate_state(1, np.uint64)[0])
