"""Files of blocks: what a node keeps from stage to stage, and work done where it lies.

Reading a block through Spark would move it from the JVM to Python each time. So the node that makes
a block keeps it in a file, which its tasks map into memory. The table of the chunks that the block
was made of stands behind the file, for a task that Spark runs on another node.
"""

import gc
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame, Row

from mfspark.engine.cells import values
from mfspark.engine.index import Layout
from mfspark.engine.workspace import Workspace

Arrays = list[npt.NDArray[Any]]


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

    def open(
        self,
        block: int,
        dtypes: tuple[type, ...],
        chunks: pa.Table | None,
        make: Callable[[pa.Table, "BlockFiles"], Arrays],
    ) -> Arrays | None:
        """The arrays of a block, memory-mapped; a file that is not there is made of the chunks.

        None when there are no chunks either.
        """
        arrays = open_arrays(self.path(block), dtypes)
        if arrays is None and chunks is not None:
            write_arrays(self.path(block), make(chunks, self))
            arrays = open_arrays(self.path(block), dtypes)
        return arrays


def unique_name() -> str:
    """What the names of all files of a fit begin with."""
    return f"mfspark-{uuid.uuid4().hex}"


def make_files(
    workspace: Workspace,
    placed: tuple[DataFrame, DataFrame],
    files: BlockFiles,
    make: Callable[[pa.Table, BlockFiles], Arrays],
    describe: Callable[[int, Arrays], pa.RecordBatch],
    schema: str,
) -> DataFrame:
    """Have each node make the files of its blocks, until the fit ends; what ``describe`` says of
    the number and the arrays of each, pinned.

    ``placed``: the chunks and the places of :func:`mfspark.engine.blocks.place_chunks`.
    """
    chunks, places = placed
    workspace.on_exit(
        lambda: places.mapInArrow(partial(delete_file, files=files), "block int").collect()
    )
    return workspace.pin(
        chunks.mapInArrow(partial(make_file, files=files, make=make, describe=describe), schema)
    )


def make_file(
    batches: Iterator[pa.RecordBatch],
    files: BlockFiles,
    make: Callable[[pa.Table, BlockFiles], Arrays],
    describe: Callable[[int, Arrays], pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    """Make the file of the block whose chunks a partition holds."""
    parts = [batch for batch in batches if batch.num_rows]
    if not parts:
        return
    chunks = pa.Table.from_batches(parts)
    block, arrays = chunks["block"][0].as_py(), make(chunks, files)
    write_arrays(files.path(block), arrays)
    yield describe(block, arrays)


def delete_file(batches: Iterator[pa.RecordBatch], files: BlockFiles) -> Iterator[pa.RecordBatch]:
    """Delete the files of the blocks in these rows from this node."""
    for batch in batches:
        for block in batch.column("block"):
            files.path(block.as_py()).unlink(missing_ok=True)
        yield batch.slice(0, 0)


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Write arrays for ``open_arrays``; the file appears whole or not at all."""
    batch = pa.RecordBatch.from_pydict({str(n): [part.tobytes()] for n, part in enumerate(arrays)})
    # Two attempts at one task may write at a time.
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    with pa.OSFile(str(unfinished), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    unfinished.replace(path)


def open_arrays(path: Path, dtypes: tuple[type, ...]) -> Arrays | None:
    """The arrays in a file of this node, memory-mapped; None when there is no such file."""
    try:
        source = pa.memory_map(str(path))
    except FileNotFoundError:
        return None
    batch = pa.ipc.open_file(source).get_batch(0)
    return [
        np.frombuffer(values(column)[0], dtype)
        for column, dtype in zip(batch.columns, dtypes, strict=True)
    ]


def work_at_files(
    workspace: Workspace,
    chunks: DataFrame,
    arrived: DataFrame,
    work: Callable[..., pa.RecordBatch],
    schema: str,
) -> tuple[DataFrame, list[Row]]:
    """Do ``work`` on every block where its file is: the rows it makes, and all but their ``rows``.

    ``arrived``: block int and what was sent to it, a partition per block. ``work`` is given that as
    a table; in the rows it makes, ``metrics`` that are null say that the file of the block is not
    on this node. Then Spark ran a task elsewhere, and everything is done again the slow way, with
    the block's ``chunks`` as a second argument.
    """

    def done(made: DataFrame) -> tuple[DataFrame, list[Row]]:
        made = workspace.cut(made)
        return made, made.drop("rows").collect()

    made, rows = done(arrived.mapInArrow(partial(_from_file, work=work), schema))
    if any(row["metrics"] is None for row in rows):
        made, rows = done(
            chunks.groupBy("block")
            # Two columns that come from one are ambiguous to Spark.
            .cogroup(arrived.withColumnRenamed("block", "target").groupBy("target"))
            .applyInArrow(_from_chunks(work), schema)
        )
    return made, rows


def _from_file(
    batches: Iterator[pa.RecordBatch], work: Callable[..., pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    parts = [batch for batch in batches if batch.num_rows]
    if parts:
        yield work(pa.Table.from_batches(parts))
        _spare_libraries()


def _from_chunks(
    work: Callable[..., pa.RecordBatch],
) -> Callable[[pa.Table, pa.Table], pa.Table]:
    # Spark looks at the number of parameters, so partial() will not do.
    def work_from_chunks(chunks: pa.Table, arrived: pa.Table) -> pa.Table:
        names = ["block" if name == "target" else name for name in arrived.column_names]
        return pa.Table.from_batches([work(arrived.rename_columns(names), chunks)])

    return work_from_chunks


@cache
def _spare_libraries() -> None:
    """Once per Python worker: have the garbage collector pass over what is loaded by now.

    Spark's worker collects garbage after each task. With numba loaded that takes 0.1 s, as long as
    a small half-step.
    """
    gc.collect()
    gc.freeze()
