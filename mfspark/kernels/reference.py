"""Slow, readable twins of the kernels, in float64 NumPy; the tests hold the fast ones to these."""

from typing import NamedTuple

import numpy as np

from mfspark.columns import Side
from mfspark.kernels.arrays import Float32s, Float64s
from mfspark.kernels.csr import Csr
from mfspark.kernels.objective import Objective
from mfspark.kernels.sgd import Entries, SGDSide


def solve_rows(train: Csr, fixed: Float32s, objective: Objective, side: Side) -> Float64s:
    """Ridge solution of every row; see :func:`mfspark.kernels.half_step.solve_rows`."""
    rank = fixed.shape[1] - 1
    factors, biases = fixed[:, :rank].astype(np.float64), fixed[:, rank].astype(np.float64)
    features = np.column_stack([factors, np.ones(len(fixed))]) if objective.fit_biases else factors
    penalty = objective.penalty(side)
    ridge = np.full(features.shape[1], penalty.factors, np.float64)
    if objective.fit_biases:
        ridge[rank] = penalty.bias
    weights = penalty.row_weights(train.counts)
    solved = np.zeros((train.n_rows, rank + 1))
    for row in np.flatnonzero(train.counts):
        entries = slice(train.indptr[row], train.indptr[row + 1])
        rated = train.columns[entries]
        gram = features[rated].T @ features[rated] + weights[row] * np.diag(ridge)
        rhs = features[rated].T @ (train.values[entries] - objective.mean - biases[rated])
        solved[row, : len(ridge)] = np.linalg.solve(gram, rhs)
    return solved


def squared_error(train: Csr, solved: Float64s, fixed: Float32s, mean: float) -> float:
    """Σ (r − r̂)² over all entries."""
    rows = np.repeat(np.arange(train.n_rows), train.counts)
    p, q = solved[rows], fixed[train.columns].astype(np.float64)
    predicted = mean + p[:, -1] + q[:, -1] + (p[:, :-1] * q[:, :-1]).sum(axis=1)
    return float(np.square(train.values - predicted).sum())


class Visited(NamedTuple):
    """Rows [factors, bias] of both sides after a visit, and Σ e² on the way."""

    users: Float64s
    items: Float64s
    error: float


def visit(
    entries: Entries,
    users: SGDSide,
    items: SGDSide,
    objective: Objective,
    rate: float,
    by_row: bool,
) -> Visited:
    """Visit every entry once; see :func:`mfspark.kernels.sgd.visit`. The sides stay unchanged."""
    sides = [side.rows.astype(np.float64) for side in (users, items)]
    offsets = [
        np.zeros_like(rows)
        if side.offsets is None
        else np.column_stack([side.offsets.factors[:, : side.at.rank], side.offsets.bias])
        for side, rows in zip((users, items), sides, strict=True)
    ]
    squares = [side.squares.astype(np.float64) for side in (users, items)]
    rank = users.at.rank
    total = 0.0
    for user, item, rating in zip(*entries, strict=True):
        old = [sides[0][user].copy(), sides[1][item].copy()]
        error = rating - objective.mean - old[0][rank] - old[1][rank]
        error -= old[0][:rank] @ old[1][:rank]
        total += error**2
        penalties = objective.users, objective.items
        for n, (place, side) in enumerate(((user, users), (item, items))):
            penalty, weight = penalties[n], float(side.weights[place])
            away = old[n] - offsets[n][place]
            slope = error * old[1 - n][:rank] - penalty.factors * weight * away[:rank]
            bias_slope = error - penalty.bias * weight * away[rank]
            rates = rate / np.sqrt(squares[n][place]) if by_row else np.full(2, rate)
            squares[n][place] += [slope @ slope / max(rank, 1), bias_slope**2]
            shrunk = 1 + rates * weight * np.array([penalty.factors, penalty.bias])
            sides[n][place, :rank] += rates[0] * slope / shrunk[0]
            if objective.fit_biases:
                sides[n][place, rank] += rates[1] * bias_slope / shrunk[1]
    return Visited(sides[0], sides[1], float(total))
