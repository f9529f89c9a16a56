"""Into one task and out of it: ratings of a DataFrame to a fit with threads, factors to tables.

For ratings that fit one task's memory. The fit itself is in :mod:`mfspark.algorithms`: kernels,
loop and history are those of the distributed fit, there is just nothing to ship.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
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

from mfspark.algorithms.als_threads import ThreadedALS
from mfspark.algorithms.gibbs_threads import ThreadedGibbs
from mfspark.algorithms.history import Found, Learnt, Posterior
from mfspark.algorithms.indexed_ratings import (
    IndexedRatings,
    index_ratings,
)
from mfspark.algorithms.sgd_threads import ThreadedSGD
from mfspark.columns import (
    BIAS,
    COLD_BIAS,
    DRAWS,
    FACTORS,
    FEATURE,
    ITEM,
    N_RATINGS,
    RATING,
    USER,
    Side,
)
from mfspark.engine.cells import ROWS_PER_PACK, from_cell, packs, to_cell, values
from mfspark.engine.factor_tables import factor_batches, table_bytes
from mfspark.engine.packed import Packs, Unit, ratings_of
from mfspark.engine.plan import BROADCAST_LIMIT
from mfspark.engine.progress import TaskProgress, log_features
from mfspark.engine.training import Fit, Training
from mfspark.engine.workspace import Workspace, from_driver, materialised
from mfspark.errors import DivergenceError
from mfspark.kernels.rotation import canonical_rotation
from mfspark.settings import BayesianSettings

Learner = ThreadedALS | ThreadedSGD | ThreadedGibbs

# Beside the rows of both factor tables, one row says what was learnt, or why nothing was: Spark
# would bring an exception to the driver as an error of its own.
_LEARNT, _DIVERGENCE = "learnt", "divergence"


def fit_in_one_task(
    workspace: Workspace,
    packs: Packs,
    training: Training,
    learner: Learner,
    n_threads: int,
    name: str | None,
) -> Fit:
    """Fit with the threads of one task; ``name`` is for progress."""
    # Packs are computed by now, and come from where they are persisted; other tables in parallel.
    cells = packs.cells.coalesce(1)
    for table in (*training.known.values(), *training.features.values()):
        whole = table.mapInArrow(_pack_whole, "cell binary")
        cells = cells.union(whole.repartition(1))
    schema = StructType(
        [
            *[StructField(side, packs.id_types[side]) for side in Side],
            StructField(N_RATINGS, LongType()),
            StructField(BIAS, FloatType()),
            StructField(COLD_BIAS, FloatType()),
            StructField(FACTORS, ArrayType(FloatType())),
            StructField(DRAWS, ArrayType(FloatType())),
            StructField(_LEARNT, StringType()),
            StructField(_DIVERGENCE, StringType()),
        ]
    )
    with TaskProgress(learner.settings.max_iter, name) as progress:
        learner = replace(learner, journal=progress.journal)
        learn = partial(learn_tables, unit=training.unit, learner=learner, n_threads=n_threads)
        made = cells.coalesce(1).mapInArrow(learn, schema)
        # One job in place of one to compute the rows and one for each table to fetch them.
        is_small = _most_bytes(training, learner) <= BROADCAST_LIMIT
        result = made.toArrow() if is_small else workspace.persist(made)
        learnt = _learnt(result)
        progress.report_rest(learnt.history)
    workspace.phases.end("task")
    n_rows = {USER: learnt.n_users, ITEM: learnt.n_items}
    for side, counts in learnt.features.items():
        n_rows[side] += counts.n_unrated
        if name is not None:
            log_features(counts, side, n_rows[side], name)
    rank = learner.settings.rank
    has_features = learner.settings.implicit_features or bool(training.features)
    columns = [N_RATINGS, BIAS, *([COLD_BIAS] if has_features else []), FACTORS]

    def rows_of(side: Side, columns: list[str], n_bytes: int) -> DataFrame:
        if isinstance(result, pa.Table):
            rows = result.filter(pc.is_valid(result[side])).select([side, *columns])
            return from_driver(workspace.spark, rows)
        of_side = result.where(F.col(side).isNotNull())
        return materialised(of_side.select(side, *columns), n_bytes)

    n_bytes = {side: table_bytes(n_rows[side], rank) for side in Side}
    tables = {side: rows_of(side, columns, n_bytes[side]) for side in Side}
    draws = None
    if learnt.n_draws:
        draws = {side: rows_of(side, [DRAWS], learnt.n_draws * n_bytes[side]) for side in Side}
    return training.fit(tables, learnt, workspace.phases, draws)


def _most_bytes(training: Training, learner: Learner) -> float:
    """Of all rows that come out, at most; of features it is not known of how many ids there are."""
    if training.features:
        return math.inf
    settings = learner.settings
    n_tables = 1 + (settings.keep_draws if isinstance(settings, BayesianSettings) else 0)
    n_rows = training.summary.n_users + training.summary.n_items
    return n_tables * table_bytes(n_rows, settings.rank)


def _learnt(result: DataFrame | pa.Table) -> Learnt:
    """What the last row says; raises ``DivergenceError`` where nothing was learnt."""
    said = [_LEARNT, _DIVERGENCE]
    if isinstance(result, pa.Table):
        (row,) = result.slice(result.num_rows - 1).select(said).to_pylist()
    else:
        row = result.where(F.coalesce(*said).isNotNull()).select(said).collect()[0]
    if row[_DIVERGENCE] is not None:
        raise DivergenceError(row[_DIVERGENCE])
    return Learnt.from_json(row[_LEARNT])


def _pack_whole(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for table in packs(batches, ROWS_PER_PACK):
        yield pa.RecordBatch.from_arrays([pa.array([to_cell(table)])], names=["cell"])


def learn_tables(
    batches: Iterator[pa.RecordBatch], unit: Unit, learner: Learner, n_threads: int
) -> Iterator[pa.RecordBatch]:
    """From all cells the rows of both factor tables in canonical rotation, and one row of what was
    learnt."""
    cells = [cell for batch in batches for cell in values(batch.column(0))]
    if not cells:
        return
    ratings = _index_cells(cells, unit)
    try:
        found = learner.learn(ratings, n_threads)
    except DivergenceError as error:
        yield _with_nulls(_schema(ratings), {_DIVERGENCE: pa.array([str(error)])}, 1)
        return
    yield from _tables(ratings, found, learner.scale)


def _index_cells(cells: list[pa.Buffer], unit: Unit) -> IndexedRatings:
    """The ratings in ``cells``; the list is emptied, so that its memory is free for the fit."""
    tables = [from_cell(cell) for cell in cells]
    known, features = (
        {
            side: pa.concat_tables(parts)
            for side in Side
            if (parts := [table for table in tables if {side, column} <= set(table.column_names)])
        }
        for column in (BIAS, f"{FEATURE}0")
    )
    rated = [
        ratings_of(cell, unit)
        for cell, table in zip(cells, tables, strict=True)
        if RATING in table.column_names
    ]
    cells.clear()
    tables.clear()
    return index_ratings(rated, known, features)


def _tables(ratings: IndexedRatings, found: Found, scale: float) -> Iterator[pa.RecordBatch]:
    """Rows of both factor tables in canonical rotation, and one row of what was learnt."""
    # Rows of ids that have features alone stand behind the others.
    doubles = {
        side: rows[: len(ratings.ids[side]), :-1].astype(np.float64)
        for side, rows in found.rows.items()
    }
    rotation = canonical_rotation(
        doubles[USER].T @ doubles[USER], doubles[ITEM].T @ doubles[ITEM], doubles[ITEM].sum(axis=0)
    )
    del doubles
    rotation = rotation.scaled(scale)
    schema = _schema(ratings)
    for side, matrix in ((USER, rotation.users), (ITEM, rotation.items)):
        ids, n_ratings = ratings.ids[side], ratings.n_ratings[side]
        if side in found.unrated:
            unrated = found.unrated[side]
            ids = pa.concat_arrays([ids, unrated.cast(ids.type)])
            n_ratings = np.concatenate([n_ratings, np.zeros(len(unrated), np.int64)])
        for first, bias, rotated in factor_batches(found.rows[side], matrix, scale):
            n = len(bias)
            columns = {
                side: ids.slice(first, n),
                N_RATINGS: pa.array(n_ratings[first : first + n]),
                BIAS: bias,
                FACTORS: rotated,
            }
            if found.cold_biases:
                cold = np.float32(scale) * found.cold_biases[side][first : first + n]
                columns[COLD_BIAS] = pa.array(cold)
            if found.posterior is not None and found.posterior.n_draws:
                columns[DRAWS] = draws_column(found.posterior, side, first, n, scale)
            yield _with_nulls(schema, columns, n)
    learnt = Learnt(
        n_users=len(ratings.ids[USER]),
        n_items=len(ratings.ids[ITEM]),
        n_cold_validation=ratings.n_cold,
        singular_values=rotation.singular_values.tolist(),
        user_penalty=[] if found.posterior else rotation.user_penalty.tolist(),
        history=found.history.rows,
        best_iteration=found.best_iteration,
        stopped=found.history.reason,
        execution="one_task",
        exchange={},
        n_draws=0 if found.posterior is None else found.posterior.n_draws,
        spread=None if found.posterior is None else found.posterior.spread.scaled(scale),
        diagnostics=[] if found.posterior is None else found.posterior.diagnostics,
        features=dict(found.features),
    )
    yield _with_nulls(schema, {_LEARNT: pa.array([learnt.to_json()])}, 1)


def draws_column(
    posterior: Posterior, side: Side, first: int, n: int, scale: float
) -> pa.ListArray:
    """The draws of ``n`` rows as lists of n_draws · (rank + 1) numbers in the unit of the ratings,
    which is ``scale`` times smaller."""
    units = np.full(posterior.draws[side].shape[2], np.sqrt(scale), np.float32)
    units[-1] = scale
    rows = (posterior.draws[side][first : first + n] * units).reshape(n, -1)
    ends = rows.shape[1] * np.arange(n + 1, dtype=np.int32)
    return pa.ListArray.from_arrays(ends, rows.ravel())


def _schema(ratings: IndexedRatings) -> pa.Schema:
    return pa.schema(
        [
            *[(str(side), ratings.ids[side].type) for side in Side],
            (N_RATINGS, pa.int64()),
            (BIAS, pa.float32()),
            (COLD_BIAS, pa.float32()),
            (FACTORS, pa.list_(pa.float32())),
            (DRAWS, pa.list_(pa.float32())),
            (_LEARNT, pa.string()),
            (_DIVERGENCE, pa.string()),
        ]
    )


def _with_nulls(schema: pa.Schema, columns: dict[str, pa.Array], n: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [columns.get(field.name, pa.nulls(n, field.type)) for field in schema], schema=schema
    )
