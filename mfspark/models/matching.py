"""Best matches of every query among candidates, without a table of queries × candidates.

Queries travel in batches; the candidates, packed into one cell, are broadcast to every task. A
batch meets the candidates in one matrix product and keeps its best.
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
    BinaryType,
    FloatType,
    StructField,
    StructType,
)

from mfspark.columns import BIAS, FACTORS
from mfspark.kernels.csr import Float32s
from mfspark.kernels.predict import top_n

# Scores that a task holds at a time: 64 MiB of float32.
_SCORES_PER_TILE = 16_000_000


@dataclass(frozen=True)
class Matching:
    """How to score: offset + query bias + candidate bias + product of factors, or the cosine."""

    n: int
    rank: int
    offset: float = 0.0
    cosine: bool = False


def best_matches(
    queries: DataFrame,
    candidates: DataFrame,
    matching: Matching,
    score_name: str,
    excluded: DataFrame | None = None,
) -> DataFrame:
    """For each query its best candidates: query id, recommendations array<struct<id, score>>.

    ``queries`` and ``candidates`` have the id as first column, then bias and factors. ``excluded``
    has a query id and a candidate id; such pairs are left out of the lists.
    """
    query, candidate = queries.columns[0], candidates.columns[0]
    queries = queries.select(query, BIAS, FACTORS)
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
    one_cell = StructType([StructField("cell", BinaryType())])
    packed_queries = queries.mapInArrow(_pack_each, one_cell)
    packed_candidates = (
        candidates.select(candidate, BIAS, FACTORS)
        .repartition(1)
        .mapInArrow(_pack_all, one_cell)
        .withColumnRenamed("cell", "candidates")
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
    return packed_queries.crossJoin(F.broadcast(packed_candidates)).mapInArrow(
        partial(_match, matching=matching, names=(query, candidate, score_name)), result
    )


def _pack_each(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        if batch.num_rows:
            yield _to_cell(pa.Table.from_batches([batch]))


def _pack_all(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    parts = list(batches)
    if parts:
        table = pa.Table.from_batches(parts)
        # A fixed order of candidates decides ties.
        yield _to_cell(table.sort_by(table.column_names[0]))


def _to_cell(table: pa.Table) -> pa.RecordBatch:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return pa.RecordBatch.from_pydict({"cell": [sink.getvalue().to_pybytes()]})


def _match(
    batches: Iterator[pa.RecordBatch], matching: Matching, names: tuple[str, str, str]
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for row in range(batch.num_rows):
            queries = _from_cell(batch.column("cell")[row])
            candidates = _from_cell(batch.column("candidates")[row])
            yield from _match_tables(queries, candidates, matching, names)


def _from_cell(cell: pa.Scalar) -> pa.Table:
    return pa.ipc.open_stream(cell.as_buffer()).read_all().combine_chunks()


def _vectors(table: pa.Table, matching: Matching) -> tuple[Float32s, Float32s]:
    """Factors [n, rank] and biases [n]; unit length and no bias when scored by cosine."""
    flat = table[FACTORS].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    factors = flat.reshape(-1, matching.rank).astype(np.float32)
    if not matching.cosine:
        return factors, table[BIAS].to_numpy().astype(np.float32)
    norms = np.linalg.norm(factors, axis=1, keepdims=True)
    unit = np.divide(factors, norms, out=np.zeros_like(factors), where=norms > 0)
    return unit, np.zeros(len(unit), np.float32)


def _match_tables(
    queries: pa.Table, candidates: pa.Table, matching: Matching, names: tuple[str, str, str]
) -> Iterator[pa.RecordBatch]:
    query_factors, query_bias = _vectors(queries, matching)
    candidate_factors, candidate_bias = _vectors(candidates, matching)
    candidate_ids = candidates.column(0).combine_chunks()
    excluded = _excluded_positions(queries["excluded"].combine_chunks(), candidate_ids)
    tile = max(1, _SCORES_PER_TILE // max(len(candidate_factors), 1))
    for first in range(0, len(query_factors), tile):
        part = slice(first, min(first + tile, len(query_factors)))
        positions, scores = top_n(
            query_factors[part], candidate_factors, candidate_bias, matching.n, excluded[part]
        )
        scores = scores + query_bias[part, None] + np.float32(matching.offset)
        yield _to_lists(
            queries.column(0).combine_chunks()[part.start : part.stop],
            candidate_ids,
            positions,
            scores,
            names,
        )


def _excluded_positions(lists: Any, candidate_ids: pa.Array) -> list[Any]:
    if lists.null_count == len(lists):
        return [np.zeros(0, np.int32)] * len(lists)
    filled = pc.fill_null(lists, pa.scalar([], lists.type))
    positions = pc.index_in(filled.flatten(), value_set=candidate_ids)
    known = positions.to_numpy(zero_copy_only=False)
    parts = np.split(known, np.cumsum(pc.list_value_length(filled).to_numpy())[:-1])
    return [part[~np.isnan(part)].astype(np.int32) for part in parts]


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
