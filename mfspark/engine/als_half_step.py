"""One half-step on all blocks of a side: a pure function of the blocks and the fixed factors."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Protocol

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from mfspark.columns import Side
from mfspark.engine.block_files import BlockFiles, work_at_files
from mfspark.engine.blocks import BlockedSide, open_block
from mfspark.engine.cells import values
from mfspark.engine.exchange import Exchange, gather
from mfspark.engine.factor_cells import FACTORS, FACTORS_SCHEMA, factor_rows, factors_cell
from mfspark.engine.index import SideIndex
from mfspark.engine.kept_cells import KeptCells
from mfspark.engine.plan import Keep
from mfspark.engine.recovery import recovering
from mfspark.engine.start_cells import block_start, starting_ids
from mfspark.engine.workspace import Workspace
from mfspark.kernels.half_step import half_step
from mfspark.kernels.moments import half_step_of_moments, row_moments
from mfspark.kernels.objective import Objective, PassSums, Penalty, add_sums
from mfspark.settings import ExchangeName, Solver


@dataclass(frozen=True)
class SolvedSide:
    """What the half-steps that solve one side share."""

    side: Side
    blocks: BlockedSide
    exchange: Exchange
    objective: Objective
    rank: int
    keep: Keep
    solver: Solver


class StartedSide(Protocol):
    """What it takes to start the factors of a side."""

    @property
    def side(self) -> Side:
        """Whose factors they are."""

    @property
    def objective(self) -> Objective:
        """What is minimised."""

    @property
    def rank(self) -> int:
        """Factors of a row."""

    @property
    def keep(self) -> Keep:
        """Where they are kept."""


def run_half_step(
    workspace: Workspace, solved: SolvedSide, fixed: KeptCells
) -> tuple[KeptCells, PassSums]:
    """Solve every block of a side, from and to cells of the columns ``FACTORS``.

    One Spark job solves, measures and stores the new factors. Only sums come to the driver, unless
    the factors are kept there: those of the pass, and of each hot row its moments, from which it is
    solved here.
    """
    layout = solved.blocks.layout
    factors, found = work_at_files(
        workspace,
        solved.blocks.blocks,
        solved.exchange.deliver(fixed),
        block_solver(solved),
        FACTORS_SCHEMA,
        solved.keep,
        FACTORS,
    )
    # In the order of the blocks, so that the sums are the same in every run.
    sums = found["sums"].to_pylist()
    if layout.n_hot:
        shape = (2, layout.n_hot, solved.rank + 2, solved.rank + 2)
        train, validation = np.sum(
            [np.frombuffer(part).reshape(shape) for part in values(found["hot"])], axis=0
        )
        rows, hot_sums = half_step_of_moments(train, validation, solved.objective, solved.side)
        sums.append(hot_sums)
        factors = factors.with_cell(layout.n_blocks, rows.tobytes())
    return factors, add_sums(sums)


def block_solver(solved: SolvedSide) -> Callable[[pa.Table], pa.RecordBatch]:
    """``solve_block`` of a side; travels to the tasks."""
    return partial(
        solve_block,
        side=solved.side,
        objective=solved.objective,
        files=solved.blocks.blocks.files,
        exchange=solved.exchange.name,
        dtype=solved.exchange.dtype,
        rank=solved.rank,
        solver=solved.solver,
    )


def solve_block(
    arrived: pa.Table,
    *,
    side: Side,
    objective: Objective,
    files: BlockFiles,
    exchange: ExchangeName,
    dtype: type,
    rank: int,
    solver: Solver,
) -> pa.RecordBatch:
    """Solve the block that the rows of ``arrived`` (block, number, rows of ``dtype``) were sent to:
    one row of ``FACTORS_SCHEMA``."""
    block, layout = arrived["block"][0].as_py(), files.layout
    opened = open_block(files, block)
    if opened is None:
        return factors_cell(block)
    ratings, needed = opened
    rows = factor_rows(arrived["rows"], rank, dtype)
    sent = dict(zip(arrived["number"].to_pylist(), rows, strict=True))
    fixed = gather(sent, needed, exchange, rank)
    n_own = int(layout.sizes[block])
    solved, sums = half_step(ratings.slice(0, n_own), fixed, objective, side, solver)
    hot = ratings.slice(n_own, n_own + layout.n_hot)
    moments = [row_moments(part, fixed, objective.mean) for part in (hot.train, hot.validation)]
    return factors_cell(block, solved, [float(value) for value in sums], np.stack(moments))


def start_factors(
    workspace: Workspace, index: SideIndex, known: DataFrame | None, solved: StartedSide, seed: int
) -> tuple[KeptCells, float]:
    """The factors that the first half-step is given, cells of the columns ``FACTORS``, and their
    penalty. ``solved``: the side whose factors they are; ``known`` as in ``starting_ids``."""
    start = partial(
        _start_factors,
        side=solved.side,
        rank=solved.rank,
        seed=seed,
        penalty=solved.objective.penalty(solved.side),
    )
    made: DataFrame | pa.Table
    if index.on_driver is not None and known is None:
        of_blocks = (start(iter(ids.to_batches())) for ids in index.blocks_on_driver())
        made = pa.Table.from_batches(chain.from_iterable(of_blocks))
    else:
        made = starting_ids(index, known, solved.side).mapInArrow(start, FACTORS_SCHEMA)
    kept, found = recovering(
        workspace, index.layout.n_blocks, lambda: workspace.keep(made, solved.keep, FACTORS)
    )
    return kept, sum(sums[0] for sums in found["sums"].to_pylist())


def _start_factors(
    batches: Iterator[pa.RecordBatch], side: Side, rank: int, seed: int, penalty: Penalty
) -> Iterator[pa.RecordBatch]:
    for block, rows, counts in block_start(batches, side, rank, seed):
        yield factors_cell(block, rows, [penalty.total(counts, rows)])
