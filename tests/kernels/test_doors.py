"""Kernels refuse arrays of other shapes and types before compiled code, which checks nothing."""

import numpy as np
import pytest

from mfspark.columns import USER
from mfspark.kernels.arrays import AlignedRows
from mfspark.kernels.csr import Csr, build_block
from mfspark.kernels.draw import Prior, RowSums, draw_rows, draw_rows_of_moments
from mfspark.kernels.half_step import half_step, solve_rows, squared_error
from mfspark.kernels.moments import half_step_of_moments, row_moments
from mfspark.kernels.neighbours import N_SUMS, Lists, add_common, corrections
from mfspark.kernels.objective import Objective, Penalty
from mfspark.kernels.predict import ModelRows, dot_rows, predict_pairs, top_n, variance_of_pairs
from mfspark.kernels.rotation import canonical_rotation
from mfspark.kernels.sgd import Entries, SGDSide, shuffle, visit

INTS, SINGLES, DOUBLES = np.zeros(3, np.int32), np.ones(3, np.float32), np.ones(3)
FALSE = np.zeros(3, bool)
BLOCK = build_block(INTS, INTS, SINGLES, FALSE, 1, 1)
OBJECTIVE = Objective(0.0, True, Penalty(1, 1, 0.5), Penalty(1, 1, 0.5))
FIXED = AlignedRows.zeros(1, 2)
ROWS = np.zeros((1, 3), np.float32)
MODEL_ROWS = ModelRows(ROWS, SINGLES[:1], SINGLES[:1], np.ones(1, np.bool_))
SIDE = SGDSide.start(ROWS, np.ones(1, np.int64), 1.0)
ENTRIES = Entries(INTS, INTS.copy(), SINGLES)
PRIOR = Prior(np.zeros(3), np.eye(3))
LISTS = Lists(np.array([0, 1]), INTS[:1], SINGLES[:1])
WIDE = BLOCK.train._replace(indptr=np.array([0, 4]))
DOUBLE_FIXED = FIXED._replace(factors=FIXED.factors.astype(np.float64))
NARROW_FIXED = FIXED._replace(factors=FIXED.factors[:, :7])
ONE_ROW = np.zeros((1, 2), np.float32)

CALLS = {
    "rows of another length": lambda: build_block(INTS[:2], INTS, SINGLES, FALSE, 1, 1),
    "rows beyond the block": lambda: build_block(INTS + 1, INTS, SINGLES, FALSE, 1, 1),
    "columns below zero": lambda: build_block(INTS, INTS - 1, SINGLES, FALSE, 1, 1),
    "long rows": lambda: build_block(INTS.astype(np.int64), INTS, SINGLES, FALSE, 1, 1),
    "ratings in double": lambda: build_block(INTS, INTS, DOUBLES, FALSE, 1, 1),
    "entries that are not there": lambda: solve_rows(WIDE, FIXED, OBJECTIVE, USER, "cg"),
    "fixed rows in double": lambda: half_step(BLOCK, DOUBLE_FIXED, OBJECTIVE, USER, "cg"),
    "fixed rows of part vectors": lambda: half_step(BLOCK, NARROW_FIXED, OBJECTIVE, USER, "cg"),
    "solved rows of another rank": lambda: squared_error(BLOCK.train, ROWS[:, :2], FIXED, 0.0),
    "moments of fixed rows in double": lambda: row_moments(BLOCK.train, DOUBLE_FIXED, 0.0),
    "moments of another rank": lambda: half_step_of_moments(
        np.zeros((1, 4, 4)), np.zeros((1, 5, 5)), OBJECTIVE, USER
    ),
    "a penalty of other rows": lambda: OBJECTIVE.users.total(np.ones(2, np.int64), ROWS),
    "sides of two ranks": lambda: visit(
        ENTRIES, SIDE, SGDSide.start(ONE_ROW, np.ones(1, np.int64), 1.0), OBJECTIVE, 0.1, True
    ),
    "entries of two lengths": lambda: shuffle(ENTRIES._replace(rows=INTS[:2]), 1),
    "sums of other pairs": lambda: add_common(
        np.zeros((1, 1, N_SUMS - 1), np.float32), 0, BLOCK.train
    ),
    "lists of other pairs": lambda: corrections(LISTS, Lists(np.array([0]), INTS, SINGLES), 1, 0.0),
    "factors of two ranks": lambda: dot_rows(ROWS, ONE_ROW),
    "pairs of two lengths": lambda: predict_pairs(INTS, INTS[:2], MODEL_ROWS, MODEL_ROWS, 0.0),
    "biases of other rows": lambda: predict_pairs(
        INTS, INTS, MODEL_ROWS, MODEL_ROWS._replace(cold_bias=SINGLES), 0.0
    ),
    "draws with noise of another rank": lambda: draw_rows(BLOCK.train, FIXED, PRIOR, 1.0, ONE_ROW),
    "draws with noise in double": lambda: draw_rows(
        BLOCK.train, FIXED, PRIOR, 1.0, np.zeros((1, 3))
    ),
    "a prior of another rank": lambda: draw_rows(
        BLOCK.train, FIXED, Prior(np.zeros(2), np.eye(2)), 1.0, ROWS
    ),
    "moments and noise of two ranks": lambda: draw_rows_of_moments(
        np.zeros((1, 3, 3)), PRIOR, 1.0, ROWS
    ),
    "sums of another rank": lambda: PRIOR.penalty(RowSums.of(ONE_ROW)),
    "a single draw": lambda: variance_of_pairs(
        INTS, INTS, np.zeros((1, 1, 3), np.float32), np.zeros((1, 1, 3), np.float32)
    ),
    "candidates without biases": lambda: top_n(ROWS, ROWS, SINGLES, 1),
    "a Gram matrix of another rank": lambda: canonical_rotation(np.eye(2), np.eye(3), np.zeros(2)),
    "columns of another length": lambda: Csr(np.array([0, 3]), INTS[:2], SINGLES).check(),
}


@pytest.mark.parametrize("what", CALLS)
def test_kernels_assert_shapes_and_types(what):
    with pytest.raises(AssertionError):
        CALLS[what]()
