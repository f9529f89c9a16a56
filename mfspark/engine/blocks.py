"""From ratings to rating blocks of both sides, in one pass over the rows.

Each task packs its rows into one chunk per block and side; the chunks, not the rows, are shuffled
to the partition of their block and assembled there, into a file of the node.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.columns import HELD_OUT, ITEM, RATING, USER
from mfspark.engine.block_files import (
    Arrays,
    BlockFiles,
    FiledBlocks,
    delete_at_exit,
    file_blocks,
    unique_name,
)
from mfspark.engine.cells import ROWS_PER_PACK, packs, values
from mfspark.engine.index import Layout, SideIndex
from mfspark.engine.workspace import Workspace
from mfspark.kernels.csr import Csr, Int32s, RatingBlock, build_block, compact

_CHUNK_SCHEMA = "side string, block int, rows binary, others binary, rating binary, held_out binary"
_ABOUT = "needed: binary, n_needed: bigint, n_held_out: bigint"


@dataclass(frozen=True)
class BlockedSide:
    """The rating blocks of one solved side.

    Of each block ``blocks.places`` says in ``about.needed`` (int32) the positions of the fixed rows
    that it refers to. ``n_needed`` is the sum over blocks of the fixed rows each needs,
    ``n_held_out`` the number of validation ratings.
    """

    blocks: FiledBlocks
    n_needed: int
    n_held_out: int

    @property
    def layout(self) -> Layout:
        """Where the rows of the side are."""
        return self.blocks.files.layout


def build_blocks(
    workspace: Workspace, ratings: DataFrame, indices: dict[str, SideIndex]
) -> dict[str, BlockedSide]:
    """User-major and item-major blocks of ``ratings`` (user, item, rating float, and maybe
    held_out boolean).

    Validation ratings whose user or item has no training rating belong to no block.
    """
    layouts = {side: index.layout for side, index in indices.items()}
    packed = pack_ratings(workspace, ratings, indices, (USER, ITEM))
    name = unique_name()
    n_blocks = max(layout.n_blocks for layout in layouts.values())
    delete_at_exit(workspace, name, n_blocks)

    def build(side: str) -> BlockedSide:
        other = layouts[ITEM if side == USER else USER]
        files = BlockFiles(name, side, layouts[side], other.n_rows)
        blocks = file_blocks(workspace, packed, side, files, block_arrays, _about, _ABOUT)
        totals = blocks.totals(workspace, "n_needed", "n_held_out")
        return BlockedSide(blocks, *totals)

    with ThreadPoolExecutor(len(layouts)) as pool:
        blocked = dict(zip(layouts, pool.map(build, layouts), strict=True))
    workspace.release(packed)
    return blocked


def pack_ratings(
    workspace: Workspace,
    ratings: DataFrame,
    indices: dict[str, SideIndex],
    sides: tuple[str, ...],
) -> DataFrame:
    """Chunks of the blocks of ``sides``, pinned where they were packed."""
    located = ratings
    for side, index in indices.items():
        ids = index.table.select(F.col("id").alias(side), F.col("position").alias(f"{side}_at"))
        located = located.join(ids, side)
    layouts = {side: index.layout for side, index in indices.items()}
    return workspace.pin(
        located.drop(USER, ITEM).mapInArrow(
            partial(_pack, layouts=layouts, sides=sides), _CHUNK_SCHEMA
        )
    )


def _pack(
    batches: Iterator[pa.RecordBatch], layouts: dict[str, Layout], sides: tuple[str, ...]
) -> Iterator[pa.RecordBatch]:
    for table in packs(batches, ROWS_PER_PACK):
        yield from _chunks(table, layouts, sides)


def _chunks(
    table: pa.Table, layouts: dict[str, Layout], sides: tuple[str, ...]
) -> Iterator[pa.RecordBatch]:
    """One row per (side, block) that occurs in the table."""
    positions = {side: table[f"{side}_at"].to_numpy() for side in layouts}
    rating = table[RATING].to_numpy()
    held_out = held_out_of(table).to_numpy()
    for side in sides:
        other = ITEM if side == USER else USER
        block, row = layouts[side].locate(positions[side], positions[other])
        # Of short numbers numpy sorts the digits, not the values: four times as fast.
        short = block.astype(np.min_scalar_type(layouts[side].n_blocks))
        order = np.argsort(short, kind="stable")
        blocks, starts = np.unique(block[order], return_index=True)
        for n, part in zip(blocks, np.split(order, starts[1:]), strict=True):
            yield pa.RecordBatch.from_pydict(
                {
                    "side": [side],
                    "block": pa.array([n], pa.int32()),
                    "rows": [row[part].tobytes()],
                    "others": [positions[other][part].astype(np.int32).tobytes()],
                    "rating": [rating[part].astype(np.float32).tobytes()],
                    "held_out": [held_out[part].astype(np.bool_).tobytes()],
                }
            )


def held_out_of(table: pa.Table) -> Any:
    """The column ``held_out``; all false where there is none, to spare Spark a column."""
    if HELD_OUT in table.column_names:
        return table[HELD_OUT]
    return pa.chunked_array([pa.array(np.zeros(table.num_rows, np.bool_))])


def assemble_whole(chunks: pa.Table, files: BlockFiles) -> RatingBlock:
    """The block that all its chunks make; its columns are positions on the fixed side."""
    return _assemble(chunks, files, _joined(chunks, "others", np.int32), files.n_fixed)


def _assemble(chunks: pa.Table, files: BlockFiles, columns: Int32s, n_columns: int) -> RatingBlock:
    layout = files.layout
    return build_block(
        _joined(chunks, "rows", np.int32),
        columns,
        _joined(chunks, "rating", np.float32),
        _joined(chunks, "held_out", np.bool_),
        int(layout.sizes[chunks["block"][0].as_py()]) + layout.n_hot,
        n_columns,
    )


def _joined(chunks: pa.Table, column: str, dtype: type) -> Any:
    return np.concatenate([np.frombuffer(part, dtype) for part in values(chunks[column])])


# The positions of the fixed rows that a block needs, then the CSR of its training ratings and that
# of its validation ratings.
_DTYPES = (np.int32, *2 * (np.int64, np.int32, np.float32))


def block_arrays(chunks: pa.Table, files: BlockFiles) -> Arrays:
    """What the file of a block holds; its columns refer to the fixed rows that it needs."""
    needed, columns = compact(_joined(chunks, "others", np.int32), files.n_fixed)
    content = _assemble(chunks, files, columns, len(needed))
    return [needed, *content.train, *content.validation]


def open_block(files: BlockFiles, block: int) -> tuple[RatingBlock, Int32s] | None:
    """The block in a file of this node, memory-mapped, with the positions of the fixed rows that
    it needs; None where there is no such file."""
    arrays = files.open(block, _DTYPES)
    if arrays is None:
        return None
    return RatingBlock(Csr(*arrays[1:4]), Csr(*arrays[4:])), arrays[0]


def _about(arrays: Arrays) -> dict[str, Any]:
    needed, validation = arrays[0], arrays[-1]
    return {
        "needed": needed.tobytes(),
        "n_needed": len(needed),
        "n_held_out": len(validation),
    }
