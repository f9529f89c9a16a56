"""From external ids to (block, local index): who is solved where.

An id's position on its side is ``offset of its block + local index``, so positions are dense and
no step needs a global sort. Blocks are balanced by rating counts: the few ids with many ratings are
placed one by one on the lightest block (longest processing time first, Graham 1969), the many with
few ratings by a hash.
"""

import heapq
from dataclasses import dataclass

import numpy as np
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.types import IntegerType, StructField, StructType

from mfspark.engine.workspace import Workspace
from mfspark.kernels.csr import Int64s

# An id counts as heavy from 1/64 of a block's fair share of ratings; there are at most 64 such ids
# per block, few enough for the driver.
_HEAVY_SHARE = 64


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
    hashed = _hash_block(n_blocks)
    is_heavy = F.col("n_ratings") * (_HEAVY_SHARE * n_blocks) >= n_ratings
    light = counts.where(~is_heavy).groupBy(hashed.alias("block")).agg(F.sum("n_ratings"))
    loads = {block: 0 for block in range(n_blocks)} | dict(map(tuple, light.collect()))
    heavy = [tuple(row) for row in counts.where(is_heavy).select("id", "n_ratings").collect()]
    if not heavy:
        return counts.withColumn("block", hashed)
    schema = StructType([counts.schema["id"], StructField("heavy_block", IntegerType())])
    places = counts.sparkSession.createDataFrame(place_heaviest_first(heavy, loads), schema)
    return counts.join(F.broadcast(places), on="id", how="left").select(
        "id", "n_ratings", F.coalesce("heavy_block", hashed).alias("block")
    )


def _hash_block(n_blocks: int) -> Column:
    return F.pmod(F.xxhash64(F.col("id").cast("string")), F.lit(n_blocks)).cast("int")


def place_heaviest_first(
    heavy: list[tuple[object, int]], loads: dict[int, int]
) -> list[tuple[object, int]]:
    """Give each (id, n_ratings) the block with the fewest ratings so far; returns (id, block).

    ``loads`` holds the ratings that each block has already. The order of ``heavy`` does not matter.
    """
    heap = [(load, block) for block, load in loads.items()]
    heapq.heapify(heap)
    places = []
    for id_, n_ratings in sorted(heavy, key=lambda pair: (-pair[1], str(pair[0]))):
        load, block = heapq.heappop(heap)
        places.append((id_, block))
        heapq.heappush(heap, (load + n_ratings, block))
    return places
