"""Predictions for pairs of ids, in one of two ways.

A model up to some size is broadcast as two cells, and applied to pairs in Python: nothing is
shuffled, and the work for a pair hardly depends on the rank. A bigger model is joined to the pairs
by Spark.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import arrow_udf
from pyspark.sql.types import (
    BinaryType,
    BooleanType,
    DateType,
    DoubleType,
    NumericType,
    StringType,
    StructField,
    StructType,
    TimestampNTZType,
    TimestampType,
)

from mfspark.columns import BIAS, FACTORS, ITEM, USER
from mfspark.engine.plan import BROADCAST_LIMIT
from mfspark.kernels.arrays import Float64s, Int32s
from mfspark.kernels.predict import dot_rows, predict_pairs
from mfspark.models.broadcast import factors_of, read, with_tables
from mfspark.settings import ColdStartStrategy

# Types that reach Python and come back unchanged.
_PLAIN = (
    NumericType,
    StringType,
    BooleanType,
    BinaryType,
    DateType,
    TimestampType,
    TimestampNTZType,
)


@dataclass(frozen=True)
class Scoring:
    """Columns of the pairs and of the prediction, μ, what cold rows get, and limits to clip to."""

    user: str
    item: str
    prediction: str
    rank: int
    mean: float
    cold_start: ColdStartStrategy
    limits: tuple[float, float] | None


def add_predictions(
    pairs: DataFrame, users: DataFrame, items: DataFrame, scoring: Scoring, n_rows: int
) -> DataFrame:
    """``pairs`` with the column of predictions (double).

    ``users`` and ``items``: id, bias, factors; ``n_rows`` is how many rows both have together.
    """
    is_small = n_rows * 4 * (scoring.rank + 3) <= BROADCAST_LIMIT
    is_plain = all(isinstance(field.dataType, _PLAIN) for field in pairs.schema)
    has_names = len(set(pairs.columns)) == len(pairs.columns)
    if is_small and is_plain and has_names:
        return _by_cells(pairs, users, items, scoring)
    return _by_joins(pairs, users, items, scoring)


def _by_cells(pairs: DataFrame, users: DataFrame, items: DataFrame, scoring: Scoring) -> DataFrame:
    # Inside, columns go by number: mapInArrow does not take names with dots.
    kept = [field for field in pairs.schema if field.name != scoring.prediction]
    schema = StructType([*kept, StructField(scoring.prediction, DoubleType())])
    numbered = pairs.toDF(*[str(n) for n in range(len(pairs.columns))])
    names = {name: str(n) for n, name in enumerate(pairs.columns)}
    inside = replace(
        scoring,
        user=names[scoring.user],
        item=names[scoring.item],
        prediction=names.get(scoring.prediction, scoring.prediction),
    )
    tables = [users.select(USER, BIAS, FACTORS), items.select(ITEM, BIAS, FACTORS)]
    return with_tables(numbered, tables).mapInArrow(partial(_score, scoring=inside), schema)


def _score(batches: Iterator[pa.RecordBatch], scoring: Scoring) -> Iterator[pa.RecordBatch]:
    users = items = None
    for pairs, tables in read(batches):
        users = users or _Side(tables[0], scoring.rank)
        items = items or _Side(tables[1], scoring.rank)
        yield from _with_predictions(pairs, users, items, scoring).to_batches(65_536)


class _Side:
    """One side of the model in memory: ids, factors float32 [n, rank], bias float32 [n]."""

    def __init__(self, table: pa.Table, rank: int) -> None:
        self.ids = table.column(0).combine_chunks()
        self.factors, self.bias = factors_of(table, rank)

    def positions(self, ids: pa.ChunkedArray) -> Int32s:
        """Row of each id, int32; −1 for ids that are null or absent from training."""
        known = self.ids
        if known.type != ids.type:
            # Integers of two widths; the pairs may hold ids that the model's type cannot.
            known, ids = (part.cast(pa.int64()) for part in (known, ids))
        found = pc.fill_null(pc.index_in(ids, value_set=known), -1)
        return np.asarray(found.to_numpy(), np.int32)


def _with_predictions(pairs: pa.Table, users: _Side, items: _Side, scoring: Scoring) -> pa.Table:
    """``pairs`` with a column of predictions; what is cold goes by the strategy."""
    user, item = users.positions(pairs[scoring.user]), items.positions(pairs[scoring.item])
    is_known = (user >= 0) & (item >= 0)
    if scoring.cold_start == "drop" and not is_known.all():
        pairs = pairs.filter(pa.array(is_known))
        user, item = user[is_known], item[is_known]
        is_known = is_known[is_known]
    predicted: Float64s = predict_pairs(
        user, item, users.factors, users.bias, items.factors, items.bias, scoring.mean
    )
    if scoring.cold_start == "nan":
        predicted[~is_known] = np.nan
    if scoring.limits is not None:
        np.clip(predicted, *scoring.limits, out=predicted)
    if scoring.prediction in pairs.column_names:
        pairs = pairs.drop_columns([scoring.prediction])
    return pairs.append_column(scoring.prediction, pa.array(predicted))


def _by_joins(pairs: DataFrame, users: DataFrame, items: DataFrame, scoring: Scoring) -> DataFrame:
    """Join both tables to the pairs; products of factors are computed in Arrow batches."""
    joined = pairs.withColumns(
        {"_user_id": _column(scoring.user), "_item_id": _column(scoring.item)}
    )
    for table, side in ((users, USER), (items, ITEM)):
        parts = table.select(
            F.col(side).alias(f"_{side}_id"),
            F.col(BIAS).cast("double").alias(f"_{side}_bias"),
            F.col(FACTORS).alias(f"_{side}_factors"),
        )
        how = "inner" if scoring.cold_start == "drop" else "left"
        joined = joined.join(parts, f"_{side}_id", how)
    prediction = _clip(_prediction(scoring), scoring.limits)
    return joined.select(
        *[_column(name) for name in pairs.columns if name != scoring.prediction],
        prediction.alias(scoring.prediction),
    )


def _prediction(scoring: Scoring) -> Column:
    """The prediction as an expression of the joined columns; what is cold goes by the strategy."""
    dot: Column = arrow_udf(_dot, "double")(  # type: ignore[call-overload]
        F.col("_user_factors"), F.col("_item_factors")
    )
    # The order of these sums is the one in which Explanation adds the same parts.
    full = F.lit(scoring.mean) + F.col("_user_bias") + F.col("_item_bias") + dot
    if scoring.cold_start == "drop":
        return full
    is_known = F.col("_user_bias").isNotNull() & F.col("_item_bias").isNotNull()
    cold: Column = F.lit(float("nan"))
    if scoring.cold_start == "baseline":
        cold = (
            F.lit(scoring.mean)
            + F.coalesce("_user_bias", F.lit(0.0))
            + F.coalesce("_item_bias", F.lit(0.0))
        )
    return F.when(is_known, full).otherwise(cold)


def _clip(prediction: Column, limits: tuple[float, float] | None) -> Column:
    if limits is None:
        return prediction
    clipped = F.least(F.greatest(prediction, F.lit(limits[0])), F.lit(limits[1]))
    return F.when(F.isnan(prediction), prediction).otherwise(clipped)


def _column(name: str) -> Column:
    """The column of that very name, also when it holds dots."""
    return F.col(f"`{name}`")


def _dot(left: pa.Array, right: pa.Array) -> pa.Array:
    """Row-wise products of two list<float> columns; 0 where either is null."""
    known = np.asarray(left.is_valid()) & np.asarray(right.is_valid())
    result = np.zeros(len(left), np.float64)
    n = int(known.sum())
    if n:
        mask = pa.array(known)
        parts: list[Any] = [
            side.filter(mask).flatten().to_numpy().reshape(n, -1) for side in (left, right)
        ]
        result[known] = dot_rows(*parts)
    return pa.array(result)
