"""From factor cells of several draws to tables with ids."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.columns import DRAWS, Side
from mfspark.engine.factor_tables import table_bytes
from mfspark.engine.index import SideIndex
from mfspark.engine.kept_cells import KeptCells
from mfspark.engine.mean_cells import by_block, cells_of_block
from mfspark.engine.recovery import recovering
from mfspark.engine.workspace import Workspace, materialised

# Small batches: a list array counts its values in 32 bits.
_ROWS_PER_BATCH = 16_384


def draw_tables(
    workspace: Workspace,
    draws: list[dict[Side, KeptCells]],
    indices: dict[Side, SideIndex],
    rank: int,
    scale: float,
) -> dict[Side, DataFrame]:
    """By side the id and draws array<float>, of each draw the row [factors, bias], in the unit of
    the user's ratings, which is ``scale`` times smaller; no tables without draws."""
    if not draws:
        return {}
    layouts = {side: index.layout for side, index in indices.items()}
    cells = {side: [draw[side] for draw in draws] for side in Side}
    units = np.full(rank + 1, np.sqrt(scale), np.float32)
    units[-1] = scale
    unpacked = by_block(cells, layouts).mapInArrow(
        partial(_unpack, n_draws=len(draws), units=units),
        f"side string, block int, local int, {DRAWS} array<float>",
    )
    found = {}
    for side, index in indices.items():
        rows = unpacked.where(F.col("side") == side).drop("side")
        table = index.table.join(rows, ["block", "local"]).select(F.col("id").alias(side), DRAWS)
        n_bytes = len(draws) * table_bytes(layouts[side].n_rows, rank)
        n_blocks = layouts[side].n_blocks
        found[side] = recovering(workspace, n_blocks, partial(materialised, table, n_bytes))
    return found


def _unpack(
    batches: Iterator[pa.RecordBatch], n_draws: int, units: np.ndarray
) -> Iterator[pa.RecordBatch]:
    """The cells of one block into rows (side, block, local, draws)."""
    found = cells_of_block(batches, n_draws * [len(units) - 1])
    if found is None:
        return
    side, number, rows = found
    stacked = np.concatenate([part * units for part in rows], axis=1)
    for first in range(0, len(stacked), _ROWS_PER_BATCH):
        part = stacked[first : first + _ROWS_PER_BATCH]
        n, length = part.shape
        yield pa.RecordBatch.from_pydict(
            {
                "side": pa.array(n * [str(side)]),
                "block": pa.array(np.full(n, number, np.int32)),
                "local": pa.array(np.arange(first, first + n, dtype=np.int32)),
                DRAWS: pa.ListArray.from_arrays(
                    length * np.arange(n + 1, dtype=np.int32), np.ascontiguousarray(part).ravel()
                ),
            }
        )
