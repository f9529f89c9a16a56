"""The start of a distributed fit, block by block."""

from collections.abc import Iterator

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.algorithms.start import start_rows
from mfspark.columns import BIAS, FACTORS, N_RATINGS, Side
from mfspark.engine.index import SideIndex
from mfspark.kernels.arrays import Float32s, Int64s


def starting_ids(index: SideIndex, known: DataFrame | None, side: Side) -> DataFrame:
    """The ids of ``side`` (block, local, id, n_ratings), a partition per block; with the bias and
    the factors of ``known`` (the id, bias, factors), where there is such a table."""
    ids = index.table.select("block", "local", "id", N_RATINGS)
    if known is None:
        return ids
    rows = known.select(F.col(side).alias("id"), BIAS, FACTORS)
    # The join scatters the rows of a block.
    n_partitions = len(index.layout.sizes)
    return ids.join(rows, "id", "left").repartitionById(n_partitions, F.col("block"))


def block_start(
    batches: Iterator[pa.RecordBatch], side: Side, rank: int, seed: int
) -> Iterator[tuple[int, Float32s, Int64s]]:
    """Of one partition of ``starting_ids`` the number of its block, the rows that the fit starts
    from, float32 [n, rank + 1], and their numbers of ratings; nothing of an empty one."""
    parts = [part for part in batches if part.num_rows]
    if parts:
        ids = pa.Table.from_batches(parts).sort_by("local")
        known = ids if BIAS in ids.column_names else None
        rows = start_rows(ids["id"].combine_chunks(), known, side, rank, seed)
        yield ids["block"][0].as_py(), rows, ids[N_RATINGS].to_numpy()
