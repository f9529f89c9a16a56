"""From ratings to rating blocks of both sides, in one pass over the rows.

Each task packs its rows into one chunk per block and side; the chunks, not the rows, are shuffled
to the partition of their block and assembled there.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.engine.index import SideIndex
from mfspark.engine.workspace import Workspace
from mfspark.kernels.csr import Csr, Int64s, RatingBlock, build_block

# Rows that a task collects before it packs them: 50 MB, enough to make chunks worth their overhead.
_ROWS_PER_PACK = 4_000_000

_CHUNK_SCHEMA = "side string, block int, local binary, other binary, rating binary, held_out binary"
_BLOCK_SCHEMA = (
    "block int, needed binary, indptr binary, columns binary, ratings binary, "
    "held_out_indptr binary, held_out_columns binary, held_out_ratings binary, "
    "n_needed long, n_held_out long"
)


@dataclass(frozen=True)
class BlockedSide:
    """The rating blocks of one solved side: a pinned table with one row and partition per block.

    ``n_needed`` is the sum over blocks of the fixed-side rows each needs, ``n_held_out`` the number
    of validation ratings.
    """

    table: DataFrame
    n_needed: int
    n_held_out: int


def build_blocks(
    workspace: Workspace, ratings: DataFrame, users: SideIndex, items: SideIndex
) -> tuple[BlockedSide, BlockedSide]:
    """User-major and item-major blocks of ``ratings`` (user, item, rating float, held_out boolean).

    Validation ratings whose user or item has no training rating belong to no block.
    """
    located = (
        ratings.join(users.table.select(F.col("id").alias("user"), _position("user")), "user")
        .join(items.table.select(F.col("id").alias("item"), _position("item")), "item")
        .select("user_position", "item_position", "rating", "held_out")
    )
    sides = {"user": users, "item": items}
    chunks = workspace.pin(
        located.mapInArrow(
            partial(_pack, offsets={side: index.offsets for side, index in sides.items()}),
            _CHUNK_SCHEMA,
        )
    )
    built = []
    for side, index in sides.items():
        table = workspace.pin(
            chunks.where(F.col("side") == side)
            .repartitionById(index.n_blocks, F.col("block"))
            .mapInArrow(partial(_assemble, sizes=index.sizes), _BLOCK_SCHEMA)
        )
        totals = table.agg(F.sum("n_needed"), F.sum("n_held_out")).first()
        assert totals is not None
        built.append(BlockedSide(table, totals[0], totals[1]))
    workspace.release(chunks)
    return built[0], built[1]


def _position(side: str) -> Any:
    return F.col("position").alias(f"{side}_position")


def _pack(
    batches: Iterator[pa.RecordBatch], offsets: dict[str, Int64s]
) -> Iterator[pa.RecordBatch]:
    pending: list[pa.RecordBatch] = []
    for batch in batches:
        pending.append(batch)
        if sum(b.num_rows for b in pending) >= _ROWS_PER_PACK:
            yield from _chunks(pending, offsets)
            pending = []
    if pending:
        yield from _chunks(pending, offsets)


def _chunks(batches: list[pa.RecordBatch], offsets: dict[str, Int64s]) -> Iterator[pa.RecordBatch]:
    """One row per (side, block) that occurs in the batches."""
    table = pa.Table.from_batches(batches)
    positions = {side: table[f"{side}_position"].to_numpy() for side in offsets}
    rating = table["rating"].to_numpy()
    held_out = table["held_out"].to_numpy()
    for side, other in (("user", "item"), ("item", "user")):
        block = np.searchsorted(offsets[side], positions[side], side="right") - 1
        order = np.argsort(block.astype(np.int32), kind="stable")
        blocks, starts = np.unique(block[order], return_index=True)
        local = (positions[side] - offsets[side][block]).astype(np.int32)
        for n, part in zip(blocks, np.split(order, starts[1:]), strict=True):
            yield pa.RecordBatch.from_pydict(
                {
                    "side": [side],
                    "block": pa.array([n], pa.int32()),
                    "local": [local[part].tobytes()],
                    "other": [positions[other][part].astype(np.int32).tobytes()],
                    "rating": [rating[part].astype(np.float32).tobytes()],
                    "held_out": [held_out[part].astype(np.bool_).tobytes()],
                }
            )


def _assemble(batches: Iterator[pa.RecordBatch], sizes: Int64s) -> Iterator[pa.RecordBatch]:
    """All chunks of this partition's block → the block."""
    rows = [row for batch in batches for row in batch.to_pylist()]
    for block in sorted({row["block"] for row in rows}):
        parts = [row for row in rows if row["block"] == block]

        def joined(name: str, dtype: type, parts: list[dict[str, Any]] = parts) -> Any:
            return np.concatenate([np.frombuffer(part[name], dtype) for part in parts])

        yield _to_batch(
            block,
            build_block(
                joined("local", np.int32),
                joined("other", np.int32),
                joined("rating", np.float32),
                joined("held_out", np.bool_),
                int(sizes[block]),
            ),
        )


def _to_batch(block: int, content: RatingBlock) -> pa.RecordBatch:
    train, held_out = content.train, content.validation
    return pa.RecordBatch.from_pydict(
        {
            "block": pa.array([block], pa.int32()),
            "needed": [content.needed.tobytes()],
            "indptr": [train.indptr.tobytes()],
            "columns": [train.columns.tobytes()],
            "ratings": [train.values.tobytes()],
            "held_out_indptr": [held_out.indptr.tobytes()],
            "held_out_columns": [held_out.columns.tobytes()],
            "held_out_ratings": [held_out.values.tobytes()],
            "n_needed": [len(content.needed)],
            "n_held_out": [len(held_out.values)],
        }
    )


def cell(batch: pa.RecordBatch, name: str, row: int, dtype: type) -> Any:
    """A binary cell as an array of ``dtype``, without a copy."""
    return np.frombuffer(batch.column(name)[row].as_buffer(), dtype)


def read_block(batch: pa.RecordBatch, row: int) -> RatingBlock:
    """The block in row ``row`` of a batch of the table of a :class:`BlockedSide`."""

    def csr(prefix: str) -> Csr:
        return Csr(
            cell(batch, f"{prefix}indptr", row, np.int64),
            cell(batch, f"{prefix}columns", row, np.int32),
            cell(batch, f"{prefix}ratings", row, np.float32),
        )

    return RatingBlock(csr(""), csr("held_out_"), cell(batch, "needed", row, np.int32))
