"""Strata: the ratings that a block of users shares with a block of items, and who meets when.

Users and items are dealt out to B blocks each. An epoch has B sub-epochs; in each, every block of
users meets one block of items, a different one for each, so what is visited side by side never has
a row in common (Gemulla, Nijkamp, Haas, Sismanis: Large-scale matrix factorization with distributed
stochastic gradient descent, KDD 2011).
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame

from mfspark.columns import ITEM, USER
from mfspark.engine.block_files import (
    Arrays,
    BlockFiles,
    FiledBlocks,
    delete_at_exit,
    file_blocks,
    unique_name,
)
from mfspark.engine.blocks import assemble_whole, pack_ratings
from mfspark.engine.index import Layout, SideIndex
from mfspark.engine.workspace import Workspace
from mfspark.kernels.csr import Csr, Int32s, Int64s
from mfspark.kernels.sgd import Entries, entries_of, split

# In the file of a block of users: where each of its strata ends, their entries one after another,
# and the CSR of its validation ratings.
_DTYPES = (np.int64, np.int32, np.int32, np.float32, np.int64, np.int32, np.float32)


def draw_meetings(n_blocks: int, seed: int, epoch: int) -> list[list[tuple[int, int]]]:
    """Sub-epochs of an epoch: which block of items each block of users meets.

    A Latin square with its rows, columns and symbols drawn anew each epoch: every pair of blocks
    meets once, and no sub-epoch has a block twice.
    """
    rng = np.random.default_rng((seed % 2**63, epoch))
    users, items, turns = (rng.permutation(n_blocks) for _ in range(3))
    return [
        [(int(users[b]), int(items[(b + turn) % n_blocks])) for b in range(n_blocks)]
        for turn in turns
    ]


def draw_key(seed: int, epoch: int, user_block: int, item_block: int) -> int:
    """What the order of visits in a meeting is drawn from, 64 bits."""
    words = np.random.SeedSequence((seed % 2**63, epoch, user_block, item_block))
    return int(words.generate_state(1, np.uint64)[0])


def deal_out(n_rows: int, n_blocks: int) -> Int64s:
    """Positions in the order of the blocks that they are dealt out to in turn, int64 [n_rows].

    Positions go by popularity, so blocks are of about equal weight; in this order the rows of a
    block lie side by side in memory.
    """
    return np.concatenate([np.arange(block, n_rows, n_blocks) for block in range(n_blocks)])


def cut_strata(train: Csr, n_columns: int, n_blocks: int) -> list[list[Entries]]:
    """Training ratings by block of users and block of items: every rating is in one of them.

    Rows and columns are in the order of :func:`deal_out`.
    """
    entries = entries_of(train)
    user_block = _dealt_to(entries.rows, train.n_rows, n_blocks)
    item_block = _dealt_to(entries.columns, n_columns, n_blocks)
    parts = split(entries, user_block * n_blocks + item_block, n_blocks**2)
    return [parts[row * n_blocks : (row + 1) * n_blocks] for row in range(n_blocks)]


def _dealt_to(places: Int32s, n_rows: int, n_blocks: int) -> Int64s:
    sizes = [len(range(block, n_rows, n_blocks)) for block in range(n_blocks)]
    return np.repeat(np.arange(n_blocks), sizes)[places]


@dataclass(frozen=True)
class Strata:
    """Ratings by block of users, with ``n_held_out`` validation ratings."""

    blocks: FiledBlocks
    items: Layout
    n_held_out: int


def build_strata(workspace: Workspace, ratings: DataFrame, indices: dict[str, SideIndex]) -> Strata:
    """Strata of ``ratings`` (user, item, rating float, and maybe held_out boolean)."""
    users, items = (indices[side].layout for side in (USER, ITEM))
    packed = pack_ratings(workspace, ratings, indices, (USER,))
    files = BlockFiles(unique_name(), USER, users, items.n_rows)
    delete_at_exit(workspace, files.fit, users.n_blocks)
    make = partial(_arrays, items=items)
    blocks = file_blocks(workspace, packed, USER, files, make, _about, "n_held_out: bigint")
    (n_held_out,) = blocks.totals(workspace, "n_held_out")
    workspace.release(packed)
    return Strata(blocks, items, n_held_out)


def _about(arrays: Arrays) -> dict[str, Any]:
    return {"n_held_out": len(arrays[-1])}


def _arrays(chunks: pa.Table, files: BlockFiles, items: Layout) -> Arrays:
    content = assemble_whole(chunks, files)
    entries = entries_of(content.train)
    offsets = items.offsets
    # Of blocks that begin at the same position all but the last are empty.
    block = np.searchsorted(offsets, entries.columns, side="right") - 1
    local = (entries.columns - offsets[block]).astype(np.int32)
    parts = split(entries._replace(columns=local), block, items.n_blocks)
    ends = np.cumsum([0, *[len(part.rows) for part in parts]]).astype(np.int64)
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return [ends, *columns, *content.validation]


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
    arrays = files.open(block, _DTYPES)
    return None if arrays is None else UserBlock(arrays[0], Entries(*arrays[1:4]), Csr(*arrays[4:]))
