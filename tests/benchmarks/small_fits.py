"""Fits of small tables without Spark, with all work handed over to threads and as it is.

    python tests/benchmarks/small_fits.py [THREADS]

Ratings of two factors with noise. Milliseconds (the least of three turns) of the search of the
penalties as a fit makes it, and of an iteration of ALS, SGD and BayesianMF, at rank 10; and how
many times as long they take where every part, however small, is handed to a thread.
"""

import os
import sys
import time
from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import pyarrow as pa

from mfspark.algorithms import sharing
from mfspark.algorithms.als_threads import ThreadedALS
from mfspark.algorithms.gibbs_threads import ThreadedGibbs
from mfspark.algorithms.indexed_ratings import (
    IndexedRatings,
    index_ratings,
    with_validation_column,
)
from mfspark.algorithms.penalties import PenaltySearch
from mfspark.algorithms.sgd_threads import ThreadedSGD
from mfspark.columns import ITEM, RATING, USER, Side
from mfspark.kernels.objective import Objective, Penalty
from mfspark.settings import ALSSettings, BayesianSettings, SGDSettings

OBJECTIVE = Objective(0.0, True, Penalty(1.0, 0.2, 0.5), Penalty(1.0, 0.2, 0.5))
RANK, ITERATIONS, TURNS = 10, 20, 3
# Ratings, users, items.
SIZES = (2_700, 100, 60), (10_000, 400, 200), (30_000, 1_000, 500), (100_000, 943, 1_682)


def main() -> None:
    """Print a line for each size and kind of work."""
    n_threads = int(sys.argv[1]) if sys.argv[1:] else os.cpu_count() or 1
    given = {"rank": RANK, "max_iter": ITERATIONS}
    als = ThreadedALS(OBJECTIVE, ALSSettings(**given, tol=0.0))
    sgd = ThreadedSGD(OBJECTIVE, SGDSettings(**given, tol=0.0))
    gibbs = ThreadedGibbs(OBJECTIVE, BayesianSettings(**given, burn_in=5))
    search = PenaltySearch(
        OBJECTIVE, tuple(Side), biases=True, link=False, rank=RANK, seed=0, scale=1.0
    )
    works: dict[str, tuple[Callable[[IndexedRatings, int], object], int]] = {
        "search of penalties": (search.choose, 1),
        "iteration of ALS": (als.learn, ITERATIONS),
        "epoch of SGD": (sgd.learn, ITERATIONS),
        "iteration of BayesianMF": (gibbs.learn, ITERATIONS),
    }
    print(f"{'ratings':>8} {'work':>24} {'ms':>8} {'all handed over':>16}")
    for size in SIZES:
        ratings = made_ratings(*size)
        for name, (work, n) in works.items():
            seconds, shared = [], []
            for _ in range(TURNS):
                seconds.append(timed(work, ratings, n_threads))
                with patch.object(sharing, "LEAST_WORK", 1):
                    shared.append(timed(work, ratings, n_threads))
            best = min(seconds)
            print(f"{size[0]:>8,} {name:>24} {best / n * 1e3:>8.1f} {min(shared) / best:>16.1f}")


def timed(
    work: Callable[[IndexedRatings, int], object], ratings: IndexedRatings, n_threads: int
) -> float:
    """Seconds of one turn."""
    start = time.perf_counter()
    work(ratings, n_threads)
    return time.perf_counter() - start


def made_ratings(n: int, n_users: int, n_items: int) -> IndexedRatings:
    """Ratings of users alike and of items of which some are rated far more than others."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, n_users, n), (n_items * rng.random(n) ** 2).astype(np.int64)
    p, q = rng.normal(size=(n_users, 2)), rng.normal(size=(n_items, 2))
    rating = (p[user] * q[item]).sum(axis=1) + rng.normal(0, 1, n)
    rating = ((rating - rating.mean()) / rating.std()).astype(np.float32)
    columns = {USER: user, ITEM: item, RATING: rating}
    return index_ratings(with_validation_column(pa.table(columns)))


if __name__ == "__main__":
    main()
