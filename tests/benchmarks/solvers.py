"""Exact solutions and conjugate gradients: time and error of fits without Spark, by rank.

    python tests/benchmarks/solvers.py [RATINGS [RANK ...]]

Synthetic ratings (10 million of 70,000 users and 10,700 items, if nothing is said) of sixteen
factors, biases and noise, a twentieth of them for validation; a thread for each core. For each rank
both solvers in turn: seconds of an iteration (least of all), validation RMSE after the last one,
and the seconds until the error was that of the first rank's exact fit, or below.
"""

import argparse
import os

import numpy as np
import pyarrow as pa

from mfspark.algorithms.als_threads import ThreadedALS
from mfspark.algorithms.indexed_ratings import index_ratings
from mfspark.columns import IS_VALIDATION, ITEM, RATING, USER
from mfspark.kernels.objective import Objective, Penalty
from mfspark.settings import ALSSettings, Solver

SOLVERS: tuple[Solver, ...] = ("exact", "cg")
OBJECTIVE = Objective(0.0, True, Penalty(1.0, 0.8, 0.5), Penalty(1.0, 0.2, 0.5))
ITERATIONS = 10


def main() -> None:
    """Print a line for each rank and solver."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ratings", nargs="?", type=float, default=1e7)
    parser.add_argument("ranks", nargs="*", type=int, default=[64, 32, 128, 256])
    arguments = parser.parse_args()
    n = int(arguments.ratings)
    n_items = max(2, round(10_700 * (n / 1e7) ** 0.5))
    ratings = index_ratings(made_ratings(n, max(2, n * 7 // 1000), n_items))
    print(f"{len(ratings.rating):,} ratings")
    print(f"{'rank':>4} {'solver':>6} {'iteration s':>12} {'RMSE':>8} {'to the same s':>14}")
    aim = None
    for rank in arguments.ranks:
        for solver in SOLVERS:
            settings = ALSSettings(rank=rank, max_iter=ITERATIONS, tol=0.0, solver=solver)
            als = ThreadedALS(OBJECTIVE, settings)
            history = als.learn(ratings, os.cpu_count() or 1).history.rows
            halves = zip(history[::2], history[1::2], strict=True)
            seconds = [users.seconds + items.seconds for users, items in halves]
            errors = [float(row.validation_rmse or np.nan) for row in history[1::2]]
            aim = aim or min(errors)
            done = [n for n, error in enumerate(errors, 1) if error <= aim]
            same = f"{sum(seconds[: done[0]]):.2f}" if done else "–"
            print(f"{rank:>4} {solver:>6} {min(seconds):>12.3f} {min(errors):>8.5f} {same:>14}")


def made_ratings(n: int, n_users: int, n_items: int) -> pa.Table:
    """Some ``n`` ratings of different pairs, standardised."""
    rng = np.random.default_rng(0)
    # Three times as many: pairs of the popular are drawn more than once.
    user, item = (
        np.searchsorted(np.cumsum(weight) / weight.sum(), rng.random(3 * n))
        for weight in (1 + rng.pareto(1.5, n_users), 0.2 + rng.pareto(1.2, n_items))
    )
    pairs = np.unique(user.astype(np.int64) * n_items + item)
    rng.shuffle(pairs)
    user, item = np.divmod(pairs[:n], n_items)
    # The first factors say most, as those of real ratings do.
    taste = rng.normal(size=(n_users, 16)) * np.logspace(0, -1, 16)
    kind = rng.normal(size=(n_items, 16))
    rating = 0.3 * np.einsum("nf,nf->n", taste[user], kind[item])
    rating += 0.4 * rng.normal(size=n_users)[user] + 0.5 * rng.normal(size=n_items)[item]
    rating += 0.9 * rng.normal(size=len(user))
    rating = (rating - rating.mean()) / rating.std()
    columns = {USER: user, ITEM: item, RATING: rating.astype(np.float32)}
    return pa.table(columns | {IS_VALIDATION: rng.random(len(user)) < 0.05})


if __name__ == "__main__":
    main()
