"""Alternating least squares in one task: the rows of a half-step are shared out to threads."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np

from mfspark.columns import ITEM, USER
from mfspark.engine.alternate import Outcome, Solver, alternate
from mfspark.engine.one_task import Indexed
from mfspark.kernels.csr import Csr, Float32s, Float64s, Int64s, RatingBlock
from mfspark.kernels.half_step import half_step
from mfspark.kernels.moments import half_step_of_moments, row_moments
from mfspark.kernels.problem import FixedSide, HalfStepMetrics, Problem, add_metrics

# Parts of a side per thread: enough that no thread waits long for the last part.
_PARTS_PER_THREAD = 8


@dataclass(frozen=True)
class ThreadedALS:
    """A :class:`~mfspark.engine.one_task.Learner`: both problems, when to stop, the seed."""

    rank: int
    problems: dict[str, Problem]
    max_iter: int
    tol: float
    seed: int
    scale: float

    def learn(
        self, pool: ThreadPoolExecutor, n_threads: int, ratings: Indexed
    ) -> Outcome[Float32s]:
        """See ``Learner``."""
        blocks = pool.map(ratings.block, (USER, ITEM), (ITEM, USER))
        users, items = (
            Solver(side, partial(_solve, pool, block, self.problems[side], n_threads), 0)
            for side, block in zip((USER, ITEM), blocks, strict=True)
        )
        start = ratings.start(ITEM, self.rank, self.seed)
        penalty = self.problems[ITEM].penalty.total(ratings.n_ratings[ITEM], start)
        return alternate(
            users, items, (start, penalty), self.tol, self.max_iter, self.scale, lambda _: None
        )


def _solve(
    pool: ThreadPoolExecutor,
    block: RatingBlock,
    problem: Problem,
    n_threads: int,
    fixed: Float32s,
) -> tuple[Float32s, HalfStepMetrics]:
    """One half-step, its rows shared out to the threads."""
    prepared = FixedSide.of(fixed)
    counts = block.train.counts
    fair = block.train.n_entries / n_threads
    # Positions go by popularity: rows too long for one thread are the first ones.
    n_hot = int(np.count_nonzero(counts > fair / 2)) if n_threads > 1 else 0
    parts = _ranges(counts, n_hot, n_threads * _PARTS_PER_THREAD)
    done = pool.map(
        lambda part: half_step(block.slice(*part), prepared, problem),
        parts,
    )
    hot = block.slice(0, n_hot)
    hot_done = half_step_of_moments(
        _moments(pool, hot.train, prepared, problem.mean, n_threads),
        row_moments(hot.validation, prepared, problem.mean),
        problem,
    )
    solved, metrics = zip(hot_done, *done, strict=True)
    return np.concatenate(solved), add_metrics(metrics)


def _moments(
    pool: ThreadPoolExecutor, rows: Csr, fixed: FixedSide, mean: float, n_threads: int
) -> Float64s:
    """Moments of each row from equal shares of its entries."""
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


def _ranges(counts: Int64s, first: int, n_parts: int) -> list[tuple[int, int]]:
    """Rows ``first`` … as at most ``n_parts`` ranges of about equal work."""
    # A row costs about as much as sixteen ratings even when it has only one.
    work = np.cumsum(counts[first:] + 16)
    if not len(work):
        return []
    ends = np.searchsorted(work, np.linspace(0, work[-1], n_parts + 1)[1:]) + 1
    bounds = np.unique(np.concatenate([[0], np.minimum(ends, len(work))])) + first
    return [(int(a), int(b)) for a, b in pairwise(bounds)]
