"""Into one task and out of it: ratings of a DataFrame to a fit with threads, factors to tables.

For ratings that fit one task's memory. The fit itself is in :mod:`mfspark.algorithms`: kernels,
loop and history are those of the distributed fit, there is just nothing to ship.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise

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
    encode_ids,
    index_ratings,
    slices,
    with_validation_column,
)
from mfspark.algorithms.sgd_threads import ThreadedSGD
from mfspark.columns import (
    BIAS,
    COLD_BIAS,
    DRAWS,
    FACTORS,
    FEATURE,
    IS_VALIDATION,
    ITEM,
    N_RATINGS,
    RATING,
    USER,
    Side,
)
from mfspark.engine.cells import (
    ROWS_PER_PACK,
    NarrowRatings,
    from_cell,
    index_type,
    packs,
    to_cell,
    values,
)
from mfspark.engine.factor_tables import factor_batches, table_bytes
from mfspark.engine.plan import BROADCAST_LIMIT
from mfspark.engine.progress import TaskProgress, log_features
from mfspark.engine.training import Fit, Training
from mfspark.engine.workspace import Workspace, from_driver, materialised
from mfspark.errors import DivergenceError
from mfspark.kernels.arrays import Array
from mfspark.kernels.rotation import canonical_rotation
from mfspark.settings import BayesianSettings

Learner = ThreadedALS | ThreadedSGD | ThreadedGibbs

# Beside the rows of both factor tables, one row says what was learnt, or why nothing was: Spark
# would bring an exception to the driver as an error of its own.
_LEARNT, _DIVERGENCE = "learnt", "divergence"


def fit_in_one_task(
    workspace: Workspace, training: Training, learner: Learner, n_threads: int, name: str | None
) -> Fit:
    """Fit with the threads of one task; ``name`` is for progress."""
    ratings = training.ratings
    cells = ratings.mapInArrow(pack_ratings, "cell binary")
    for table in (*training.known.values(), *training.features.values()):
        cells = cells.union(table.mapInArrow(_pack_whole, "cell binary"))
    schema = StructType(
        [
            *[StructField(side, ratings.schema[side].dataType) for side in Side],
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
        learn = partial(learn_tables, learner=learner, n_threads=n_threads)
        made = cells.repartition(1).mapInArrow(learn, schema)
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


def pack_ratings(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Ratings (user, item, rating float, and maybe is_validation boolean) as rows of one cell.

    In each an id occurs once; a rating is three numbers, as narrow as their range allows.
    """
    for table in packs(batches, ROWS_PER_PACK):
        rows = with_validation_column(table)
        columns = {side.value: _numbered(rows[side]) for side in Side}
        columns[RATING] = _rating_column(NarrowRatings.of(rows[RATING].to_numpy()))
        columns[IS_VALIDATION] = rows[IS_VALIDATION].combine_chunks()
        yield pa.RecordBatch.from_arrays([pa.array([to_cell(pa.table(columns))])], names=["cell"])


def _numbered(column: pa.ChunkedArray) -> pa.DictionaryArray:
    ids, numbers = encode_ids(column)
    return pa.DictionaryArray.from_arrays(numbers.astype(index_type(len(ids))), ids)


def _rating_column(ratings: NarrowRatings) -> pa.Array:
    if not len(ratings.palette):
        return pa.array(ratings.rating)
    return pa.DictionaryArray.from_arrays(ratings.rating, ratings.palette)


def _pack_whole(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for table in packs(batches, ROWS_PER_PACK):
        yield pa.RecordBatch.from_arrays([pa.array([to_cell(table)])], names=["cell"])


def learn_tables(
    batches: Iterator[pa.RecordBatch], learner: Learner, n_threads: int
) -> Iterator[pa.RecordBatch]:
    """From all cells the rows of both factor tables in canonical rotation, and one row of what was
    learnt."""
    cells = [from_cell(cell) for batch in batches for cell in values(batch.column(0))]
    if not cells:
        return
    ratings = _index_cells(cells)
    try:
        found = learner.learn(ratings, n_threads)
    except DivergenceError as error:
        yield _with_nulls(_schema(ratings), {_DIVERGENCE: pa.array([str(error)])}, 1)
        return
    yield from _tables(ratings, found, learner.scale)


def _index_cells(cells: list[pa.Table]) -> IndexedRatings:
    """The ratings in ``cells``; the list is emptied, so that its memory is free for the fit."""
    known, features = (
        {
            side: pa.concat_tables(parts)
            for side in Side
            if (parts := [cell for cell in cells if {side, column} <= set(cell.column_names)])
        }
        for column in (BIAS, f"{FEATURE}0")
    )
    rated = [cell for cell in cells if RATING in cell.column_names]
    cells.clear()
    table = unpacked_ratings(rated)
    rated.clear()
    return index_ratings(table, known, features)


def unpacked_ratings(cells: list[pa.Table]) -> pa.Table:
    """The ratings of all ``cells`` in one table, whose ids of a side have one dictionary."""
    columns: dict[str, pa.Array] = {side.value: _joined_ids(cells, side) for side in Side}
    ratings = np.empty(sum(cell.num_rows for cell in cells), np.float32)
    for place, cell in zip(_places(cells), cells, strict=True):
        column = cell[RATING].combine_chunks()
        if pa.types.is_dictionary(column.type):
            palette = column.dictionary.to_numpy()
            _look_up(palette, column.indices.to_numpy(), ratings[place])
        else:
            ratings[place] = column.to_numpy()
    is_validation = [cell[IS_VALIDATION].to_numpy() for cell in cells]
    columns |= {RATING: ratings, IS_VALIDATION: np.concatenate(is_validation)}
    return pa.table(columns)


def _joined_ids(cells: list[pa.Table], side: Side) -> pa.DictionaryArray:
    """The ids of all cells."""
    own = [cell[side].combine_chunks() for cell in cells]
    ids = pc.unique(pa.chunked_array([column.dictionary for column in own]))
    codes = np.empty(sum(map(len, own)), np.int32)
    for place, column in zip(_places(cells), own, strict=True):
        among_all = pc.index_in(column.dictionary, value_set=ids).to_numpy()
        _look_up(among_all, column.indices.to_numpy(), codes[place])
    return pa.DictionaryArray.from_arrays(codes, ids)


def _places(cells: list[pa.Table]) -> list[slice]:
    """Of each cell, where its rows are among all."""
    ends = np.cumsum([0, *[cell.num_rows for cell in cells]]).tolist()
    return [slice(first, last) for first, last in pairwise(ends)]


def _look_up(values: Array, codes: Array, out: Array) -> None:
    """out = values[codes], without a copy of all ``codes`` as the integers that NumPy wants."""
    for some in slices(len(codes)):
        out[some] = values[codes[some]]


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
