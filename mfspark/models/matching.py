"""Best matches of every query among candidates, without a table of queries × candidates.

Queries travel in batches; the candidates, packed into one cell, are broadcast to every task. A
batch is multiplied with all candidates, some thousands at a time, and keeps its best. Candidates
too big for a broadcast are dealt out to blocks: every batch of queries meets each of them, and the
best of the blocks' lists are those of all candidates.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import (
    ArrayType,
    FloatType,
    StructField,
    StructType,
)

from mfspark.columns import BIAS, COLD_BIAS, FACTORS, N_RATINGS
from mfspark.engine.machine import machine_of
from mfspark.engine.plan import BROADCAST_LIMIT
from mfspark.kernels.arrays import Float32s, Int32s, Int64s
from mfspark.kernels.predict import top_n
from mfspark.models.broadcast import model_rows, read, with_tables
from mfspark.models.candidate_blocks import n_blocks_of, read_blocks, with_blocks

# Lists that leave Python at a time.
_QUERIES_PER_BATCH = 10_000
# In a task: what they have seen, of each maybe hundreds, must stay below 2 GiB of an Arrow array.
QUERIES_PER_TASK = 250_000
# Of a row: its biases, its number of ratings, its id.
_BESIDE_FACTORS = 5


@dataclass(frozen=True)
class Matching:
    """How to score: offset + query bias + candidate bias + product of factors; and what scores are
    clipped to when they have been compared. ``n_queries``, ``n_candidates``: about how many.
    """

    n: int
    rank: int
    n_queries: int
    n_candidates: int
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
    pair = [candidates.schema[candidate], StructField(score_name, FloatType())]
    result = StructType(
        [queries.schema[query], StructField("recommendations", ArrayType(StructType(pair)))]
    )
    cores = machine_of(queries.sparkSession).cores
    n_tasks = cores * max(1, math.ceil(matching.n_queries / (cores * QUERIES_PER_TASK)))
    candidates = candidates.select(candidate, *needed)
    n_bytes = candidate_bytes(matching.n_candidates, matching.rank)
    is_small = n_bytes <= BROADCAST_LIMIT
    names = query, candidate, score_name
    match = partial(_match, matching=matching, names=names, is_whole=is_small)
    if is_small:
        # Shared out evenly: a factor table may well be one partition.
        cells = with_tables(queries.repartition(n_tasks), [candidates])
        return cells.mapInArrow(match, result)
    cells = with_blocks(queries, candidates, n_blocks_of(n_bytes), n_tasks)
    return _best_of_blocks(cells.mapInArrow(match, result), matching, names)


def candidate_bytes(n_candidates: int, rank: int) -> int:
    """About what the rows of candidates take on their way."""
    return n_candidates * 4 * (rank + _BESIDE_FACTORS)


def _best_of_blocks(lists: DataFrame, matching: Matching, names: tuple[str, str, str]) -> DataFrame:
    """The best of the lists that each query has of several blocks; ties by id, as in one list."""
    query, candidate, score_name = names
    merged = lists.groupBy(query).agg(F.flatten(F.collect_list("recommendations")).alias("found"))
    falling = F.transform(
        "found",
        lambda pair: F.struct((-pair[score_name]).alias("negated"), pair[candidate].alias("id")),
    )
    best = F.slice(F.array_sort(falling), 1, matching.n)

    def as_found(pair: Column) -> Column:
        score = -pair["negated"]
        if matching.limits is not None:
            lowest, highest = (F.lit(limit).cast("float") for limit in matching.limits)
            score = F.greatest(lowest, F.least(highest, score))
        return F.struct(pair["id"].alias(candidate), score.alias(score_name))

    return merged.select(query, F.transform(best, as_found).alias("recommendations"))


def _match(
    batches: Iterator[pa.RecordBatch],
    matching: Matching,
    names: tuple[str, str, str],
    is_whole: bool,
) -> Iterator[pa.RecordBatch]:
    """The lists of each cell of queries, ``is_whole``: among all candidates; otherwise among those
    of a block, whose scores are yet to be compared with others."""
    if not is_whole:
        matching = replace(matching, limits=None)
    for queries, (candidates,) in read(batches) if is_whole else read_blocks(batches):
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
