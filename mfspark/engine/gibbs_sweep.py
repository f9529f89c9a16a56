"""One sweep of the Gibbs sampler over all blocks: the rows of a side are drawn where its ratings
are, each given the rows of the other side.

Random numbers are made of a key for each id, so that a chain is the same however ids are spread.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial, reduce
from operator import add

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from mfspark.algorithms.gibbs_threads import Hyper
from mfspark.algorithms.hyper_priors import draw_noise_precision, draw_prior
from mfspark.algorithms.start import start_keys
from mfspark.columns import ITEM, USER, Side
from mfspark.engine.als_half_step import SolvedSide, run_half_step, start_factors
from mfspark.engine.block_files import BlockFiles, work_at_files
from mfspark.engine.blocks import open_block
from mfspark.engine.cells import values
from mfspark.engine.exchange import arrived_rows, gather
from mfspark.engine.factor_cells import FACTORS, FACTORS_SCHEMA, factor_rows, factors_cell
from mfspark.engine.index import SideIndex
from mfspark.engine.kept_cells import KeptCells
from mfspark.engine.recovery import recovering
from mfspark.engine.workspace import Workspace
from mfspark.kernels.arrays import Float64s, UInt64s
from mfspark.kernels.draw import Prior, RowSums, draw_rows, draw_rows_of_moments
from mfspark.kernels.half_step import squared_error
from mfspark.kernels.moments import moments_error, row_moments
from mfspark.kernels.random import normal_rows
from mfspark.settings import ExchangeName
from mfspark.small_tables import table_of

_KEYS_SCHEMA = "number int, rows binary"


@dataclass(frozen=True)
class DrawnSide:
    """What all draws of one side share. ``keys``: of the rows of each block, cells of
    ``_KEYS_SCHEMA`` (uint64); ``hot_keys`` of its hot rows."""

    solved: SolvedSide
    keys: KeptCells
    hot_keys: UInt64s


@dataclass(frozen=True)
class Draw:
    """Where the chain is: by side the rows, cells of the columns ``FACTORS``, the numbers of the
    tables that the workspace keeps for it, the sums of the rows by side, and Σ (r − r̂)² over
    training and over validation ratings."""

    rows: dict[Side, KeptCells]
    kept: range
    sums: dict[Side, RowSums]
    squared_error: float = 0.0
    validation_squared_error: float = 0.0


def chain_keys(
    workspace: Workspace, solved: dict[Side, SolvedSide], indices: dict[Side, SideIndex], seed: int
) -> dict[Side, DrawnSide]:
    """Both sides with the keys of all rows for the chain of a ``seed``."""
    drawn = {}
    for side in Side:
        keys, hot_keys = _row_keys(workspace, indices[side], solved[side], seed)
        drawn[side] = DrawnSide(solved[side], keys, hot_keys)
    return drawn


def start_chain(
    workspace: Workspace,
    solved: dict[Side, SolvedSide],
    indices: dict[Side, SideIndex],
    known: dict[Side, DataFrame],
    seed: int,
    n_iterations: int,
) -> Draw:
    """Where some iterations of ALS bring a chain, near to where it will stay. ``known`` as in
    ``starting_ids``."""
    before = workspace.n_kept
    items, _ = start_factors(workspace, indices[ITEM], known.get(ITEM), solved[ITEM], seed)
    for _ in range(n_iterations):
        last = workspace.n_kept
        users, _ = run_half_step(workspace, solved[USER], items)
        items, found = run_half_step(workspace, solved[ITEM], users)
        workspace.forget(before, last)
    rows = {USER: users, ITEM: items}
    sums = {side: _sums_of(workspace, rows[side], solved[side]) for side in Side}
    kept = range(last, workspace.n_kept)
    return Draw(rows, kept, sums, found.squared_error, found.validation_squared_error)


def _row_keys(
    workspace: Workspace, index: SideIndex, solved: SolvedSide, seed: int
) -> tuple[KeptCells, UInt64s]:
    """Keys of the rows of a side by block, kept; and those of hot rows."""
    made = index.table.select("block", "local", "id").mapInArrow(
        partial(_block_keys, side=solved.side, seed=seed), _KEYS_SCHEMA
    )
    # A block may have nothing but shares of hot rows.
    empty = np.flatnonzero(index.layout.sizes[:-1] == 0).tolist()
    if empty:
        made = made.union(
            table_of(workspace.spark, [(block, b"") for block in empty], _KEYS_SCHEMA)
        )
    kept, _ = recovering(
        workspace, index.layout.n_blocks, lambda: workspace.keep(made, solved.keep, FACTORS)
    )
    hot = kept.of_block(index.layout.n_blocks)
    return kept, np.frombuffer(b"".join(values(hot["rows"])), np.uint64)


def _block_keys(
    batches: Iterator[pa.RecordBatch], side: Side, seed: int
) -> Iterator[pa.RecordBatch]:
    parts = [part for part in batches if part.num_rows]
    if parts:
        ids = pa.Table.from_batches(parts).sort_by("local")
        keys = start_keys(ids["id"].combine_chunks(), side, seed)
        yield pa.RecordBatch.from_arrays(
            [ids["block"].combine_chunks().slice(0, 1), pa.array([keys.tobytes()], pa.binary())],
            names=list(FACTORS),
        )


def _sums_of(workspace: Workspace, cells: KeptCells, solved: SolvedSide) -> RowSums:
    """The sums over all rows; ships (rank + 1)² numbers per block."""
    rank = solved.rank
    sums = partial(_block_sums, rank=rank)
    parts = cells.table.select("rows").mapInArrow(sums, "sums array<double>")
    found = recovering(workspace, solved.blocks.layout.n_blocks, parts.toArrow)
    return reduce(add, [unflat_sums(part, rank) for part in sorted(found["sums"].to_pylist())])


def _block_sums(batches: Iterator[pa.RecordBatch], rank: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        sums = [flat_sums(RowSums.of(rows)) for rows in factor_rows(batch.column(0), rank)]
        yield pa.RecordBatch.from_pydict({"sums": pa.array(sums, pa.list_(pa.float64()))})


def flat_sums(sums: RowSums) -> list[float]:
    """All numbers of sums over rows, one after another."""
    return [float(sums.n_rows), *sums.rows.tolist(), *sums.products.ravel().tolist()]


def unflat_sums(flat: list[float], rank: int) -> RowSums:
    """What ``flat_sums`` was given."""
    size = rank + 1
    numbers: Float64s = np.array(flat[1:])
    return RowSums(int(flat[0]), numbers[:size], numbers[size:].reshape(size, size))


def run_sweep(
    workspace: Workspace,
    drawn: dict[Side, DrawnSide],
    draw: Draw,
    n_ratings: int,
    seed: int,
    number: int,
) -> tuple[Draw, Hyper]:
    """Draw α, and of each side m, Λ and all rows, each given the latest of everything else;
    ``number`` is another one for each sweep of the chain of a ``seed``."""
    rng = np.random.default_rng([seed, number])
    first = workspace.n_kept
    noise_precision = draw_noise_precision(draw.squared_error, n_ratings, rng)
    priors, reached = {}, draw
    for side in Side:
        priors[side] = draw_prior(reached.sums[side], rng)
        reached = _draw_side(workspace, drawn[side], reached, priors[side], noise_precision, number)
    kept = range(first, workspace.n_kept)
    return replace(reached, kept=kept), Hyper(noise_precision, priors)


def _draw_side(
    workspace: Workspace,
    drawn: DrawnSide,
    draw: Draw,
    prior: Prior,
    noise_precision: float,
    sweep: int,
) -> Draw:
    """``draw`` with other rows of a side.

    One Spark job draws, measures and stores them. Only sums come to the driver, unless the rows are
    kept there, and of each hot row its moments, from which it is drawn here.
    """
    solved = drawn.solved
    side, rank, layout = solved.side, solved.rank, solved.blocks.layout
    work = partial(
        draw_block,
        files=solved.blocks.blocks.files,
        exchange=solved.exchange.name,
        rank=rank,
        prior=prior,
        noise_precision=noise_precision,
        sweep=sweep,
    )
    cells, found = work_at_files(
        workspace,
        solved.blocks.blocks,
        solved.exchange.deliver(draw.rows[side.other], drawn.keys),
        work,
        FACTORS_SCHEMA,
        solved.keep,
        FACTORS,
    )
    # In the order of the blocks, so that the sums are the same in every run.
    of_blocks = found["sums"].to_pylist()
    squared, missed = (float(sum(part[n] for part in of_blocks)) for n in (0, 1))
    sums = reduce(add, [unflat_sums(part[2:], rank) for part in of_blocks])
    if layout.n_hot:
        shape = (2, layout.n_hot, rank + 2, rank + 2)
        train, validation = np.sum(
            [np.frombuffer(part).reshape(shape) for part in values(found["hot"])], axis=0
        )
        normals = normal_rows(drawn.hot_keys, sweep, rank + 1)
        rows, error = draw_rows_of_moments(train, prior, noise_precision, normals)
        squared += error
        missed += moments_error(validation, rows)
        sums = sums + RowSums.of(rows)
        cells = cells.with_cell(layout.n_blocks, rows.tobytes())
    return Draw(draw.rows | {side: cells}, draw.kept, draw.sums | {side: sums}, squared, missed)


def draw_block(
    arrived: pa.Table,
    *,
    files: BlockFiles,
    exchange: ExchangeName,
    rank: int,
    prior: Prior,
    noise_precision: float,
    sweep: int,
) -> pa.RecordBatch:
    """Draw the rows of the block that the rows of ``arrived`` (block, own, number, rows) were sent
    to, ``own`` being the keys: one row of ``FACTORS_SCHEMA``."""
    block, layout = arrived["block"][0].as_py(), files.layout
    opened = open_block(files, block)
    if opened is None:
        return factors_cell(block)
    ratings, needed = opened
    sent, keys = arrived_rows(arrived, rank)
    fixed = gather(sent, needed, exchange, rank)
    n_own = int(layout.sizes[block])
    own = ratings.slice(0, n_own)
    normals = normal_rows(np.frombuffer(keys, np.uint64), sweep, rank + 1)
    rows, squared = draw_rows(own.train, fixed, prior, noise_precision, normals)
    sums = [squared, squared_error(own.validation, rows, fixed, 0.0), *flat_sums(RowSums.of(rows))]
    hot = ratings.slice(n_own, n_own + layout.n_hot)
    moments = [row_moments(part, fixed, 0.0) for part in (hot.train, hot.validation)]
    return factors_cell(block, rows, sums, np.stack(moments))
