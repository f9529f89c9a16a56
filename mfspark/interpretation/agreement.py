"""Whether two models have found the same factors."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from scipy.optimize import linear_sum_assignment

from mfspark.columns import FACTORS, ITEM, N_RATINGS
from mfspark.kernels.arrays import Float64s, Int64s
from mfspark.models.factor_model import FactorModel


class Moments(NamedTuple):
    """Over the items that two models know: their number, sums of the factors of both, and of their
    products, float64 [2·rank] and [2·rank, 2·rank]."""

    n: int
    sums: Float64s
    products: Float64s


def factor_agreement(first: FactorModel, second: FactorModel) -> float | None:
    """The mean |cosine| of the item factors of two models, each matched with one of the other such
    that the mean is highest; from 0 to 1. None without factors.

    (As the stability of Kotliar et al., Identifying gene expression programs with consensus NMF,
    2019, but of matched factors in canonical rotation in place of clusters.)
    """
    if not first.rank:
        return None
    cosines = _normed(item_moments(first, second).products, first.rank)
    return float(cosines[np.arange(first.rank), match(cosines)].mean())


def factor_correlations(first: FactorModel, second: FactorModel, min_ratings: int) -> Float64s:
    """|r| of the item factors of two models over items with ``min_ratings`` in the first, float64
    [rank, rank]; 0 of a factor that is constant."""
    moments = item_moments(first, second, min_ratings)
    centre = np.outer(moments.sums, moments.sums) / max(moments.n, 1)
    return _normed(moments.products - centre, first.rank)


def match(likeness: Float64s) -> Int64s:
    """For each row the column that it is matched with, such that the sum is highest."""
    return np.asarray(linear_sum_assignment(-likeness)[1], np.int64)


def item_moments(first: FactorModel, second: FactorModel, min_ratings: int = 0) -> Moments:
    """Over items with ``min_ratings`` in the first; only sums over items come to the driver."""
    rank = first.rank
    assert rank == second.rank
    supported = first.item_factors.where(F.col(N_RATINGS) >= min_ratings)
    both = supported.select(ITEM, F.col(FACTORS).alias("first")).join(
        second.item_factors.select(ITEM, F.col(FACTORS).alias("second")), ITEM
    )
    n, sums, products = 0, np.zeros(2 * rank), np.zeros((2 * rank, 2 * rank))
    for part in _moments(both.select("first", "second")).collect():
        n += part["n"]
        sums += np.frombuffer(part["sums"])
        products += np.frombuffer(part["products"]).reshape(products.shape)
    return Moments(n, sums, products)


def _moments(both: DataFrame) -> DataFrame:
    """Of the factors ``first`` and ``second`` of each item, a row for each batch of them."""

    def of_parts(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            n = batch.num_rows
            if not n:
                continue
            sides = [
                column.flatten().to_numpy(zero_copy_only=False).reshape(n, -1)
                for column in batch.columns
            ]
            rows = np.column_stack(sides).astype(np.float64)
            sums, products = rows.sum(axis=0), rows.T @ rows
            yield pa.RecordBatch.from_arrays(
                [pa.array([n]), pa.array([sums.tobytes()]), pa.array([products.tobytes()])],
                names=["n", "sums", "products"],
            )

    return both.mapInArrow(of_parts, "n long, sums binary, products binary")


def _normed(products: Float64s, rank: int) -> Float64s:
    """|products| of the factors of one model with those of the other, as if all had length 1;
    factors that are zero are like none."""
    norms = np.sqrt(np.maximum(np.diag(products), 0))
    scale = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 1e-12)
    return np.asarray(np.abs(products * np.outer(scale, scale))[:rank, rank:])
