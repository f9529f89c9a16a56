"""From ratings to rating blocks of both sides, in one pass over the rows.

Each task packs its rows into one chunk per block and side; the chunks, not the rows, are shuffled
to the partition of their block and assembled there, into a file of the node.

Worked example. Five users and four items by position; users in two blocks of three and two rows:

                 item 0   item 1   item 2   item 3
    user 0         5                 3               block 0, row 0
    user 1         4                                 block 0, row 1
    user 2                           1               block 0, row 2
    user 3                  2                        block 1, row 0
    user 4                  4                 5      block 1, row 1

>>> layout = Layout(sizes=np.array([3, 2, 0]), shares=())  # no user is hot
>>> users, items = np.array([0, 0, 1, 2, 3, 4, 4]), np.array([0, 2, 0, 2, 1, 1, 3])
>>> block, row = layout.locate(users, items)
>>> block.tolist(), row.tolist()
([0, 0, 0, 0, 1, 1, 1], [0, 0, 1, 2, 0, 1, 1])

A chunk of block 1 holds whole columns, each as one binary value: rows in the block, positions on
the other side, ratings, and which are validation ratings.

>>> columns = {"rows": row[block == 1], "others": items[block == 1].astype(np.int32),
...            "rating": np.array([2, 4, 5], np.float32), "is_validation": np.zeros(3, bool)}
>>> chunk = pa.table({"block": [1]} | {name: [part.tobytes()] for name, part in columns.items()})

The file of block 1 holds the positions of the items that it needs, and its ratings as a CSR whose
columns are places among these: what it is sent in each half-step are the rows of items 1 and 3.

>>> needed, indptr, places, ratings, *validation = RatingBlockFormat().arrays(chunk, layout, 4)
>>> needed.tolist(), indptr.tolist(), places.tolist(), ratings.tolist()
([1, 3], [0, 1, 3], [0, 0, 1], [2.0, 4.0, 5.0])
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.algorithms.indexed_ratings import with_validation_column
from mfspark.columns import IS_VALIDATION, ITEM, RATING, USER, Side
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
from mfspark.kernels.arrays import Int32s
from mfspark.kernels.csr import Csr, RatingBlock, build_block, compact

_CHUNK_SCHEMA = (
    "side string, block int, rows binary, others binary, rating binary, is_validation binary"
)


@dataclass(frozen=True)
class RatingBlockFormat:
    """The positions of the rows of the other side that the block needs, int32; the CSR of its
    training ratings and that of its validation ratings, whose columns are places among these."""

    dtypes: ClassVar[tuple[type, ...]] = (np.int32, *2 * (np.int64, np.int32, np.float32))
    about_schema: ClassVar[str] = "needed: binary, n_needed: bigint, n_validation: bigint"

    def arrays(self, chunks: pa.Table, layout: Layout, n_fixed: int) -> Arrays:
        """See ``BlockFormat``."""
        needed, columns = compact(_joined(chunks, "others", np.int32), n_fixed)
        block = _assemble(chunks, layout, columns, len(needed))
        return [needed, *block.train, *block.validation]

    def about(self, arrays: Arrays) -> dict[str, int | bytes]:
        """See ``BlockFormat``."""
        needed, validation = arrays[0], arrays[-1]
        return {
            "needed": needed.tobytes(),
            "n_needed": len(needed),
            "n_validation": len(validation),
        }


@dataclass(frozen=True)
class BlockedSide:
    """The rating blocks of one solved side.

    Of each block ``blocks.places`` says in ``about.needed`` (int32) the positions of the fixed rows
    that it refers to. ``n_needed`` is the sum over blocks of the fixed rows each needs,
    ``n_validation`` the number of validation ratings.
    """

    blocks: FiledBlocks
    n_needed: int
    n_validation: int

    @property
    def layout(self) -> Layout:
        """Where the rows of the side are."""
        return self.blocks.files.layout


def build_blocks(
    workspace: Workspace, ratings: DataFrame, indices: dict[Side, SideIndex]
) -> dict[Side, BlockedSide]:
    """User-major and item-major blocks of ``ratings`` (user, item, rating float, and maybe
    is_validation boolean).

    Validation ratings whose user or item has no training rating belong to no block.
    """
    layouts = {side: index.layout for side, index in indices.items()}
    packed = pack_ratings(workspace, ratings, indices, tuple(Side))
    name = unique_name()
    n_blocks = max(layout.n_blocks for layout in layouts.values())
    delete_at_exit(workspace, name, n_blocks)

    def build(side: Side) -> BlockedSide:
        n_fixed = layouts[side.other].n_rows
        files = BlockFiles(name, side, RatingBlockFormat(), layouts[side], n_fixed)
        blocks = file_blocks(workspace, packed, files)
        n_needed, n_validation = blocks.totals(workspace, "n_needed", "n_validation")
        return BlockedSide(blocks, n_needed, n_validation)

    with ThreadPoolExecutor(len(layouts)) as pool:
        blocked = dict(zip(layouts, pool.map(build, layouts), strict=True))
    workspace.release(packed)
    return blocked


def pack_ratings(
    workspace: Workspace,
    ratings: DataFrame,
    indices: dict[Side, SideIndex],
    sides: tuple[Side, ...],
) -> DataFrame:
    """Chunks of the blocks of ``sides``, persisted where they were packed."""
    located = ratings
    for side, index in indices.items():
        ids = index.table.select(F.col("id").alias(side), F.col("position").alias(f"{side}_at"))
        located = located.join(ids, side)
    layouts = {side: index.layout for side, index in indices.items()}
    return workspace.persist(
        located.drop(USER, ITEM).mapInArrow(
            partial(_pack_chunks, layouts=layouts, sides=sides), _CHUNK_SCHEMA
        )
    )


def _pack_chunks(
    batches: Iterator[pa.RecordBatch], layouts: dict[Side, Layout], sides: tuple[Side, ...]
) -> Iterator[pa.RecordBatch]:
    for table in packs(batches, ROWS_PER_PACK):
        yield from _chunks(table, layouts, sides)


def _chunks(
    table: pa.Table, layouts: dict[Side, Layout], sides: tuple[Side, ...]
) -> Iterator[pa.RecordBatch]:
    """One row per (side, block) that occurs in the table."""
    positions = {side: table[f"{side}_at"].to_numpy() for side in layouts}
    rating = table[RATING].to_numpy()
    is_validation = with_validation_column(table)[IS_VALIDATION].to_numpy()
    for side in sides:
        others = positions[side.other]
        block, row = layouts[side].locate(positions[side], others)
        # Of short numbers numpy sorts the digits, not the values: four times as fast.
        short = block.astype(np.min_scalar_type(layouts[side].n_blocks))
        order = np.argsort(short, kind="stable")
        blocks, starts = np.unique(block[order], return_index=True)
        for n, part in zip(blocks, np.split(order, starts[1:]), strict=True):
            yield pa.RecordBatch.from_pydict(
                {
                    "side": [str(side)],
                    "block": pa.array([n], pa.int32()),
                    "rows": [row[part].tobytes()],
                    "others": [others[part].astype(np.int32).tobytes()],
                    "rating": [rating[part].astype(np.float32).tobytes()],
                    "is_validation": [is_validation[part].astype(np.bool_).tobytes()],
                }
            )


def assemble_whole(chunks: pa.Table, layout: Layout, n_fixed: int) -> RatingBlock:
    """The block that all its chunks make; its columns are positions on the other side."""
    return _assemble(chunks, layout, _joined(chunks, "others", np.int32), n_fixed)


def _assemble(chunks: pa.Table, layout: Layout, columns: Int32s, n_columns: int) -> RatingBlock:
    return build_block(
        _joined(chunks, "rows", np.int32),
        columns,
        _joined(chunks, "rating", np.float32),
        _joined(chunks, "is_validation", np.bool_),
        int(layout.sizes[chunks["block"][0].as_py()]) + layout.n_hot,
        n_columns,
    )


def _joined(chunks: pa.Table, column: str, dtype: type) -> Any:
    return np.concatenate([np.frombuffer(part, dtype) for part in values(chunks[column])])


def open_block(files: BlockFiles, block: int) -> tuple[RatingBlock, Int32s] | None:
    """The block in a file of this node, memory-mapped, with the positions of the fixed rows that
    it needs; None where there is no such file."""
    arrays = files.open(block)
    if arrays is None:
        return None
    return RatingBlock(Csr(*arrays[1:4]), Csr(*arrays[4:])), arrays[0]
