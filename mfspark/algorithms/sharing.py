"""How the rows of a side are shared out to threads."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from itertools import pairwise
from typing import TypeVar

import numpy as np

from mfspark.kernels.arrays import Int64s

Part = TypeVar("Part")
Result = TypeVar("Result")

# Parts of a side per thread: enough that no thread waits long for the last part.
_PARTS_PER_THREAD = 8
# A row costs about as much as so many ratings even when it has only one.
_WORK_OF_ROW = 16
# In ratings: handing less over to a thread takes as long as doing it.
LEAST_WORK = 16_384


def share_rows(counts: Int64s, n_threads: int) -> tuple[int, list[tuple[int, int]]]:
    """How many of the first rows are too long for one thread, and the ranges of the others.

    Long rows are worked on from moments, to which each thread adds an equal share of their ratings;
    the ranges are of about equal work. ``counts`` int64 [n_rows], ratings per row; positions go by
    popularity, so the long rows are the first ones.
    """
    n_shares = min(n_threads, _most_parts(counts))
    fair = counts.sum() / n_shares
    n_hot = int(np.count_nonzero(counts > fair / 2)) if n_shares > 1 else 0
    return n_hot, row_ranges(counts, n_threads, n_hot)


def row_ranges(counts: Int64s, n_threads: int, first: int = 0) -> list[tuple[int, int]]:
    """The rows from ``first`` on as some ranges of about equal work for each thread; fewer where
    there is little work."""
    if first == len(counts):
        return []
    n_parts = min(n_threads * _PARTS_PER_THREAD, _most_parts(counts[first:]))
    work = np.cumsum(counts[first:] + _WORK_OF_ROW)
    ends = np.searchsorted(work, np.linspace(0, work[-1], n_parts + 1)[1:]) + 1
    bounds = np.unique(np.concatenate([[0], np.minimum(ends, len(work))])) + first
    return [(int(a), int(b)) for a, b in pairwise(bounds)]


def is_worth_sharing(work: int) -> bool:
    """Whether visits to so many ratings are enough for more than one thread."""
    return work >= LEAST_WORK


def results_of(
    pool: Executor, work: Callable[[Part], Result], parts: Sequence[Part]
) -> list[Result]:
    """What ``work`` makes of each part; a single one is not handed over."""
    return list(map(work, parts) if len(parts) == 1 else pool.map(work, parts))


def _most_parts(counts: Int64s) -> int:
    """In how many parts these rows are at least ``LEAST_WORK`` each; 1 if they are less."""
    return max(1, int(counts.sum() + _WORK_OF_ROW * len(counts)) // LEAST_WORK)
