"""Compile all kernels of a fit into numba's cache on disk.

    python -m mfspark.kernels.warm

The first fit on a machine compiles for some ten seconds; jobs let that happen while they ingest.
"""

import numpy as np

from mfspark.kernels.csr import Csr, build_block
from mfspark.kernels.half_step import half_step, squared_error
from mfspark.kernels.moments import half_step_of_moments, row_moments
from mfspark.kernels.neighbours import N_SUMS, Lists, add_common, corrections
from mfspark.kernels.predict import predict_pairs, top_n
from mfspark.kernels.problem import FixedSide, Penalty, Problem
from mfspark.kernels.sgd import SGDSide, entries_of, shuffle, split, visit


def main() -> None:
    """Call each kernel once on the smallest input that reaches all of it."""
    zeros = np.zeros(4, np.int32)
    values = np.ones(4, np.float32)
    rows = np.zeros((1, 3), np.float32)
    fixed, problem = FixedSide.of(rows), Problem(0.0, Penalty(1.0, 1.0, 0.5), True)
    for in_file in (False, True):
        # To numba, arrays that Arrow or a file lends are of another type: they cannot be written.
        values.setflags(write=not in_file)
        # Without validation ratings, build_block takes the arrays as they are.
        held_out = np.array([False, False, False, not in_file])
        block = build_block(zeros, zeros, values, held_out, 1, 1)
        for array in (*block.train, *block.validation):
            array.setflags(write=not in_file)
        half_step(block, fixed, problem)
        moments = row_moments(block.train, fixed, 0.0)
        half_step_of_moments(moments, moments, problem)
        squared_error(block.validation, rows, fixed, 0.0)
    _descend(block.train, problem)
    _compare(block.train)
    factors, bias = rows[:, :2].copy(), rows[:, 2].copy()
    predict_pairs(zeros, zeros, factors, bias, factors, bias, 0.0)
    top_n(factors, factors, bias, 1)


def _descend(ratings: Csr, problem: Problem) -> None:
    entries = split(entries_of(ratings), np.zeros(ratings.n_entries, np.int32), 1)[0]
    shuffle(entries, 1)
    users, items = (
        SGDSide.start(np.zeros((1, 3), np.float32), np.ones(1, np.int64), 1.0) for _ in range(2)
    )
    visit(entries, users, items, (problem, problem), 0.1, True)


def _compare(ratings: Csr) -> None:
    """Neighbourhoods; cells lend their arrays, which cannot be written."""
    add_common(np.zeros((1, 1, N_SUMS), np.float32), 0, ratings)
    lists = Lists(np.array([0, 1]), ratings.columns[:1], ratings.values[:1])
    corrections(lists, lists, 1)


if __name__ == "__main__":
    main()
