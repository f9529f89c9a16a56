"""Nearest rows of a factor table, with how far to believe each: see
:mod:`mfspark.kernels.similarity`."""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from mfspark.algorithms.start import start_keys
from mfspark.columns import BIAS, FACTORS, N_RATINGS, USER, Side
from mfspark.engine.machine import machine_of
from mfspark.kernels.similarity import Evidence, SimilarRows, similar_rows
from mfspark.models.broadcast import model_rows, read, with_tables
from mfspark.models.metadata import ModelMetadata
from mfspark.models.uncertainty import error_variance

# How often lists are drawn again.
_DRAWS = 40
_MATCHES = "recommendations"


class Nearest(NamedTuple):
    """How many neighbours, and the least agreement that makes one reliable."""

    n: int
    least_agreement: float
    rank: int
    evidence: Evidence


def evidence_of(side: Side, metadata: ModelMetadata, history: DataFrame) -> Evidence:
    """What a rating tells of the factors of a side.

    The penalties are those of the fit; of models without any, σ² over the mean squares of the
    factors themselves, which are what their prior says.
    """
    is_user = side == USER
    n_own, n_other = metadata.n_users, metadata.n_items
    if not is_user:
        n_own, n_other = n_other, n_own
    singular = np.array(metadata.rotation.singular_values)
    if metadata.posterior is not None:
        variance = metadata.posterior.noise
    else:
        variance = error_variance(metadata, history)
    if metadata.penalties is not None:
        weight = metadata.penalties.users if is_user else metadata.penalties.items
        penalties = np.full(len(singular), metadata.scale * weight)
        exponent = float(metadata.hyper_parameters["regExponent"])
    else:
        own = singular / n_own
        penalties = np.divide(variance, own, out=np.zeros_like(own), where=own > 0)
        exponent = 0.0
    return Evidence(singular / n_other, penalties, variance, exponent)


def nearest_rows(queries: DataFrame, candidates: DataFrame, nearest: Nearest) -> DataFrame:
    """Of each query its reliable neighbours among ``candidates``, best first: the id, and
    recommendations array<struct<similar_…, similarity float, agreement float, n_ratings long>>.

    Both tables have the id, n_ratings, bias and factors.
    """
    name = queries.columns[0]
    kind = queries.schema[name].dataType.simpleString()
    columns = [name, N_RATINGS, BIAS, FACTORS]
    n_tasks = machine_of(queries.sparkSession).cores
    cells = with_tables(queries.select(columns).repartition(n_tasks), [candidates.select(columns)])
    return cells.mapInArrow(
        partial(_nearest, nearest=nearest, name=name),
        f"{name} {kind}, {_MATCHES} array<struct<similar_{name}: {kind}, similarity: float, "
        "agreement: float, n_ratings: bigint>>",
    )


def _nearest(
    batches: Iterator[pa.RecordBatch], nearest: Nearest, name: str
) -> Iterator[pa.RecordBatch]:
    """The lists of each cell of queries."""
    for queries, (candidates,) in read(batches):
        left, right = (_rows(table, nearest.rank) for table in (queries, candidates))
        positions, similarity, agreement = similar_rows(
            left, right, nearest.evidence, nearest.n, _DRAWS
        )
        kept = np.isfinite(similarity) & (agreement >= np.float32(nearest.least_agreement))
        at = pa.array(positions[kept])
        matches = pa.StructArray.from_arrays(
            [
                candidates.column(0).combine_chunks().take(at),
                pa.array(similarity[kept]),
                pa.array(agreement[kept]),
                candidates[N_RATINGS].combine_chunks().take(at),
            ],
            names=[f"similar_{name}", "similarity", "agreement", N_RATINGS],
        )
        ends = np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int32)
        yield pa.RecordBatch.from_arrays(
            [queries.column(0).combine_chunks(), pa.ListArray.from_arrays(ends, matches)],
            names=[name, _MATCHES],
        )


def _rows(table: pa.Table, rank: int) -> SimilarRows:
    ids = table.column(0).combine_chunks()
    return SimilarRows(
        model_rows(table, rank).factors,
        table[N_RATINGS].to_numpy().astype(np.int64),
        start_keys(ids, "similar", 0),
    )
