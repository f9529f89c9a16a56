"""Stratified SGD over the tasks of Spark: the sub-epochs of an epoch, one Spark stage each.

The ratings of a block of users stay where they are, in a file of their node. In a sub-epoch each
block of users is sent its own parameters and those of the block of items that it meets, visits the
ratings they share, and sends both on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from mfspark.columns import ITEM, USER
from mfspark.engine.als_half_step import FACTORS_SCHEMA, factors_batch
from mfspark.engine.block_files import BlockFiles, work_at_files
from mfspark.engine.cells import kept_values
from mfspark.engine.descend import Rates
from mfspark.engine.index import Layout, SideIndex
from mfspark.engine.start import start_cells
from mfspark.engine.strata import Strata, draw_key, draw_meetings, open_user_block
from mfspark.engine.workspace import Keep, Workspace
from mfspark.kernels.csr import Float32s, Int64s
from mfspark.kernels.half_step import squared_error
from mfspark.kernels.problem import FixedSide, HalfStepMetrics, Problem
from mfspark.kernels.sgd import SGDSide, shuffle, visit

# A table of parameters: side and number of the block that they belong to, and a row [factors, bias,
# G of the factors, G of the bias, n_ratings] of each user or item, float32. ``metrics`` is what the
# driver wants: of a meeting [Σ e², n] beside the users and the penalty beside both.
_CELLS_SCHEMA = "side string, number int, rows binary, metrics array<double>"
_CELLS = ("side", "number", "rows")
_BESIDE_FACTORS = 4
# Metrics beside the users, who have those of the meeting as well.
_N_OF_MEETING = 3


@dataclass(frozen=True)
class Descending:
    """What all meetings share; travels to the tasks."""

    files: BlockFiles
    items: Layout
    problems: dict[str, Problem]
    rates: Rates
    rank: int
    seed: int
    keep: Keep


def initial_cells(
    workspace: Workspace,
    indices: dict[str, SideIndex],
    known: dict[str, DataFrame],
    rank: int,
    seed: int,
    keep: Keep,
) -> DataFrame:
    """Parameters that the first epoch begins with, both sides."""
    users, items = (
        start_cells(
            index, known.get(side), side, rank, seed, partial(_first_cell, side), _CELLS_SCHEMA
        )
        for side, index in indices.items()
    )
    return workspace.keep(users.union(items), keep, _CELLS)[0]


def _first_cell(side: str, block: int, rows: Float32s, counts: Int64s) -> pa.RecordBatch:
    ones = np.ones((len(rows), 2), np.float32)
    return _cells([(side, block, np.column_stack([rows, ones, counts]), None)])


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
    first_of_epoch = workspace.n_kept
    for meetings in draw_meetings(descending.items.n_blocks, descending.seed, epoch):
        partners = dict(meetings)
        meet = partial(_meet, descending=descending, partners=partners, rate=rate, epoch=epoch)
        kept_before = workspace.n_kept
        deliver = partial(_deliver, cells, _receiver(partners), descending)
        cells, sums = work_at_files(
            workspace, strata.blocks, deliver, meet, _CELLS_SCHEMA, descending.keep, _CELLS
        )
        # The start of the epoch stays, since the epoch may be undone, and its end.
        workspace.forget(first_of_epoch, kept_before)
        metrics = sums["metrics"].to_pylist()
        met = [part for part in metrics if len(part) == _N_OF_MEETING]
        error += sum(part[0] for part in met)
        n_ratings += int(sum(part[1] for part in met))
        # Each block takes part in each sub-epoch, so the last ones are those of the epoch's end.
        penalty = sum(part[-1] for part in metrics)
    missed = 0.0
    if strata.n_held_out:
        missed = _validation_error(workspace, strata, descending, cells)
    return cells, HalfStepMetrics(error, n_ratings, penalty, missed, strata.n_held_out)


def _receiver(partners: dict[int, int]) -> Column:
    """The block of users whose ratings the block of a cell meets."""
    users_met = {items: users for users, items in partners.items()}
    of_items = F.array(*[F.lit(users_met[block]) for block in range(len(partners))])
    met = F.element_at(of_items, F.col("number") + 1)
    return F.when(F.col("side") == USER, F.col("number")).otherwise(met)


def _deliver(
    cells: DataFrame, receiver: Column, descending: Descending, places: DataFrame
) -> DataFrame:
    """(block, side, number, rows): each cell where the ratings of its receiver are."""
    sent = cells.select("side", "number", "rows", receiver.alias("target"))
    if descending.keep == "driver":
        # From the driver, so one stage is enough.
        sent = F.broadcast(sent)
    else:
        sent = sent.repartitionById(descending.files.layout.n_blocks, F.col("target"))
        places = places.hint("shuffle_hash")
    joined = places.join(sent, F.col("block") == F.col("target"))
    return joined.select("block", "side", "number", "rows")


def _meet(
    arrived: pa.Table,
    *,
    descending: Descending,
    partners: dict[int, int],
    rate: float,
    epoch: int,
) -> pa.RecordBatch:
    """Visit the ratings that a block of users shares with its partner."""
    user_block = arrived["block"][0].as_py()
    opened = open_user_block(descending.files, user_block)
    if opened is None:
        return _cells([(USER, user_block, None, None)])
    item_block = partners[user_block]
    entries = opened.stratum(item_block)
    shuffle(entries, draw_key(descending.seed, epoch, user_block, item_block))
    owners = zip(arrived["side"].to_pylist(), arrived["number"].to_pylist(), strict=True)
    parts = [_parameters(part, descending.rank) for part in kept_values(arrived["rows"])]
    before = dict(zip(owners, parts, strict=True))
    partners_met = (USER, user_block), (ITEM, item_block)
    problems = descending.problems[USER], descending.problems[ITEM]
    users, items = (
        _side(before.get(owner), descending.rank, problem)
        for owner, problem in zip(partners_met, problems, strict=True)
    )
    error = visit(entries, users, items, problems, rate, descending.rates.by_row)
    found: list[_Cell] = []
    for owner, problem, reached in zip(partners_met, problems, (users, items), strict=True):
        # A block without rows has no cell.
        if owner in before:
            counts = before[owner][:, -1]
            penalty = problem.penalty.total(counts.astype(np.float64), reached.rows)
            met = [error, float(len(entries.rows))] if owner[0] == USER else []
            after = np.column_stack([reached.rows, reached.squares, counts])
            found.append((*owner, after, [*met, penalty]))
    return _cells(found)


def _side(rows: Float32s | None, rank: int, problem: Problem) -> SGDSide:
    """Parameters in the kernel's form; of a block without rows, none."""
    if rows is None:
        rows = np.zeros((0, rank + _BESIDE_FACTORS), np.float32)
    side = SGDSide.start(
        rows[:, : rank + 1], rows[:, -1].astype(np.int64), problem.penalty.exponent
    )
    return side._replace(squares=rows[:, rank + 1 : rank + 3].copy())


_Cell = tuple[str, int, Float32s | None, list[float] | None]


def _cells(rows: list[_Cell]) -> pa.RecordBatch:
    """Rows of ``_CELLS_SCHEMA``; one without parameters says that the ratings were not here."""
    sides, owners, parts, metrics = zip(*rows, strict=True)
    cells = [None if part is None else part.astype(np.float32).tobytes() for part in parts]
    return pa.RecordBatch.from_arrays(
        [
            pa.array(sides),
            pa.array(owners, pa.int32()),
            pa.array(cells, pa.binary()),
            pa.array(metrics, pa.list_(pa.float64())),
        ],
        names=["side", "number", "rows", "metrics"],
    )


def _validation_error(
    workspace: Workspace, strata: Strata, descending: Descending, cells: DataFrame
) -> float:
    """Σ (r − r̂)² over the validation ratings; every block of users is sent all items."""
    of_users = cells.where(F.col("side") == USER)
    items = cells.where(F.col("side") == ITEM).select(
        F.col("number").alias("item_block"), F.col("rows").alias("item_rows")
    )

    def deliver(places: DataFrame) -> DataFrame:
        users = _deliver(of_users, F.col("number"), descending, places)
        return users.crossJoin(F.broadcast(items))

    _, measured = work_at_files(
        workspace,
        strata.blocks,
        deliver,
        partial(_measure, descending=descending),
        _CELLS_SCHEMA,
        "driver",
        _CELLS,
    )
    return float(sum(part[0] for part in measured["metrics"].to_pylist()))


def _measure(arrived: pa.Table, *, descending: Descending) -> pa.RecordBatch:
    rank, block = descending.rank, arrived["block"][0].as_py()
    opened = open_user_block(descending.files, block)
    error = None
    if opened is not None:
        items = FixedSide.zeros(descending.items.n_rows, rank)
        sent = zip(
            arrived["item_block"].to_pylist(), kept_values(arrived["item_rows"]), strict=True
        )
        for source, part in sent:
            first = int(descending.items.offsets[source])
            items.fill(first, _parameters(part, rank)[:, : rank + 1])
        users = np.ascontiguousarray(
            _parameters(kept_values(arrived["rows"])[0], rank)[:, : rank + 1]
        )
        error = [squared_error(opened.validation, users, items, descending.problems[USER].mean)]
    return _cells([(USER, block, None, error)])


def _parameters(cell: pa.Buffer, rank: int) -> Float32s:
    return np.frombuffer(cell, np.float32).reshape(-1, rank + _BESIDE_FACTORS)


def factors_of(cells: DataFrame, side: str, rank: int) -> DataFrame:
    """Factors and biases of a side as a table of ``FACTORS_SCHEMA``."""
    return (
        cells.where(F.col("side") == side)
        .select("number", "rows")
        .mapInArrow(partial(_factors, rank=rank), FACTORS_SCHEMA)
    )


def _factors(batches: Iterator[pa.RecordBatch], rank: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for owner, part in zip(
            batch.column(0).to_pylist(), kept_values(batch.column(1)), strict=True
        ):
            rows = _parameters(part, rank)[:, : rank + 1]
            yield factors_batch(owner, np.ascontiguousarray(rows))
