"""Files of blocks: what a node keeps from stage to stage, and work done where it lies.

Reading a block through Spark would move it from the JVM to Python each time. So the task that
assembles a block keeps it in a file of its node, which later tasks map into memory. ``places``, the
table that these tasks make, is persisted: Spark then prefers to run a task of the block on the
executor that has its file, and where the place is lost with an executor, the task that makes it
anew makes the file, too. A task that runs without the file all the same (Spark does not wait for a
busy executor, and files get damaged) says so, and the work on its block is done again from the
chunks that the block is made of. Where Spark itself computes a lost table again and meets no file,
whoever reads the table finds nulls (``LostCellError``); then all files are made again. And where
the ratings that it computes again come in another order, of which packs and chunks are made, blocks
could lose some and hold others twice: each is known by its number of ratings, and where that is
another one (``ChangedRatingsError``), all blocks are made again from the ratings.
"""

import gc
import logging
import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import arrow_udf
from pyspark.sql.types import LongType
from pyspark.storagelevel import StorageLevel
from typing_extensions import Self

from mfspark.columns import Side
from mfspark.engine.cells import ChangedRatingsError, cells_of, from_cell, to_cell, values
from mfspark.engine.index import Layout
from mfspark.engine.kept_cells import KeptCells
from mfspark.engine.plan import CLOSURE_BYTES, Keep
from mfspark.engine.recovery import executor_folders, recovering
from mfspark.engine.workspace import Workspace
from mfspark.errors import FitError
from mfspark.kernels.arrays import Int64s

logger = logging.getLogger("mfspark")

Arrays = list[npt.NDArray[Any]]

CHUNK_COLUMNS = ("block", "is_validation", "rows", "counts", "others", "rating", "palette")

FILES_LOST = (
    "a file of ratings that a task had just written was not there for the next step: the "
    "executors' scratch folders lose files; check their disks (spark.local.dir)"
)
_PREFIX = "mfspark-block-"
# Nobody opened such a file for so long: its fit is dead. Every use makes a file young again.
_ABANDONED_SECONDS = 24 * 3600
# The last fits of this process that have ended.
_ended: deque[str] = deque(maxlen=100)


class BlockFormat(Protocol):
    """What the file of a block holds."""

    @property
    def dtypes(self) -> tuple[type, ...]:
        """Types of the arrays."""

    @property
    def about_schema(self) -> str:
        """Names and types of what is told of a block."""

    def arrays(self, chunks: pa.Table, layout: Layout, n_fixed: int) -> Arrays:
        """The block that all its chunks make; ``n_fixed``: rows of the other side."""

    def counts(self, arrays: Arrays) -> dict[str, int]:
        """Numbers that are told of a block, at least ``n_ratings`` and ``n_validation``: of its
        training and validation ratings."""

    def about(self, arrays: Arrays) -> dict[str, int | bytes]:
        """What is told of a block: a row of ``about_schema``, its ``counts`` included."""


@dataclass(frozen=True)
class BlockFiles:
    """What it takes to make the files of one side's blocks: names of the fit and of the side, the
    format, the layout, and the number of rows of the other side; and when they have been made once,
    how many training and validation ratings each of them has, int64 [n_blocks]."""

    fit: str
    side: Side
    format: BlockFormat
    layout: Layout
    n_fixed: int
    n_of_block: Int64s | None = None

    def make(self, chunks: pa.Table) -> dict[str, int | bytes]:
        """Keep the block that ``chunks`` make on this node, in the first folder that has room;
        what is told of it."""
        arrays = self.format.arrays(chunks, self.layout, self.n_fixed)
        self._write(chunks["block"][0].as_py(), arrays)
        return self.format.about(arrays)

    def _write(self, block: int, arrays: Arrays) -> None:
        for folder in executor_folders():
            try:
                return write_arrays(self._in(folder, block), arrays)
            except OSError as error:
                problem = error
        raise problem

    def open(self, block: int) -> Arrays | None:
        """The arrays of a block, memory-mapped; None where this node has no whole file of it.
        Raises ``ChangedRatingsError`` where it has others than when it was made first."""
        for folder in executor_folders():
            arrays = open_arrays(self._in(folder, block), self.format.dtypes)
            if arrays is not None:
                self._check(block, _n_of_both(self.format.counts(arrays)))
                return arrays
        return None

    def _check(self, block: int, found: int) -> None:
        if self.n_of_block is not None and found != self.n_of_block[block]:
            raise ChangedRatingsError(
                f"block {block} of {self.side}s was made of {self.n_of_block[block]} ratings and "
                f"then of {found}"
            )

    def _in(self, folder: Path, block: int) -> Path:
        return folder / f"{_PREFIX}{self.fit}-{self.side}-{block}.arrow"


@dataclass(frozen=True)
class Delivery:
    """Rows on their way to blocks: each of ``targeted`` to the block that its column ``target``
    names, those of ``for_all`` to every block; where there are both, every pair of them.

    Targeted rows come from the driver (``is_small``: one stage is enough), or are shuffled to the
    places, each task running where the file of its block is. ``in_closure``: an Arrow stream of
    rows that travel with the code of the tasks instead, which takes neither a job nor a join; those
    that name no target are for all.
    """

    targeted: DataFrame | None = None
    for_all: DataFrame | None = None
    is_small: bool = False
    in_closure: bytes | None = None

    @classmethod
    def with_code(cls, *tables: pa.Table | None) -> Self | None:
        """The rows of some tables in the closure; None where one of them is not on the driver, or
        they are too big for it."""
        on_driver = [table for table in tables if table is not None]
        n_bytes = sum(table.nbytes for table in on_driver)
        if len(on_driver) < len(tables) or n_bytes > CLOSURE_BYTES:
            return None
        return cls(in_closure=to_cell(pa.concat_tables(on_driver, promote_options="default")))

    def at(self, places: DataFrame) -> DataFrame:
        """``places`` (block int: a partition per block), each with the rows that it is sent."""
        if self.targeted is not None:
            is_target = F.col("block") == F.col("target")
            if self.is_small:
                places = places.join(F.broadcast(self.targeted), is_target)
            else:
                places = places.hint("shuffle_hash").join(self.targeted, is_target)
        return places if self.for_all is None else places.crossJoin(F.broadcast(self.for_all))


@dataclass(frozen=True)
class FiledBlocks:
    """Blocks of one side, a partition each.

    ``chunks``: what they are made of. ``places``: block int, ``about`` struct (what the maker of
    the file says of it); both persisted. ``totals``: sums over the blocks of its numbers.
    """

    files: BlockFiles
    chunks: DataFrame
    places: DataFrame
    make_file: Any
    totals: dict[str, int]

    @cached_property
    def placed(self) -> DataFrame:
        """Block int, for tasks where the files are."""
        return self.places.select("block")

    def placed_anew(self, blocks: list[int]) -> DataFrame:
        """``placed`` of some blocks, whose files are made in the task that asks."""
        chunks = self.chunks.where(F.col("block").isin(blocks))
        # Who does not look at what the maker says does not have the file made.
        made = _make_places(chunks, self.make_file).where(F.col("about").isNotNull())
        return made.select("block")


def unique_name() -> str:
    """A name for the files of a fit."""
    return uuid.uuid4().hex


def delete_at_exit(workspace: Workspace, fit: str, n_blocks: int) -> None:
    """Have all files of a fit deleted when it ends, those of executors that were lost on the way
    included where another one runs on their node; where none does yet, a later fit deletes them.
    """
    # More tasks than cores, so that no executor is left out.
    tasks = workspace.spark.range(0, 2 * n_blocks, 1, 2 * n_blocks)

    def delete() -> None:
        _ended.append(fit)
        tasks.mapInArrow(partial(_delete, fits=frozenset(_ended)), "id long").collect()

    workspace.on_exit(delete)


def _delete(batches: Iterator[pa.RecordBatch], fits: frozenset[str]) -> Iterator[pa.RecordBatch]:
    for folder in executor_folders():
        for place in ("", "../blockmgr-*/"):
            for path in folder.glob(f"{place}{_PREFIX}*"):
                if path.name.removeprefix(_PREFIX).partition("-")[0] in fits:
                    path.unlink(missing_ok=True)
    for batch in batches:
        yield batch.slice(0, 0)


def file_blocks(
    workspace: Workspace, packed: DataFrame, files: BlockFiles, n_ratings: int
) -> FiledBlocks:
    """Bring the ``packed`` chunks of a side together and have a file made of each block, of
    ``n_ratings`` training ratings in all.

    Raises ``FitError`` where they are others time and again.
    """
    n_blocks = files.layout.n_blocks
    chunks = workspace.persist(
        packed.repartitionById(n_blocks, F.col("block")),
        StorageLevel.DISK_ONLY,
        made_of="ratings",
    )

    def make_file(*columns: pa.Array) -> pa.Scalar:
        remove_abandoned()
        return pa.scalar(files.make(pa.table(list(columns), names=list(CHUNK_COLUMNS))))

    # An aggregate: Spark still knows that a partition is a block, after a map it would not.
    aggregate = arrow_udf(make_file, f"struct<{files.format.about_schema}>")  # type: ignore[call-overload]
    places = workspace.persist(_make_places(chunks, aggregate), made_of="files")
    chunks = workspace.partitioned(chunks, n_blocks, "block")
    places = workspace.partitioned(places, n_blocks, "block")
    counts = recovering(workspace, n_blocks, lambda: _counts_of_all(places, n_ratings))
    every = list(counts.values())
    n_of_block = np.zeros(n_blocks, np.int64)
    n_of_block[list(counts)] = [_n_of_both(each) for each in every]
    totals = {name: sum(each[name] for each in every) for name in every[0]}
    return FiledBlocks(replace(files, n_of_block=n_of_block), chunks, places, aggregate, totals)


def _counts_of_all(places: DataFrame, n_ratings: int) -> dict[int, dict[str, int]]:
    """The ``counts`` of all blocks, whose files are made if they are not yet."""
    about = places.select("about.*").schema
    numbers = [field.name for field in about if isinstance(field.dataType, LongType)]
    rows = places.select("block", *[f"about.{name}" for name in numbers]).collect()
    found = sum(row["n_ratings"] for row in rows)
    if found != n_ratings:
        raise ChangedRatingsError(
            f"{n_ratings} training ratings were counted, and {found} came into blocks"
        )
    return {row["block"]: {name: row[name] for name in numbers} for row in rows}


def _n_of_both(counts: dict[str, int]) -> int:
    return counts["n_ratings"] + counts["n_validation"]


def _make_places(chunks: DataFrame, make_file: Any) -> DataFrame:
    return chunks.groupBy("block").agg(make_file(*CHUNK_COLUMNS).alias("about"))


@cache
def remove_abandoned() -> None:
    """Once per Python worker: delete files that fits of this user left when they were killed."""
    for folder in executor_folders():
        root = folder
        while root.parent != root and root.name.startswith(("blockmgr-", "executor-", "spark-")):
            root = root.parent
        for pattern in ("", "blockmgr-*/", "spark-*/blockmgr-*/", "spark-*/executor-*/blockmgr-*/"):
            for path in root.glob(f"{pattern}{_PREFIX}*"):
                # Another task may be faster.
                with suppress(OSError):
                    found = path.stat()
                    is_own = not hasattr(os, "getuid") or found.st_uid == os.getuid()
                    if is_own and time.time() - found.st_mtime > _ABANDONED_SECONDS:
                        path.unlink()


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Write arrays for ``open_arrays``; the file appears whole or not at all."""
    whole = np.zeros(1, np.int64)
    batch = pa.RecordBatch.from_pydict(
        {str(n): cells_of(part, whole) for n, part in enumerate(arrays)}
    )
    # Two attempts at one task may write at a time.
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        with (
            pa.OSFile(str(unfinished), "wb") as sink,
            pa.ipc.new_file(sink, batch.schema) as writer,
        ):
            writer.write_batch(batch)
        unfinished.replace(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise


def open_arrays(path: Path, dtypes: tuple[type, ...]) -> Arrays | None:
    """The arrays in a file of this node, memory-mapped; None when there is no whole file."""
    try:
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
        os.utime(path)
    except (OSError, pa.ArrowInvalid):
        return None
    return [
        np.frombuffer(values(column)[0], dtype)
        for column, dtype in zip(batch.columns, dtypes, strict=True)
    ]


def work_at_files(
    workspace: Workspace,
    blocks: FiledBlocks,
    delivery: Delivery,
    work: Callable[[pa.Table], pa.RecordBatch],
    schema: str,
    keep: Keep,
    columns: tuple[str, ...],
) -> tuple[KeptCells, pa.Table]:
    """Do ``work`` on every block where its file is: ``columns`` of the rows it makes, kept as
    ``keep`` says, and all but their ``rows``.

    ``work`` is given what was sent to one block. In the rows that it makes, ``sums`` that are null
    say that the file of the block is not on this node; ``number`` is the block's. Such work is done
    again where the file is made again.
    """

    def made(places: DataFrame) -> DataFrame:
        return delivered(delivery, places, partial(_as_one, work=work), schema)

    n_blocks = blocks.files.layout.n_blocks
    kept, found = recovering(
        workspace, n_blocks, lambda: workspace.keep(made(blocks.placed), keep, columns)
    )
    missing = found.filter(pc.is_null(found["sums"]))["number"].to_pylist()
    if not missing:
        return kept, found
    logger.debug("the files of %d blocks are not where they are needed", len(missing))
    again, found_again = recovering(
        workspace,
        n_blocks,
        lambda: workspace.keep(made(blocks.placed_anew(missing)), keep, columns),
    )
    if found_again["sums"].null_count:
        raise FitError(FILES_LOST)
    found = pa.concat_tables([found.filter(pc.is_valid(found["sums"])), found_again])
    return kept.mended(missing, again, keep), found.sort_by("number")


def delivered(
    delivery: Delivery,
    places: DataFrame,
    work: Callable[[pa.Table], Iterator[pa.RecordBatch]],
    schema: str,
) -> DataFrame:
    """What ``work`` makes of what each of the ``places`` is sent."""
    do = partial(_work, work=work, in_closure=delivery.in_closure)
    return delivery.at(places).mapInArrow(do, schema)


def _as_one(
    arrived: pa.Table, work: Callable[[pa.Table], pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    yield work(arrived)


def _work(
    batches: Iterator[pa.RecordBatch],
    work: Callable[[pa.Table], Iterator[pa.RecordBatch]],
    in_closure: bytes | None,
) -> Iterator[pa.RecordBatch]:
    parts = [batch for batch in batches if batch.num_rows]
    if parts:
        arrived = pa.Table.from_batches(parts)
        if in_closure is not None:
            arrived = _sent_to(arrived["block"][0], in_closure)
        yield from work(arrived)
        _spare_libraries()


def _sent_to(block: pa.Scalar, in_closure: bytes) -> pa.Table:
    """The rows for a block, as if they had come with it."""
    rows = from_cell(pa.py_buffer(in_closure))
    if "target" in rows.column_names:
        is_own = pc.fill_null(pc.equal(rows["target"], block), fill_value=True)
        rows = rows.filter(is_own)
    return rows.append_column("block", pa.repeat(block, rows.num_rows))


@cache
def _spare_libraries() -> None:
    """Once per Python worker: have the garbage collector pass over what is loaded by now.

    Spark's worker collects garbage after each task. With numba loaded that takes 0.1 s, as long as
    a small half-step.
    """
    gc.collect()
    gc.freeze()
