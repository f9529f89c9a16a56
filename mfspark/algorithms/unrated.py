"""Rows of users and items that have features but no ratings."""

import numpy as np

from mfspark.algorithms.encoding import EncodedFeatures
from mfspark.algorithms.history import Posterior
from mfspark.algorithms.start import start_keys
from mfspark.columns import Side
from mfspark.kernels.arrays import Float32s, Float64s
from mfspark.kernels.features import feature_sums
from mfspark.kernels.random import normal_rows

# Added to a covariance, which fewer rows than numbers in each leave singular.
_LEAST_VARIANCE = 1e-9


def with_unrated(rows: Float32s, features: EncodedFeatures | None) -> Float32s:
    """Rows of the rated ids, then those of the unrated ones, βᵀ (f − f̄), with f̄ the mean of the
    rated ones: who has average features is predicted by the baseline, as without features.

    ``rows`` float32 [n_rated + n_features, rank + 1]: x of the rated ids, then β. (m + βᵀ f, what
    an id is expected to be before anybody chooses to rate it, is a worse prediction of the ratings
    that there are: those who do not like it do not rate it.)
    """
    if features is None:
        return rows
    rated, unrated, _ = _predicted(rows, features)
    return np.concatenate([rated, unrated])


def posterior_with_unrated(
    posterior: Posterior, features: dict[Side, EncodedFeatures], seed: int
) -> Posterior:
    """As ``with_unrated``, of all draws; an unrated row is drawn around βᵀ (f − f̄) as the rated
    ones lie around m + βᵀ f."""
    draws = dict(posterior.draws)
    for side, of_side in features.items():
        if side not in draws:
            continue
        keys = start_keys(of_side.unrated, f"{side} unrated", seed)
        extended = []
        for n in range(draws[side].shape[1]):
            rated, unrated, covariance = _predicted(draws[side][:, n], of_side)
            noise = normal_rows(keys, n, rated.shape[1])
            unrated = unrated + noise @ np.linalg.cholesky(covariance).T.astype(np.float32)
            extended.append(np.concatenate([rated, unrated]))
        draws[side] = np.stack(extended, axis=1)
    return Posterior(draws, posterior.spread, posterior.diagnostics)


def _predicted(rows: Float32s, features: EncodedFeatures) -> tuple[Float32s, Float32s, Float64s]:
    """Rated rows, unrated ones, and how the rated ones lie around m + βᵀ f."""
    n_rated = features.of_rated.n_rows
    rated, coefficients = rows[:n_rated], np.ascontiguousarray(rows[n_rated:])
    offsets = feature_sums(features.of_rated, coefficients).astype(np.float64)
    unrated = feature_sums(features.of_unrated, coefficients)
    unrated -= offsets.mean(axis=0).astype(np.float32)
    rest = rated - offsets
    centred = rest - rest.mean(axis=0)
    covariance = centred.T @ centred / n_rated + _LEAST_VARIANCE * np.eye(rows.shape[1])
    return rated, unrated, covariance
