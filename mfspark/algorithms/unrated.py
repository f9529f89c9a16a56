"""Rows of users and items that have features but no ratings.

The rows of the rated ids are regressed on their features once more, by themselves: β of the chain
says what features add to everything else that is known of a rated id, as who rated it, and of an
unrated one nothing else is known.
"""

import math

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix, vstack
from scipy.sparse.linalg import LinearOperator, lsmr

from mfspark.algorithms.encoding import EncodedFeatures
from mfspark.algorithms.history import Posterior
from mfspark.algorithms.penalties import lowest
from mfspark.algorithms.start import start_keys
from mfspark.columns import Side
from mfspark.kernels.arrays import Float32s, Float64s
from mfspark.kernels.csr import Csr
from mfspark.kernels.random import normal_rows

# ρ is looked for from here, in steps by this factor.
_FIRST_RIDGE, _STEP = 10.0, 4.0
# Fifths of the rated ids are held out, one after the other, until they are so many together.
_FOLDS, _ENOUGH = 5, 2_000
# Exact to this share, which is far less than what ρ makes.
_TOLERANCE = 1e-3
# Added to a covariance, which fewer rows than numbers in each leave singular.
_LEAST_VARIANCE = 1e-9


class Regression:
    """γ, which minimises Σ |x − x̄ − γᵀ (f − f̄)|² + ρ |γ|² over rated ids with rows x and features
    f, of which x̄ and f̄ are the means.

    ``rows`` float32 [n_rated, rank + 1] are the ones that ρ (``ridge``) is chosen by, as that which
    predicts those of held-out ids best; ``others`` float32 [n, rank + 1] are the rows of the other
    side, whose mean squares say how much each number of a row matters to ratings.
    """

    def __init__(self, features: EncodedFeatures, rows: Float32s, others: Float32s) -> None:
        n_features = len(features.names)
        parts = (features.of_rated, features.of_unrated)
        self._rated, unrated = (_sparse(part, n_features) for part in parts)
        self._weights = np.square(others, dtype=np.float64).mean(axis=0)
        self._weights[-1] = 1.0
        self._both = vstack([self._rated, unrated], format="csr")
        self.ridge = _FIRST_RIDGE
        if n_features and len(rows) >= _FOLDS:
            step, _ = lowest(lambda step: self._held_out_error(rows, _FIRST_RIDGE * _STEP**step))
            self.ridge *= _STEP**step

    def predicted(self, rows: Float32s) -> tuple[Float32s, Float32s]:
        """γᵀ (f − f̄) of the rated ids, whose ``rows`` are float32 [n_rated, rank + 1], and of the
        unrated ones."""
        found = _predicted(self._rated, rows, self._both, self.ridge).astype(np.float32)
        return found[: len(rows)], found[len(rows) :]

    def _held_out_error(self, rows: Float32s, ridge: float) -> float:
        fold = np.arange(len(rows)) % _FOLDS
        n_folds = min(_FOLDS, math.ceil(_ENOUGH / (len(rows) / _FOLDS)))
        error = 0.0
        for held in range(n_folds):
            fitted, is_held = rows[fold != held], fold == held
            mean = fitted.mean(axis=0, dtype=np.float64)
            found = _predicted(self._rated[fold != held], fitted, self._rated[is_held], ridge)
            error += float((np.square(rows[is_held] - mean - found) @ self._weights).sum())
        return error


def with_unrated(rows: Float32s, regression: Regression | None) -> Float32s:
    """Rows of the rated ids, float32 [n_rated, rank + 1], then those of the unrated ones,
    γᵀ (f − f̄).

    Who has average features is predicted by the baseline, as without features. (x̄ + γᵀ (f − f̄),
    what an id is expected to be before anybody chooses to rate it, is a worse prediction of the
    ratings that there are: those who do not like it do not rate it.)
    """
    if regression is None:
        return rows
    return np.concatenate([rows, regression.predicted(rows)[1]])


def posterior_with_unrated(
    posterior: Posterior,
    regressions: dict[Side, Regression],
    unrated_ids: dict[Side, pa.Array],
    seed: int,
) -> Posterior:
    """As ``with_unrated``, of all draws; an unrated row is drawn around γᵀ (f − f̄) as the rated
    ones lie around x̄ + γᵀ (f − f̄)."""
    draws = dict(posterior.draws)
    for side, regression in regressions.items():
        if side not in draws:
            continue
        rated = draws[side]
        n, n_draws, size = rated.shape
        keys = start_keys(unrated_ids[side], f"{side} unrated", seed)
        unrated = np.empty((len(keys), n_draws, size), np.float32)
        for draw in range(n_draws):
            around, centres = regression.predicted(rated[:, draw])
            rest = (rated[:, draw] - around).astype(np.float64)
            centred = rest - rest.mean(axis=0)
            covariance = centred.T @ centred / n + _LEAST_VARIANCE * np.eye(size)
            root = np.linalg.cholesky(covariance).T.astype(np.float32)
            unrated[:, draw] = centres + normal_rows(keys, draw, size) @ root
        draws[side] = np.concatenate([rated, unrated])
    return Posterior(draws, posterior.spread, posterior.diagnostics)


def _predicted(known: csr_matrix, rows: Float32s, asked: csr_matrix, ridge: float) -> Float64s:
    """γᵀ (f − f̄) of the features ``asked``, γ and f̄ being those of ``rows`` with the features
    ``known``; by LSMR (Fong & Saunders 2011), column by column."""
    if not known.shape[1]:
        return np.zeros((asked.shape[0], rows.shape[1]))
    mean = np.asarray(known.mean(axis=0)).ravel()
    operator = LinearOperator(
        known.shape,
        matvec=lambda gamma: known @ gamma - mean @ gamma,
        rmatvec=lambda rest: known.T @ rest - mean * rest.sum(),
        dtype=np.float64,
    )
    columns = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    gamma = np.column_stack(
        [
            lsmr(operator, column, np.sqrt(ridge), atol=_TOLERANCE, btol=_TOLERANCE)[0]
            for column in columns.T
        ]
    )
    return np.asarray(asked @ gamma - mean @ gamma)


def _sparse(csr: Csr, n_columns: int) -> csr_matrix:
    values = csr.values.astype(np.float64)
    return csr_matrix((values, csr.columns, csr.indptr), shape=(csr.n_rows, n_columns))
