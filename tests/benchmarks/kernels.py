"""Speed of the exact half-step kernel on one core, beside what the machine can do (its roofline).

    python tests/benchmarks/kernels.py

Its operations are compared with those of the machine's matrix product, its bytes (rows of the fixed
side, which lie in a cache) with those of a loop that does nothing but copy such rows. All are timed
in turn in one process with one BLAS thread; the ratios are what counts.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from numba import njit

from mfspark.columns import USER
from mfspark.kernels.arrays import AlignedRows
from mfspark.kernels.csr import build_block
from mfspark.kernels.half_step import solve_rows
from mfspark.kernels.objective import Objective, Penalty
from mfspark.kernels.ridge import TILE

N_RATINGS, N_ROWS, N_COLUMNS, ROUNDS = 1_000_000, 7_000, 3_000, 5
PENALTY = Penalty(1.0, 0.2, 0.5)
OBJECTIVE = Objective(3.0, True, PENALTY, PENALTY)


def main() -> None:
    """Print the roofs of this machine, and for some ranks where the solve is below them."""
    rng = np.random.default_rng(0)
    block = build_block(
        (rng.random(N_RATINGS) ** 2 * N_ROWS).astype(np.int32),
        (rng.random(N_RATINGS) ** 2 * N_COLUMNS).astype(np.int32),
        rng.integers(1, 6, N_RATINGS).astype(np.float32),
        np.zeros(N_RATINGS, bool),
        N_ROWS,
        N_COLUMNS,
    )
    square = rng.random((1500, 1500)).astype(np.float32)
    streamed = rng.random(2**25).astype(np.float32)
    columns = block.train.columns
    print(f"reading from memory: {streamed.nbytes / 1e9 / seconds(streamed.max):.0f} GB/s")
    print("rank ns/rating GFLOP/s sgemm ratio  flop/B of rows  rows GB/s  gathered alone GB/s")
    for rank in (10, 32, 64, 100):
        fixed = AlignedRows.of(rng.normal(0, 0.3, (N_COLUMNS, rank + 1)).astype(np.float32))
        d = rank + 1
        # Gram matrix (one half), right-hand side and error of each rating; factor and solve of
        # each row.
        work = N_RATINGS * (d * (d + 1) + 2 * d) + N_ROWS * (d**3 / 3 + 2 * d**2)
        tile = np.zeros((TILE, fixed.factors.shape[1]), np.float32)
        # Read for the sums, and again for the errors.
        n_bytes = 2 * N_RATINGS * fixed.factors[0].nbytes
        times = []
        for _ in range(ROUNDS):
            solve = partial(solve_rows, block.train, fixed, OBJECTIVE, USER, "exact")
            product = partial(np.matmul, square, square)
            copy = partial(gather, fixed.factors, columns, tile)
            times.append([seconds(solve), seconds(product), seconds(copy)])
        ours, sgemm, gathered = (statistics.median(each) for each in zip(*times, strict=True))
        rate, roof = work / ours / 1e9, 2 * 1500**3 / sgemm / 1e9
        per_rating = ours / N_RATINGS * 1e9
        print(
            f"{rank:>4} {per_rating:>9.1f} {rate:>7.0f} {roof:>5.0f} {rate / roof:>5.2f} "
            f"{work / n_bytes:>15.1f} {n_bytes / ours / 1e9:>10.0f}"
            f" {n_bytes / 2 / gathered / 1e9:>20.0f}"
        )


@njit  # type: ignore[untyped-decorator, unused-ignore]
def gather(rows: np.ndarray, columns: np.ndarray, tile: np.ndarray) -> None:
    """Copy the rows of all columns to a tile that stays in the cache."""
    for t, column in enumerate(columns):
        source, target = rows[column], tile[t & (TILE - 1)]
        for f in range(len(target)):
            target[f] = source[f]


def seconds(work: Callable[[], object]) -> float:
    """Time of one call after a call that warms up."""
    work()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
