"""Predictions for pairs of ids, in one of two ways.

A model up to some size is broadcast as two cells, and applied to pairs in Python: nothing is
shuffled, and the work for a pair hardly depends on the rank. A bigger model is joined to the pairs
by Spark.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

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

from mfspark.columns import BIAS, COLD_BIAS, DRAWS, FACTORS, ITEM, N_RATINGS, USER, Side
from mfspark.engine.plan import BROADCAST_LIMIT
from mfspark.kernels.arrays import Float32s, Float64s, Int32s
from mfspark.kernels.predict import dot_rows, predict_pairs, variance_of_pairs
from mfspark.models.broadcast import model_rows, read, with_tables
from mfspark.settings import FactorColdStart

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


class Spreading(NamedTuple):
    """The column of standard deviations, and what they are made of: the number of draws that both
    tables have in a column ``draws``, and the variances of ``PosteriorFacts``."""

    column: str
    n_draws: int
    noise: float
    cold_user: float
    cold_item: float


@dataclass(frozen=True)
class Scoring:
    """Columns of the pairs and of the prediction, μ, what cold rows get, whether the tables have a
    bias for them, limits to clip to, and how to make standard deviations, if any are wanted."""

    user: str
    item: str
    prediction: str
    rank: int
    mean: float
    cold_start: FactorColdStart
    has_cold_biases: bool
    limits: tuple[float, float] | None
    spreading: Spreading | None = None

    @property
    def added(self) -> list[str]:
        """Columns that are added."""
        return [self.prediction, *([self.spreading.column] if self.spreading else [])]

    @property
    def needed(self) -> list[str]:
        """Columns of the tables beside the ids."""
        of_cold = [COLD_BIAS, N_RATINGS] if self.has_cold_biases else []
        return [BIAS, FACTORS, *of_cold, *([DRAWS] if self.spreading else [])]


def add_predictions(
    pairs: DataFrame, users: DataFrame, items: DataFrame, scoring: Scoring, n_rows: int
) -> DataFrame:
    """``pairs`` with the column of predictions (double).

    ``users`` and ``items``: id and ``scoring.needed``; ``n_rows`` is how many rows both have
    together.
    """
    n_copies = 1 + (scoring.spreading.n_draws if scoring.spreading else 0)
    is_small = n_copies * n_rows * 4 * (scoring.rank + 3) <= BROADCAST_LIMIT
    is_plain = all(isinstance(field.dataType, _PLAIN) for field in pairs.schema)
    has_names = len(set(pairs.columns)) == len(pairs.columns)
    if is_small and is_plain and has_names:
        return _by_cells(pairs, users, items, scoring)
    return _by_joins(pairs, users, items, scoring)


def _by_cells(pairs: DataFrame, users: DataFrame, items: DataFrame, scoring: Scoring) -> DataFrame:
    """Both tables travel as cells to the tasks that hold the pairs."""
    # Inside, columns go by number: mapInArrow does not take names with dots.
    kept = [field for field in pairs.schema if field.name not in scoring.added]
    schema = StructType([*kept, *(StructField(name, DoubleType()) for name in scoring.added)])
    numbered = pairs.toDF(*[str(n) for n in range(len(pairs.columns))])
    names = {name: str(n) for n, name in enumerate(pairs.columns)}
    spreading = scoring.spreading
    inside = replace(
        scoring,
        user=names[scoring.user],
        item=names[scoring.item],
        prediction=names.get(scoring.prediction, scoring.prediction),
        spreading=spreading
        and spreading._replace(column=names.get(spreading.column, spreading.column)),
    )
    tables = [users.select(USER, *scoring.needed), items.select(ITEM, *scoring.needed)]
    return with_tables(numbered, tables).mapInArrow(partial(_score, scoring=inside), schema)


def _score(batches: Iterator[pa.RecordBatch], scoring: Scoring) -> Iterator[pa.RecordBatch]:
    users = items = None
    for pairs, tables in read(batches):
        users = users or _Side(tables[0], scoring)
        items = items or _Side(tables[1], scoring)
        yield from _with_predictions(pairs, users, items, scoring).to_batches(65_536)


class _Side:
    """One side of the model in memory: ids, rows, and maybe draws float32
    [n, n_draws, rank + 1]."""

    def __init__(self, table: pa.Table, scoring: Scoring) -> None:
        self.ids = table.column(0).combine_chunks()
        self.rows = model_rows(table, scoring.rank)
        if scoring.spreading:
            self.draws = _draws_of(table[DRAWS].combine_chunks(), scoring.spreading)

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
    predicted: Float64s = predict_pairs(user, item, users.rows, items.rows, scoring.mean)
    if scoring.cold_start == "nan":
        predicted[~is_known] = np.nan
    if scoring.limits is not None:
        np.clip(predicted, *scoring.limits, out=predicted)
    pairs = pairs.drop_columns([name for name in scoring.added if name in pairs.column_names])
    pairs = pairs.append_column(scoring.prediction, pa.array(predicted))
    if scoring.spreading is None:
        return pairs
    variance = variance_of_pairs(user, item, users.draws, items.draws) + scoring.spreading.noise
    variance[user < 0] += scoring.spreading.cold_user
    variance[item < 0] += scoring.spreading.cold_item
    deviation = np.sqrt(variance)
    if scoring.cold_start == "nan":
        deviation[~is_known] = np.nan
    return pairs.append_column(scoring.spreading.column, pa.array(deviation))


def _draws_of(lists: pa.ListArray, spreading: Spreading) -> Float32s:
    """Draws as an array, float32 [n, n_draws, rank + 1]."""
    flat = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    draws: Float32s = flat.reshape(len(lists), spreading.n_draws, -1)
    return draws


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
            F.col(COLD_BIAS if scoring.has_cold_biases else BIAS)
            .cast("double")
            .alias(f"_{side}_cold_bias"),
            (F.col(N_RATINGS) > 0 if scoring.has_cold_biases else F.lit(True)).alias(
                f"_{side}_is_rated"
            ),
            *([F.col(DRAWS).alias(f"_{side}_draws")] if scoring.spreading else []),
        )
        how = "inner" if scoring.cold_start == "drop" else "left"
        joined = joined.join(parts, f"_{side}_id", how)
    prediction = _clip(_prediction(scoring), scoring.limits)
    return joined.select(
        *[_column(name) for name in pairs.columns if name not in scoring.added],
        prediction.alias(scoring.prediction),
        *([_deviation(scoring).alias(scoring.spreading.column)] if scoring.spreading else []),
    )


def _deviation(scoring: Scoring) -> Column:
    """The standard deviation as an expression of the joined columns."""
    spreading = scoring.spreading
    assert spreading is not None

    def spread(users: pa.Array, items: pa.Array) -> pa.Array:
        return _variance(users, items, spreading)

    variance: Column = arrow_udf(spread, "double")(  # type: ignore[call-overload]
        F.col("_user_draws"), F.col("_item_draws")
    )
    is_cold = {USER: F.col("_user_bias").isNull(), ITEM: F.col("_item_bias").isNull()}
    added = {USER: spreading.cold_user, ITEM: spreading.cold_item}
    for side, cold in is_cold.items():
        variance = variance + F.when(cold, F.lit(added[side])).otherwise(F.lit(0.0))
    deviation = F.sqrt(variance + F.lit(spreading.noise))
    if scoring.cold_start != "nan":
        return deviation
    return F.when(is_cold[USER] | is_cold[ITEM], F.lit(float("nan"))).otherwise(deviation)


def _variance(users: pa.Array, items: pa.Array, spreading: Spreading) -> pa.Array:
    """Row-wise variances over draws; 0 where either is null."""
    known = np.asarray(users.is_valid()) & np.asarray(items.is_valid())
    result = np.zeros(len(users), np.float64)
    if known.any():
        mask, rows = pa.array(known), np.arange(int(known.sum()), dtype=np.int32)
        draws = [_draws_of(side.filter(mask), spreading) for side in (users, items)]
        result[known] = variance_of_pairs(rows, rows, *draws)
    return pa.array(result)


def _prediction(scoring: Scoring) -> Column:
    """The prediction as an expression of the joined columns; what is cold goes by the strategy."""
    dot: Column = arrow_udf(_dot, "double")(  # type: ignore[call-overload]
        F.col("_user_factors"), F.col("_item_factors")
    )
    # The order of these sums is the one in which Explanation adds the same parts.
    full = F.lit(scoring.mean) + _bias(USER) + _bias(ITEM) + dot
    if scoring.cold_start == "drop":
        return full
    is_known = F.col("_user_bias").isNotNull() & F.col("_item_bias").isNotNull()
    cold: Column = F.lit(float("nan"))
    if scoring.cold_start in ("features", "baseline"):
        cold = F.lit(scoring.mean)
        for side in Side:
            cold = cold + F.coalesce(_bias(side), F.lit(0.0))
    return F.when(is_known, full).otherwise(cold)


def _bias(side: Side) -> Column:
    """What a row adds by itself; null without a row."""
    is_warm = F.coalesce(F.col(f"_{side.other}_is_rated"), F.lit(False))
    return F.when(is_warm, F.col(f"_{side}_bias")).otherwise(F.col(f"_{side}_cold_bias"))


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
