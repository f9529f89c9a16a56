"""How the factors of the fixed side reach the blocks of the solved side.

broadcast   All fixed rows go to every task as one cell. Right when the fixed side is small.
routed      Each fixed block sends each solved block just the rows that it needs, at most once.
            Right when both sides are big: no machine ever holds a whole side.

Either way a solved block meets one list ``arrived`` of (block, rows); ``gather`` makes of it the
matrix that the kernel wants.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.engine.blocks import BlockedSide, cell
from mfspark.engine.index import SideIndex
from mfspark.engine.workspace import Workspace
from mfspark.kernels.csr import Float32s, Int32s, Int64s
from mfspark.settings import Exchange as ExchangeName

# Above this many bytes a broadcast strains a driver of Spark's default size (1 GiB), which holds
# the cell twice while it builds the broadcast.
BROADCAST_LIMIT = 128 * 2**20


class Exchange(Protocol):
    """Delivers fixed factors to solved blocks."""

    @property
    def name(self) -> ExchangeName:
        """Its name among the values of the Param ``exchange``."""

    @property
    def bytes_shipped(self) -> int:
        """Bytes of factors sent per half-step."""

    def deliver(self, fixed: DataFrame) -> DataFrame:
        """The block table of the solved side with a column ``arrived``.

        ``fixed``: block int, rows binary (float32 [size, rank + 1]).
        """


@dataclass(frozen=True)
class Broadcast:
    """Every block receives the whole fixed side."""

    solved: BlockedSide
    bytes_shipped: int
    name: ExchangeName = "broadcast"

    def deliver(self, fixed: DataFrame) -> DataFrame:
        """See :class:`Exchange`."""
        packed = fixed.agg(F.collect_list(F.struct("block", "rows")).alias("arrived"))
        return self.solved.table.crossJoin(F.broadcast(packed))


@dataclass(frozen=True)
class Routed:
    """Every block receives the rows it needs; ``links`` says which block sends which rows where.

    ``links``: source int, target int, wanted binary (int32, local indices in the source block).
    """

    solved: BlockedSide
    links: DataFrame
    n_solved_blocks: int
    rank: int
    bytes_shipped: int
    name: ExchangeName = "routed"

    def deliver(self, fixed: DataFrame) -> DataFrame:
        """See :class:`Exchange`."""
        sent = (
            self.links.join(fixed.hint("shuffle_hash"), F.col("source") == F.col("block"))
            .select("source", "target", "wanted", "rows")
            .mapInArrow(partial(_select_rows, rank=self.rank), "block int, target int, rows binary")
        )
        arrived = (
            sent.repartitionById(self.n_solved_blocks, F.col("target"))
            .groupBy("target")
            .agg(F.collect_list(F.struct("block", "rows")).alias("arrived"))
        )
        # The messages are the hashed side: the payload of the blocks is neither sorted nor moved.
        return self.solved.table.join(
            arrived.hint("shuffle_hash"), F.col("block") == F.col("target")
        ).drop("target")


def make_exchange(
    workspace: Workspace,
    solved: BlockedSide,
    n_solved_blocks: int,
    fixed: SideIndex,
    rank: int,
    choice: ExchangeName,
) -> Exchange:
    """The exchange for one direction; ``auto`` broadcasts up to ``BROADCAST_LIMIT`` bytes."""
    row_bytes = 4 * (rank + 1)
    fixed_bytes = fixed.n_ids * row_bytes
    if choice == "broadcast" or (choice == "auto" and fixed_bytes <= BROADCAST_LIMIT):
        return Broadcast(solved, fixed_bytes * n_solved_blocks)
    links = workspace.pin(
        solved.table.select("block", "needed")
        .mapInArrow(
            partial(_split_needed, offsets=fixed.offsets),
            "source int, target int, wanted binary",
        )
        .repartitionById(fixed.n_blocks, F.col("source"))
    )
    return Routed(solved, links, n_solved_blocks, rank, solved.n_needed * row_bytes)


def gather(arrived: pa.Scalar, needed: Int32s, exchange: str, rank: int) -> Float32s:
    """Rows of the fixed side in the order of ``needed``, float32 [len(needed), rank + 1]."""
    parts = sorted(arrived, key=lambda part: part["block"].as_py())
    rows = np.concatenate([np.frombuffer(part["rows"].as_buffer(), np.float32) for part in parts])
    matrix: Float32s = rows.reshape(-1, rank + 1)
    # Routed rows are sent in ascending order of position, which is the order of ``needed``.
    return matrix[needed] if exchange == "broadcast" else matrix


def _split_needed(batches: Iterator[pa.RecordBatch], offsets: Int64s) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for row in range(batch.num_rows):
            needed = cell(batch, "needed", row, np.int32)
            source = np.searchsorted(offsets, needed, side="right") - 1
            sources, starts = np.unique(source, return_index=True)
            wanted = (needed - offsets[source]).astype(np.int32)
            yield pa.RecordBatch.from_pydict(
                {
                    "source": pa.array(sources, pa.int32()),
                    "target": pa.array(
                        [batch.column("block")[row].as_py()] * len(sources), pa.int32()
                    ),
                    "wanted": [part.tobytes() for part in np.split(wanted, starts[1:])],
                }
            )


def _select_rows(batches: Iterator[pa.RecordBatch], rank: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for row in range(batch.num_rows):
            wanted = cell(batch, "wanted", row, np.int32)
            rows = cell(batch, "rows", row, np.float32).reshape(-1, rank + 1)
            yield pa.RecordBatch.from_pydict(
                {
                    "block": batch.column("source").slice(row, 1),
                    "target": batch.column("target").slice(row, 1),
                    "rows": [rows[wanted].tobytes()],
                }
            )
