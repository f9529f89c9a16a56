"""One half-step on all blocks of a side: a pure function of the blocks and the fixed factors."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from mfspark.engine.block_files import BlockFiles, work_at_files
from mfspark.engine.blocks import BlockedSide, open_block
from mfspark.engine.cells import kept_values, values
from mfspark.engine.exchange import Exchange, gather
from mfspark.engine.index import SideIndex
from mfspark.engine.start import start_cells
from mfspark.engine.workspace import Keep, Workspace
from mfspark.kernels.csr import Float32s, Float64s, Int64s
from mfspark.kernels.half_step import half_step
from mfspark.kernels.moments import half_step_of_moments, row_moments
from mfspark.kernels.problem import HalfStepMetrics, Problem, add_metrics
from mfspark.settings import Exchange as ExchangeName

# What a half-step makes of each block: its number, its rows (float32 [size, rank + 1]), and sums
# that the driver wants: the metrics of the half-step, and the moments of the block's shares in hot
# rows, float64 [2, n_hot, rank + 2, rank + 2] (training, validation). The schema is narrow because
# Spark's driver spends a millisecond or two on each column of a plan.
FACTORS_SCHEMA = "number int, rows binary, metrics array<double>, hot binary"
# What of it the next half-step is given.
FACTORS = ("number", "rows")

# Tables that a fit may go back to: the best iteration is the last one or the one before, of either
# side, and a half-step makes two tables where files were missing.
_RECENT = 8


@dataclass(frozen=True)
class SolvedSide:
    """What the half-steps of one side share."""

    blocks: BlockedSide
    exchange: Exchange
    problem: Problem
    rank: int
    keep: Keep


def run_half_step(
    workspace: Workspace, side: SolvedSide, fixed: DataFrame
) -> tuple[DataFrame, HalfStepMetrics]:
    """Solve every block of a side, from and to a table of the columns ``FACTORS``.

    One Spark job solves, measures and stores the new factors. Only sums come to the driver, unless
    the factors are kept there: the metrics, and of each hot row its moments, from which it is
    solved here.
    """
    blocks, layout = side.blocks, side.blocks.layout
    solve = partial(
        _solve,
        problem=side.problem,
        files=blocks.blocks.files,
        exchange=side.exchange.name,
        rank=side.rank,
    )
    deliver = partial(side.exchange.deliver, fixed)
    solved, sums = work_at_files(
        workspace, blocks.blocks, deliver, solve, FACTORS_SCHEMA, side.keep, FACTORS
    )
    workspace.forget(0, workspace.n_kept - _RECENT)
    # In the order of the blocks, so that the sums are the same in every run.
    metrics = sums["metrics"].to_pylist()
    if layout.n_hot:
        shape = (2, layout.n_hot, side.rank + 2, side.rank + 2)
        train, validation = np.sum(
            [np.frombuffer(part).reshape(shape) for part in values(sums["hot"])], axis=0
        )
        rows, hot_metrics = half_step_of_moments(train, validation, side.problem)
        metrics.append(hot_metrics)
        solved = solved.union(
            workspace.spark.createDataFrame(
                [(layout.n_blocks, rows.tobytes())], "number int, rows binary"
            )
        )
    return solved, add_metrics(metrics)


def _solve(
    arrived: pa.Table, *, problem: Problem, files: BlockFiles, exchange: ExchangeName, rank: int
) -> pa.RecordBatch:
    """Solve the block that the rows of ``arrived`` (block, number, rows) were sent to."""
    block, layout = arrived["block"][0].as_py(), files.layout
    opened = open_block(files, block)
    if opened is None:
        return factors_batch(block)
    ratings, needed = opened
    sent = zip(arrived["number"].to_pylist(), kept_values(arrived["rows"]), strict=True)
    fixed = gather({source: matrix(rows, rank) for source, rows in sent}, needed, exchange, rank)
    n_own = int(layout.sizes[block])
    rows, metrics = half_step(ratings.slice(0, n_own), fixed, problem)
    hot = ratings.slice(n_own, n_own + layout.n_hot)
    moments = [row_moments(part, fixed, problem.mean) for part in (hot.train, hot.validation)]
    return factors_batch(block, rows, [float(value) for value in metrics], np.stack(moments))


def factors_batch(
    block: int,
    rows: Float32s | None = None,
    metrics: list[float] | None = None,
    hot: Float64s | None = None,
) -> pa.RecordBatch:
    """One row of ``FACTORS_SCHEMA``; without factors it says that the block was not here."""
    return pa.RecordBatch.from_arrays(
        [
            pa.array([block], pa.int32()),
            pa.array([None if rows is None else rows.tobytes()], pa.binary()),
            pa.array([metrics], pa.list_(pa.float64())),
            pa.array([None if hot is None else hot.tobytes()], pa.binary()),
        ],
        names=["number", "rows", "metrics", "hot"],
    )


def initial_factors(
    workspace: Workspace,
    index: SideIndex,
    known: DataFrame | None,
    side: str,
    problem: Problem,
    rank: int,
    seed: int,
    keep: Keep,
) -> tuple[DataFrame, float]:
    """Factors that the first half-step is given, and their penalty in the objective."""
    make = partial(_first_factors, problem)
    cells = start_cells(index, known, side, rank, seed, make, FACTORS_SCHEMA)
    start, sums = workspace.keep(cells, keep, FACTORS)
    return start, sum(metrics[0] for metrics in sums["metrics"].to_pylist())


def _first_factors(problem: Problem, block: int, rows: Float32s, counts: Int64s) -> pa.RecordBatch:
    return factors_batch(block, rows, [problem.penalty.total(counts, rows)])


def matrix(rows: pa.Buffer, rank: int) -> Float32s:
    """The factor matrix in a cell, float32 [size, rank + 1]."""
    return np.frombuffer(rows, np.float32).reshape(-1, rank + 1)
