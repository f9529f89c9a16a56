"""Ratings with codes in place of ids, of packs.

Spark joins all ratings with a table of ids by sorting them. So every pack has a dictionary of the
ids that occur in it: dictionaries are cut into parts by the hash of the ids, and meet by part to
have their ids counted and placed; a pack gets the positions of its ids back.
Where there are few ids, ratings have their pack's dictionaries with them, and look its ids up.

Worked example: three ratings, of which the last one is for validation.

>>> table = pa.table({"user": [7, 9, 7], "item": ["b", "b", "a"], "rating": np.ones(3, np.float32),
...                   "is_validation": [False, False, True]})
>>> hashing = {USER: Hashing(n_buckets=8, n_parts=2, first_part=0),
...            ITEM: Hashing(n_buckets=8, n_parts=2, first_part=2)}
>>> *dictionaries, ratings = encode_pack(table, hashing, n_targets=1, target=0)
>>> for row in dictionaries:
...     ids = pa.ipc.open_stream(row["ids"][0].as_py()).read_all()["id"]
...     print(row["target"][0], ids.to_pylist(), np.frombuffer(row["counts"][0].as_py(), np.int32))
0 [7] [1]
1 [9] [1]
3 ['b', 'a'] [2 0]
>>> [np.frombuffer(ratings[side][0].as_py(), np.uint8).tolist() for side in Side]
[[0, 1, 0], [0, 0, 1]]

Ratings are mostly of few values, and codes of few ids; both are as narrow as that allows.

>>> narrow = NarrowRatings.in_row(ratings)
>>> narrow.rating.tolist(), narrow.palette.tolist(), narrow.values.tolist()
([0, 0, 0], [1.0], [1.0, 1.0, 1.0])
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DataType

from mfspark.algorithms.indexed_ratings import count_codes, encode_ids, with_validation_column
from mfspark.columns import IS_VALIDATION, ITEM, RATING, USER, Side
from mfspark.engine.cells import (
    ROWS_PER_PACK,
    NarrowRatings,
    cell,
    from_cell,
    index_type,
    to_cell,
    values,
)
from mfspark.engine.packed import Packs, Unit, hash_ids, ratings_of
from mfspark.engine.workspace import Workspace
from mfspark.kernels.arrays import Array, Bools, Int32s, UInt64s

# Pieces that blocks are made of: buckets of light ids, and ids with more ratings than a bucket's
# fair share. There are at most 2 · 64 pieces per block, few enough for the driver.
_BUCKETS_PER_BLOCK = 64

# A part holds the ids of so many ratings at most, far below the 2 GiB of an Arrow array, and of so
# many at least: with fewer the task costs more than it spares another one.
_RATINGS_PER_PART = 2**25
_LEAST_PER_PART = 1_000_000

# Ratings of a pack in one row: up to 24 MB, of which the JVM may hold several while it copies them.
_ROWS_PER_SLICE = 2_000_000

_SCHEMA = (
    "target int, pack long, ids binary, counts binary, n_ids int, user binary, item binary, "
    "rating binary, palette binary, is_validation binary, user_ids binary, item_ids binary"
)
SLICE_COLUMNS = ("n_ids", USER.value, ITEM.value, RATING, "palette", IS_VALIDATION)
# Of slices that have them.
IDS_OF_PACK = {USER: "user_ids", ITEM: "item_ids"}
_FIELDS = pa.schema(
    [
        ("target", pa.int32()),
        ("pack", pa.int64()),
        ("ids", pa.binary()),
        ("counts", pa.binary()),
        ("n_ids", pa.int32()),
        *[(name, pa.binary()) for name in (*SLICE_COLUMNS[1:], *IDS_OF_PACK.values())],
    ]
)


@dataclass(frozen=True)
class Hashing:
    """How ids of one side are dealt out: by ranges of their hashes to ``n_buckets`` buckets, and by
    ranges of buckets to ``n_parts`` parts, whose numbers begin at ``first_part``."""

    n_buckets: int
    n_parts: int
    first_part: int

    @property
    def parts(self) -> range:
        """Numbers of the parts."""
        return range(self.first_part, self.first_part + self.n_parts)

    def buckets(self, hashes: UInt64s) -> Int32s:
        """The bucket of each hash."""
        high = hashes >> np.uint64(32)
        return (high * np.uint64(self.n_buckets) >> np.uint64(32)).astype(np.int32)

    def part(self, buckets: Int32s) -> Int32s:
        """The number of the part of each bucket."""
        return self.first_part + (buckets.astype(np.int64) * self.n_parts // self.n_buckets).astype(
            np.int32
        )


@dataclass(frozen=True)
class EncodedRatings:
    """Packs of ratings and their dictionaries, persisted.

    ``dictionaries``: target int (the part: a partition each), pack long, ids binary (an Arrow
    stream of one column ``id``), counts binary (int32, training ratings of each id in the pack).
    ``slices``: target int (a partition each), pack long, n_ids int (in both dictionaries of the
    pack), and of some of its ratings user and item binary (places in the dictionary of the side,
    whose parts follow one after another, of the ``index_type`` of its length), rating and palette
    binary (see ``NarrowRatings``), and is_validation binary (bits; empty where none is one). With
    ``has_ids`` also user_ids and item_ids binary: both dictionaries whole, as an Arrow stream.

    ``persisted``: what is to be released; ``table``: the same in its partitions, ``n_parts`` of
    dictionaries of all sides and the others of slices. ``packs``: what they are made of.
    """

    packs: Packs
    persisted: DataFrame
    table: DataFrame
    id_types: dict[Side, DataType]
    hashing: dict[Side, Hashing]
    n_parts: int
    n_targets: int
    has_ids: bool

    @property
    def dictionaries(self) -> DataFrame:
        """See the class."""
        return self.table.where(F.col("ids").isNotNull()).select("target", "pack", "ids", "counts")

    @property
    def slices(self) -> DataFrame:
        """See the class."""
        return self.table.where(F.col("ids").isNull()).drop("ids", "counts")

    def target_of(self, pack: Column) -> Column:
        """The partition that the slices of a pack are in."""
        n_of_slices = self.n_targets - self.n_parts
        return (F.lit(self.n_parts) + F.pmod(pack, F.lit(n_of_slices))).cast("int")


def encode_ratings(
    workspace: Workspace,
    packs: Packs,
    unit: Unit,
    n_blocks: dict[Side, int],
    n_ratings: int,
    n_cores: int,
    has_few_ids: bool = False,
) -> EncodedRatings:
    """Encode ``packs`` of ``n_ratings`` in all, with the ratings in the ``unit``; cost: one pass
    over the packs.

    Blocks are balanced up to ``n_blocks`` of a side. Of packs of one side alone there are no
    ``slices``; with ``has_few_ids`` they have ids.
    """
    of_side = min(n_cores, n_ratings // _LEAST_PER_PART)
    of_side = max(1, of_side, -(-n_ratings // _RATINGS_PER_PART))
    hashing = {
        side: Hashing(_BUCKETS_PER_BLOCK * n, of_side, number * of_side)
        for number, (side, n) in enumerate(n_blocks.items())
    }
    n_parts = of_side * len(hashing)
    # Twice as many as there would be of whole packs: the last one of each task is short.
    n_of_slices = max(n_cores, 2 * -(-n_ratings // ROWS_PER_PACK)) if len(hashing) > 1 else 0
    n_targets = n_parts + n_of_slices
    encode = partial(
        _encode,
        unit=unit,
        hashing=hashing,
        n_targets=n_of_slices,
        n_cores=n_cores,
        has_ids=has_few_ids,
    )
    encoded = packs.cells.mapInArrow(encode, _SCHEMA)
    persisted = workspace.persist(
        encoded.repartitionById(n_targets, F.col("target")), made_of="files"
    )
    return EncodedRatings(
        packs=packs,
        persisted=persisted,
        table=workspace.partitioned(persisted, n_targets, "target"),
        id_types=packs.id_types,
        hashing=hashing,
        n_parts=n_parts,
        n_targets=n_targets,
        has_ids=has_few_ids,
    )


def _encode(
    batches: Iterator[pa.RecordBatch],
    unit: Unit,
    hashing: dict[Side, Hashing],
    n_targets: int,
    n_cores: int,
    has_ids: bool,
) -> Iterator[pa.RecordBatch]:
    """The rows of all packs of a task."""
    context = TaskContext.get()
    assert context is not None
    # Tasks that run side by side have their first packs side by side, and so on; dealt out at
    # random, all of a few packs may come to one core.
    target = context.partitionId()
    for batch in batches:
        for pack in values(batch.column(0)):
            table = from_cell(pack) if len(hashing) == 1 else ratings_of(pack, unit)
            yield from encode_pack(table, hashing, n_targets, target % max(n_targets, 1), has_ids)
            target += n_cores


def encode_pack(
    table: pa.Table,
    hashing: dict[Side, Hashing],
    n_targets: int,
    target: int,
    has_ids: bool = False,
) -> Iterator[pa.RecordBatch]:
    """The rows of one pack: parts of its dictionaries, and slices of its ratings, which go to the
    given one of ``n_targets`` behind the parts and, with ``has_ids``, have the dictionaries with
    them."""
    is_validation = with_validation_column(table)[IS_VALIDATION].to_numpy()
    found = {side: _dictionary(table[side], is_validation, how) for side, how in hashing.items()}
    # A pack that is made again of other ratings, or of the same in other packs, has another name.
    # Seven bytes: there is room for what makes it tell the target; see ``target_of``.
    name = hashlib.blake2b(digest_size=7)
    for each in found.values():
        for _, ids, _ in each.parts:
            name.update(ids)
    pack = int.from_bytes(name.digest(), "big")
    if n_targets:
        pack += (target - pack) % n_targets
    for each in found.values():
        for part, ids, counts in each.parts:
            yield _row(target=part, pack=pack, ids=ids, counts=counts)
    if len(found) == 1:
        return
    first_target = max(how.parts.stop for how in hashing.values())
    ratings = NarrowRatings.of_column(table[RATING])
    n_ids = sum(len(each.ids) for each in found.values())
    has_validation = bool(is_validation.any())
    ids_of_pack = {}
    if has_ids:
        ids_of_pack = {
            IDS_OF_PACK[side]: to_cell(pa.table({"id": each.ids})) for side, each in found.items()
        }
    for first in range(0, table.num_rows, _ROWS_PER_SLICE):
        some = slice(first, first + _ROWS_PER_SLICE)
        yield _row(
            target=first_target + target,
            pack=pack,
            n_ids=n_ids,
            **{side.value: each.codes[some].tobytes() for side, each in found.items()},
            **ratings.cells(some),
            is_validation=np.packbits(is_validation[some]).tobytes() if has_validation else b"",
            **ids_of_pack,
        )


def validation_in_row(row: pa.RecordBatch, n: int) -> Bools | None:
    """Which of the ``n`` ratings of a slice are for validation; None where none is."""
    bits = cell(row, IS_VALIDATION, 0, np.uint8)
    return np.unpackbits(bits, count=n).view(np.bool_) if len(bits) else None


def _row(**values: int | bytes) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([values], schema=_FIELDS)


@dataclass(frozen=True)
class _Dictionary:
    """``parts``: number, ids and counts of each; ``codes``: of each rating the place of its id
    among all ``ids``, of the ``index_type`` of their number."""

    parts: list[tuple[int, bytes, bytes]]
    codes: Array
    ids: pa.Array


def _dictionary(column: pa.ChunkedArray, is_validation: Bools, hashing: Hashing) -> _Dictionary:
    """In the order of the hashes, whichever rating came first."""
    ids, codes = encode_ids(column)
    hashes = hash_ids(ids)
    order = np.argsort(hashes)
    place: Array = np.empty(len(order), index_type(len(order)))
    place[order] = np.arange(len(order))
    codes = place[codes]
    counted = codes[~is_validation] if is_validation.any() else codes
    counts = count_codes(counted, len(ids)).astype(np.int32)
    number = hashing.part(hashing.buckets(hashes[order]))
    ids = ids.take(pa.array(order))
    ends = np.searchsorted(number, [*hashing.parts, hashing.parts.stop]).tolist()
    parts = [
        (part, to_cell(pa.table({"id": ids[first:last]})), counts[first:last].tobytes())
        for part, first, last in zip(hashing.parts, ends[:-1], ends[1:], strict=True)
        if last > first
    ]
    return _Dictionary(parts, codes, ids)
