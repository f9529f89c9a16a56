"""How far off predictions for an item (or a user) may be for want of ratings of it."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from mfspark.columns import BIAS, COLD_BIAS, DRAWS, N_RATINGS, USER, Side
from mfspark.kernels.arrays import Float32s, Float64s
from mfspark.models.metadata import LEAST_DRAWS, ModelMetadata

_UNCERTAINTY = "_uncertainty"
# Ids of the other side that stand for all of them, and rows that are worked on at a time.
_SAMPLE, _ROWS_PER_PART = 200, 1024


def less_uncertainty(
    table: DataFrame,
    side: Side,
    caution: float,
    metadata: ModelMetadata,
    history: DataFrame,
    draws: dict[Side, DataFrame],
) -> DataFrame:
    """A factor table with biases that are lower by ``caution`` standard deviations of what its rows
    add to a prediction.

    With stored draws of a posterior: over the draws, and on average over some ids of the other
    side. Without, for a row with n ratings, as the ridge regression of a half-step has it, in
    canonical coordinates, in which the factors of the other side, of mean squares s_f², are
    uncorrelated:

        σ² (1 / (n + λ_b n^ν) + Σ_f s_f² / (n s_f² + λ n^ν))

    σ being the error on validation ratings, if there are any, or on the training ratings.
    """
    if not caution:
        return table
    if draws and metadata.posterior and metadata.posterior.n_draws >= LEAST_DRAWS:
        sample = _sampled(draws[side.other], side.other, metadata)
        of_rows = draws[side].mapInArrow(
            partial(_over_draws, sample=sample),
            f"{side} {draws[side].schema[side].dataType.simpleString()}, {_UNCERTAINTY} double",
        )
        table = table.join(of_rows, side)
    else:
        table = table.withColumn(_UNCERTAINTY, _of_ridge(side, metadata, history))
    for bias in {BIAS, COLD_BIAS} & set(table.columns):
        lowered = F.col(bias) - F.lit(float(caution)) * F.col(_UNCERTAINTY)
        table = table.withColumn(bias, lowered.cast("float"))
    return table.drop(_UNCERTAINTY)


def _of_ridge(side: Side, metadata: ModelMetadata, history: DataFrame) -> Column:
    """The standard deviation of a row by its number of ratings."""
    given, posterior = metadata.hyper_parameters, metadata.posterior
    exponent = 0.0
    if posterior is not None:
        variance = posterior.noise
        prior = posterior.cold_user if side == USER else posterior.cold_item
        terms = [(1.0, variance / prior)] if prior else []
    else:
        variance = error_variance(metadata, history)
        terms = [(1.0, float(given.get("damping", 1.0)))]
    if metadata.penalties is not None:
        penalties, exponent = metadata.penalties, float(given["regExponent"])
        is_user = side == USER
        bias = penalties.user_bias if is_user else penalties.item_bias
        factors = metadata.scale * (penalties.users if is_user else penalties.items)
        n_others = metadata.n_items if is_user else metadata.n_users
        terms = [(1.0, bias)] if given["fitBiases"] else []
        terms += [(value / n_others, factors) for value in metadata.rotation.singular_values]
    n = F.greatest(F.col(N_RATINGS), F.lit(0)).cast("double")
    power = F.pow(F.greatest(n, F.lit(1.0)), F.lit(exponent))
    total = F.lit(0.0)
    for square, weight in terms:
        if square:
            total = total + F.lit(square) / (n * F.lit(square) + power * F.lit(weight))
    return F.sqrt(F.lit(variance) * total)


def error_variance(metadata: ModelMetadata, history: DataFrame) -> float:
    """σ²; of tables that were made without iterating the variance of the ratings."""
    best = history.where(F.col("iteration") == metadata.best_iteration)
    row = best.agg(F.min("validation_rmse"), F.min("train_rmse")).first()
    assert row is not None
    found = [error for error in row if error is not None]
    return float(found[0] if found else metadata.scale) ** 2


def _sampled(draws: DataFrame, side: Side, metadata: ModelMetadata) -> Float32s:
    """Draws of some ids, the same each time, float32 [n, n_draws, rank + 1]."""
    rows = draws.orderBy(F.xxhash64(side), side).limit(_SAMPLE).select(DRAWS).collect()
    found = np.array([row[0] for row in rows], np.float32)
    return found.reshape(len(rows), -1, metadata.rank + 1)


def _over_draws(batches: Iterator[pa.RecordBatch], sample: Float32s) -> Iterator[pa.RecordBatch]:
    """Ids, and the root of the mean of the variances of b_i + p_u·q_i over the users in
    ``sample``."""
    for batch in batches:
        flat = batch.column(1).flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        rows = flat.reshape(batch.num_rows, *sample.shape[1:])
        parts = [
            _deviation(rows[first : first + _ROWS_PER_PART], sample)
            for first in range(0, len(rows), _ROWS_PER_PART)
        ]
        found = np.concatenate([np.zeros(0), *parts])
        yield pa.RecordBatch.from_arrays(
            [batch.column(0), pa.array(found)], names=[batch.schema.names[0], _UNCERTAINTY]
        )


def _deviation(rows: Float32s, sample: Float32s) -> Float64s:
    predicted = np.einsum("ndf,sdf->nsd", rows[:, :, :-1], sample[:, :, :-1], optimize=True)
    predicted += rows[:, None, :, -1]
    variances = predicted.var(axis=2, ddof=1, dtype=np.float64)
    return np.asarray(np.sqrt(variances.mean(axis=1)))
