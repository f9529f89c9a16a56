"""Whether two models have found the same factors."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from scipy.optimize import linear_sum_assignment

from mfspark.columns import FACTORS, ITEM
from mfspark.kernels.arrays import Float64s
from mfspark.models.factor_model import FactorModel


def factor_agreement(first: FactorModel, second: FactorModel) -> float | None:
    """The mean |cosine| of the item factors of two models, each matched with one of the other such
    that the mean is highest; from 0 to 1. None without factors.

    Cosines are over the items that both know. Only sums over items come to the driver. (As the
    stability of Kotliar et al., Identifying gene expression programs with consensus NMF, 2019, but
    of matched factors in canonical rotation in place of clusters.)
    """
    rank = first.rank
    assert rank == second.rank
    if not rank:
        return None
    both = first.item_factors.select(ITEM, F.col(FACTORS).alias("first")).join(
        second.item_factors.select(ITEM, F.col(FACTORS).alias("second")), ITEM
    )
    gram = _gram(both.select("first", "second"), rank)
    norms = np.sqrt(np.diag(gram))
    # Factors that are zero agree with none.
    scale = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    cosines = np.abs(gram * np.outer(scale, scale))[:rank, rank:]
    rows, columns = linear_sum_assignment(-cosines)
    return float(cosines[rows, columns].mean())


def _gram(both: DataFrame, rank: int) -> Float64s:
    """[first second]ᵀ [first second], float64 [2·rank, 2·rank]."""

    def products(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        total = np.zeros((2 * rank, 2 * rank))
        for batch in batches:
            sides = [
                column.flatten().to_numpy(zero_copy_only=False).reshape(-1, rank)
                for column in batch.columns
            ]
            rows = np.column_stack(sides).astype(np.float64)
            total += rows.T @ rows
        yield pa.RecordBatch.from_arrays([pa.array([total.tobytes()])], names=["products"])

    parts = both.mapInArrow(products, "products binary").collect()
    total = np.zeros((2 * rank, 2 * rank))
    for part in parts:
        total += np.frombuffer(part[0]).reshape(total.shape)
    return total
