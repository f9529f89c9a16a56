"""Rows of one table together with another one that is too big to be sent to every task whole.

The other table is dealt out to blocks, the rows to groups, and every group meets every block: a
partition for each pair of them.
"""

from collections.abc import Iterator

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.engine.cells import from_cell, packs, to_cell, values

# A block of the big table in a task.
BLOCK_BYTES = 64 * 2**20
# Of the rows that are in a task at a time.
_CELL_BYTES = 16 * 2**20

_CELLS = "number int, cell binary"


def n_blocks_of(n_bytes: int) -> int:
    """How many blocks a table of so many bytes is dealt out to."""
    return -(-n_bytes // BLOCK_BYTES)


def with_blocks(rows: DataFrame, table: DataFrame, n_blocks: int, n_groups: int) -> DataFrame:
    """Cells of ``rows`` in ``n_groups``, each beside all ``n_blocks`` of ``table``, both dealt out
    by their first column; ships the rows once per block and the table once per group.
    :func:`read_blocks` takes the cells apart again.
    """
    every_block, every_group = (
        F.explode(F.sequence(F.lit(0), F.lit(n - 1))) for n in (n_blocks, n_groups)
    )
    of_rows = _cells(rows, n_groups).select(
        every_block.alias("block"), F.col("number").alias("group"), F.lit(True).alias("is_row"),
        "cell",
    )  # fmt: skip
    of_table = _cells(table, n_blocks).select(
        F.col("number").alias("block"), every_group.alias("group"), F.lit(False).alias("is_row"),
        "cell",
    )  # fmt: skip
    pair = F.col("block") * F.lit(n_groups) + F.col("group")
    met = of_rows.unionByName(of_table).repartitionById(n_blocks * n_groups, pair)
    return met.sortWithinPartitions("is_row").select("is_row", "cell")


def read_blocks(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[pa.Table, list[pa.Table]]]:
    """(rows, [block]) of each cell of rows in a partition; the block is the same object each time,
    in the order of its first column."""
    parts: list[pa.Table] = []
    block: pa.Table | None = None
    for batch in batches:
        is_row, cells = (batch.column(name) for name in ("is_row", "cell"))
        for its, cell in zip(is_row.to_pylist(), values(cells), strict=True):
            if not its:
                parts.append(from_cell(cell))
                continue
            if block is None:
                if not parts:
                    return
                block = pa.concat_tables(parts).combine_chunks()
                # A fixed order decides ties between equal scores.
                block = block.sort_by(block.column_names[0])
            yield from_cell(cell).combine_chunks(), [block]


def _cells(table: DataFrame, n: int) -> DataFrame:
    """A table in ``n`` parts by its first column, as cells: number int, cell binary."""
    number = F.pmod(F.xxhash64(table.columns[0]), F.lit(n)).cast("int")
    numbered = table.select(number.alias("number"), *table.columns)
    return numbered.repartitionById(n, F.col("number")).mapInArrow(_pack, _CELLS)


def _pack(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for table in packs(batches, _CELL_BYTES, lambda batch: int(batch.nbytes)):
        yield pa.RecordBatch.from_arrays(
            [
                pa.array([table["number"][0].as_py()], pa.int32()),
                pa.array([to_cell(table.drop_columns("number"))], pa.binary()),
            ],
            names=["number", "cell"],
        )
