"""Slow, readable twins of the kernels, in float64 NumPy; the tests hold the fast ones to these."""

import numpy as np

from mfspark.kernels.csr import Csr, Float32s, Float64s
from mfspark.kernels.problem import Problem


def solve_rows(train: Csr, fixed: Float32s, problem: Problem) -> Float64s:
    """Ridge solution of every row; see :func:`mfspark.kernels.half_step.solve_rows`."""
    rank = fixed.shape[1] - 1
    factors, biases = fixed[:, :rank].astype(np.float64), fixed[:, rank].astype(np.float64)
    features = np.column_stack([factors, np.ones(len(fixed))]) if problem.fit_biases else factors
    penalty = problem.penalty
    ridge = np.full(features.shape[1], penalty.factors, np.float64)
    if problem.fit_biases:
        ridge[rank] = penalty.bias
    weights = penalty.row_weights(train.counts)
    solved = np.zeros((train.n_rows, rank + 1))
    for row in np.flatnonzero(train.counts):
        entries = slice(train.indptr[row], train.indptr[row + 1])
        rated = train.columns[entries]
        gram = features[rated].T @ features[rated] + weights[row] * np.diag(ridge)
        rhs = features[rated].T @ (train.values[entries] - problem.mean - biases[rated])
        solved[row, : len(ridge)] = np.linalg.solve(gram, rhs)
    return solved


def squared_error(train: Csr, solved: Float64s, fixed: Float32s, mean: float) -> float:
    """Σ (r − r̂)² over all entries."""
    rows = np.repeat(np.arange(train.n_rows), train.counts)
    p, q = solved[rows], fixed[train.columns].astype(np.float64)
    predicted = mean + p[:, -1] + q[:, -1] + (p[:, :-1] * q[:, :-1]).sum(axis=1)
    return float(np.square(train.values - predicted).sum())
