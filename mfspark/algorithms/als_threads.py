"""Alternating least squares in one process: the rows of a half-step are shared out to threads."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mfspark.algorithms.history import Found, History
from mfspark.algorithms.indexed_ratings import IndexedRatings
from mfspark.columns import ITEM, USER, Side
from mfspark.kernels.arrays import AlignedRows, Float32s, Float64s, Int64s
from mfspark.kernels.csr import Csr, RatingBlock
from mfspark.kernels.half_step import half_step
from mfspark.kernels.moments import half_step_of_moments, row_moments
from mfspark.kernels.objective import Objective, PassSums, add_sums
from mfspark.settings import ALSSettings

# Parts of a side per thread: enough that no thread waits long for the last part.
_PARTS_PER_THREAD = 8


@dataclass(frozen=True)
class ThreadedALS:
    """A whole fit of ratings that lie in memory; travels to a task by pickling.

    ``scale``: what a unit of the ratings is in the unit of the user's.
    """

    objective: Objective
    settings: ALSSettings
    scale: float = 1.0

    def learn(self, ratings: IndexedRatings, n_threads: int) -> Found:
        """The rows of the best iteration. Results depend on the seed, not on the threads (to
        float32 rounding)."""
        settings = self.settings
        items = ratings.start(ITEM, settings.rank, settings.seed)
        penalty = self.objective.items.total(ratings.n_ratings[ITEM], items)
        history = History(settings.max_iter, settings.tol, self.scale, {ITEM: penalty})
        with ThreadPoolExecutor(n_threads) as pool:
            of_users, of_items = pool.map(ratings.block, Side)
            for _ in history.iterations():
                users, sums = solve_side(pool, n_threads, of_users, items, self.objective, USER)
                history.add(USER, sums, 0)
                items, sums = solve_side(pool, n_threads, of_items, users, self.objective, ITEM)
                history.add(ITEM, sums, 0)
                if history.end_iteration():
                    best = {USER: users, ITEM: items}
        return Found(best, history)


def solve_side(
    pool: ThreadPoolExecutor,
    n_threads: int,
    block: RatingBlock,
    other: Float32s,
    objective: Objective,
    side: Side,
) -> tuple[Float32s, PassSums]:
    """One half-step: all rows of ``side``, given those of the ``other`` one."""
    fixed = AlignedRows.of(other)
    n_hot, ranges = share_rows(block.train.counts, n_threads)
    done = pool.map(lambda rows: half_step(block.slice(*rows), fixed, objective, side), ranges)
    hot = block.slice(0, n_hot)
    hot_done = half_step_of_moments(
        shared_moments(pool, n_threads, hot.train, fixed, objective.mean),
        row_moments(hot.validation, fixed, objective.mean),
        objective,
        side,
    )
    solved, sums = zip(hot_done, *done, strict=True)
    return np.concatenate(solved), add_sums(sums)


def share_rows(counts: Int64s, n_threads: int) -> tuple[int, list[tuple[int, int]]]:
    """How many of the first rows are too long for one thread, and the ranges of the others.

    Long rows are worked on from moments, to which each thread adds an equal share of their ratings;
    the ranges are of about equal work. ``counts`` int64 [n_rows], ratings per row; positions go by
    popularity, so the long rows are the first ones.
    """
    fair = counts.sum() / n_threads
    n_hot = int(np.count_nonzero(counts > fair / 2)) if n_threads > 1 else 0
    return n_hot, row_ranges(counts, n_threads, n_hot)


def shared_moments(
    pool: ThreadPoolExecutor, n_threads: int, rows: Csr, fixed: AlignedRows, mean: float
) -> Float64s:
    """Moments of each row (see ``row_moments``) from equal shares of its entries."""
    shares = np.linspace(rows.indptr[:-1], rows.indptr[1:], n_threads + 1).astype(np.int64)
    parts = pool.map(
        lambda share: np.concatenate(
            [
                row_moments(rows._replace(indptr=shares[share : share + 2, row]), fixed, mean)
                for row in range(rows.n_rows)
            ]
            or [np.zeros((0, fixed.rank + 2, fixed.rank + 2))]
        ),
        range(n_threads),
    )
    return np.asarray(np.sum(list(parts), axis=0))


def row_ranges(counts: Int64s, n_threads: int, first: int = 0) -> list[tuple[int, int]]:
    """The rows from ``first`` on as some ranges of about equal work for each thread."""
    n_parts = n_threads * _PARTS_PER_THREAD
    # A row costs about as much as sixteen ratings even when it has only one.
    work = np.cumsum(counts[first:] + 16)
    if not len(work):
        return []
    ends = np.searchsorted(work, np.linspace(0, work[-1], n_parts + 1)[1:]) + 1
    bounds = np.unique(np.concatenate([[0], np.minimum(ends, len(work))])) + first
    return [(int(a), int(b)) for a, b in pairwise(bounds)]
