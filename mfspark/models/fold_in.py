"""Rows of new or changed ids from their ratings, the other side being as the model has it."""

from collections.abc import Iterator
from functools import partial
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.columns import BIAS, FACTORS, N_RATINGS, RATING, Side
from mfspark.engine.machine import machine_of
from mfspark.engine.plan import BROADCAST_LIMIT
from mfspark.errors import DataError
from mfspark.kernels.arrays import Float32s, Float64s, Int64s
from mfspark.kernels.csr import Csr
from mfspark.kernels.new_rows import FoldIn
from mfspark.kernels.objective import Objective, Penalty
from mfspark.models.broadcast import model_rows, read, with_tables
from mfspark.models.list_columns import lists_of
from mfspark.models.metadata import ModelMetadata

_RATINGS_PER_TASK = 2_000_000
# Where a penalty can be told from the factors that it shrank.
_ALGORITHMS = ("BiasedALS", "BiasedSGD")


class RowSolver(Protocol):
    """How rows of one side are solved for: see :mod:`mfspark.kernels.new_rows`."""

    @property
    def n_factors(self) -> int:
        """Numbers of a fixed row beside its bias."""

    def fixed_rows(self, rows: Float32s, side: Side) -> Any:
        """What ``solve`` takes of the rows of ``side``, float32 [n, n_factors + 1]."""

    def solve(self, ratings: Csr, fixed: Any, side: Side) -> Float32s:
        """A row for each of ``ratings``, float32 [n_rows, …], the last number being its bias."""


def fault_of_rows(metadata: ModelMetadata) -> str | None:
    """Why the rows of a model are not the minimum for their ratings and a penalty that is known;
    None if they are, as far as the fit has converged."""
    has_links = bool(metadata.features or metadata.hyper_parameters.get("implicitFeatures"))
    if metadata.algorithm not in _ALGORITHMS or has_links or metadata.penalties is None:
        return (
            f"rows of a model of {metadata.algorithm}{' with features' if has_links else ''} are "
            "not those of ratings and a penalty alone, so they cannot be solved for by themselves; "
            f"fit {' or '.join(_ALGORITHMS)} without features"
        )
    if metadata.rank and not metadata.rotation.user_penalty:
        return (
            "metadata.json does not say how the penalty looks in the coordinates of the factors "
            "(rotation.user_penalty), since an earlier mfspark made the model; train again"
        )
    return None


def fold_in_of(metadata: ModelMetadata) -> FoldIn:
    """How rows of a model are solved for. ``DataError`` where ``fault_of_rows`` has one."""
    if fault := fault_of_rows(metadata):
        raise DataError(fault)
    known, penalties = metadata.hyper_parameters, metadata.penalties
    assert penalties is not None
    exponent = known["regExponent"]
    objective = Objective(
        metadata.global_mean / metadata.scale,
        known["fitBiases"],
        Penalty(penalties.users, penalties.user_bias, exponent),
        Penalty(penalties.items, penalties.item_bias, exponent),
    )
    matrix: Float64s = np.array(metadata.rotation.user_penalty, np.float64)
    return FoldIn.of(matrix.reshape(metadata.rank, metadata.rank), metadata.scale, objective)


def fold_in(
    ratings: DataFrame, fixed: DataFrame, n_fixed: int, system: RowSolver, side: Side
) -> DataFrame:
    """One row per id of ``side``: the id, n_ratings long, bias float, factors array<float>.

    ``ratings``: user, item, rating; those of ids that ``fixed`` (id of the other side, bias,
    factors; ``n_fixed`` rows) does not know are left out. Fixed rows are broadcast while they are
    few, and joined to the ratings otherwise.
    """
    other, rank = side.other, system.n_factors
    kind = ratings.schema[side].dataType.simpleString()
    schema = f"{side} {kind}, {N_RATINGS} long, {BIAS} float, {FACTORS} array<float>"
    # Neither null nor NaN, which is greater than all numbers, nor infinite.
    is_finite = F.abs(RATING) < F.lit(float("inf"))
    rated = ratings.where(is_finite & F.col(side).isNotNull()).select(
        side, other, F.col(RATING).cast("float").alias(RATING)
    )
    known = fixed.select(other, BIAS, FACTORS)
    solve = partial(_solve, system=system, side=side, rank=rank)
    if n_fixed * 4 * (rank + 3) > BROADCAST_LIMIT:
        joined = (
            rated.join(known, other)
            .groupBy(side)
            .agg(
                F.collect_list(RATING).alias(RATING),
                F.collect_list(BIAS).alias(BIAS),
                F.flatten(F.collect_list(FACTORS)).alias(FACTORS),
            )
        )
        return joined.select(side, RATING, BIAS, FACTORS).mapInArrow(solve, schema)
    # Not as many tasks as Spark would make of it: each is given the whole other side.
    n_tasks = max(machine_of(ratings.sparkSession).cores, ratings.count() // _RATINGS_PER_TASK)
    lists = (
        rated.repartition(n_tasks, side)
        .groupBy(side)
        .agg(F.collect_list(other).alias(other), F.collect_list(RATING).alias(RATING))
    )
    return with_tables(lists.select(side, other, RATING), [known]).mapInArrow(
        partial(_solve_beside, system=system, side=side, rank=rank), schema
    )


def _solve(
    batches: Iterator[pa.RecordBatch], system: RowSolver, side: Side, rank: int
) -> Iterator[pa.RecordBatch]:
    """Id, rating, bias and factors of all that each row has rated."""
    for batch in batches:
        lengths = pc.list_value_length(batch.column(1)).to_numpy()
        bias = batch.column(2).flatten().to_numpy(zero_copy_only=False)
        flat = batch.column(3).flatten().to_numpy(zero_copy_only=False)
        rows = np.column_stack([flat.reshape(len(bias), rank), bias]).astype(np.float32)
        fixed = system.fixed_rows(rows, side.other)
        values = batch.column(1).flatten().to_numpy(zero_copy_only=False)
        ratings = Csr(_starts(lengths), np.arange(len(values), dtype=np.int32), values)
        yield from _table(batch.column(0), lengths, system.solve(ratings, fixed, side), side)


def _solve_beside(
    batches: Iterator[pa.RecordBatch], system: RowSolver, side: Side, rank: int
) -> Iterator[pa.RecordBatch]:
    """Id, rated ids and ratings in cells, beside the fixed table."""
    fixed = None
    for rows, (table,) in read(batches):
        if fixed is None:
            known = model_rows(table, rank)
            fixed = system.fixed_rows(np.column_stack([known.factors, known.bias]), side.other)
        rated = rows.column(1).combine_chunks()
        places = pc.index_in(rated.flatten(), value_set=table.column(0).combine_chunks())
        is_known = places.is_valid().to_numpy(zero_copy_only=False)
        of_row = np.repeat(np.arange(len(rated)), pc.list_value_length(rated).to_numpy())
        lengths = np.bincount(of_row[is_known], minlength=len(rated))
        values = rows.column(2).combine_chunks().flatten().to_numpy(zero_copy_only=False)[is_known]
        columns = places.drop_null().to_numpy().astype(np.int32)
        solved = system.solve(Csr(_starts(lengths), columns, values), fixed, side)
        yield from _table(rows.column(0).combine_chunks(), lengths, solved, side)


def _starts(lengths: Int64s) -> Int64s:
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


def _table(
    ids: pa.Array, lengths: Int64s, solved: Float32s, side: Side
) -> Iterator[pa.RecordBatch]:
    """The rows that have ratings."""
    is_rated = lengths > 0
    rows = solved[is_rated]
    yield pa.RecordBatch.from_arrays(
        [
            ids.filter(pa.array(is_rated)),
            pa.array(lengths[is_rated].astype(np.int64)),
            pa.array(rows[:, -1]),
            lists_of(rows[:, :-1]),
        ],
        names=[side, N_RATINGS, BIAS, FACTORS],
    )
