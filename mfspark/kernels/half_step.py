"""One half-step on one block: solve every row of the solved side, the fixed side being given.

A side is a float32 matrix [n, rank + 1] whose row is x = [factors, bias]. With the items fixed, the
row of user u minimises (Zhou et al. 2008 for the count-scaled penalty; Koren, Bell, Volinsky 2009
for the biases)

    Σ_i (r_ui − μ − b_i − p_u·q_i − b_u)² + n_u^ν (λ |p_u|² + λ_b b_u²)

which is ridge regression of r_ui − μ − b_i on the features [q_i, 1]. The item side is the mirror
image. Without biases the last column stays zero and the features are q_i alone.
"""

import numpy as np

from mfspark.columns import Side
from mfspark.kernels.arrays import LANES, AlignedRows, Float32s
from mfspark.kernels.compiled import jit
from mfspark.kernels.conjugate_gradients import N_AT_ONCE, N_VECTORS, solve_by_cg
from mfspark.kernels.csr import Csr, RatingBlock
from mfspark.kernels.objective import Objective, PassSums
from mfspark.kernels.one_vector import MOST_FACTORS, small_row_sums, solve_small
from mfspark.kernels.products import BORDER
from mfspark.kernels.ridge import (
    TILE,
    row_sums,
    solve_dual,
    solve_in_double,
    solve_primal,
)
from mfspark.kernels.vectors import dot
from mfspark.settings import Solver

# From this rank on, three vectors to a row, conjugate gradients take clearly less time.
CG_FROM_RANK = 33


def is_by_cg(solver: Solver, rank: int) -> bool:
    """Whether rows are solved by conjugate gradients."""
    return solver == "cg" or (solver == "auto" and rank >= CG_FROM_RANK)


def half_step(
    block: RatingBlock, fixed: AlignedRows, objective: Objective, side: Side, solver: Solver
) -> tuple[Float32s, PassSums]:
    """Solve all rows of ``block``, which are of ``side``.

    ``fixed`` holds the rows that the block's columns refer to. Returns the solved side float32
    [n_rows, rank + 1] and its sums. A row without ratings gets zeros. Cost: about n·d² +
    n_rows·d³/3 floating-point operations, or by conjugate gradients about 25·n·d.
    """
    train, validation = block.train, block.validation
    solved, train_error = solve_rows(train, fixed, objective, side, solver)
    return solved, PassSums(
        squared_error=train_error,
        n_ratings=train.n_entries,
        penalty=objective.penalty(side).total(train.counts, solved),
        validation_squared_error=squared_error(validation, solved, fixed, objective.mean),
        n_validation=validation.n_entries,
    )


def solve_rows(
    train: Csr, fixed: AlignedRows, objective: Objective, side: Side, solver: Solver
) -> tuple[Float32s, float]:
    """Solve the ridge problem of every row: float32 [n_rows, rank + 1], and Σ (r − r̂)².

    By conjugate gradients a row is solved exactly where these do not come near soon.
    """
    train.check()
    fixed.check()
    solved = np.zeros((train.n_rows, fixed.rank + 1), np.float32)
    penalty = objective.penalty(side)
    weights = penalty.row_weights(train.counts)
    assert weights.shape == (train.n_rows,)
    error = _solve_rows(
        *train,
        fixed.factors,
        fixed.bias,
        np.float32(objective.mean),
        (weights * penalty.factors).astype(np.float32),
        (weights * penalty.bias).astype(np.float32),
        objective.fit_biases,
        is_by_cg(solver, fixed.rank),
        solved,
    )
    return solved, float(error)


@jit
def _solve_rows(  # type: ignore[no-untyped-def]
    indptr,
    columns,
    values,
    fixed,
    bias,
    mean,
    factor_weights,
    bias_weights,
    fit_biases,
    by_cg,
    solved,
):
    """Each row by the method that is cheapest for its number of ratings; returns Σ (r − r̂)²."""
    rank, width = solved.shape[1] - 1, fixed.shape[1]
    tile = np.zeros((TILE, width + LANES), np.float32)
    gram = np.empty((width, width + LANES), np.float32)
    border = np.empty((BORDER, width), np.float32)
    padded = np.zeros((1, width), np.float32)
    vectors = np.empty((N_VECTORS, width), np.float32)
    longest = np.int64(0)
    for row in range(len(indptr) - 1 if by_cg else 0):
        longest = max(longest, indptr[row + 1] - indptr[row])
    left = np.empty(longest + N_AT_ONCE, np.float32)
    along = np.empty(longest + N_AT_ONCE, np.float32)
    error = 0.0
    for row in range(len(indptr) - 1):
        start, end = indptr[row], indptr[row + 1]
        rated, ratings = columns[start:end], values[start:end]
        weight, bias_weight, out = factor_weights[row], bias_weights[row], solved[row]
        if len(rated) == 0:
            continue
        if by_cg:
            found = solve_by_cg(
                columns, start, end, values, fixed, bias, mean, weight, bias_weight, fit_biases,
                vectors, left, along, out,
            )  # fmt: skip
            if found >= 0:
                error += found
                continue
        is_short = 2 * len(rated) <= rank and weight > 0 and (bias_weight > 0 or not fit_biases)
        if rank <= MOST_FACTORS:
            small_row_sums(columns, start, end, ratings, fixed, bias, mean, tile, gram)
            done = solve_small(gram, len(rated), weight, bias_weight, fit_biases, out)
        elif is_short:
            done = solve_dual(
                rated, ratings, fixed, bias, mean, weight, bias_weight, fit_biases, out
            )
        else:
            total = row_sums(columns, start, end, ratings, fixed, bias, mean, tile, gram, border)
            done = solve_primal(
                gram, border, total, len(rated), weight, bias_weight, fit_biases, out
            )
        if not done:
            # Single precision met a pivot that rounding could have produced.
            solve_in_double(rated, ratings, fixed, bias, mean, weight, bias_weight, fit_biases, out)
        # Right after the solve, while the row's part of the fixed side is in the cache.
        padded[0, :rank] = out[:rank]
        error += row_error(rated, ratings, fixed, bias, mean, padded, out[rank])
    return error


@jit
def row_error(rated, ratings, fixed, bias, mean, solved, solved_bias):  # type: ignore[no-untyped-def]
    """Σ (r − μ − b_u − b_i − p_u·q_i)² over the ratings of one row, summed in float64."""
    total = 0.0
    own = np.float64(mean) + solved_bias
    for t in range(len(rated)):
        error = ratings[t] - own - bias[rated[t]] - dot(fixed, rated[t], solved, 0)
        total += error * error
    return total


def squared_error(ratings: Csr, solved: Float32s, fixed: AlignedRows, mean: float) -> float:
    """Σ (r − r̂)² over the ratings of all rows; ``solved`` float32 [n_rows, rank + 1]."""
    ratings.check()
    fixed.check()
    assert solved.shape == (ratings.n_rows, fixed.rank + 1)
    assert solved.dtype == np.float32
    if not ratings.n_entries:
        return 0.0
    return float(_squared_error(*ratings, solved, fixed.factors, fixed.bias, np.float32(mean)))


@jit
def _squared_error(indptr, columns, values, solved, fixed, bias, mean):  # type: ignore[no-untyped-def]
    rank = solved.shape[1] - 1
    padded = np.zeros((1, fixed.shape[1]), np.float32)
    total = 0.0
    for row in range(len(indptr) - 1):
        entries = slice(indptr[row], indptr[row + 1])
        padded[0, :rank] = solved[row, :rank]
        total += row_error(
            columns[entries], values[entries], fixed, bias, mean, padded, solved[row, rank]
        )
    return total
