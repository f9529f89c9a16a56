"""Stratified SGD over the tasks of Spark: the sub-epochs of an epoch, one Spark stage each.

The ratings of a block of users stay where they are, in a file of their node, split by blocks of
items. In a sub-epoch each block of users is sent its own parameters and those of the block of items
that it meets, visits the ratings they share, and sends both on (Gemulla et al., KDD 2011).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from mfspark.columns import ITEM, N_RATINGS, USER
from mfspark.engine.blocks import (
    BlockFiles,
    assemble_whole,
    delete_file,
    open_arrays,
    pack_ratings,
    place_chunks,
    unique_name,
    write_arrays,
)
from mfspark.engine.cells import values
from mfspark.engine.descend import Rates
from mfspark.engine.half_step import FACTORS_SCHEMA, factors_batch
from mfspark.engine.index import Layout, SideIndex, initial_keys
from mfspark.engine.threaded_sgd import draw_key, draw_meetings
from mfspark.engine.workspace import Workspace
from mfspark.kernels.csr import Csr, Float32s
from mfspark.kernels.half_step import squared_error
from mfspark.kernels.initialise import initial_rows
from mfspark.kernels.problem import FixedSide, HalfStepMetrics, Problem
from mfspark.kernels.sgd import Entries, SGDSide, entries_of, shuffle, split, visit

# A table of parameters: side and block that they belong to, and a row [factors, bias, G of the
# factors, G of the bias, n_ratings] of each user or item, float32. ``sums`` is what the driver
# wants: of a meeting [Σ e², n] beside the users and the penalty beside both.
_CELLS_SCHEMA = "side string, block int, rows binary, sums array<double>"
_BESIDE_FACTORS = 4

_DTYPES = (np.int64, np.int32, np.int32, np.float32, np.int64, np.int32, np.float32)


@dataclass(frozen=True)
class Strata:
    """Ratings by block of users, a partition per block: ``chunks``, what their files are made of,
    and ``places``, block int, the same partitions."""

    chunks: DataFrame
    places: DataFrame
    files: BlockFiles
    n_held_out: int


@dataclass(frozen=True)
class Descending:
    """What all meetings share; travels to the tasks."""

    files: BlockFiles
    items: Layout
    problems: dict[str, Problem]
    rates: Rates
    rank: int
    seed: int


def build_strata(workspace: Workspace, ratings: DataFrame, indices: dict[str, SideIndex]) -> Strata:
    """Strata of ``ratings`` (user, item, rating float, and maybe held_out boolean)."""
    users, items = (indices[side].layout for side in (USER, ITEM))
    packed = pack_ratings(workspace, ratings, indices, (USER,))
    files = BlockFiles(unique_name(), users, items.n_rows)
    chunks, places = place_chunks(workspace, packed, USER, users.n_blocks)
    made = workspace.pin(
        chunks.mapInArrow(partial(_make_file, files=files, items=items), "n_held_out long")
    )
    workspace.on_exit(
        lambda: places.mapInArrow(partial(delete_file, files=files), "block int").collect()
    )
    row = made.agg(F.sum("n_held_out")).first()
    assert row is not None
    workspace.release(packed)
    return Strata(chunks, places, files, row[0] or 0)


def _make_file(
    batches: Iterator[pa.RecordBatch], files: BlockFiles, items: Layout
) -> Iterator[pa.RecordBatch]:
    parts = [batch for batch in batches if batch.num_rows]
    if parts:
        chunks = pa.Table.from_batches(parts)
        arrays = _write(chunks, files, items)
        yield pa.RecordBatch.from_pydict({"n_held_out": [len(arrays[-1])]})


def _write(chunks: pa.Table, files: BlockFiles, items: Layout) -> list[np.ndarray]:
    """Make the file of a block: ends of its strata, their entries, the validation ratings."""
    content = assemble_whole(chunks, files)
    entries = entries_of(content.train)
    offsets = items.offsets
    # Of blocks that begin at the same position all but the last are empty.
    block = np.searchsorted(offsets, entries.columns, side="right") - 1
    local = (entries.columns - offsets[block]).astype(np.int32)
    parts = split(entries._replace(columns=local), block, items.n_blocks)
    ends = np.cumsum([0, *[len(part.rows) for part in parts]]).astype(np.int64)
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    arrays = [ends, *columns, *content.validation]
    write_arrays(files.path(chunks["block"][0].as_py()), arrays)
    return arrays


def initial_cells(
    workspace: Workspace, indices: dict[str, SideIndex], rank: int, seed: int
) -> DataFrame:
    """Parameters that the first epoch begins with, both sides."""
    sides = [
        index.table.select("block", "local", "id", N_RATINGS).mapInArrow(
            partial(_initialise, side=side, rank=rank, seed=seed), _CELLS_SCHEMA
        )
        for side, index in indices.items()
    ]
    return workspace.cut(sides[0].union(sides[1]))


def _initialise(
    batches: Iterator[pa.RecordBatch], side: str, rank: int, seed: int
) -> Iterator[pa.RecordBatch]:
    parts = [part for part in batches if part.num_rows]
    if not parts:
        return
    ids = pa.Table.from_batches(parts).sort_by("local").combine_chunks()
    rows = initial_rows(initial_keys(ids["id"].combine_chunks(), side, seed), rank)
    counts = ids[N_RATINGS].to_numpy().astype(np.float32)
    ones = np.ones((len(rows), 2), np.float32)
    yield _cells([(side, ids["block"][0].as_py(), np.column_stack([rows, ones, counts]), None)])


def run_epoch(
    workspace: Workspace,
    strata: Strata,
    descending: Descending,
    cells: DataFrame,
    rate: float,
    epoch: int,
) -> tuple[DataFrame, HalfStepMetrics]:
    """Every block of users meets every block of items once, from and to a table of cells."""
    error = penalty = 0.0
    n_ratings = 0
    for meetings in draw_meetings(descending.items.n_blocks, descending.seed, epoch):
        meet = partial(
            _meet,
            descending=descending,
            partners=dict(meetings),
            rate=rate,
            epoch=epoch,
        )
        cells, sums = _sub_epoch(workspace, strata, cells, dict(meetings), meet)
        met = [row["sums"] for row in sums if row["side"] == USER]
        error += sum(part[0] for part in met)
        n_ratings += int(sum(part[1] for part in met))
        # Each block takes part in each sub-epoch, so the last ones are those of the epoch's end.
        penalty = sum(row["sums"][-1] for row in sums)
    missed = _validation_error(strata, descending, cells) if strata.n_held_out else 0.0
    return cells, HalfStepMetrics(error, n_ratings, penalty, missed, strata.n_held_out)


def _sub_epoch(
    workspace: Workspace,
    strata: Strata,
    cells: DataFrame,
    partners: dict[int, int],
    meet: Callable[..., pa.RecordBatch],
) -> tuple[DataFrame, list[Row]]:
    users_met = {items: users for users, items in partners.items()}
    sent_to = F.element_at(
        F.array(*[F.lit(users_met[block]) for block in range(len(partners))]), F.col("block") + 1
    )
    target = F.when(F.col("side") == USER, F.col("block")).otherwise(sent_to)
    return _at_files(
        strata,
        _deliver(strata, cells, target),
        meet,
        _CELLS_SCHEMA,
        lambda visited: _stored(workspace, visited),
    )


def _stored(workspace: Workspace, visited: DataFrame) -> tuple[DataFrame, list[Row]]:
    visited = workspace.cut(visited)
    return visited, visited.drop("rows").collect()


def _at_files(
    strata: Strata,
    arrived: DataFrame,
    work: Callable[..., pa.RecordBatch],
    schema: str,
    run: Callable[[DataFrame], tuple[DataFrame, list[Row]]],
) -> tuple[DataFrame, list[Row]]:
    """``work`` on what has arrived where each file is; the result, and what ``run`` collected."""
    done, sums = run(arrived.mapInArrow(partial(_from_file, work=work), schema))
    if any(row["sums"] is None for row in sums):
        # Spark ran a task away from the file of its block: slower, with the ratings sent as well.
        done, sums = run(
            strata.chunks.groupBy("block")
            .cogroup(arrived.groupBy("target"))
            .applyInArrow(_from_chunks(work), schema)
        )
    return done, sums


def _deliver(strata: Strata, cells: DataFrame, target: Column) -> DataFrame:
    """(target, side, owner, rows): each cell where the ratings of block ``target`` are."""
    sent = cells.select(
        "side", F.col("block").alias("owner"), "rows", target.alias("target")
    ).repartitionById(strata.files.layout.n_blocks, F.col("target"))
    joined = strata.places.hint("shuffle_hash").join(sent, F.col("block") == F.col("target"))
    return joined.select("target", "side", "owner", "rows")


def _from_file(
    batches: Iterator[pa.RecordBatch], work: Callable[..., pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    parts = [batch for batch in batches if batch.num_rows]
    if parts:
        yield work(pa.Table.from_batches(parts))


def _from_chunks(
    work: Callable[..., pa.RecordBatch],
) -> Callable[[pa.Table, pa.Table], pa.Table]:
    # Spark looks at the number of parameters, so partial() will not do.
    def meet_from_chunks(chunks: pa.Table, arrived: pa.Table) -> pa.Table:
        return pa.Table.from_batches([work(arrived, chunks)])

    return meet_from_chunks


def _meet(
    arrived: pa.Table,
    chunks: pa.Table | None = None,
    *,
    descending: Descending,
    partners: dict[int, int],
    rate: float,
    epoch: int,
) -> pa.RecordBatch:
    """Visit the ratings that a block of users shares with its partner."""
    user_block = arrived["target"][0].as_py()
    path = descending.files.path(user_block)
    arrays = open_arrays(path, _DTYPES)
    if arrays is None and chunks is not None:
        arrays = _write(chunks, descending.files, descending.items)
    if arrays is None:
        return _cells([(USER, user_block, None, None)])
    item_block = partners[user_block]
    at = slice(arrays[0][item_block], arrays[0][item_block + 1])
    # Copies: what is in the file stays as it is.
    entries = Entries(*(column[at].copy() for column in arrays[1:4]))
    shuffle(entries, draw_key(descending.seed, epoch, user_block, item_block))
    rows = _rows_of(arrived, descending.rank)
    users, items = (
        _side(rows.get((side, block)), descending.rank, descending.problems[side])
        for side, block in ((USER, user_block), (ITEM, item_block))
    )
    problems = descending.problems[USER], descending.problems[ITEM]
    error = visit(entries, users, items, problems, rate, descending.rates.by_row)
    found: list[tuple[str, int, Float32s | None, list[float] | None]] = []
    for side, block, reached in ((USER, user_block, users), (ITEM, item_block, items)):
        before = rows.get((side, block))
        if before is None:
            continue
        counts = before[:, -1]
        penalty = descending.problems[side].penalty.total(counts.astype(np.float64), reached.rows)
        sums = [error, float(len(entries.rows)), penalty] if side == USER else [penalty]
        after = np.column_stack([reached.rows, reached.squares, counts])
        found.append((side, block, after, sums))
    return _cells(found)


def _rows_of(arrived: pa.Table, rank: int) -> dict[tuple[str, int], Float32s]:
    names = zip(arrived["side"].to_pylist(), arrived["owner"].to_pylist(), strict=True)
    parts = [_parameters(part, rank) for part in values(arrived["rows"])]
    return dict(zip(names, parts, strict=True))


def _side(rows: Float32s | None, rank: int, problem: Problem) -> SGDSide:
    """Parameters in the kernel's form; of a block without rows, none."""
    if rows is None:
        rows = np.zeros((0, rank + _BESIDE_FACTORS), np.float32)
    side = SGDSide.start(
        rows[:, : rank + 1], rows[:, -1].astype(np.int64), problem.penalty.exponent
    )
    return side._replace(squares=rows[:, rank + 1 : rank + 3].copy())


def _cells(
    rows: list[tuple[str, int, Float32s | None, list[float] | None]],
) -> pa.RecordBatch:
    """Rows of a table of cells; one without parameters says that the ratings were not here."""
    sides, blocks, parts, sums = zip(*rows, strict=True)
    return pa.RecordBatch.from_arrays(
        [
            pa.array(sides),
            pa.array(blocks, pa.int32()),
            pa.array(
                [None if part is None else part.astype(np.float32).tobytes() for part in parts],
                pa.binary(),
            ),
            pa.array(sums, pa.list_(pa.float64())),
        ],
        names=["side", "block", "rows", "sums"],
    )


def _validation_error(strata: Strata, descending: Descending, cells: DataFrame) -> float:
    """Σ (r − r̂)² over the validation ratings; every block of users is sent all items."""
    users = _deliver(strata, cells.where(F.col("side") == USER), F.col("block"))
    items = cells.where(F.col("side") == ITEM).select(
        F.col("block").alias("item_block"), F.col("rows").alias("item_rows")
    )
    measure = partial(_measure, descending=descending)
    _, sums = _at_files(
        strata,
        users.crossJoin(F.broadcast(items)),
        measure,
        "sums double",
        lambda measured: (measured, measured.collect()),
    )
    return float(sum(row["sums"] for row in sums))


def _measure(
    arrived: pa.Table, chunks: pa.Table | None = None, *, descending: Descending
) -> pa.RecordBatch:
    rank, block = descending.rank, arrived["target"][0].as_py()
    error = None
    arrays = open_arrays(descending.files.path(block), _DTYPES)
    if arrays is None and chunks is not None:
        arrays = _write(chunks, descending.files, descending.items)
    if arrays is not None:
        fixed = FixedSide.zeros(descending.items.n_rows, rank)
        sent = zip(arrived["item_block"].to_pylist(), values(arrived["item_rows"]), strict=True)
        for source, part in sent:
            first = int(descending.items.offsets[source])
            fixed.fill(first, _parameters(part, rank)[:, : rank + 1])
        users = _parameters(values(arrived["rows"])[0], rank)[:, : rank + 1]
        validation, mean = Csr(*arrays[4:]), descending.problems[USER].mean
        error = squared_error(validation, np.ascontiguousarray(users), fixed, mean)
    return pa.RecordBatch.from_arrays([pa.array([error], pa.float64())], names=["sums"])


def _parameters(cell: pa.Buffer, rank: int) -> Float32s:
    return np.frombuffer(cell, np.float32).reshape(-1, rank + _BESIDE_FACTORS)


def factors_of(cells: DataFrame, side: str, rank: int) -> DataFrame:
    """Factors and biases of a side as a table of ``FACTORS_SCHEMA``."""
    return (
        cells.where(F.col("side") == side)
        .select("block", "rows")
        .mapInArrow(partial(_factors, rank=rank), FACTORS_SCHEMA)
    )


def _factors(batches: Iterator[pa.RecordBatch], rank: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for block, part in zip(batch.column(0).to_pylist(), values(batch.column(1)), strict=True):
            rows = _parameters(part, rank)[:, : rank + 1]
            yield factors_batch(block, np.ascontiguousarray(rows))
