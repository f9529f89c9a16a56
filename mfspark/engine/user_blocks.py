"""Blocks of users for SGD: the ratings of each, ordered by the block of items they belong to."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from mfspark.columns import USER, Side
from mfspark.engine.block_files import (
    Arrays,
    BlockFiles,
    FiledBlocks,
    delete_at_exit,
    file_blocks,
    unique_name,
)
from mfspark.engine.blocks import assemble_whole, locate_ratings
from mfspark.engine.encoded import EncodedRatings
from mfspark.engine.index import Layout, SideIndex
from mfspark.engine.workspace import Workspace
from mfspark.kernels.arrays import Int64s
from mfspark.kernels.csr import Csr
from mfspark.kernels.sgd import Entries, entries_of, split


@dataclass(frozen=True)
class UserBlockFormat:
    """Where each stratum of the block ends, int64 [n_item_blocks + 1]; the entries of its strata
    one after another, whose columns count within their block of items; and the CSR of its
    validation ratings, whose columns are positions of items."""

    items: Layout
    dtypes: ClassVar[tuple[type, ...]] = (
        np.int64, np.int32, np.int32, np.float32, np.int64, np.int32, np.float32,
    )  # fmt: skip
    about_schema: ClassVar[str] = "n_ratings: bigint, n_validation: bigint"

    def arrays(self, chunks: pa.Table, layout: Layout, n_fixed: int) -> Arrays:
        """See ``BlockFormat``."""
        content = assemble_whole(chunks, layout, n_fixed)
        entries = entries_of(content.train)
        offsets = self.items.offsets
        # Of blocks that begin at the same position all but the last are empty.
        block = np.searchsorted(offsets, entries.columns, side="right") - 1
        local = (entries.columns - offsets[block]).astype(np.int32)
        parts = split(entries._replace(columns=local), block, self.items.n_blocks)
        ends = np.cumsum([0, *[len(part.rows) for part in parts]]).astype(np.int64)
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        return [ends, *columns, *content.validation]

    def counts(self, arrays: Arrays) -> dict[str, int]:
        """See ``BlockFormat``."""
        return {"n_ratings": len(arrays[3]), "n_validation": len(arrays[-1])}

    def about(self, arrays: Arrays) -> dict[str, int | bytes]:
        """See ``BlockFormat``."""
        return dict(self.counts(arrays))


@dataclass(frozen=True)
class UserBlocks:
    """Ratings by block of users, and where the items are."""

    blocks: FiledBlocks
    items: Layout

    @property
    def n_validation(self) -> int:
        """Validation ratings of users and items that have training ratings."""
        return self.blocks.totals["n_validation"]


def build_user_blocks(
    workspace: Workspace, encoded: EncodedRatings, indices: dict[Side, SideIndex]
) -> UserBlocks:
    """Blocks of ``encoded`` ratings."""
    users, items = (indices[side].layout for side in Side)
    located = locate_ratings(workspace, encoded, indices)
    files = BlockFiles(unique_name(), USER, UserBlockFormat(items), users, items.n_rows)
    delete_at_exit(workspace, files.fit, users.n_blocks)
    blocks = file_blocks(workspace, located.chunks(USER), files, indices[USER].n_ratings)
    located.release(workspace)
    return UserBlocks(blocks, items)


@dataclass(frozen=True)
class UserBlock:
    """What the file of a block of users holds, memory-mapped."""

    ends: Int64s
    entries: Entries
    validation: Csr

    def stratum(self, item_block: int) -> Entries:
        """A copy of what the block shares with a block of items; columns are local there."""
        at = slice(self.ends[item_block], self.ends[item_block + 1])
        rows, columns, values = self.entries
        return Entries(rows[at].copy(), columns[at].copy(), values[at].copy())


def open_user_block(files: BlockFiles, block: int) -> UserBlock | None:
    """The ratings of a block of users in a file of this node; None where there is no such file."""
    arrays = files.open(block)
    return None if arrays is None else UserBlock(arrays[0], Entries(*arrays[1:4]), Csr(*arrays[4:]))
