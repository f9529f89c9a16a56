"""New rows beside the stored draws of a posterior: what they are solved for by."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.columns import BIAS, COLD_BIAS, DRAWS, FACTORS, RATING, Side
from mfspark.errors import DataError
from mfspark.kernels.arrays import Float64s
from mfspark.kernels.draw import Prior
from mfspark.kernels.new_rows import DrawnFoldIn, common_normals
from mfspark.models.metadata import LEAST_DRAWS, ModelMetadata

_LEAST_VARIANCE = 1e-6


def drawn_fold_in_of(
    rows: dict[Side, DataFrame], draws: dict[Side, DataFrame], metadata: ModelMetadata, side: Side
) -> DrawnFoldIn:
    """How rows of ``side`` of a model with a posterior are solved for. ``rows`` and ``draws`` by
    side. What is known before any rating is taken from the rows that each draw has: their mean and
    their covariance. ``DataError`` for models without stored draws, and of features that were
    given, by which new ids are predicted."""
    posterior, size = metadata.posterior, metadata.rank + 1
    if posterior is None or posterior.n_draws < LEAST_DRAWS:
        raise DataError(
            f"the model has {posterior.n_draws if posterior else 0} stored draws, and new rows are "
            f"made beside {LEAST_DRAWS} or more; fit by BayesianMF with keepDraws = 8"
        )
    if metadata.features:
        raise DataError(
            "the model was given features, by which it predicts new ids (coldStartStrategy "
            "features); a row from ratings alone would leave them out: fit again"
        )
    n_draws = posterior.n_draws
    own = _summed(draws[side].select(DRAWS), partial(_moments, n_draws=n_draws, size=size))
    n_rows, totals = own[0], own[1:].reshape(n_draws, size, size + 1)
    priors = []
    for total in totals:
        mean = total[:, 0] / n_rows
        covariance = total[:, 1:] / n_rows - np.outer(mean, mean)
        # A few rows, or a factor that is zero, tell no direction from another.
        least = _LEAST_VARIANCE * (np.trace(covariance) / size + posterior.noise)
        covariance += least * np.eye(size)
        priors.append(Prior(mean, np.linalg.inv(covariance)))
    other = side.other
    both = rows[other].select(other, FACTORS, BIAS).join(draws[other], other)
    crossed = _summed(
        both.select(FACTORS, BIAS, DRAWS), partial(_crossed, n_draws=n_draws, size=size)
    ).reshape(n_draws + 1, size, size + 1)
    # Of factors that are zero, nothing.
    inverse = np.linalg.pinv(crossed[0, :, 1:], rcond=1e-9, hermitian=True)
    return DrawnFoldIn(
        metadata.global_mean,
        posterior.noise,
        priors,
        inverse @ crossed[1:, :, 1:],
        inverse @ (crossed[1:, :, 0].mean(axis=0) - crossed[0, :, 0]),
        common_normals(n_draws, size),
    )


def cold_biases(
    ratings: DataFrame, tables: dict[Side, DataFrame], metadata: ModelMetadata, side: Side
) -> DataFrame:
    """id, cold_bias float: what a new id of ``side`` adds where the other one is not known,

        Σ (r − μ − c_j) / (n + σ² / var c)

    over its ratings of ids j with a cold bias c_j; σ² is the variance of all ratings, and var c
    that of the biases that its own side has."""
    other = side.other
    row = tables[side].agg(F.var_pop(COLD_BIAS)).first()
    assert row is not None
    damping = metadata.scale**2 / max(row[0] or 0.0, 1e-9)
    known = ratings.where(F.abs(RATING) < F.lit(float("inf"))).join(
        tables[other].select(other, COLD_BIAS), other
    )
    left = F.col(RATING) - F.lit(metadata.global_mean) - F.col(COLD_BIAS)
    found = F.sum(left) / (F.count(F.lit(1)) + F.lit(damping))
    return known.groupBy(side).agg(found.cast("float").alias(COLD_BIAS))


def _summed(table: DataFrame, sums: Callable[..., Iterator[pa.RecordBatch]]) -> Float64s:
    """The sum of the arrays that ``sums`` makes of each partition."""
    parts = table.mapInArrow(sums, "sums array<double>").collect()
    found: Float64s = np.sum([part[0] for part in parts], axis=0, dtype=np.float64)
    return found


def _moments(
    batches: Iterator[pa.RecordBatch], n_draws: int, size: int
) -> Iterator[pa.RecordBatch]:
    """n, and of each draw [Σ x, Σ x xᵀ], float64 [size, size + 1]."""
    n, total = 0, np.zeros((n_draws, size, size + 1))
    for batch in batches:
        rows = _flat(batch.column(0), n_draws * size).reshape(-1, n_draws, size)
        n += len(rows)
        total[:, :, 0] += rows.sum(axis=0)
        total[:, :, 1:] += np.einsum("nda,ndb->dab", rows, rows, optimize=True)
    yield _one_array(np.append(float(n), total.ravel()))


def _crossed(
    batches: Iterator[pa.RecordBatch], n_draws: int, size: int
) -> Iterator[pa.RecordBatch]:
    """With v = [q, 1] and b of the model, v_s and b_s of each draw: [Σ v b, Σ v vᵀ], and of each
    draw [Σ v b_s, Σ v v_sᵀ]; float64 [n_draws + 1, size, size + 1]."""
    total = np.zeros((n_draws + 1, size, size + 1))
    for batch in batches:
        factors, bias = _flat(batch.column(0), size - 1), batch.column(1).to_numpy()
        ones = np.ones((len(bias), 1))
        v = np.concatenate([factors, ones], axis=1)
        drawn = _flat(batch.column(2), n_draws * size).reshape(-1, n_draws, size)
        total[0, :, 0] += v.T @ bias
        total[0, :, 1:] += v.T @ v
        for n in range(n_draws):
            total[n + 1, :, 0] += v.T @ drawn[:, n, -1]
            total[n + 1, :, 1:] += v.T @ np.concatenate([drawn[:, n, :-1], ones], axis=1)
    yield _one_array(total.ravel())


def _flat(lists: pa.Array, length: int) -> Float64s:
    """Lists of one length as float64 [n, length]."""
    values = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
    found: Float64s = values.reshape(len(lists), length)
    return found


def _one_array(numbers: Float64s) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"sums": pa.array([numbers.tolist()])})
