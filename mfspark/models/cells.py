"""Tables as binary cells: many rows travel as one value, through Spark and into Python whole."""

from collections.abc import Iterator

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

# A cell is worth its overhead, and a task can hold one beside the model.
_CELL_BYTES = 32 * 2**20


def with_tables(rows: DataFrame, tables: list[DataFrame]) -> DataFrame:
    """The rows of each partition as some cells, and beside the first of them each whole table.

    ``tables`` are broadcast, so they must be small. :func:`read` takes the cells apart again.
    """
    result = rows.mapInArrow(_pack, "number int, cell binary")
    for n, table in enumerate(tables):
        packed = table.repartition(1).mapInArrow(_pack_all, f"table{n} binary")
        result = result.crossJoin(F.broadcast(packed))
    # Once per partition is enough, and many copies could overflow an Arrow array (2 GiB).
    is_first = F.col("number") == 0
    return result.select(
        "cell", *[F.when(is_first, F.col(f"table{n}")) for n in range(len(tables))]
    )


def read(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[pa.Table, list[pa.Table]]]:
    """(rows, tables) of each cell of a partition; the tables are the same objects each time."""
    tables: list[pa.Table] = []
    for batch in batches:
        for n in range(batch.num_rows):
            cell, *beside = (column[n] for column in batch.columns)
            if beside[0].is_valid:
                tables = [_unpack(part) for part in beside]
            yield _unpack(cell), tables


def _unpack(cell: pa.Scalar) -> pa.Table:
    return pa.ipc.open_stream(cell.as_buffer()).read_all().combine_chunks()


def _pack(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    pending: list[pa.RecordBatch] = []
    number = 0
    for batch in batches:
        pending.append(batch)
        if sum(part.nbytes for part in pending) >= _CELL_BYTES:
            yield _numbered(number, pending)
            pending, number = [], number + 1
    if any(batch.num_rows for batch in pending):
        yield _numbered(number, pending)


def _numbered(number: int, batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    cell = _to_cell(pa.Table.from_batches(batches))
    return pa.RecordBatch.from_arrays(
        [pa.array([number], pa.int32()), pa.array([cell])], names=["number", "cell"]
    )


def _pack_all(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    parts = list(batches)
    if parts:
        table = pa.Table.from_batches(parts)
        # A fixed order decides ties between equal scores.
        ordered = table.sort_by(table.column_names[0])
        yield pa.RecordBatch.from_arrays([pa.array([_to_cell(ordered)])], names=["table"])


def _to_cell(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())
