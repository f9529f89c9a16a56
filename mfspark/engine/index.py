"""From external ids to (block, local index): who is solved where.

An id's position on its side is ``offset of its block + local index``, so positions are dense and
no step needs a global sort. Blocks are balanced by rating counts: the many ids with few ratings are
hashed into buckets, and the buckets and the few ids with many ratings are placed one by one on the
lightest block, the heaviest first (Graham 1969).
"""

import heapq
from dataclasses import dataclass

import numpy as np
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.types import IntegerType, StructField, StructType

from mfspark.engine.workspace import Workspace
from mfspark.kernels.csr import Int64s

# Pieces that blocks are made of: buckets of light ids, and ids with more ratings than 1/64 of a
# block's fair share. There are at most 2 · 64 pieces per block, few enough for the driver.
_PIECES_PER_BLOCK = 64


@dataclass(frozen=True)
class SideIndex:
    """The ids of one side.

    ``table``: id, block int, local int, position int, n_ratings long, key long (one partition per
    block; ``key`` seeds the row's initial factors). ``sizes`` int64 [n_blocks]: ids per block.
    """

    table: DataFrame
    sizes: Int64s

    @property
    def n_blocks(self) -> int:
        """Number of blocks, empty ones included."""
        return len(self.sizes)

    @property
    def n_ids(self) -> int:
        """Number of ids over all blocks."""
        return int(self.sizes.sum())

    @property
    def offsets(self) -> Int64s:
        """Position of each block's first row, int64 [n_blocks]."""
        return np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).astype(np.int64)


def index_side(
    workspace: Workspace, train: DataFrame, side: str, n_blocks: int, n_ratings: int, seed: int
) -> SideIndex:
    """Index the ids in column ``side`` of the training ratings; cost: one pass over them."""
    counts = workspace.pin(
        train.groupBy(F.col(side).alias("id")).agg(F.count(F.lit(1)).alias("n_ratings"))
    )
    placed = _place(counts, n_blocks, n_ratings).repartitionById(n_blocks, F.col("block"))
    # Popular rows side by side: most lookups of a half-step then hit the same few cache lines.
    in_block = Window.partitionBy("block").orderBy(F.desc("n_ratings"), "id")
    local = workspace.pin(
        placed.select(
            "id",
            "block",
            (F.row_number().over(in_block) - 1).alias("local"),
            "n_ratings",
            # Text makes 7 (int), 7 (long) and "7" start alike.
            F.xxhash64(F.lit(seed), F.lit(side), F.col("id").cast("string")).alias("key"),
        )
    )
    sizes = np.zeros(n_blocks, np.int64)
    for row in local.groupBy("block").count().collect():
        sizes[row["block"]] = row["count"]
    workspace.release(counts)
    index = SideIndex(local, sizes)
    offsets = F.array(*[F.lit(int(offset)) for offset in index.offsets])
    position = (F.element_at(offsets, F.col("block") + 1) + F.col("local")).cast("int")
    return SideIndex(local.withColumn("position", position), sizes)


def _place(counts: DataFrame, n_blocks: int, n_ratings: int) -> DataFrame:
    """Add the column ``block`` to (id, n_ratings)."""
    if n_blocks == 1:
        return counts.withColumn("block", F.lit(0))
    n_buckets = _PIECES_PER_BLOCK * n_blocks
    bucket = F.pmod(F.xxhash64(F.col("id").cast("string")), F.lit(n_buckets)).cast("int")
    counts = counts.withColumn("bucket", bucket)
    is_heavy = F.col("n_ratings") * n_buckets >= n_ratings
    heavy = counts.where(is_heavy).select("id", "n_ratings").collect()
    light = counts.where(~is_heavy).groupBy("bucket").agg(F.sum("n_ratings")).collect()
    blocks = place_heaviest_first([row[1] for row in [*heavy, *light]], n_blocks)
    spark = counts.sparkSession
    of_id = spark.createDataFrame(
        [(row[0], block) for row, block in zip(heavy, blocks, strict=False)],
        StructType([counts.schema["id"], StructField("id_block", IntegerType())]),
    )
    of_bucket = spark.createDataFrame(
        [(row[0], block) for row, block in zip(light, blocks[len(heavy) :], strict=True)],
        "bucket int, bucket_block int",
    )
    return (
        counts.join(F.broadcast(of_id), on="id", how="left")
        .join(F.broadcast(of_bucket), on="bucket", how="left")
        .select("id", "n_ratings", F.coalesce("id_block", "bucket_block").alias("block"))
    )


def place_heaviest_first(weights: list[int], n_blocks: int) -> list[int]:
    """The block of each weight: the heaviest first, each on the block that is lightest so far."""
    heap = [(0, block) for block in range(n_blocks)]
    places = [0] * len(weights)
    for piece in sorted(range(len(weights)), key=lambda piece: -weights[piece]):
        load, places[piece] = heapq.heappop(heap)
        heapq.heappush(heap, (load + weights[piece], places[piece]))
    return places
