"""Stratified SGD in one process: blocks that share no user and no item are visited side by side.

Results depend on the number of blocks and the seed, not on the threads.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mfspark.algorithms.als_threads import biases_alone
from mfspark.algorithms.fitted_link import (
    FittedLink,
    arrays_of,
    fit_link,
    penalty_of,
    start_links,
    with_arrays,
)
from mfspark.algorithms.history import Found, History
from mfspark.algorithms.indexed_ratings import IndexedRatings
from mfspark.algorithms.learning_rate import LearningRate
from mfspark.algorithms.sharing import is_worth_sharing
from mfspark.algorithms.snapshots import LoopState, Saver, Snapshots, resume, save_arrays
from mfspark.algorithms.strata import draw_key, draw_sub_epochs, order_by_block, split_into_strata
from mfspark.columns import ITEM, USER, Side
from mfspark.kernels.arrays import AlignedRows, Array, Float32s, Int64s
from mfspark.kernels.csr import Csr
from mfspark.kernels.half_step import squared_error
from mfspark.kernels.objective import Objective, PassSums
from mfspark.kernels.sgd import Entries, SGDSide, shuffle, visit
from mfspark.settings import SGDSettings

# Enough for sixteen threads, and so many that the rows of two blocks stay in a core's cache.
_N_BLOCKS = 16

# Epochs are noisy: one that gains nothing says little.
PATIENCE = 3
# Before the names of arrays of the best epoch.
_BEST = "best_"


class State(NamedTuple):
    """Parameters of both sides, and the links of their rows, if there are any."""

    users: SGDSide
    items: SGDSide
    links: dict[Side, FittedLink]

    def copy(self) -> "State":
        """Parameters that can be changed without changing these."""
        return self._replace(users=self.users.copy(), items=self.items.copy())

    def rows(self) -> dict[Side, Float32s]:
        """[factors, bias] of all users and of all items."""
        return {USER: self.users.rows, ITEM: self.items.rows}

    def arrays(self) -> dict[str, Array]:
        """What epochs change, by name."""
        own: dict[str, Array] = {}
        for side, part in ((USER, self.users), (ITEM, self.items)):
            own |= {f"{side}_rows": part.rows, f"{side}_squares": part.squares}
        return own | arrays_of(self.links)

    def restored(self, arrays: dict[str, Array]) -> "State":
        """The state whose ``arrays`` these are; everything else is that of this one."""
        users, items = (
            part._replace(
                at=AlignedRows.of(arrays[f"{side}_rows"]), squares=arrays[f"{side}_squares"]
            )
            for side, part in ((USER, self.users), (ITEM, self.items))
        )
        return State(users, items, {}).with_links(with_arrays(self.links, arrays))

    def with_links(self, links: dict[Side, FittedLink]) -> "State":
        """Rows are drawn to what the links say of them."""
        if not links:
            return self
        users, items = (AlignedRows.of(links[side].offsets) for side in Side)
        return State(self.users._replace(offsets=users), self.items._replace(offsets=items), links)


@dataclass(frozen=True)
class _Strata:
    """Training ratings by block of users and block of items, validation ratings, and the training
    ratings of each row."""

    train: list[list[Entries]]
    validation: Csr
    n_ratings: dict[Side, Int64s]


@dataclass(frozen=True)
class ThreadedSGD:
    """A whole fit of ratings that lie in memory, of mean square deviation 1 from μ; travels to a
    task by pickling.

    ``scale``: what a unit of the ratings is in the unit of the user's. ``journal``:
    see :class:`mfspark.algorithms.history.History`. ``snapshots``: where the fit leaves its state,
    and goes on from that of an earlier one.
    """

    objective: Objective
    settings: SGDSettings
    scale: float = 1.0
    journal: str | None = None
    snapshots: Snapshots | None = None

    def learn(self, ratings: IndexedRatings, n_threads: int) -> Found:
        """The rows of the best epoch. The errors that an epoch reports are those it met on its way,
        each before its own update, so the objective of its row is that of a point within the
        epoch."""
        settings = self.settings
        n_blocks = settings.num_blocks or _N_BLOCKS
        order = {side: order_by_block(len(ratings.ids[side]), n_blocks) for side in Side}
        ratings = ratings.ordered(order)
        block = ratings.block(USER)
        train = split_into_strata(block.train, len(order[ITEM]), n_blocks)
        strata = _Strata(train, block.validation, ratings.n_ratings)
        users, items = (self._start(ratings, side) for side in Side)
        blocks = {USER: block}
        links = {}
        if self.objective.link_weight is not None:
            blocks[ITEM] = ratings.block(ITEM)
            links = start_links(blocks, self.objective, settings.rank)
        state = best = State(users, items, links)
        loop, arrays = resume(self.snapshots)
        saver = Saver(self.snapshots)
        learning_rate = LearningRate(
            settings, float(block.train.n_entries), None if loop is None else loop.rate
        )
        history = History(
            settings.max_iter,
            settings.tol,
            self.scale,
            patience=PATIENCE,
            journal=self.journal,
            state=None if loop is None else loop.history,
        )
        visits: list[int] = []
        with ThreadPoolExecutor(n_threads) as pool:
            if loop is not None:
                best = best.restored(_of_best(arrays))
                state = state.restored(arrays)
                visits = list(loop.visits)
                self._shuffle_as_before(pool, strata, visits)
            for epoch in history.iterations():
                visits.append(epoch)
                rate = learning_rate.of(epoch)
                reached, sums = self._run_epoch(
                    pool, n_threads, strata, state, epoch, rate, learning_rate.is_by_row
                )
                if learning_rate.has_diverged(epoch, sums):
                    history.repeat_iteration()
                    continue
                if learning_rate.rejects(sums):
                    continue
                state = reached
                history.add("both", sums, 0, rate)
                if history.end_iteration():
                    best = state
                if history.stopped is None and saver.is_due:
                    of_best = {} if best is state else best.arrays()
                    save_arrays(
                        saver,
                        LoopState(
                            objective=self.objective,
                            history=history.state,
                            rate=learning_rate.state,
                            visits=visits,
                        ),
                        state.arrays() | {f"{_BEST}{name}": part for name, part in of_best.items()},
                    )
            cold_biases = biases_alone(pool, n_threads, blocks, self.objective) if links else {}
        rows, cold_biases = (
            # Back in the order of positions.
            {side: part[np.argsort(order[side])] for side, part in parts.items()}
            for parts in (best.rows(), cold_biases)
        )
        return Found(rows, history, cold_biases=cold_biases)

    def _start(self, ratings: IndexedRatings, side: Side) -> SGDSide:
        rows = ratings.start(side, self.settings.rank, self.settings.seed)
        return SGDSide.start(rows, ratings.n_ratings[side], self.objective.penalty(side).exponent)

    def _shuffle_as_before(
        self, pool: ThreadPoolExecutor, strata: _Strata, visits: list[int]
    ) -> None:
        """Bring the ratings into the order that the epochs of ``visits`` left them in."""

        def shuffle_stratum(pair: tuple[int, int]) -> None:
            for epoch in visits:
                key = draw_key(self.settings.seed, epoch, *pair)
                shuffle(strata.train[pair[0]][pair[1]], key)

        list(pool.map(shuffle_stratum, np.ndindex(len(strata.train), len(strata.train))))

    def _run_epoch(
        self,
        pool: ThreadPoolExecutor,
        n_threads: int,
        strata: _Strata,
        before: State,
        epoch: int,
        rate: float,
        is_by_row: bool,
    ) -> tuple[State, PassSums]:
        """The state after an epoch, and its sums; the state ``before`` stays as it is."""
        state = before.copy()
        seed, n_blocks = self.settings.seed, len(strata.train)

        def visit_stratum(pair: tuple[int, int]) -> float:
            entries = strata.train[pair[0]][pair[1]]
            shuffle(entries, draw_key(seed, epoch, *pair))
            return visit(entries, state.users, state.items, self.objective, rate, is_by_row)

        n_ratings = sum(len(entries.rows) for row in strata.train for entries in row)
        visit_all = pool.map if is_worth_sharing(n_ratings // n_blocks) else map
        error = 0.0
        for pairs in draw_sub_epochs(n_blocks, seed, epoch):
            error += sum(visit_all(visit_stratum, pairs))
        rows = state.rows()
        missed = squared_error(strata.validation, rows[USER], state.items.at, self.objective.mean)
        if state.links:
            state = linked(pool, n_threads, state, rows)
        return state, PassSums(
            squared_error=error,
            n_ratings=n_ratings,
            penalty=sum(
                penalty_of(
                    state.links.get(side),
                    rows[side],
                    strata.n_ratings[side],
                    self.objective.penalty(side),
                )
                for side in Side
            ),
            validation_squared_error=missed,
            n_validation=strata.validation.n_entries,
        )


def _of_best(arrays: dict[str, Array]) -> dict[str, Array]:
    """Those of the best epoch, which may be the last one."""
    own = {
        name.removeprefix(_BEST): part for name, part in arrays.items() if name.startswith(_BEST)
    }
    return own or arrays


def linked(
    pool: ThreadPoolExecutor, n_threads: int, state: State, rows: dict[Side, Float32s]
) -> State:
    """The links of the ``rows`` that an epoch has reached; the next one draws rows to them."""
    return state.with_links(
        {side: fit_link(pool, n_threads, link, rows[side]) for side, link in state.links.items()}
    )
