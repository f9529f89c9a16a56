"""The whole fit inside one task, with a thread per core: for ratings that fit one task's memory.

Spark's part is to bring the ratings into the task and the tables out of it. Kernels, loop and
history are those of the distributed fit; there is just nothing to ship between half-steps.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import (
    ArrayType,
    FloatType,
    LongType,
    StringType,
    StructField,
    StructType,
)

from mfspark.columns import BIAS, FACTORS, HELD_OUT, ITEM, N_RATINGS, RATING, USER
from mfspark.engine.alternate import Outcome, Solver, alternate
from mfspark.engine.blocks import held_out_of
from mfspark.engine.cells import ROWS_PER_PACK, from_cell, packs, to_cell, values
from mfspark.engine.index import initial_keys
from mfspark.engine.plan import Workload, one_task_bytes
from mfspark.engine.tables import factor_batches
from mfspark.engine.workspace import Workspace
from mfspark.kernels.csr import Float32s, Float64s, Int32s, Int64s, RatingBlock, build_block
from mfspark.kernels.half_step import half_step
from mfspark.kernels.initialise import initial_rows
from mfspark.kernels.moments import half_step_of_moments, row_moments
from mfspark.kernels.problem import FixedSide, HalfStepMetrics, Problem, add_metrics
from mfspark.kernels.rotation import canonical_rotation

# Parts of a side per thread: enough that no thread waits long for the last part.
_PARTS_PER_THREAD = 8


@dataclass(frozen=True)
class OneTask:
    """What the task is told: both problems, when to stop, the seed, its threads, and the memory
    above which it does not even begin."""

    rank: int
    problems: dict[str, Problem]
    max_iter: int
    tol: float
    seed: int
    n_threads: int
    most_bytes: int | None


@dataclass(frozen=True)
class OneTaskFit:
    """Factor tables, and the facts that ``Fit`` wants beside them."""

    users: DataFrame
    items: DataFrame
    facts: dict[str, Any]


def fit_in_one_task(workspace: Workspace, ratings: DataFrame, task: OneTask) -> OneTaskFit | None:
    """Fit ``ratings`` (user, item, rating float, and maybe held_out boolean); None when that would
    take more memory than ``task`` allows."""
    types = {side: ratings.schema[side].dataType for side in (USER, ITEM)}
    schema = StructType(
        [
            *[StructField(side, found) for side, found in types.items()],
            StructField(N_RATINGS, LongType()),
            StructField(BIAS, FloatType()),
            StructField(FACTORS, ArrayType(FloatType())),
            StructField("facts", StringType()),
        ]
    )
    cells = ratings.mapInArrow(_pack, "cell binary")
    result = workspace.cut(cells.repartition(1).mapInArrow(partial(_fit, task=task), schema))
    facts = result.where(F.col("facts").isNotNull()).select("facts").collect()
    if not facts:
        return None
    users, items = (
        result.where(F.col(side).isNotNull()).select(side, N_RATINGS, BIAS, FACTORS)
        for side in (USER, ITEM)
    )
    return OneTaskFit(users, items, json.loads(facts[0][0]))


def _pack(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Rows into cells, ids into dictionaries: an id that occurs often travels once per cell."""
    for table in packs(batches, ROWS_PER_PACK):
        rows = table.combine_chunks()
        columns = [rows[USER].dictionary_encode(), rows[ITEM].dictionary_encode()]
        columns += [rows[RATING], held_out_of(rows)]
        cell = to_cell(pa.table(columns, names=[USER, ITEM, RATING, HELD_OUT]))
        yield pa.RecordBatch.from_arrays([pa.array([cell])], names=["cell"])


@dataclass(frozen=True)
class _Side:
    """Ids by position, the most rated first, with the ratings of each."""

    ids: pa.Array
    n_ratings: Int64s
    block: RatingBlock


def _fit(batches: Iterator[pa.RecordBatch], task: OneTask) -> Iterator[pa.RecordBatch]:
    cells = [from_cell(cell) for batch in batches for cell in values(batch.column(0))]
    if not cells:
        return
    with ThreadPoolExecutor(task.n_threads) as pool:
        sides, n_cold = _sides(pool, cells)
        workload = Workload(
            sides[USER].block.train.n_entries, len(sides[USER].ids), len(sides[ITEM].ids), task.rank
        )
        if task.most_bytes is not None and one_task_bytes(workload) > task.most_bytes:
            return
        outcome = _alternate(pool, sides, task)
        yield from _tables(sides, outcome, n_cold)


def _sides(pool: ThreadPoolExecutor, cells: list[pa.Table]) -> tuple[dict[str, _Side], int]:
    """Both sides, and the number of validation ratings of users or items without training ones."""
    table = pa.concat_tables(cells).unify_dictionaries()
    cells.clear()
    held_out = table[HELD_OUT].to_numpy()
    rating = table[RATING].to_numpy()
    encoded = {side: _codes(table[side]) for side in (USER, ITEM)}
    numbered = dict(
        zip(encoded, pool.map(lambda side: _number(*encoded[side], held_out), encoded), strict=True)
    )
    positions = {side: numbered[side][2] for side in numbered}
    is_warm = (positions[USER] >= 0) & (positions[ITEM] >= 0)
    n_cold = len(is_warm) - int(is_warm.sum())
    if n_cold:
        positions = {side: part[is_warm] for side, part in positions.items()}
        rating, held_out = rating[is_warm], held_out[is_warm]

    def build(sides: tuple[str, str]) -> _Side:
        own, other = sides
        ids, n_ratings, _ = numbered[own]
        block = build_block(
            positions[own], positions[other], rating, held_out, len(ids), len(numbered[other][0])
        )
        return _Side(ids, n_ratings, block)

    users, items = pool.map(build, ((USER, ITEM), (ITEM, USER)))
    return {USER: users, ITEM: items}, n_cold


def _codes(column: pa.ChunkedArray) -> tuple[pa.Array, Int32s]:
    """Distinct ids, and of each row the place of its id among them."""
    codes = [chunk.indices.to_numpy() for chunk in column.chunks]
    return column.chunk(0).dictionary, np.concatenate(codes).astype(np.int32, copy=False)


def _number(
    ids: pa.Array, codes: Int32s, held_out: npt.NDArray[np.bool_]
) -> tuple[pa.Array, Int64s, Int32s]:
    """Ids with training ratings, the most rated first; their numbers of ratings; of each row the
    position of its id, −1 when it has no training rating."""
    counts = np.bincount(codes[~held_out] if held_out.any() else codes, minlength=len(ids))
    table = pa.table({"count": counts, "id": ids})
    order = pc.sort_indices(table, [("count", "descending"), ("id", "ascending")]).to_numpy()
    kept = order[: int(np.count_nonzero(counts))]
    position = np.full(len(ids), -1, np.int32)
    position[kept] = np.arange(len(kept), dtype=np.int32)
    return ids.take(pa.array(kept)), counts[kept], position[codes]


def _alternate(
    pool: ThreadPoolExecutor, sides: dict[str, _Side], task: OneTask
) -> Outcome[Float32s]:
    solvers = [
        Solver(name, partial(_solve, pool, side.block, task.problems[name], task.n_threads), 0)
        for name, side in sides.items()
    ]
    items = sides[ITEM]
    start = initial_rows(initial_keys(items.ids, ITEM, task.seed), task.rank)
    penalty = task.problems[ITEM].penalty.total(items.n_ratings, start)
    return alternate(
        solvers[0], solvers[1], (start, penalty), task.tol, task.max_iter, lambda _: None
    )


def _solve(
    pool: ThreadPoolExecutor,
    block: RatingBlock,
    problem: Problem,
    n_threads: int,
    fixed: Float32s,
) -> tuple[Float32s, HalfStepMetrics]:
    """One half-step, its rows shared out to the threads."""
    prepared = FixedSide.of(fixed)
    counts = block.train.counts
    fair = block.train.n_entries / n_threads
    # Positions go by popularity: rows too long for one thread are the first ones.
    n_hot = int(np.count_nonzero(counts > fair / 2)) if n_threads > 1 else 0
    parts = _ranges(counts, n_hot, n_threads * _PARTS_PER_THREAD)
    done = pool.map(
        lambda part: half_step(block.slice(*part), prepared, problem),
        parts,
    )
    hot = block.slice(0, n_hot)
    hot_done = half_step_of_moments(
        _moments(pool, hot.train, prepared, problem.mean, n_threads),
        row_moments(hot.validation, prepared, problem.mean),
        problem,
    )
    solved, metrics = zip(hot_done, *done, strict=True)
    return np.concatenate(solved), add_metrics(metrics)


def _moments(
    pool: ThreadPoolExecutor, rows: Any, fixed: FixedSide, mean: float, n_threads: int
) -> Float64s:
    """Moments of each row from equal shares of its entries."""
    shares = np.linspace(rows.indptr[:-1], rows.indptr[1:], n_threads + 1).astype(np.int64)
    parts = pool.map(
        lambda share: np.concatenate(
            [
                row_moments(rows._replace(indptr=shares[share : share + 2, row]), fixed, mean)
                for row in range(rows.n_rows)
            ]
            or [np.zeros((0, fixed.rank + 2, fixed.rank + 2))]
        ),
        range(n_threads),
    )
    return np.asarray(np.sum(list(parts), axis=0))


def _ranges(counts: Int64s, first: int, n_parts: int) -> list[tuple[int, int]]:
    """Rows ``first`` … as at most ``n_parts`` ranges of about equal work."""
    # A row costs about as much as sixteen ratings even when it has only one.
    work = np.cumsum(counts[first:] + 16)
    if not len(work):
        return []
    ends = np.searchsorted(work, np.linspace(0, work[-1], n_parts + 1)[1:]) + 1
    bounds = np.unique(np.concatenate([[0], np.minimum(ends, len(work))])) + first
    return [(int(a), int(b)) for a, b in pairwise(bounds)]


def _tables(
    sides: dict[str, _Side], outcome: Outcome[Float32s], n_cold: int
) -> Iterator[pa.RecordBatch]:
    """Rows of both factor tables in canonical rotation, and one row of facts."""
    factors = {USER: outcome.users, ITEM: outcome.items}
    doubles = {name: rows[:, :-1].astype(np.float64) for name, rows in factors.items()}
    rotation = canonical_rotation(
        doubles[USER].T @ doubles[USER], doubles[ITEM].T @ doubles[ITEM], doubles[ITEM].sum(axis=0)
    )
    del doubles
    types = [side.ids.type for side in sides.values()]
    schema = pa.schema(
        [
            (USER, types[0]),
            (ITEM, types[1]),
            (N_RATINGS, pa.int64()),
            (BIAS, pa.float32()),
            (FACTORS, pa.list_(pa.float32())),
            ("facts", pa.string()),
        ]
    )
    for name, matrix in ((USER, rotation.users), (ITEM, rotation.items)):
        for first, bias, rotated in factor_batches(factors[name], matrix):
            n = len(bias)
            columns = {
                name: sides[name].ids.slice(first, n),
                N_RATINGS: pa.array(sides[name].n_ratings[first : first + n]),
                BIAS: bias,
                FACTORS: rotated,
            }
            yield _with_nulls(schema, columns, n)
    facts = {
        "history": outcome.history,
        "n_users": len(sides[USER].ids),
        "n_items": len(sides[ITEM].ids),
        "singular_values": rotation.singular_values.tolist(),
        "best_iteration": outcome.best_iteration,
        "stopped": outcome.stopped,
        "n_cold_validation": n_cold,
    }
    yield _with_nulls(schema, {"facts": pa.array([json.dumps(facts)])}, 1)


def _with_nulls(schema: pa.Schema, columns: dict[str, pa.Array], n: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [columns.get(field.name, pa.nulls(n, field.type)) for field in schema], schema=schema
    )
