"""Speed of the exact half-step kernel on one core, as a share of the machine's matrix product.

    python tests/benchmarks/kernels.py

Both are timed in turn in one process with one BLAS thread; the ratio is what counts.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from mfspark.columns import USER
from mfspark.kernels.arrays import AlignedRows
from mfspark.kernels.csr import build_block
from mfspark.kernels.half_step import solve_rows
from mfspark.kernels.objective import Objective, Penalty

N_RATINGS, N_ROWS, N_COLUMNS, ROUNDS = 1_000_000, 7_000, 3_000, 5
PENALTY = Penalty(1.0, 0.2, 0.5)
OBJECTIVE = Objective(3.0, True, PENALTY, PENALTY)


def main() -> None:
    """Print GFLOP/s of the solve and of sgemm, and their ratio, for some ranks."""
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
    print("rank   solve GFLOP/s   sgemm GFLOP/s   ratio")
    for rank in (10, 32, 64, 100):
        fixed = AlignedRows.of(rng.normal(0, 0.3, (N_COLUMNS, rank + 1)).astype(np.float32))
        d = rank + 1
        # Gram matrix (one half), right-hand side and error of each rating; factor and solve of
        # each row.
        work = N_RATINGS * (d * (d + 1) + 2 * d) + N_ROWS * (d**3 / 3 + 2 * d**2)
        rates = []
        for _ in range(ROUNDS):
            solve = partial(solve_rows, block.train, fixed, OBJECTIVE, USER, "exact")
            product = partial(np.matmul, square, square)
            rates.append((work / seconds(solve), 2 * 1500**3 / seconds(product)))
        ours, sgemm = (statistics.median(rate) / 1e9 for rate in zip(*rates, strict=True))
        print(f"{rank:>4} {ours:>15.1f} {sgemm:>15.1f} {ours / sgemm:>7.2f}")


def seconds(work: Callable[[], object]) -> float:
    """Time of one call after a call that warms up."""
    work()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
