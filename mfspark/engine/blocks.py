"""From ratings to rating blocks of both sides, in one pass over the rows.

Each task packs its rows into one chunk per block and side; the chunks, not the rows, are shuffled
to the partition of their block and assembled there.

A half-step does not read blocks through Spark, which would move them from the JVM to Python each
time: the node that assembles a block keeps it in a file, which its tasks map into memory. The
table of the chunks stands behind the files, for a task that Spark runs on another node.
"""

import os
import tempfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.storagelevel import StorageLevel

from mfspark.columns import HELD_OUT, ITEM, RATING, USER
from mfspark.engine.cells import ROWS_PER_PACK, packs, values
from mfspark.engine.index import Layout, SideIndex
from mfspark.engine.workspace import Workspace
from mfspark.kernels.csr import Csr, Int32s, RatingBlock, build_block, compact

_CHUNK_SCHEMA = "side string, block int, rows binary, others binary, rating binary, held_out binary"
_NEEDED_SCHEMA = "block int, needed binary, n_needed long, n_held_out long"


@dataclass(frozen=True)
class BlockFiles:
    """What it takes to make the files of one side's blocks: a name, the layout, and the number of
    fixed rows."""

    name: str
    layout: Layout
    n_fixed: int

    def path(self, block: int) -> Path:
        """Where a node keeps a block: with Spark's own temporary files."""
        folder = os.environ.get("SPARK_LOCAL_DIRS", tempfile.gettempdir()).split(",")[0]
        return Path(folder) / f"{self.name}-{block}.arrow"


@dataclass(frozen=True)
class BlockedSide:
    """The rating blocks of one solved side, a partition per block.

    ``chunks``: what blocks are assembled of; ``places``: block int, the same partitions without
    their payload; ``needed``: block int, needed binary (int32, the positions of the fixed rows that
    the block refers to). All are pinned. ``n_needed`` is the sum over blocks of the fixed rows each
    needs, ``n_held_out`` the number of validation ratings.
    """

    chunks: DataFrame
    places: DataFrame
    needed: DataFrame
    files: BlockFiles
    n_needed: int
    n_held_out: int


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

    def build(side: str) -> BlockedSide:
        other = layouts[ITEM if side == USER else USER]
        files = BlockFiles(f"{name}-{side}", layouts[side], other.n_rows)
        chunks, places = place_chunks(workspace, packed, side, files.layout.n_blocks)
        needed = workspace.pin(chunks.mapInArrow(partial(_make_file, files=files), _NEEDED_SCHEMA))
        workspace.on_exit(
            lambda: places.mapInArrow(partial(delete_file, files=files), "block int").collect()
        )
        totals = needed.agg(F.sum("n_needed"), F.sum("n_held_out")).first()
        assert totals is not None
        return BlockedSide(chunks, places, needed.select("block", "needed"), files, *totals)

    with ThreadPoolExecutor(len(layouts)) as pool:
        blocked = dict(zip(layouts, pool.map(build, layouts), strict=True))
    workspace.release(packed)
    return blocked


def unique_name() -> str:
    """What the names of all files of a fit begin with."""
    return f"mfspark-{uuid.uuid4().hex}"


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


def place_chunks(
    workspace: Workspace, packed: DataFrame, side: str, n_blocks: int
) -> tuple[DataFrame, DataFrame]:
    """Chunks of a side, a partition per block, and ``places``: block int, the same partitions."""
    chunks = workspace.pin(
        packed.where(F.col("side") == side).drop("side").repartitionById(n_blocks, F.col("block")),
        StorageLevel.DISK_ONLY,
    )
    # No step in Python: after one, Spark no longer knows that a partition is a block.
    return chunks, workspace.pin(chunks.select("block").distinct())


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


def assemble(chunks: pa.Table, files: BlockFiles) -> tuple[RatingBlock, Int32s]:
    """The block that all its chunks make, and the positions of the fixed rows that it needs, which
    its columns refer to."""
    needed, columns = compact(_joined(chunks, "others", np.int32), files.n_fixed)
    return _assemble(chunks, files, columns, len(needed)), needed


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


def _make_file(batches: Iterator[pa.RecordBatch], files: BlockFiles) -> Iterator[pa.RecordBatch]:
    """Assemble the block of this partition, and keep it in a file of this node."""
    parts = [batch for batch in batches if batch.num_rows]
    if not parts:
        return
    chunks = pa.Table.from_batches(parts)
    content, needed = assemble(chunks, files)
    block = chunks["block"][0].as_py()
    write_block(files.path(block), content, needed)
    yield pa.RecordBatch.from_arrays(
        [
            pa.array([block], pa.int32()),
            pa.array([needed.tobytes()]),
            pa.array([len(needed)]),
            pa.array([content.validation.n_entries]),
        ],
        names=["block", "needed", "n_needed", "n_held_out"],
    )


def write_block(path: Path, content: RatingBlock, needed: Int32s) -> None:
    """Write a block for ``open_block``."""
    write_arrays(path, [needed, *content.train, *content.validation])


def write_arrays(path: Path, arrays: list[npt.NDArray[Any]]) -> None:
    """Write arrays for ``open_arrays``; the file appears whole or not at all."""
    batch = pa.RecordBatch.from_pydict({str(n): [part.tobytes()] for n, part in enumerate(arrays)})
    # Two attempts at one task may write at a time.
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    with pa.OSFile(str(unfinished), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    unfinished.replace(path)


def open_block(path: Path) -> tuple[RatingBlock, Int32s] | None:
    """The block in a file of this node, memory-mapped, with the positions of the fixed rows that
    it needs; None when there is no such file."""
    arrays = open_arrays(path, (np.int32, *2 * (np.int64, np.int32, np.float32)))
    if arrays is None:
        return None
    return RatingBlock(Csr(*arrays[1:4]), Csr(*arrays[4:])), arrays[0]


def open_arrays(path: Path, dtypes: tuple[type, ...]) -> list[Any] | None:
    """The arrays in a file of this node, memory-mapped; None when there is no such file."""
    try:
        source = pa.memory_map(str(path))
    except FileNotFoundError:
        return None
    batch = pa.ipc.open_file(source).get_batch(0)
    return [cell(batch, str(n), 0, dtype) for n, dtype in enumerate(dtypes)]


def delete_file(batches: Iterator[pa.RecordBatch], files: BlockFiles) -> Iterator[pa.RecordBatch]:
    """Delete the files of the blocks in these rows from this node."""
    for batch in batches:
        for block in batch.column("block"):
            files.path(block.as_py()).unlink(missing_ok=True)
        yield batch.slice(0, 0)


def cell(batch: pa.RecordBatch, name: str, row: int, dtype: type) -> Any:
    """A binary cell as an array of ``dtype``, without a copy."""
    return np.frombuffer(values(batch.column(name))[row], dtype)
