"""From external ids to (block, local index): who is solved where.

An id's position on its side is ``offset of its block + local index``, so positions are dense and
no step needs a global sort. Blocks are balanced by rating counts: the many ids with few ratings are
hashed into buckets, and the buckets and the few ids with many ratings are placed one by one on the
lightest block, the heaviest first (Graham 1969).

Skew: an id with more ratings than a block's fair share is *hot*. No block solves it: its ratings
are split over several blocks, each of which sums up its share, and the rows of all hot ids form one
more block behind the others.
"""

import heapq
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F
from pyspark.sql.types import IntegerType, LongType, StructField, StructType

from mfspark.columns import N_RATINGS, Side
from mfspark.engine.workspace import Workspace
from mfspark.kernels.arrays import Int32s, Int64s

# Pieces that blocks are made of: buckets of light ids, and ids with more ratings than a bucket's
# fair share. There are at most 2 · 64 pieces per block, few enough for the driver.
_PIECES_PER_BLOCK = 64

# A hot id is split into shares of at most this part of a block's fair share.
_SHARE = 0.25


@dataclass(frozen=True)
class Layout:
    """Where the rows of one side are.

    ``sizes`` int64 [n_blocks + 1]: rows per block, the hot rows last. ``shares``: for each hot row
    the blocks that its ratings are split over.
    """

    sizes: Int64s
    shares: tuple[tuple[int, ...], ...]

    @property
    def n_blocks(self) -> int:
        """Number of blocks, empty ones included, without the one of the hot rows."""
        return len(self.sizes) - 1

    @property
    def n_hot(self) -> int:
        """Number of hot rows."""
        return int(self.sizes[-1])

    @property
    def n_rows(self) -> int:
        """Number of rows over all blocks."""
        return int(self.sizes.sum())

    @property
    def offsets(self) -> Int64s:
        """Position of each block's first row, int64 [n_blocks + 1]."""
        return np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).astype(np.int64)

    def locate(self, positions: Int64s, others: Int64s) -> tuple[Int32s, Int32s]:
        """Block and row in it of each rating, from the positions on this and on the other side.

        The shares of hot rows follow behind a block's own rows. Which block a hot rating goes to
        depends on the other side's position alone.
        """
        offsets = self.offsets
        block = np.searchsorted(offsets, positions, side="right").astype(np.int32) - np.int32(1)
        # Of blocks that begin at the same position all but the last are empty.
        row = (positions - offsets[block]).astype(np.int32)
        for hot, blocks in enumerate(self.shares):
            of_hot = np.flatnonzero(positions == offsets[-1] + hot)
            block[of_hot] = np.array(blocks, np.int32)[others[of_hot] % len(blocks)]
            row[of_hot] = self.sizes[block[of_hot]] + hot
        return block, row


@dataclass(frozen=True)
class SideIndex:
    """The ids of one side: ``table`` has id, block int, local int, position int, n_ratings long,
    one partition per block."""

    table: DataFrame
    layout: Layout


@dataclass(frozen=True)
class CountedSide:
    """The ids of one side before they have places.

    ``ids``: id, n_ratings long, and the piece that each belongs to: ``heavy`` (the id itself) or
    ``bucket`` int. ``pieces``: heavy, bucket, and n_ratings and n_ids in it.
    """

    ids: DataFrame
    pieces: list[Row]
    n_ratings: int

    @property
    def n_ids(self) -> int:
        """Number of users or items."""
        return sum(piece["n_ids"] for piece in self.pieces)


def count_ids(
    workspace: Workspace, train: DataFrame, n_blocks: dict[Side, int], n_ratings: int
) -> dict[Side, CountedSide]:
    """Count the ratings of every id of the sides that ``n_blocks`` names; cost: one pass over the
    training ratings each.

    Balance suffers beyond ``n_blocks`` blocks. The sides are counted side by side, so that one
    uses the cores while the other is planned.
    """

    def count(side: Side) -> CountedSide:
        n_buckets = _PIECES_PER_BLOCK * n_blocks[side]
        counts = train.groupBy(F.col(side).alias("id")).agg(F.count(F.lit(1)).alias(N_RATINGS))
        is_heavy = F.col(N_RATINGS) * n_buckets >= n_ratings
        bucket = F.pmod(F.xxhash64(F.col("id").cast("string")), F.lit(n_buckets)).cast("int")
        ids = workspace.persist(
            counts.withColumns(
                {"heavy": F.when(is_heavy, F.col("id")), "bucket": F.when(~is_heavy, bucket)}
            )
        )
        pieces = ids.groupBy("heavy", "bucket").agg(
            F.sum(N_RATINGS).alias(N_RATINGS), F.count(F.lit(1)).alias("n_ids")
        )
        # In an order of their own: who is placed where must not depend on which task came first.
        return CountedSide(ids, sorted(pieces.collect(), key=_order_of_pieces), n_ratings)

    with ThreadPoolExecutor(len(n_blocks)) as pool:
        return dict(zip(n_blocks, pool.map(count, n_blocks), strict=True))


def _order_of_pieces(piece: Row) -> tuple[int, str]:
    return (piece["bucket"] or 0, str(piece["heavy"]))


def index_sides(
    workspace: Workspace,
    counted: dict[Side, CountedSide],
    n_blocks: dict[Side, int],
    split_hot: bool = True,
) -> dict[Side, SideIndex]:
    """Give every id its place; the counts are released. Without ``split_hot`` no id is hot."""

    def index(side: Side) -> SideIndex:
        return _index_side(workspace, counted[side], n_blocks[side], split_hot)

    with ThreadPoolExecutor(len(counted)) as pool:
        return dict(zip(counted, pool.map(index, counted), strict=True))


def _index_side(
    workspace: Workspace, counted: CountedSide, n_blocks: int, split_hot: bool
) -> SideIndex:
    """Place every id in a block, number the rows of each block, and count them."""
    placed, shares = _place(counted, n_blocks, split_hot)
    schema = StructType(
        [
            counted.ids.schema["id"],
            StructField("block", IntegerType()),
            StructField("local", IntegerType()),
            StructField(N_RATINGS, LongType()),
        ]
    )
    local = workspace.persist(
        placed.repartitionById(n_blocks + 1, F.col("block")).mapInArrow(_number_rows, schema)
    )
    sizes = np.zeros(n_blocks + 1, np.int64)
    for row in local.groupBy("block").count().collect():
        sizes[row["block"]] = row["count"]
    workspace.release(counted.ids)
    layout = Layout(sizes, shares)
    offsets = F.array(*[F.lit(int(offset)) for offset in layout.offsets])
    position = (F.element_at(offsets, F.col("block") + 1) + F.col("local")).cast("int")
    return SideIndex(local.withColumn("position", position), layout)


def _place(
    counted: CountedSide, n_blocks: int, split_hot: bool
) -> tuple[DataFrame, tuple[tuple[int, ...], ...]]:
    """(id, block, n_ratings), and the blocks that the ratings of each hot row are split over."""
    ids = counted.ids
    if n_blocks == 1:
        return ids.select("id", F.lit(0).alias("block"), N_RATINGS), ()
    fair = counted.n_ratings / n_blocks if split_hot else math.inf
    # In the order in which the hot block numbers its rows.
    hot = sorted(
        (row for row in counted.pieces if row["heavy"] is not None and row[N_RATINGS] > fair),
        key=lambda row: (-row[N_RATINGS], row["heavy"]),
    )
    whole = [row for row in counted.pieces if row not in hot]
    n_shares = [min(n_blocks, math.ceil(row[N_RATINGS] / (_SHARE * fair))) for row in hot]
    weights = [row[N_RATINGS] for row in whole]
    for row, n in zip(hot, n_shares, strict=True):
        weights += [row[N_RATINGS] // n] * n
    blocks = place_heaviest_first(weights, n_blocks)
    of_share = iter(blocks[len(whole) :])
    shares = tuple(tuple(next(of_share) for _ in range(n)) for n in n_shares)
    of_piece = [
        *[(row["heavy"], row["bucket"], block) for row, block in zip(whole, blocks, strict=False)],
        *[(row["heavy"], None, n_blocks) for row in hot],
    ]
    places = ids.sparkSession.createDataFrame(
        of_piece,
        StructType(
            [
                StructField("of_heavy", ids.schema["heavy"].dataType),
                StructField("of_bucket", IntegerType()),
                StructField("block", IntegerType()),
            ]
        ),
    )
    same = F.col("heavy").eqNullSafe(F.col("of_heavy")) & F.col("bucket").eqNullSafe(
        F.col("of_bucket")
    )
    return ids.join(F.broadcast(places), same).select("id", "block", N_RATINGS), shares


def place_heaviest_first(weights: list[int], n_blocks: int) -> list[int]:
    """The block of each weight: the heaviest first, each on the block that is lightest so far."""
    heap = [(0, block) for block in range(n_blocks)]
    places = [0] * len(weights)
    for piece in sorted(range(len(weights)), key=lambda piece: -weights[piece]):
        load, places[piece] = heapq.heappop(heap)
        heapq.heappush(heap, (load + weights[piece], places[piece]))
    return places


def _number_rows(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Number the rows of a block, which is a whole partition.

    Popular rows side by side: most lookups of a half-step then hit the same few cache lines.
    """
    parts = list(batches)
    if not any(part.num_rows for part in parts):
        return
    rows = pa.Table.from_batches(parts).sort_by([(N_RATINGS, "descending"), ("id", "ascending")])
    local = pa.array(np.arange(rows.num_rows, dtype=np.int32))
    yield from rows.add_column(2, "local", local).combine_chunks().to_batches()
