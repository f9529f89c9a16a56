"""The whole fit inside one task, with a thread per core: for ratings that fit one task's memory.

Spark's part is to bring the ratings into the task and the tables out of it. In between a learner
works with threads: kernels, loop and history are those of the distributed fit, there is just
nothing to ship.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

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
from mfspark.engine.alternate import Outcome
from mfspark.engine.blocks import held_out_of
from mfspark.engine.cells import ROWS_PER_PACK, from_cell, packs, to_cell, values
from mfspark.engine.factor_tables import factor_batches, table_bytes
from mfspark.engine.plan import Workload, one_task_bytes
from mfspark.engine.start import known_rows, start_rows
from mfspark.engine.workspace import Workspace, settled
from mfspark.errors import DivergenceError
from mfspark.kernels.csr import Float32s, Int32s, Int64s, RatingBlock, build_block
from mfspark.kernels.rotation import canonical_rotation


@dataclass(frozen=True)
class Indexed:
    """The ratings of a task, with ids in place of positions.

    ``ids`` by position, the most rated first, and ``n_ratings`` int64, the training ratings of
    each; both by side. Of each rating its ``positions`` int32 by side, ``rating`` float32 and
    ``held_out`` boolean. ``n_cold``: validation ratings left out because their user or item has no
    training rating. ``known``: bias and factors of the ids that a model knows, null for others; of
    the sides that have them.
    """

    ids: dict[str, pa.Array]
    n_ratings: dict[str, Int64s]
    positions: dict[str, Int32s]
    rating: Float32s
    held_out: npt.NDArray[np.bool_]
    n_cold: int
    known: dict[str, pa.Table]

    def block(self, own: str, other: str) -> RatingBlock:
        """All ratings as one block, whose rows are those of the side ``own``."""
        return build_block(
            self.positions[own],
            self.positions[other],
            self.rating,
            self.held_out,
            len(self.ids[own]),
            len(self.ids[other]),
        )

    def ordered(self, order: dict[str, Int64s]) -> "Indexed":
        """The same ratings with the positions of each side in another order."""
        places = {}
        for side, old in order.items():
            places[side] = np.empty(len(old), np.int32)
            places[side][old] = np.arange(len(old), dtype=np.int32)
        return replace(
            self,
            ids={side: ids.take(pa.array(order[side])) for side, ids in self.ids.items()},
            n_ratings={side: n[order[side]] for side, n in self.n_ratings.items()},
            positions={side: places[side][at] for side, at in self.positions.items()},
            known={side: rows.take(pa.array(order[side])) for side, rows in self.known.items()},
        )

    def start(self, side: str, rank: int, seed: int) -> Float32s:
        """Rows that a fit begins with; see :func:`mfspark.engine.start.start_rows`."""
        return start_rows(self.ids[side], self.known.get(side), side, rank, seed)


class Learner(Protocol):
    """Makes factors of ratings with the threads of a pool; travels to the task by pickling."""

    @property
    def rank(self) -> int:
        """Number of factors."""

    @property
    def scale(self) -> float:
        """What a unit of the fitted ratings is in the unit of the user's."""

    def learn(
        self, pool: ThreadPoolExecutor, n_threads: int, ratings: Indexed
    ) -> Outcome[Float32s]:
        """Rows [factors, bias] of users and items by position, history and reason to stop."""


@dataclass(frozen=True)
class OneTask:
    """What the task is told: how to learn, its threads, and the memory above which it does not
    even begin."""

    learner: Learner
    n_threads: int
    most_bytes: int | None


@dataclass(frozen=True)
class OneTaskFit:
    """Factor tables, and the facts that ``Fit`` wants beside them."""

    users: DataFrame
    items: DataFrame
    facts: dict[str, Any]


def fit_in_one_task(
    workspace: Workspace, ratings: DataFrame, known: dict[str, DataFrame], task: OneTask
) -> OneTaskFit | None:
    """Fit ``ratings`` (user, item, rating float, and maybe held_out boolean); None when that would
    take more memory than ``task`` allows. ``known``: id, bias and factors to start from, by side.
    """
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
    for table in known.values():
        cells = cells.union(table.mapInArrow(_pack_known, "cell binary"))
    result = workspace.pin(cells.repartition(1).mapInArrow(partial(_fit, task=task), schema))
    facts = result.where(F.col("facts").isNotNull()).select("facts").collect()
    if not facts:
        return None
    found = json.loads(facts[0][0])
    if isinstance(found, str):
        raise DivergenceError(found)
    users, items = (
        settled(
            result.where(F.col(side).isNotNull()).select(side, N_RATINGS, BIAS, FACTORS),
            table_bytes(found[f"n_{side}s"], task.learner.rank),
        )
        for side in (USER, ITEM)
    )
    return OneTaskFit(users, items, found)


def _pack(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Rows into cells, ids into dictionaries: an id that occurs often travels once per cell."""
    for table in packs(batches, ROWS_PER_PACK):
        rows = table.combine_chunks()
        columns = [rows[USER].dictionary_encode(), rows[ITEM].dictionary_encode()]
        columns += [rows[RATING], held_out_of(rows)]
        cell = to_cell(pa.table(columns, names=[USER, ITEM, RATING, HELD_OUT]))
        yield pa.RecordBatch.from_arrays([pa.array([cell])], names=["cell"])


def _pack_known(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for table in packs(batches, ROWS_PER_PACK):
        yield pa.RecordBatch.from_arrays([pa.array([to_cell(table)])], names=["cell"])


def _fit(batches: Iterator[pa.RecordBatch], task: OneTask) -> Iterator[pa.RecordBatch]:
    cells = [from_cell(cell) for batch in batches for cell in values(batch.column(0))]
    if not cells:
        return
    with ThreadPoolExecutor(task.n_threads) as pool:
        ratings = _index(pool, cells)
        n_users, n_items = (len(ratings.ids[side]) for side in (USER, ITEM))
        workload = Workload(int(ratings.n_ratings[USER].sum()), n_users, n_items, task.learner.rank)
        if task.most_bytes is not None and one_task_bytes(workload) > task.most_bytes:
            return
        try:
            outcome = task.learner.learn(pool, task.n_threads, ratings)
        except DivergenceError as error:
            # As a fact: Spark would bring it to the driver as an error of its own.
            yield _with_nulls(_schema(ratings), {"facts": pa.array([json.dumps(str(error))])}, 1)
            return
        yield from _tables(ratings, outcome, task.learner.scale)


def _index(pool: ThreadPoolExecutor, cells: list[pa.Table]) -> Indexed:
    tables = {
        side: [cell for cell in cells if {side, BIAS} <= set(cell.column_names)]
        for side in (USER, ITEM)
    }
    rated = [cell for cell in cells if RATING in cell.column_names]
    table = pa.concat_tables(rated).unify_dictionaries()
    rated.clear()
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
    ids = {side: found for side, (found, _, _) in numbered.items()}
    return Indexed(
        ids,
        {side: n_ratings for side, (_, n_ratings, _) in numbered.items()},
        positions,
        rating,
        held_out,
        n_cold,
        {
            side: known_rows(ids[side], pa.concat_tables(parts), side)
            for side, parts in tables.items()
            if parts
        },
    )


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


def _tables(ratings: Indexed, outcome: Outcome[Float32s], scale: float) -> Iterator[pa.RecordBatch]:
    """Rows of both factor tables in canonical rotation, and one row of facts."""
    factors = {USER: outcome.users, ITEM: outcome.items}
    doubles = {name: rows[:, :-1].astype(np.float64) for name, rows in factors.items()}
    rotation = canonical_rotation(
        doubles[USER].T @ doubles[USER], doubles[ITEM].T @ doubles[ITEM], doubles[ITEM].sum(axis=0)
    )
    del doubles
    rotation = rotation.scaled(scale)
    schema = _schema(ratings)
    for name, matrix in ((USER, rotation.users), (ITEM, rotation.items)):
        for first, bias, rotated in factor_batches(factors[name], matrix, scale):
            n = len(bias)
            columns = {
                name: ratings.ids[name].slice(first, n),
                N_RATINGS: pa.array(ratings.n_ratings[name][first : first + n]),
                BIAS: bias,
                FACTORS: rotated,
            }
            yield _with_nulls(schema, columns, n)
    facts = {
        "history": outcome.history,
        "n_users": len(ratings.ids[USER]),
        "n_items": len(ratings.ids[ITEM]),
        "singular_values": rotation.singular_values.tolist(),
        "best_iteration": outcome.best_iteration,
        "stopped": outcome.stopped,
        "n_cold_validation": ratings.n_cold,
    }
    yield _with_nulls(schema, {"facts": pa.array([json.dumps(facts)])}, 1)


def _schema(ratings: Indexed) -> pa.Schema:
    return pa.schema(
        [
            (USER, ratings.ids[USER].type),
            (ITEM, ratings.ids[ITEM].type),
            (N_RATINGS, pa.int64()),
            (BIAS, pa.float32()),
            (FACTORS, pa.list_(pa.float32())),
            ("facts", pa.string()),
        ]
    )


def _with_nulls(schema: pa.Schema, columns: dict[str, pa.Array], n: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [columns.get(field.name, pa.nulls(n, field.type)) for field in schema], schema=schema
    )
