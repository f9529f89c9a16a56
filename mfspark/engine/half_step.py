"""One half-step on all blocks of a side: a pure function of the blocks and the fixed factors."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from mfspark.engine.blocks import cell, read_block
from mfspark.engine.exchange import Exchange, gather
from mfspark.engine.index import SideIndex
from mfspark.engine.workspace import Workspace
from mfspark.kernels.half_step import HalfStepMetrics, Penalty, half_step
from mfspark.kernels.initialise import initial_rows

_METRICS = HalfStepMetrics._fields
_SOLVED_SCHEMA = (
    "block int, rows binary, squared_error double, n_ratings long, penalty double, "
    "validation_squared_error double, n_validation long"
)


@dataclass(frozen=True)
class Problem:
    """What stays the same in all half-steps that solve one side."""

    rank: int
    mean: float
    penalty: Penalty
    fit_biases: bool


def run_half_step(
    workspace: Workspace, problem: Problem, exchange: Exchange, fixed: DataFrame
) -> tuple[DataFrame, HalfStepMetrics]:
    """Solve every block of a side.

    ``fixed`` and the returned table hold block int, rows binary (float32 [size, rank + 1]). One
    Spark job does everything: it solves, measures and stores the new factors.
    """
    solved = workspace.cut(
        exchange.deliver(fixed).mapInArrow(
            partial(_solve, problem=problem, exchange=exchange.name), _SOLVED_SCHEMA
        )
    )
    per_block = solved.select(*_METRICS).collect()
    # Blocks come back in the order of their partitions, so the sums are the same in every run.
    metrics = HalfStepMetrics(*(sum(row[name] for row in per_block) for name in _METRICS))
    return solved.select("block", "rows"), metrics


def _solve(
    batches: Iterator[pa.RecordBatch], problem: Problem, exchange: str
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for row in range(batch.num_rows):
            block = read_block(batch, row)
            fixed = gather(batch.column("arrived")[row], block.needed, exchange, problem.rank)
            solved, metrics = half_step(
                block, fixed, problem.mean, problem.penalty, problem.fit_biases
            )
            yield pa.RecordBatch.from_pydict(
                {
                    "block": batch.column("block").slice(row, 1),
                    "rows": [solved.tobytes()],
                    **{name: [value] for name, value in metrics._asdict().items()},
                }
            )


def initial_factors(
    workspace: Workspace, index: SideIndex, problem: Problem
) -> tuple[DataFrame, float]:
    """Factors that the first half-step is given, and their penalty in the objective."""
    start = workspace.cut(
        index.table.select("block", "local", "key", "n_ratings").mapInArrow(
            partial(_initialise, problem=problem), "block int, rows binary, penalty double"
        )
    )
    penalty = sum(row["penalty"] for row in start.select("penalty").collect())
    return start.select("block", "rows"), penalty


def _initialise(batches: Iterator[pa.RecordBatch], problem: Problem) -> Iterator[pa.RecordBatch]:
    """One partition of a side's index holds one block, whole."""
    parts = list(batches)
    if not any(part.num_rows for part in parts):
        return
    ids = pa.Table.from_batches(parts).sort_by("local")
    rows = initial_rows(ids["key"].to_numpy().astype(np.uint64), problem.rank)
    penalty = problem.penalty.total(ids["n_ratings"].to_numpy(), rows)
    yield pa.RecordBatch.from_pydict(
        {"block": [ids["block"][0].as_py()], "rows": [rows.tobytes()], "penalty": [penalty]},
        schema=pa.schema([("block", pa.int32()), ("rows", pa.binary()), ("penalty", pa.float64())]),
    )


def matrix(batch: pa.RecordBatch, row: int, rank: int) -> np.ndarray:
    """The factor matrix in a cell ``rows``, float32 [size, rank + 1]."""
    return np.asarray(cell(batch, "rows", row, np.float32).reshape(-1, rank + 1))
