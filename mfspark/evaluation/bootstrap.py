"""The bootstrap of users: RMSEs of several models had other users been asked.

Users are drawn with replacement, and of each draw all models' RMSEs are taken (the paired bootstrap
of Efron and Tibshirani 1993, with users as the units, as ratings of one user err together). Weights
of the draw are Poisson(1) for each user, which needs no count of the users and no draw in common
(Chamandy, Muralidharan, Najmi, Naidu: Estimating uncertainty for massive data streams, 2012).
"""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from scipy.special import pdtr

from mfspark.algorithms.start import start_keys
from mfspark.kernels.arrays import Float64s
from mfspark.kernels.random import uniform

# Weights beyond this many are as likely as two equal random numbers of 64 bits.
_MOST_DRAWS = 20
_USERS_PER_STEP = 5000


def resample(sums: DataFrame, n_models: int, resamples: int, seed: int) -> Float64s:
    """RMSE of each model in each resample of the users, float64 [resamples, n_models].

    ``sums``: user, n double, squares array<double> (Σ e² of each model over the user's rows). Only
    sums over users come to the driver. The weights depend on seed and user alone.
    """
    parts = sums.mapInArrow(
        partial(_resample, n_models=n_models, resamples=resamples, seed=seed), "sums binary"
    ).collect()
    total = np.zeros((resamples, n_models + 1))
    for part in parts:
        total += np.frombuffer(part[0]).reshape(total.shape)
    return np.sqrt(total[:, 1:] / np.maximum(total[:, :1], 1))


def _resample(
    batches: Iterator[pa.RecordBatch], n_models: int, resamples: int, seed: int
) -> Iterator[pa.RecordBatch]:
    steps = pdtr(np.arange(_MOST_DRAWS), 1)
    total = np.zeros((resamples, n_models + 1))
    for batch in batches:
        keys = start_keys(batch.column(0), "bootstrap", seed)
        squares = np.asarray(batch.column(2).flatten()).reshape(-1, n_models)
        values = np.column_stack([batch.column(1).to_numpy(), squares])
        for first in range(0, len(keys), _USERS_PER_STEP):
            at = slice(first, first + _USERS_PER_STEP)
            weights = np.searchsorted(steps, uniform(keys[at], resamples), side="right")
            total += weights.T @ values[at]
    yield pa.RecordBatch.from_arrays([pa.array([total.tobytes()])], names=["sums"])
