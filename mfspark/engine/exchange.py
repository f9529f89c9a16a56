"""How the factors of the fixed side reach the blocks of the solved side.

broadcast   All fixed rows go to every task as one cell. Right when the fixed side is small.
routed      Each fixed block sends each solved block just the rows that it needs, at most once.
            Right when both sides are big: no machine ever holds a whole side.

Either way the task of a solved block is given rows (number, rows), one for each fixed block that
sent something, and in a column ``own`` what is for this block alone, where there is such;
``gather`` makes of the rows the matrix that the kernel wants.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.engine.block_files import Delivery
from mfspark.engine.blocks import BlockedSide
from mfspark.engine.cells import cell, kept_values
from mfspark.engine.factor_cells import factor_rows
from mfspark.engine.index import Layout
from mfspark.engine.kept_cells import KeptCells
from mfspark.engine.workspace import Workspace
from mfspark.kernels.arrays import AlignedRows, Float32s, Int32s, Int64s
from mfspark.settings import ExchangeName

# In place of the number of a source block.
_OWN = -1


class Exchange(Protocol):
    """Delivers fixed factors to solved blocks."""

    @property
    def name(self) -> ExchangeName:
        """Its name among the values of the Param ``exchange``."""

    @property
    def dtype(self) -> type:
        """Of the factors on their way."""

    @property
    def bytes_shipped(self) -> int:
        """Bytes of factors sent per half-step."""

    def deliver(self, fixed: KeptCells, own: KeptCells | None = None) -> Delivery:
        """Send all ``fixed`` cells to the solved blocks, and each the cell of its number of
        ``own``."""


@dataclass(frozen=True)
class Broadcast:
    """Every block receives the whole fixed side."""

    n_solved_blocks: int
    bytes_shipped: int
    name: ExchangeName = "broadcast"
    dtype: type = np.float32

    def deliver(self, fixed: KeptCells, own: KeptCells | None = None) -> Delivery:
        """See :class:`Exchange`."""
        targeted = [] if own is None else [_own_on_driver(own)]
        if with_code := Delivery.with_code(fixed.on_driver, *targeted):
            return with_code
        if own is None:
            return Delivery(for_all=fixed.table)
        if own.on_driver is not None:
            return Delivery(_targeted(own), fixed.table, is_small=True)
        by_target = _targeted(own).repartitionById(self.n_solved_blocks, F.col("target"))
        return Delivery(by_target, fixed.table)


@dataclass(frozen=True)
class Routed:
    """Every block receives the rows it needs; ``links`` says which block sends which rows where.

    ``links``: number int (of the source), target int, wanted binary (int32, local indices in the
    source block).
    """

    links: DataFrame
    n_fixed_blocks: int
    n_solved_blocks: int
    rank: int
    bytes_shipped: int
    name: ExchangeName = "routed"
    dtype: type = np.float32

    def deliver(self, fixed: KeptCells, own: KeptCells | None = None) -> Delivery:
        """See :class:`Exchange`."""
        by_source = fixed.table.repartitionById(self.n_fixed_blocks, F.col("number"))
        sent = (
            self.links.join(by_source.hint("shuffle_hash"), "number")
            .select("number", "target", "wanted", "rows")
            .mapInArrow(
                partial(_select_rows, rank=self.rank, dtype=self.dtype),
                "number int, target int, rows binary",
            )
        )
        if own is not None:
            sent = sent.unionByName(
                _targeted(own).withColumn("number", F.lit(_OWN)), allowMissingColumns=True
            ).where(F.col("target") < self.n_solved_blocks)
        return Delivery(targeted=sent.repartitionById(self.n_solved_blocks, F.col("target")))


def make_exchange(
    workspace: Workspace,
    solved: BlockedSide,
    fixed: Layout,
    rank: int,
    name: ExchangeName,
    half_width: bool = False,
) -> Exchange:
    """The exchange for one direction; ``half_width``: routed factors travel as float16."""
    if name == "broadcast":
        n_blocks = solved.layout.n_blocks
        return Broadcast(n_blocks, fixed.n_rows * 4 * (rank + 1) * n_blocks)
    dtype = np.float16 if half_width else np.float32
    links = workspace.persist(
        solved.blocks.places.select("block", "about.needed")
        .mapInArrow(
            partial(_split_needed, offsets=fixed.offsets),
            "number int, target int, wanted binary",
        )
        .repartitionById(len(fixed.sizes), F.col("number"))
    )
    n_bytes = solved.n_needed * np.dtype(dtype).itemsize * (rank + 1)
    return Routed(links, len(fixed.sizes), solved.layout.n_blocks, rank, n_bytes, dtype=dtype)


def _targeted(own: KeptCells) -> DataFrame:
    """Columns target int, own binary."""
    return own.table.select(F.col("number").alias("target"), F.col("rows").alias("own"))


def _own_on_driver(own: KeptCells) -> pa.Table | None:
    """Columns number, target int, own binary; None of what is not on the driver."""
    if own.on_driver is None:
        return None
    targets = own.on_driver["number"]
    numbers = pa.repeat(pa.scalar(_OWN, pa.int32()), len(targets))
    return pa.table({"number": numbers, "target": targets, "own": own.on_driver["rows"]})


def arrived_rows(arrived: pa.Table, rank: int) -> tuple[dict[int, Float32s], pa.Buffer]:
    """What a block was sent with its own: the fixed rows by source block, and its own cell."""
    numbers = arrived["number"]
    of_fixed = arrived.filter(pc.not_equal(numbers, _OWN))
    of_own = arrived.filter(pc.equal(numbers, _OWN))
    rows = factor_rows(of_fixed["rows"], rank)
    own = kept_values((of_own if of_own.num_rows else of_fixed)["own"].slice(0, 1))[0]
    return dict(zip(of_fixed["number"].to_pylist(), rows, strict=True)), own


def gather(
    arrived: dict[int, Float32s], needed: Int32s, exchange: ExchangeName, rank: int
) -> AlignedRows:
    """The fixed rows at the positions ``needed``, in this order.

    ``arrived``: float32 [n, rank + 1] by source block. Raises ``ValueError`` when rows are missing:
    the kernels do not look.
    """
    fixed = AlignedRows.zeros(len(needed), rank)
    first = offset = 0
    # Both ``needed`` and what each source sends ascend, so each fills the places behind the last.
    for source in sorted(arrived):
        rows = arrived[source]
        if exchange == "broadcast":
            last = np.searchsorted(needed, offset + len(rows))
            rows, offset = rows[needed[first:last] - offset], offset + len(rows)
        fixed.fill(first, rows)
        first += len(rows)
    if first != len(needed):
        raise ValueError(f"got {first} fixed rows for {len(needed)} needed ones")
    return fixed


def _split_needed(batches: Iterator[pa.RecordBatch], offsets: Int64s) -> Iterator[pa.RecordBatch]:
    """What each block needs, by the source block that has it: rows of ``links``."""
    for batch in batches:
        for row in range(batch.num_rows):
            needed = cell(batch, "needed", row, np.int32)
            source = np.searchsorted(offsets, needed, side="right") - 1
            sources, starts = np.unique(source, return_index=True)
            wanted = (needed - offsets[source]).astype(np.int32)
            yield pa.RecordBatch.from_pydict(
                {
                    "number": pa.array(sources, pa.int32()),
                    "target": pa.array(
                        [batch.column("block")[row].as_py()] * len(sources), pa.int32()
                    ),
                    "wanted": [part.tobytes() for part in np.split(wanted, starts[1:])],
                }
            )


def _select_rows(
    batches: Iterator[pa.RecordBatch], rank: int, dtype: type
) -> Iterator[pa.RecordBatch]:
    """The rows that each target wants, as ``dtype``."""
    for batch in batches:
        for row in range(batch.num_rows):
            wanted = cell(batch, "wanted", row, np.int32)
            rows = factor_rows(batch.column("rows").slice(row, 1), rank)[0]
            yield pa.RecordBatch.from_pydict(
                {
                    "number": batch.column("number").slice(row, 1),
                    "target": batch.column("target").slice(row, 1),
                    "rows": [rows[wanted].astype(dtype, copy=False).tobytes()],
                }
            )
