"""From external ids to (block, local index): who is solved where.

An id's position on its side is ``offset of its block + local index``, so positions are dense and
no step needs a global sort. Blocks are balanced by rating counts: the many ids with few ratings are
hashed into buckets, and the buckets and the few ids with many ratings are placed one by one on the
lightest block, the heaviest first (Graham 1969). In a block the rows of each part of the
dictionaries follow one another, so that every part can number its own.

Skew: an id with more ratings than a block's fair share is *hot*. No block solves it: its ratings
are split over several blocks, each of which sums up its share, and the rows of all hot ids form one
more block behind the others.
"""

import heapq
import math
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, IntegerType, LongType, StructField, StructType

from mfspark.algorithms.indexed_ratings import encode_ids
from mfspark.columns import N_RATINGS, Side
from mfspark.engine.cells import from_cell, to_cell, values
from mfspark.engine.encoded import EncodedRatings, Hashing
from mfspark.engine.kept_cells import KeptTable
from mfspark.engine.packed import hash_ids
from mfspark.engine.recovery import recovering
from mfspark.engine.workspace import Workspace
from mfspark.kernels.arrays import Array, Int32s, Int64s
from mfspark.kernels.csr import compact

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

    def locate(
        self, positions: Int32s, codes: Array, others: Int32s
    ) -> tuple[Int32s, Int32s, Int32s]:
        """Blocks and rows in them that ratings go to, int32 [m], and of each rating which of these
        is its own, int32 [n]: from ``positions`` of the ids in a dictionary of this side, the place
        of each rating's id there, and its position on the other side.

        Rows ascend by block; behind those of all blocks once more those of shares of hot ids, which
        follow behind a block's own rows. Which share a rating belongs to depends on the other
        side's position alone.
        """
        offsets = self.offsets
        present, places = compact([positions[positions >= 0]], self.n_rows)
        # Of blocks that begin at the same position all but the last are empty.
        block = np.searchsorted(offsets, present, side="right").astype(np.int32) - np.int32(1)
        row = (present - offsets[block]).astype(np.int32)
        of_rating = places[positions][codes]
        n_light = int(np.searchsorted(block, self.n_blocks))
        hot = row[n_light:].tolist()
        if not hot:
            return block, row, of_rating
        shares = sorted({(share, number) for number in hot for share in self.shares[number]})
        is_hot = np.flatnonzero(of_rating >= n_light)
        number_of = row[of_rating[is_hot]]
        for number in hot:
            own = is_hot[number_of == number]
            at = np.array([n_light + shares.index((b, number)) for b in self.shares[number]])
            of_rating[own] = at[others[own] % len(at)]
        share_block, share_number = np.array(shares, np.int32).T
        share_row = (self.sizes[share_block] + share_number).astype(np.int32)
        return (
            np.concatenate([block[:n_light], share_block]),
            np.concatenate([row[:n_light], share_row]),
            of_rating,
        )


@dataclass(frozen=True)
class Piece:
    """A piece of a block: the light ids of a bucket, or one ``heavy`` id."""

    bucket: int
    heavy: Any
    n_ratings: int
    n_ids: int


@dataclass(frozen=True)
class CountedSide:
    """The ids of one side before they have places.

    ``counts``: number int (of a part of the dictionaries), ids binary (an Arrow stream of id and
    n_ratings), persisted or on the driver.
    """

    counts: DataFrame | pa.Table
    id_type: DataType
    hashing: Hashing
    pieces: list[Piece]
    n_ratings: int

    @property
    def n_ids(self) -> int:
        """Number of users or items."""
        return sum(piece.n_ids for piece in self.pieces)


@dataclass(frozen=True)
class Placement:
    """Where the ids of one side go; small enough to be sent to every task.

    ``block_of_bucket`` int32 [n_buckets], for light ids; ``heavy``: ids that are pieces by
    themselves, with their ``block_of_heavy`` int32, the hot ones first, in the order of their rows.
    ``offsets`` int64 [n_blocks + 1, n_parts]: the rows of a block that are of earlier parts.
    """

    hashing: Hashing
    layout: Layout
    block_of_bucket: Int32s
    heavy: pa.Array | None
    block_of_heavy: Int32s
    offsets: Int64s

    def place(self, part: int, ids: pa.Array, n_ratings: Int64s) -> tuple[Int32s, Int32s]:
        """Block and row in it of all ids of a part that have ratings, and any of the others.

        Popular rows side by side: most lookups of a half-step then hit the same few cache lines.
        """
        block = self.block_of_bucket[self.hashing.buckets(hash_ids(ids))]
        if self.heavy is not None:
            at = pc.index_in(ids, value_set=self.heavy.cast(ids.type))
            is_heavy = at.is_valid().to_numpy(zero_copy_only=False)
            heavy = at.fill_null(0).to_numpy()[is_heavy]
            block[is_heavy] = self.block_of_heavy[heavy]
        columns = {"block": block, "is_rated": n_ratings > 0, "n": n_ratings, "id": ids}
        order = pc.sort_indices(
            pa.table(columns),
            [("block", "ascending"), ("is_rated", "descending"), ("n", "descending"),
             ("id", "ascending")],
        ).to_numpy()  # fmt: skip
        ordered = block[order]
        first = np.searchsorted(ordered, np.arange(self.layout.n_blocks + 1))
        row = np.empty(len(order), np.int32)
        within = np.arange(len(order)) - first[ordered]
        row[order] = within + self.offsets[ordered, part - self.hashing.first_part]
        if self.heavy is not None and self.layout.n_hot:
            is_hot = block == self.layout.n_blocks
            row[is_hot] = at.fill_null(0).to_numpy()[is_hot]
        return block, row


@dataclass(frozen=True)
class SideIndex:
    """The ids of one side, and the number of training ratings.

    ``ids``: id, block int, local int, n_ratings long, position int; on the driver by position, in
    Spark one partition per block.
    """

    ids: KeptTable
    placement: Placement
    n_ratings: int

    @property
    def on_driver(self) -> pa.Table | None:
        """The ids, where they are on the driver."""
        return self.ids.on_driver

    @property
    def table(self) -> DataFrame:
        """The ids for whatever Spark is to do with them, one partition per block."""
        table = self.ids.table
        if self.on_driver is None:
            return table
        return table.repartitionById(len(self.layout.sizes), F.col("block"))

    def blocks_on_driver(self) -> Iterator[pa.Table]:
        """The rows of each block, of ids that are on the driver."""
        assert self.on_driver is not None
        for first, size in zip(self.layout.offsets, self.layout.sizes, strict=True):
            yield self.on_driver.slice(first, size)

    @property
    def layout(self) -> Layout:
        """Where the rows of the side are."""
        return self.placement.layout


def count_ids(
    workspace: Workspace,
    encoded: EncodedRatings,
    n_ratings: int,
    on_driver: Collection[Side] = (),
) -> dict[Side, CountedSide]:
    """Count the training ratings of every id; ``n_ratings``: about how many there are. The ids of
    the sides ``on_driver`` are collected. Lets go of the packs: all is encoded now."""
    counts = workspace.persist(
        encoded.dictionaries.mapInArrow(
            partial(_count, hashing=encoded.hashing, n_ratings=n_ratings),
            "number int, ids binary, pieces binary, heavy binary",
        ),
        made_of="ratings",
    )
    collected = [number for side in on_driver for number in encoded.hashing[side].parts]
    ids = F.when(F.col("number").isin(collected), F.col("ids")).alias("ids")
    told = counts.select("number", "pieces", "heavy", ids)
    found = recovering(workspace, encoded.n_parts, told.toArrow)
    workspace.release(encoded.packs.table)
    pieces: dict[Side, list[Piece]] = {side: [] for side in encoded.hashing}
    rows = (found["number"].to_pylist(), values(found["pieces"]), values(found["heavy"]))
    for number, light, heavy in zip(*rows, strict=True):
        (side,) = (side for side, how in encoded.hashing.items() if number in how.parts)
        for cell in (light, heavy):
            pieces[side] += [Piece(**row) for row in from_cell(cell).to_pylist()]
    return {
        side: CountedSide(
            counts=_of_parts(found if side in on_driver else counts, how),
            id_type=encoded.id_types[side],
            hashing=how,
            # In an order of their own: places must not depend on which task came first.
            pieces=sorted(pieces[side], key=lambda piece: (piece.bucket, str(piece.heavy))),
            n_ratings=sum(piece.n_ratings for piece in pieces[side]),
        )
        for side, how in encoded.hashing.items()
    }


def _of_parts(counts: DataFrame | pa.Table, how: Hashing) -> DataFrame | pa.Table:
    if isinstance(counts, DataFrame):
        return counts.where(F.col("number").isin(list(how.parts)))
    return counts.filter(pc.is_in(counts["number"], pa.array(how.parts, pa.int32())))


def _count(
    batches: Iterator[pa.RecordBatch], hashing: dict[Side, Hashing], n_ratings: int
) -> Iterator[pa.RecordBatch]:
    """One row for a part of the dictionaries, which is a whole partition."""
    part = Part.of(batches)
    if part is None:
        return
    (how,) = (how for how in hashing.values() if part.number in how.parts)
    is_rated = part.n_ratings > 0
    ids, n = part.ids.filter(pa.array(is_rated)), part.n_ratings[is_rated]
    buckets = how.buckets(hash_ids(ids))
    is_heavy = n * how.n_buckets >= n_ratings
    light = ~is_heavy
    sums = np.bincount(buckets[light], n[light], how.n_buckets).astype(np.int64)
    n_ids = np.bincount(buckets[light], minlength=how.n_buckets)
    occurs = np.flatnonzero(n_ids)
    pieces = pa.table(
        {"bucket": occurs, "heavy": pa.nulls(len(occurs)), N_RATINGS: sums[occurs],
         "n_ids": n_ids[occurs]}
    )  # fmt: skip
    heavy = pa.table(
        {"bucket": buckets[is_heavy], "heavy": ids.filter(pa.array(is_heavy)),
         N_RATINGS: n[is_heavy], "n_ids": np.ones(int(is_heavy.sum()), np.int64)}
    )  # fmt: skip
    counted = pa.table({"id": ids, N_RATINGS: n})
    yield pa.RecordBatch.from_pydict(
        {
            "number": pa.array([part.number], pa.int32()),
            **{
                name: pa.array([to_cell(table)], pa.binary())
                for name, table in (("ids", counted), ("pieces", pieces), ("heavy", heavy))
            },
        }
    )


@dataclass(frozen=True)
class Part:
    """The dictionaries of one part, put together: its ids and their training ratings int64, and of
    each pack the places of its own ids among these, int32."""

    number: int
    ids: pa.Array
    n_ratings: Int64s
    packs: list[tuple[int, Int32s]] = field(repr=False)

    @classmethod
    def of(cls, batches: Iterator[pa.RecordBatch]) -> "Part | None":
        """The part of a partition of ``EncodedRatings.dictionaries``; None of an empty one."""
        parts = [batch for batch in batches if batch.num_rows]
        if not parts:
            return None
        table = pa.Table.from_batches(parts)
        streams = [from_cell(part)["id"].combine_chunks() for part in values(table["ids"])]
        ids, codes = encode_ids(pa.chunked_array(streams))
        counts = np.concatenate([np.frombuffer(c, np.int32) for c in values(table["counts"])])
        n_ratings = np.bincount(codes, counts, len(ids)).astype(np.int64)
        ends = np.cumsum([len(stream) for stream in streams])[:-1]
        packs = zip(table["pack"].to_pylist(), np.split(codes, ends), strict=True)
        return cls(table["target"][0].as_py(), ids, n_ratings, list(packs))


def index_sides(
    workspace: Workspace,
    counted: dict[Side, CountedSide],
    n_blocks: dict[Side, int],
    split_hot: bool = True,
) -> dict[Side, SideIndex]:
    """Give every id its place. Without ``split_hot`` no id is hot."""

    def index(side: Side) -> SideIndex:
        return _index_side(workspace, counted[side], n_blocks[side], split_hot)

    with ThreadPoolExecutor(len(counted)) as pool:
        return dict(zip(counted, pool.map(index, counted), strict=True))


def _index_side(
    workspace: Workspace, counted: CountedSide, n_blocks: int, split_hot: bool
) -> SideIndex:
    """Place every id in a block, and number the rows of each block."""
    placement = _place(counted, n_blocks, split_hot)
    layout = placement.layout
    if isinstance(counted.counts, pa.Table):
        rows = pa.Table.from_batches(_number_rows(counted.counts.to_batches(), placement))
        offset = pa.array(layout.offsets.astype(np.int32)).take(rows["block"])
        rows = rows.append_column("position", pc.add(offset, rows["local"])).sort_by("position")
        ids = KeptTable(workspace.spark, on_driver=rows)
        return SideIndex(ids, placement, counted.n_ratings)
    schema = StructType(
        [
            StructField("id", counted.id_type),
            StructField("block", IntegerType()),
            StructField("local", IntegerType()),
            StructField(N_RATINGS, LongType()),
        ]
    )
    local = workspace.persist(
        counted.counts.select("number", "ids")
        .mapInArrow(partial(_number_rows, placement=placement), schema)
        .repartitionById(n_blocks + 1, F.col("block")),
        made_of="ratings",
    )
    offsets = F.array(*[F.lit(int(offset)) for offset in layout.offsets])
    position = (F.element_at(offsets, F.col("block") + 1) + F.col("local")).cast("int")
    local = workspace.partitioned(local, n_blocks + 1, "block")
    ids = KeptTable(workspace.spark, in_spark=local.withColumn("position", position))
    return SideIndex(ids, placement, counted.n_ratings)


def _number_rows(
    batches: Iterable[pa.RecordBatch], placement: Placement
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for number, stream in zip(batch["number"].to_pylist(), values(batch["ids"]), strict=True):
            counted = from_cell(stream)
            # None, where a part has ids of validation ratings alone.
            ids, n_ratings = counted["id"].combine_chunks(), counted[N_RATINGS].to_numpy()
            block, local = placement.place(number, ids, n_ratings)
            yield pa.RecordBatch.from_pydict(
                {"id": ids, "block": block, "local": local, N_RATINGS: n_ratings}
            )


def _place(counted: CountedSide, n_blocks: int, split_hot: bool) -> Placement:
    """Deal the pieces out to blocks, and the ratings of each hot id to several of them."""
    fair = counted.n_ratings / n_blocks if split_hot else math.inf
    # In the order in which the hot block numbers its rows.
    hot = sorted(
        (piece for piece in counted.pieces if piece.heavy is not None and piece.n_ratings > fair),
        key=lambda piece: (-piece.n_ratings, piece.heavy),
    )
    whole = [piece for piece in counted.pieces if piece not in hot]
    n_shares = [min(n_blocks, math.ceil(piece.n_ratings / (_SHARE * fair))) for piece in hot]
    weights = [piece.n_ratings for piece in whole]
    for piece, n in zip(hot, n_shares, strict=True):
        weights += [piece.n_ratings // n] * n
    blocks = place_heaviest_first(weights, n_blocks)
    of_share = iter(blocks[len(whole) :])
    shares = tuple(tuple(next(of_share) for _ in range(n)) for n in n_shares)
    placed = [*zip(hot, [n_blocks] * len(hot), strict=True), *zip(whole, blocks, strict=False)]
    how = counted.hashing
    rows = np.zeros((n_blocks + 1, how.n_parts), np.int64)
    block_of_bucket = np.zeros(how.n_buckets, np.int32)
    parts = how.part(np.array([piece.bucket for piece, _ in placed], np.int32)) - how.first_part
    for (piece, block), part in zip(placed, parts, strict=True):
        rows[block, part] += piece.n_ids
        if piece.heavy is None:
            block_of_bucket[piece.bucket] = block
    heavy = [(piece.heavy, block) for piece, block in placed if piece.heavy is not None]
    return Placement(
        hashing=how,
        layout=Layout(rows.sum(axis=1), shares),
        block_of_bucket=block_of_bucket,
        heavy=pa.array([found for found, _ in heavy]) if heavy else None,
        block_of_heavy=np.array([block for _, block in heavy], np.int32),
        offsets=np.cumsum(rows, axis=1) - rows,
    )


def place_heaviest_first(weights: list[int], n_blocks: int) -> list[int]:
    """The block of each weight: the heaviest first, each on the block that is lightest so far."""
    heap = [(0, block) for block in range(n_blocks)]
    places = [0] * len(weights)
    for piece in sorted(range(len(weights)), key=lambda piece: -weights[piece]):
        load, places[piece] = heapq.heappop(heap)
        heapq.heappush(heap, (load + weights[piece], places[piece]))
    return places
