"""Stratified SGD over the tasks of Spark: the sub-epochs of an epoch, one Spark stage each.

The ratings of a block of users stay where they are, in a file of their node. In a sub-epoch each
block of users is sent its own parameters and those of the block of items that it is paired with,
visits the ratings of their stratum, and sends both on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.algorithms.strata import draw_key, draw_sub_epochs
from mfspark.columns import ITEM, USER, Side
from mfspark.engine.block_files import BlockFiles, Delivery, work_at_files
from mfspark.engine.factor_cells import (
    FACTORS,
    FACTORS_SCHEMA,
    PARAMETERS,
    PARAMETERS_SCHEMA,
    factors_cell,
    parameter_rows,
    parameters_cell,
)
from mfspark.engine.index import Layout, SideIndex
from mfspark.engine.kept_cells import KeptCells
from mfspark.engine.plan import Keep
from mfspark.engine.recovery import recovering
from mfspark.engine.saved_cells import FitSnapshots
from mfspark.engine.start_cells import block_start, starting_ids
from mfspark.engine.user_blocks import UserBlocks, open_user_block
from mfspark.engine.workspace import Workspace
from mfspark.kernels.arrays import AlignedRows, Float32s
from mfspark.kernels.half_step import squared_error
from mfspark.kernels.objective import Objective, PassSums
from mfspark.kernels.sgd import SGDSide, shuffle, visit

# Sums beside the parameters of users, who have those of the stratum as well.
_N_OF_STRATUM = 3
# Before the names of tables of the best epoch.
_BEST = "best_"


@dataclass(frozen=True)
class Descent:
    """What all epochs share."""

    blocks: UserBlocks
    objective: Objective
    rank: int
    seed: int
    keep: Keep

    @property
    def n_blocks(self) -> int:
        """Blocks of users, and of items."""
        return self.blocks.items.n_blocks

    @property
    def bytes_shipped(self) -> int:
        """Bytes of parameters sent per epoch: both sides in each sub-epoch."""
        n_rows = self.blocks.blocks.files.layout.n_rows + self.blocks.items.n_rows
        return 4 * n_rows * (self.rank + 4) * self.n_blocks


@dataclass(frozen=True)
class _SubEpoch:
    """What the tasks of a sub-epoch share; travels to them. ``item_blocks``: the block of items
    that each block of users is paired with."""

    files: BlockFiles
    objective: Objective
    rank: int
    seed: int
    epoch: int
    rate: float
    is_by_row: bool
    item_blocks: dict[int, int]


def start_parameters(
    workspace: Workspace,
    indices: dict[Side, SideIndex],
    known: dict[Side, DataFrame],
    descent: Descent,
) -> KeptCells:
    """Parameters of both sides that the first epoch starts from, cells of the columns
    ``PARAMETERS``; ``known`` as in ``starting_ids``."""
    users, items = (
        starting_ids(index, known.get(side), side).mapInArrow(
            partial(_start_parameters, side=side, rank=descent.rank, seed=descent.seed),
            PARAMETERS_SCHEMA,
        )
        for side, index in indices.items()
    )
    both = users.union(items)
    kept, _ = recovering(
        workspace, descent.n_blocks, lambda: workspace.keep(both, descent.keep, PARAMETERS)
    )
    return kept


def parameters_to_save(reached: KeptCells, best: KeptCells) -> dict[str, KeptCells]:
    """Parameters of the last and of the best epoch, which may be the same, by side and name."""
    kept = {"": reached} if best is reached else {"": reached, _BEST: best}
    return {
        f"{prefix}{side}": cells.of_side(side) for prefix, cells in kept.items() for side in Side
    }


def saved_parameters(
    workspace: Workspace, state: FitSnapshots, descent: Descent
) -> tuple[KeptCells, KeptCells]:
    """What ``parameters_to_save`` was given."""
    prefixes = ["", _BEST] if f"{_BEST}{USER}" in state.names() else [""]
    found = []
    for prefix in prefixes:
        users, items = (
            state.cells(workspace, f"{prefix}{side}", descent.keep).table.select(
                F.lit(str(side)).alias("side"), *FACTORS
            )
            for side in Side
        )
        found.append(KeptCells(workspace.spark, in_spark=users.union(items)))
    return found[0], found[-1]


def _start_parameters(
    batches: Iterator[pa.RecordBatch], side: Side, rank: int, seed: int
) -> Iterator[pa.RecordBatch]:
    for block, rows, counts in block_start(batches, side, rank, seed):
        ones = np.ones((len(rows), 2), np.float32)
        yield parameters_cell(side, block, np.column_stack([rows, ones, counts]))


def run_epoch(
    workspace: Workspace,
    descent: Descent,
    parameters: KeptCells,
    epoch: int,
    rate: float,
    is_by_row: bool,
) -> tuple[KeptCells, PassSums]:
    """Visit every stratum once, from and to cells of the columns ``PARAMETERS``; those given stay
    as they are."""
    files = descent.blocks.blocks.files
    error = penalty = 0.0
    n_ratings = 0
    first_of_epoch = workspace.n_kept
    for pairs in draw_sub_epochs(descent.n_blocks, descent.seed, epoch):
        sub_epoch = _SubEpoch(
            files=files,
            objective=descent.objective,
            rank=descent.rank,
            seed=descent.seed,
            epoch=epoch,
            rate=rate,
            is_by_row=is_by_row,
            item_blocks=dict(pairs),
        )
        kept_before = workspace.n_kept
        parameters, found = work_at_files(
            workspace,
            descent.blocks.blocks,
            _deliver_pairs(descent, parameters, pairs),
            partial(visit_stratum, sub_epoch=sub_epoch),
            PARAMETERS_SCHEMA,
            descent.keep,
            PARAMETERS,
        )
        # The start of the epoch stays, since the epoch may be undone, and its end.
        workspace.forget(first_of_epoch, kept_before)
        sums = found["sums"].to_pylist()
        of_strata = [part for part in sums if len(part) == _N_OF_STRATUM]
        error += sum(part[0] for part in of_strata)
        n_ratings += int(sum(part[1] for part in of_strata))
        # Each block takes part in each sub-epoch, so the last ones are those of the epoch's end.
        penalty = sum(part[-1] for part in sums)
    n_validation = descent.blocks.n_validation
    missed = _validation_error(workspace, descent, parameters) if n_validation else 0.0
    return parameters, PassSums(error, n_ratings, penalty, missed, n_validation)


def _deliver_pairs(
    descent: Descent, parameters: KeptCells, pairs: list[tuple[int, int]]
) -> Delivery:
    """Both sides' parameters to the ratings of the users: those of items to their partners. In the
    closure are all, of which a task takes its own."""
    if with_code := Delivery.with_code(parameters.on_driver):
        return with_code
    partner = {items: users for users, items in pairs}
    partners = F.array(*[F.lit(partner[block]) for block in range(len(pairs))])
    of_items = F.element_at(partners, F.col("number") + 1)
    target = F.when(F.col("side") == USER, F.col("number")).otherwise(of_items)
    return _deliver(descent, parameters.table.select(*PARAMETERS, target.alias("target")))


def _deliver(descent: Descent, targeted: DataFrame, for_all: DataFrame | None = None) -> Delivery:
    is_small = descent.keep == "driver"
    if not is_small:
        targeted = targeted.repartitionById(descent.n_blocks, F.col("target"))
    return Delivery(targeted, for_all, is_small)


def visit_stratum(arrived: pa.Table, *, sub_epoch: _SubEpoch) -> pa.RecordBatch:
    """Visit the ratings that a block of users shares with its partner: rows of
    ``PARAMETERS_SCHEMA`` for both."""
    user_block = arrived["block"][0].as_py()
    opened = open_user_block(sub_epoch.files, user_block)
    if opened is None:
        return parameters_cell(USER, user_block)
    item_block = sub_epoch.item_blocks[user_block]
    entries = opened.stratum(item_block)
    shuffle(entries, draw_key(sub_epoch.seed, sub_epoch.epoch, user_block, item_block))
    owners = zip(map(Side, arrived["side"].to_pylist()), arrived["number"].to_pylist(), strict=True)
    before = dict(zip(owners, parameter_rows(arrived["rows"], sub_epoch.rank), strict=True))
    pair = (USER, user_block), (ITEM, item_block)
    users, items = (
        _sgd_side(before.get(owner), sub_epoch.rank, sub_epoch.objective.penalty(owner[0]).exponent)
        for owner in pair
    )
    error = visit(entries, users, items, sub_epoch.objective, sub_epoch.rate, sub_epoch.is_by_row)
    cells = []
    for (side, block), reached in zip(pair, (users, items), strict=True):
        # A block without rows has no cell.
        if (side, block) in before:
            counts = before[side, block][:, -1]
            sums = [error, float(len(entries.rows))] if side == USER else []
            penalty = sub_epoch.objective.penalty(side)
            sums.append(penalty.total(counts.astype(np.float64), reached.rows))
            after = np.column_stack([reached.rows, reached.squares, counts])
            cells.append(parameters_cell(side, block, after, sums))
    return pa.Table.from_batches(cells).combine_chunks().to_batches()[0]


def _sgd_side(rows: Float32s | None, rank: int, exponent: float) -> SGDSide:
    """Parameters in the kernel's form; of a block without rows, none."""
    if rows is None:
        return SGDSide.start(np.zeros((0, rank + 1), np.float32), np.zeros(0, np.int64), exponent)
    side = SGDSide.start(rows[:, : rank + 1], rows[:, -1].astype(np.int64), exponent)
    return side._replace(squares=rows[:, rank + 1 : rank + 3].copy())


def _deliver_for_validation(descent: Descent, parameters: KeptCells) -> Delivery:
    """To each block of users its own parameters, and those of all items."""
    users, items = (parameters.of_side(side) for side in Side)
    if users.on_driver is not None and items.on_driver is not None:
        own = users.on_driver.append_column("target", users.on_driver["number"])
        of_all = items.on_driver.rename_columns(["item_block", "item_rows"])
        if with_code := Delivery.with_code(of_all, own):
            return with_code
    return _deliver(
        descent,
        users.table.select("*", F.col("number").alias("target")),
        items.table.select(F.col("number").alias("item_block"), F.col("rows").alias("item_rows")),
    )


def _validation_error(workspace: Workspace, descent: Descent, parameters: KeptCells) -> float:
    """Σ (r − r̂)² over the validation ratings; every block of users is sent all items."""
    measure = partial(
        measure_block,
        files=descent.blocks.blocks.files,
        items=descent.blocks.items,
        rank=descent.rank,
        mean=descent.objective.mean,
    )
    _, measured = work_at_files(
        workspace,
        descent.blocks.blocks,
        _deliver_for_validation(descent, parameters),
        measure,
        PARAMETERS_SCHEMA,
        "driver",
        PARAMETERS,
    )
    return float(sum(part[0] for part in measured["sums"].to_pylist()))


def measure_block(
    arrived: pa.Table, *, files: BlockFiles, items: Layout, rank: int, mean: float
) -> pa.RecordBatch:
    """Σ (r − r̂)² over the validation ratings of a block of users, as ``sums`` of a row of
    ``PARAMETERS_SCHEMA``."""
    block = arrived["block"][0].as_py()
    opened = open_user_block(files, block)
    if opened is None:
        return parameters_cell(USER, block)
    fixed = AlignedRows.zeros(items.n_rows, rank)
    of_items = arrived.filter(pc.is_valid(arrived["item_block"]))
    sent = parameter_rows(of_items["item_rows"], rank)
    for item_block, part in zip(of_items["item_block"].to_pylist(), sent, strict=True):
        fixed.fill(int(items.offsets[item_block]), part[:, : rank + 1])
    of_users = arrived.filter(pc.is_valid(arrived["number"]))
    own = parameter_rows(of_users["rows"].slice(0, 1), rank)[0]
    users = np.ascontiguousarray(own[:, : rank + 1])
    return parameters_cell(USER, block, sums=[squared_error(opened.validation, users, fixed, mean)])


def factor_cells_of(parameters: KeptCells, side: Side, rank: int) -> KeptCells:
    """Factors and biases of a side as cells of the columns ``FACTORS``."""
    own = parameters.of_side(side).table
    drop = partial(_drop_rest, rank=rank)
    factors = own.mapInArrow(drop, FACTORS_SCHEMA).select(*FACTORS)
    return KeptCells(parameters.spark, in_spark=factors)


def _drop_rest(batches: Iterator[pa.RecordBatch], rank: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        # By place: Spark's optimiser gives the columns of a union names of its own.
        cells = zip(batch.column(0).to_pylist(), parameter_rows(batch.column(1), rank), strict=True)
        for block, rows in cells:
            yield factors_cell(block, rows[:, : rank + 1])
