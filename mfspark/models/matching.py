"""Best matches of every query among candidates, without a table of queries × candidates.

Queries travel in batches; the candidates, packed into one cell, are broadcast to every task. A
batch is multiplied with all candidates in one matrix product, and keeps its best.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import (
    ArrayType,
    FloatType,
    StructField,
    StructType,
)

from mfspark.columns import BIAS, COLD_BIAS, FACTORS, N_RATINGS
from mfspark.engine.machine import machine_of
from mfspark.kernels.arrays import Float32s, Int32s, Int64s
from mfspark.kernels.predict import top_n
from mfspark.models.broadcast import model_rows, read, with_tables

# Lists that leave Python at a time.
_QUERIES_PER_BATCH = 10_000


@dataclass(frozen=True)
class Matching:
    """How to score: offset + query bias + candidate bias + product of factors; and what scores are
    clipped to when they have been compared."""

    n: int
    rank: int
    offset: float = 0.0
    limits: tuple[float, float] | None = None


def best_matches(
    queries: DataFrame,
    candidates: DataFrame,
    matching: Matching,
    score_name: str,
    excluded: DataFrame | None = None,
) -> DataFrame:
    """For each query its best candidates: query id, recommendations array<struct<id, score>>.

    ``queries`` and ``candidates`` have the id as first column, bias and factors, and maybe cold
    biases (see ``FactorModel``) with n_ratings. ``excluded``
    has a query id and a candidate id; such pairs are left out of the lists.
    """
    query, candidate = queries.columns[0], candidates.columns[0]
    needed = [BIAS, FACTORS]
    if COLD_BIAS in queries.columns:
        needed += [COLD_BIAS, N_RATINGS]
    queries = queries.select(query, *needed)
    if excluded is None:
        queries = queries.withColumn(
            "excluded", F.lit(None).cast(ArrayType(candidates.schema[candidate].dataType))
        )
    else:
        lists = excluded.groupBy(F.col(query).alias("excluded_for")).agg(
            F.collect_list(F.col(candidate)).alias("excluded")
        )
        queries = queries.join(lists, F.col(query) == F.col("excluded_for"), "left").drop(
            "excluded_for"
        )
    result = StructType(
        [
            queries.schema[query],
            StructField(
                "recommendations",
                ArrayType(
                    StructType([candidates.schema[candidate], StructField(score_name, FloatType())])
                ),
            ),
        ]
    )
    n_tasks = machine_of(queries.sparkSession).cores
    match = partial(_match, matching=matching, names=(query, candidate, score_name))
    # Shared out evenly: a factor table may well be one partition.
    cells = with_tables(queries.repartition(n_tasks), [candidates.select(candidate, *needed)])
    return cells.mapInArrow(match, result)


def _match(
    batches: Iterator[pa.RecordBatch], matching: Matching, names: tuple[str, str, str]
) -> Iterator[pa.RecordBatch]:
    for queries, (candidates,) in read(batches):
        yield from _match_tables(queries, candidates, matching, names)


def _vectors(table: pa.Table, matching: Matching, is_query: bool) -> tuple[Float32s, Float32s]:
    """Factors [n, rank] and biases [n].

    Two more factors where some rows have no ratings: their products are what is missing to the cold
    bias of one row beside another one without ratings.
    """
    factors, bias, cold_bias, is_rated = model_rows(table, matching.rank)
    if COLD_BIAS in table.column_names:
        missing = [cold_bias - bias, (~is_rated).astype(np.float32)]
        factors = np.column_stack([factors, *(missing if is_query else missing[::-1])])
    return factors, bias


def _match_tables(
    queries: pa.Table, candidates: pa.Table, matching: Matching, names: tuple[str, str, str]
) -> Iterator[pa.RecordBatch]:
    """The lists of all ``queries``, some thousands at a time."""
    query_factors, query_bias = _vectors(queries, matching, is_query=True)
    candidate_factors, candidate_bias = _vectors(candidates, matching, is_query=False)
    candidate_ids = candidates.column(0).combine_chunks()
    excluded = _excluded_positions(queries["excluded"].combine_chunks(), candidate_ids)
    query_ids = queries.column(0).combine_chunks()
    for first in range(0, len(query_factors), _QUERIES_PER_BATCH):
        part = slice(first, first + _QUERIES_PER_BATCH)
        positions, scores = top_n(
            query_factors[part],
            candidate_factors,
            candidate_bias,
            matching.n,
            (excluded[0][first : part.stop + 1], excluded[1]),
        )
        is_match = np.isfinite(scores)
        scores = scores + query_bias[part, None] + np.float32(matching.offset)
        if matching.limits is not None:
            np.clip(scores, *matching.limits, out=scores, where=is_match)
        yield _to_lists(query_ids[part.start : part.stop], candidate_ids, positions, scores, names)


def _excluded_positions(lists: Any, candidate_ids: pa.Array) -> tuple[Int64s, Int32s]:
    """Starts [n_queries + 1] and positions of excluded candidates, as ``top_n`` wants them."""
    filled = pc.fill_null(lists, pa.scalar([], lists.type))
    found = pc.fill_null(pc.index_in(filled.flatten(), value_set=candidate_ids), -1).to_numpy()
    of_query = np.repeat(np.arange(len(lists)), pc.list_value_length(filled).to_numpy())
    is_known = found >= 0
    starts = np.zeros(len(lists) + 1, np.int64)
    np.cumsum(np.bincount(of_query[is_known], minlength=len(lists)), out=starts[1:])
    return starts, found[is_known].astype(np.int32)


def _to_lists(
    query_ids: pa.Array, candidate_ids: pa.Array, positions: Any, scores: Any, names: Any
) -> pa.RecordBatch:
    query, candidate, score = names
    found = np.isfinite(scores)
    pairs = pa.StructArray.from_arrays(
        [candidate_ids.take(pa.array(positions[found])), pa.array(scores[found], pa.float32())],
        names=[candidate, score],
    )
    ends = np.concatenate([[0], np.cumsum(found.sum(axis=1))]).astype(np.int32)
    return pa.RecordBatch.from_pydict(
        {query: query_ids, "recommendations": pa.ListArray.from_arrays(ends, pairs)}
    )
