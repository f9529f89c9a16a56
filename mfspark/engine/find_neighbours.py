"""The nearest neighbours of every item (or user), block by block.

Ratings travel as cells that hold whole columns: all ratings of some users, when items are compared.
Each task takes one block of items, reads all cells one after another, and keeps sums for the pairs
of its block alone, so that nobody ever holds a table of all pairs.
"""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.columns import Side
from mfspark.engine.cells import cell
from mfspark.engine.encoded import encode_ratings
from mfspark.engine.index import Layout, count_ids, index_sides
from mfspark.engine.machine import machine_of
from mfspark.engine.packed import Unit, pack_ids
from mfspark.engine.workspace import Workspace, materialised
from mfspark.kernels.csr import Csr
from mfspark.kernels.neighbours import N_SUMS, add_common, nearest

# Sums of the pairs of one block.
_BLOCK_BYTES = 128 * 2**20
_CELL_SCHEMA = "indptr binary, rows binary, compared binary"
_FOUND_SCHEMA = "position int, neighbours binary, similarities binary"


@dataclass(frozen=True)
class Nearest:
    """Who counts as a neighbour; see :func:`mfspark.kernels.neighbours.nearest`."""

    n: int
    centred: bool
    shrinkage: float
    min_support: int


@dataclass(frozen=True)
class Neighbourhood:
    """``neighbours``: the id of ``side``, neighbours binary (int32 positions, the nearest first),
    similarities binary (float32). ``rated``: the id of the other side, positions binary (int32,
    ascending), deviations binary (float32)."""

    neighbours: DataFrame
    rated: DataFrame


def find_neighbours(ratings: DataFrame, side: Side, wanted: Nearest) -> Neighbourhood:
    """Compare the ids of ``side`` by ``ratings`` (user, item, compared float, deviation float).

    ``compared`` is what similarities are made of, ``deviation`` what predictions will add up.
    """
    other = side.other
    spark = ratings.sparkSession
    with Workspace(spark) as workspace:
        ratings = workspace.persist(ratings)
        n_ratings = ratings.count()
        n_cores = machine_of(spark).cores
        packs = pack_ids(ratings.select(side), side)
        encoded = encode_ratings(workspace, packs, Unit(), {side: 64}, n_ratings, n_cores)
        counted = count_ids(workspace, encoded, n_ratings)
        n_ids = counted[side].n_ids
        n_blocks = max(1, math.ceil(4 * N_SUMS * n_ids**2 / _BLOCK_BYTES))
        n_blocks = min(max(n_blocks, n_cores), len(counted[side].pieces))
        index = index_sides(workspace, counted, {side: n_blocks}, split_hot=False)[side]
        ids = index.table.select(F.col("id").alias(side), "position")
        located = workspace.persist(ratings.join(ids, side))
        cells = workspace.persist(
            located.select(other, "position", "compared")
            .repartition(F.col(other))
            .mapInArrow(partial(_pack_columns, other=other), _CELL_SCHEMA)
        )
        blocks = spark.range(n_blocks).select(F.col("id").cast("int").alias("block"))
        found = (
            cells.crossJoin(F.broadcast(blocks))
            .repartitionById(n_blocks, F.col("block"))
            .mapInArrow(partial(_find, layout=index.layout, wanted=wanted), _FOUND_SCHEMA)
        )
        neighbours = ids.join(found, "position").select(side, "neighbours", "similarities")
        rated = (
            located.select(other, "position", "deviation")
            .repartition(F.col(other))
            .sortWithinPartitions(other, "position")
            .mapInArrow(
                partial(_list_rated, other=other),
                f"{other} {ratings.schema[other].dataType.simpleString()}, positions binary, "
                "deviations binary",
            )
        )
        with ThreadPoolExecutor(2) as pool:
            # The tables must be whole before the workspace lets go of what they are made of.
            sizes = 8 * wanted.n * n_ids, 8 * n_ratings
            return Neighbourhood(*pool.map(materialised, (neighbours, rated), sizes))


def _pack_columns(batches: Iterator[pa.RecordBatch], other: Side) -> Iterator[pa.RecordBatch]:
    """One cell of the columns of a partition, which are whole."""
    parts = [batch for batch in batches if batch.num_rows]
    if not parts:
        return
    table = pa.Table.from_batches(parts).sort_by([(other, "ascending"), ("position", "ascending")])
    yield pa.RecordBatch.from_pydict(
        {
            "indptr": [_starts(table[other]).tobytes()],
            "rows": [table["position"].to_numpy().astype(np.int32).tobytes()],
            "compared": [table["compared"].to_numpy().astype(np.float32).tobytes()],
        }
    )


def _starts(ids: pa.ChunkedArray) -> np.ndarray:
    """Where each run of equal ids begins, and the end of the last, int64."""
    codes = ids.combine_chunks().dictionary_encode().indices.to_numpy()
    changes = np.flatnonzero(np.diff(codes)) + 1
    return np.concatenate([[0], changes, [len(codes)]]).astype(np.int64)


def _list_rated(batches: Iterator[pa.RecordBatch], other: Side) -> Iterator[pa.RecordBatch]:
    """Of each id of the other side, which is whole in a partition, what it rated and how."""
    parts = [batch for batch in batches if batch.num_rows]
    if not parts:
        return
    table = pa.Table.from_batches(parts)
    starts = _starts(table[other])
    positions = table["position"].to_numpy().astype(np.int32)
    deviations = table["deviation"].to_numpy().astype(np.float32)
    yield pa.RecordBatch.from_arrays(
        [
            table[other].combine_chunks().take(pa.array(starts[:-1])),
            pa.array([part.tobytes() for part in np.split(positions, starts[1:-1])]),
            pa.array([part.tobytes() for part in np.split(deviations, starts[1:-1])]),
        ],
        names=[other, "positions", "deviations"],
    )


def _find(
    batches: Iterator[pa.RecordBatch], layout: Layout, wanted: Nearest
) -> Iterator[pa.RecordBatch]:
    """Neighbours of the ids of one block, which is a whole partition."""
    sums = None
    first = 0
    for batch in batches:
        for row in range(batch.num_rows):
            block = batch.column("block")[row].as_py()
            if sums is None:
                first = int(layout.offsets[block])
                shape = (int(layout.sizes[block]), layout.n_rows, N_SUMS)
                sums = np.zeros(shape, np.float32)
            columns = Csr(
                cell(batch, "indptr", row, np.int64),
                cell(batch, "rows", row, np.int32),
                cell(batch, "compared", row, np.float32),
            )
            add_common(sums, first, columns)
    if sums is None:
        return
    # Some rows at a time: the choice of the nearest works in double precision.
    step = max(1, 4_000_000 // max(layout.n_rows, 1))
    for start in range(0, len(sums), step):
        part = sums[start : start + step]
        counts, numbers, similarities = nearest(
            part, first + start, wanted.n, wanted.centred, wanted.shrinkage, wanted.min_support
        )
        ends = np.cumsum(counts)[:-1]
        yield pa.RecordBatch.from_arrays(
            [
                pa.array(np.arange(first + start, first + start + len(part), dtype=np.int32)),
                pa.array([each.tobytes() for each in np.split(numbers, ends)], pa.binary()),
                pa.array([each.tobytes() for each in np.split(similarities, ends)], pa.binary()),
            ],
            names=["position", "neighbours", "similarities"],
        )
