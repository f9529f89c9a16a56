"""The mean over draws of a factor model, as a factor model, of draws that lie on blocks.

See :mod:`mfspark.algorithms.running_mean`, whose numbers these are: here the rows of a block meet
in one task, which sends only the Gram matrices of what it has, and turns it when it is told how.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial, reduce

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.algorithms.running_mean import DRAWS_AT_A_TIME, KEPT
from mfspark.columns import ITEM, USER, Side
from mfspark.engine.als_half_step import SolvedSide
from mfspark.engine.block_files import BlockFiles, work_at_files
from mfspark.engine.blocks import open_block
from mfspark.engine.cells import kept_values
from mfspark.engine.exchange import Routed, arrived_rows, gather
from mfspark.engine.factor_cells import (
    FACTORS,
    FACTORS_SCHEMA,
    PARAMETERS,
    PARAMETERS_SCHEMA,
    factor_rows,
    factors_cell,
    parameters_cell,
)
from mfspark.engine.gibbs_sweep import Draw
from mfspark.engine.index import Layout
from mfspark.engine.kept_cells import KeptCells
from mfspark.engine.plan import Keep
from mfspark.engine.recovery import recovering
from mfspark.engine.workspace import Workspace
from mfspark.kernels.arrays import Float32s, Float64s
from mfspark.kernels.half_step import squared_error
from mfspark.kernels.moments import moments_error, row_moments
from mfspark.kernels.rotation import canonical_rotation
from mfspark.settings import ExchangeName


class MeanCells:
    """Takes draws one after the other. ``rows``: the mean so far by side, cells of the columns
    ``FACTORS``, of ``n_draws`` draws; ``width``: its number of factors."""

    def __init__(
        self, workspace: Workspace, layouts: dict[Side, Layout], rank: int, keep: Keep
    ) -> None:
        self.rows: dict[Side, KeptCells] = {}
        self.width = 0
        self.waiting: list[Draw] = []
        self._workspace, self._layouts, self._rank, self._keep = workspace, layouts, rank, keep
        self.n_draws = 0
        self._kept = range(0)

    def restore(self, rows: dict[Side, KeptCells], width: int, n_draws: int, kept: range) -> None:
        """Go on with what another one had: ``rows``, which the workspace keeps under the numbers
        ``kept``."""
        self.rows, self.width, self.n_draws, self._kept = rows, width, n_draws, kept

    def add(self, draw: Draw) -> bool:
        """Take one more draw; whether all draws are in the mean now, or some still wait."""
        self.waiting.append(draw)
        if len(self.waiting) < DRAWS_AT_A_TIME:
            return False
        self._fold(KEPT * self._rank)
        return True

    def final(self) -> dict[Side, KeptCells]:
        """The mean of all draws as rows of their own rank."""
        self._fold(self._rank)
        return self.rows

    def _fold(self, n_kept: int) -> None:
        """Bring what is waiting into the mean, and the mean to at most ``n_kept`` directions."""
        n_new, n_old = len(self.waiting), self.n_draws
        n = n_old + n_new
        cells = {side: [draw.rows[side] for draw in self.waiting] for side in Side}
        weights, widths = [1 / n] * n_new, [self._rank] * n_new
        if n_old:
            cells = {side: [self.rows[side], *cells[side]] for side in Side}
            weights, widths = [n_old / n, *weights], [self.width, *widths]
        workspace = self._workspace
        persisted = workspace.persist(by_block(cells, self._layouts))
        n_partitions = sum(len(layout.sizes) for layout in self._layouts.values())
        beside = workspace.partitioned(persisted, n_partitions, "partition").drop("partition")
        gram = partial(_grams, weights=weights, widths=widths)
        n_blocks = max(layout.n_blocks for layout in self._layouts.values())
        parts = recovering(
            workspace,
            n_blocks,
            beside.mapInArrow(gram, "side string, gram binary, sums binary").collect,
        )
        n_beside = sum(widths)
        grams = {side: np.zeros((n_beside, n_beside)) for side in Side}
        sums = {side: np.zeros(n_beside) for side in Side}
        # In an order of their own, so that the sums are the same in every run.
        for part in sorted(parts, key=lambda row: (row["side"], row["gram"])):
            side = Side(part["side"])
            grams[side] += np.frombuffer(part["gram"]).reshape(n_beside, n_beside)
            sums[side] += np.frombuffer(part["sums"])
        rotation = canonical_rotation(grams[USER], grams[ITEM], sums[ITEM])
        matrices = {USER: rotation.users[:, :n_kept], ITEM: rotation.items[:, :n_kept]}
        rotate = partial(_rotated, weights=weights, widths=widths, matrices=matrices)
        first = workspace.n_kept
        kept, _ = recovering(
            workspace,
            n_blocks,
            lambda: workspace.keep(
                beside.mapInArrow(rotate, PARAMETERS_SCHEMA), self._keep, PARAMETERS
            ),
        )
        workspace.release(persisted)
        workspace.forget(self._kept.start, self._kept.stop)
        self._kept = range(first, workspace.n_kept)
        self.rows = {side: kept.of_side(side) for side in Side}
        self.width, self.n_draws = min(n_kept, n_beside), n
        self.waiting.clear()

    def squared_error(self, users: SolvedSide, of_validation: bool) -> float:
        """Σ (r − r̂)² of the mean over the validation or the training ratings, measured where the
        blocks of ``users`` are."""
        exchange = users.exchange
        if isinstance(exchange, Routed):
            exchange = replace(exchange, rank=self.width)
        layout = users.blocks.layout
        work = partial(
            measure_block,
            files=users.blocks.blocks.files,
            exchange=exchange.name,
            width=self.width,
            of_validation=of_validation,
        )
        _, found = work_at_files(
            self._workspace,
            users.blocks.blocks,
            exchange.deliver(self.rows[ITEM], self.rows[USER]),
            work,
            FACTORS_SCHEMA,
            "driver",
            FACTORS,
        )
        total = float(sum(part[0] for part in found["sums"].to_pylist()))
        if layout.n_hot:
            shape = (layout.n_hot, self.width + 2, self.width + 2)
            moments = np.sum(
                [np.frombuffer(part).reshape(shape) for part in kept_values(found["hot"])], axis=0
            )
            hot = self.rows[USER].of_block(layout.n_blocks)
            total += moments_error(moments, factor_rows(hot["rows"], self.width)[0])
        return total


def by_block(kept: dict[Side, list[KeptCells]], layouts: dict[Side, Layout]) -> DataFrame:
    """Cells of the columns ``FACTORS`` of several steps, those of one block in one partition: side
    string, number int, place int (of the step), rows binary, partition int."""
    tagged, first = [], 0
    for side in Side:
        for place, cells in enumerate(kept[side]):
            tagged.append(
                cells.table.select(
                    F.lit(str(side)).alias("side"),
                    "number",
                    F.lit(place).alias("place"),
                    "rows",
                    (F.col("number") + F.lit(first)).alias("partition"),
                )
            )
        first += len(layouts[side].sizes)
    everything = reduce(DataFrame.unionAll, tagged)
    return everything.repartitionById(first, F.col("partition"))


def cells_of_block(
    batches: Iterator[pa.RecordBatch], widths: list[int]
) -> tuple[Side, int, list[Float32s]] | None:
    """Side and number of the block of a partition of ``by_block``, and its rows of each table,
    float32 [n, width + 1]; None of an empty partition."""
    parts = [part for part in batches if part.num_rows]
    if not parts:
        return None
    cells = pa.Table.from_batches(parts).sort_by("place")
    rows = [
        np.frombuffer(cell, np.float32).reshape(-1, width + 1)
        for cell, width in zip(kept_values(cells["rows"]), widths, strict=True)
    ]
    return Side(cells["side"][0].as_py()), cells["number"][0].as_py(), rows


def _beside(rows: list[Float32s], weights: list[float]) -> Float32s:
    """Factors side by side, weighted."""
    parts = [
        np.float32(np.sqrt(weight)) * part[:, :-1]
        for part, weight in zip(rows, weights, strict=True)
    ]
    return np.concatenate(parts, axis=1)


def _grams(
    batches: Iterator[pa.RecordBatch], weights: list[float], widths: list[int]
) -> Iterator[pa.RecordBatch]:
    found = cells_of_block(batches, widths)
    if found is not None:
        doubles = _beside(found[2], weights).astype(np.float64)
        yield pa.RecordBatch.from_pydict(
            {
                "side": [str(found[0])],
                "gram": [(doubles.T @ doubles).tobytes()],
                "sums": [doubles.sum(axis=0).tobytes()],
            }
        )


def _rotated(
    batches: Iterator[pa.RecordBatch],
    weights: list[float],
    widths: list[int],
    matrices: dict[Side, Float64s],
) -> Iterator[pa.RecordBatch]:
    found = cells_of_block(batches, widths)
    if found is not None:
        side, number, rows = found
        bias = sum(
            weight * part[:, -1].astype(np.float64)
            for part, weight in zip(rows, weights, strict=True)
        )
        factors = _beside(rows, weights) @ matrices[side].astype(np.float32)
        yield parameters_cell(side, number, np.column_stack([factors, bias]), [])


def measure_block(
    arrived: pa.Table, *, files: BlockFiles, exchange: ExchangeName, width: int, of_validation: bool
) -> pa.RecordBatch:
    """Σ (r − r̂)² over ratings of the block that the rows of ``arrived`` (block, own, number, rows)
    were sent to, ``own`` being the rows of its users, as ``sums`` of a row of ``FACTORS_SCHEMA``;
    and the moments of hot rows."""
    block, layout = arrived["block"][0].as_py(), files.layout
    opened = open_block(files, block)
    if opened is None:
        return factors_cell(block)
    both, needed = opened
    ratings = both.validation if of_validation else both.train
    sent, own = arrived_rows(arrived, width)
    fixed = gather(sent, needed, exchange, width)
    n_own = int(layout.sizes[block])
    users = np.frombuffer(own, np.float32).reshape(-1, width + 1)
    error = squared_error(ratings.slice(0, n_own), users, fixed, 0.0)
    moments = row_moments(ratings.slice(n_own, n_own + layout.n_hot), fixed, 0.0)
    return factors_cell(block, sums=[error], hot=moments)
