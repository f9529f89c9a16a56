"""What the parts of a model are worth: test error with some of the factors, shares of variance."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.columns import BIAS, FACTORS, ITEM, RATING, USER
from mfspark.kernels.arrays import Float64s
from mfspark.models.factor_model import FactorModel
from mfspark.small_tables import table_of

PARTS = ("users", "items", "interaction")


@dataclass(frozen=True)
class Worth:
    """``factor_gains``: n_factors (the first so many, from 0), rmse, n: of test ratings whose user
    and item both have training ratings. ``variance``: part (users, items, interaction: b_u, b_i and
    p·q; together, which are what parts have in common; rest), share of the variance of the training
    ratings."""

    factor_gains: DataFrame
    variance: DataFrame

    def tables(self) -> dict[str, DataFrame]:
        """The tables by name."""
        return {"factor_gains": self.factor_gains, "variance": self.variance}


def worth_of_parts(model: FactorModel, train: DataFrame, test: DataFrame) -> Worth:
    """Measure ``model`` on ratings (user, item, rating).

    Predictions are clipped as the model's are. Shares: with r = μ + b_u + b_i + p·q + e over the
    rated pairs, Var(b_u), Var(b_i) and Var(p·q) by Var(r); together is what their covariances add,
    and rest is Var(e) with its covariances, so that all add up to 1.
    """
    spark = model.sparkSession
    errors = _sums(model, test, "errors", model.rank + 2)
    n, squares = errors[0], errors[1:]
    gains = [(k, float(np.sqrt(s / n)), int(n)) for k, s in enumerate(squares) if n]
    size = len(PARTS) + 2
    moments = _sums(model, train, "moments", size * size).reshape(size, size)
    return Worth(
        table_of(spark, gains, "n_factors int, rmse double, n long"),
        table_of(spark, list(_shares(moments).items()), "part string, share double"),
    )


def _shares(moments: Float64s) -> dict[str, float]:
    """From sums of products of (1, b_u, b_i, p·q, r)."""
    n = max(moments[0, 0], 1.0)
    means = moments[0] / n
    covariance = moments / n - np.outer(means, means)
    total = covariance[-1, -1] or 1.0
    own = np.diag(covariance)[1:-1]
    explained = covariance[1:-1, 1:-1].sum()
    shares = dict(zip(PARTS, (own / total).tolist(), strict=True))
    together = float((explained - own.sum()) / total)
    return shares | {"together": together, "rest": 1 - float(explained / total)}


def _sums(model: FactorModel, ratings: DataFrame, what: str, size: int) -> Float64s:
    """Sums over the ratings whose user and item both have training ratings, float64 [size]."""
    users = model.user_factors.select(USER, F.col(BIAS).alias("b_u"), F.col(FACTORS).alias("p"))
    items = model.item_factors.select(ITEM, F.col(BIAS).alias("b_i"), F.col(FACTORS).alias("q"))
    rows = (
        ratings.select(USER, ITEM, F.col(RATING).cast("double").alias(RATING))
        .join(users, USER)
        .join(items, ITEM)
        .select("b_u", "b_i", "p", "q", RATING)
    )
    compute = partial(
        _of_batches, what=what, mean=model.global_mean, limits=model.metadata.rating_scale
    )
    total = np.zeros(size)
    for part in rows.mapInArrow(compute, "sums binary").collect():
        total += np.frombuffer(part[0])
    return total


def _of_batches(
    batches: Iterator[pa.RecordBatch], what: str, mean: float, limits: tuple[float, float]
) -> Iterator[pa.RecordBatch]:
    """errors: the number of rows and Σ e² with the first 0, 1, … factors. moments: sums of products
    of (1, b_u, b_i, p·q, r)."""
    for batch in batches:
        n = batch.num_rows
        if not n:
            continue
        b_u, b_i, p, q, rating = (
            (c.flatten() if pa.types.is_list(c.type) else c).to_numpy(zero_copy_only=False)
            for c in batch.columns
        )
        products = (p.astype(np.float64) * q).reshape(n, -1)
        if what == "errors":
            steps = np.column_stack([np.zeros(n), products]).cumsum(axis=1)
            predicted = mean + b_u[:, None] + b_i[:, None] + steps
            error = np.clip(predicted, *limits) - rating[:, None]
            sums = np.concatenate([[n], (error**2).sum(axis=0)])
        else:
            rows = np.column_stack([np.ones(n), b_u, b_i, products.sum(axis=1), rating])
            sums = (rows.T @ rows).ravel()
        yield pa.RecordBatch.from_arrays([pa.array([sums.tobytes()])], names=["sums"])
