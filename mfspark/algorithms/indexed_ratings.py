"""The ratings of one process, with positions in place of ids.

>>> table = pa.table({"user": ["ann", "bob", "bob"], "item": [7, 7, 9], "rating": [4.0, 5.0, 1.0]})
>>> ratings = index_ratings(with_validation_column(table))
>>> ratings.ids[USER].to_pylist(), ratings.positions[USER].tolist()
(['bob', 'ann'], [1, 0, 0])
"""

from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mfspark.algorithms.start import known_rows, start_keys, start_rows
from mfspark.columns import IS_VALIDATION, ITEM, RATING, USER, Side
from mfspark.kernels.arrays import Array, Bools, Float32s, Int32s, Int64s
from mfspark.kernels.csr import RatingBlock, build_block
from mfspark.kernels.random import uniform

# Codes that are turned at once into the 64 bits that NumPy counts and looks up by.
_AT_A_TIME = 2**17


@dataclass(frozen=True)
class IndexedRatings:
    """Ratings whose users and items are given by position, the most rated first.

    ``ids`` by position, and ``n_ratings`` int64, the training ratings of each. Of each rating its
    ``positions`` int32, ``rating`` float32 and ``is_validation`` boolean. ``n_cold``: validation
    ratings left out because their user or item has no training rating. ``known``: bias and factors
    of the ids that a model knows, null for others; of the sides that have them. ``features``: id
    and columns of features, of the sides that have them.
    """

    ids: dict[Side, pa.Array]
    n_ratings: dict[Side, Int64s]
    positions: dict[Side, Int32s]
    rating: Float32s
    is_validation: Bools
    n_cold: int
    known: dict[Side, pa.Table]
    features: dict[Side, pa.Table] = field(default_factory=dict)

    def block(self, side: Side) -> RatingBlock:
        """All ratings as one block, whose rows are those of ``side``."""
        return build_block(
            self.positions[side],
            self.positions[side.other],
            self.rating,
            self.is_validation,
            len(self.ids[side]),
            len(self.ids[side.other]),
        )

    def ordered(self, order: dict[Side, Int64s]) -> "IndexedRatings":
        """The same ratings with the positions of each side in another order."""
        places = {}
        for side, old in order.items():
            places[side] = np.empty(len(old), np.int32)
            places[side][old] = np.arange(len(old), dtype=np.int32)
        return replace(
            self,
            ids={side: ids.take(pa.array(order[side])) for side, ids in self.ids.items()},
            n_ratings={side: n[order[side]] for side, n in self.n_ratings.items()},
            positions={side: places[side][at] for side, at in self.positions.items()},
            known={side: rows.take(pa.array(order[side])) for side, rows in self.known.items()},
        )

    def of_some_users(self, n_most: int, seed: int) -> "IndexedRatings":
        """Training ratings alone, some ``n_most`` of them at most: all those of some users, who are
        chosen by their ids. Without rows to start from."""
        share = n_most / max(int(self.n_ratings[USER].sum()), 1)
        places = uniform(start_keys(self.ids[USER], "sample", seed), 1)[:, 0]
        kept = (places < share)[self.positions[USER]] & ~self.is_validation
        return replace(
            self,
            positions={side: at[kept] for side, at in self.positions.items()},
            rating=self.rating[kept],
            is_validation=np.zeros(int(kept.sum()), np.bool_),
            known={},
        )

    def start(self, side: Side, rank: int, seed: int) -> Float32s:
        """Rows that a fit starts from; see :func:`mfspark.algorithms.start.start_rows`."""
        return start_rows(self.ids[side], self.known.get(side), side, rank, seed)


def with_validation_column(table: pa.Table) -> pa.Table:
    """``table`` with a column ``is_validation``: all false where there was none."""
    if IS_VALIDATION in table.column_names:
        return table
    return table.append_column(IS_VALIDATION, pa.array(np.zeros(table.num_rows, np.bool_)))


def index_ratings(
    ratings: pa.Table | Sequence[pa.Table],
    known: dict[Side, pa.Table] | None = None,
    features: dict[Side, pa.Table] | None = None,
) -> IndexedRatings:
    """Give the users and items of ``ratings`` (user, item, rating, is_validation) their positions.

    Ids may be of any type. Columns may be dictionary-encoded, and several tables may have
    dictionaries of their own. ``known``: id, bias, factors; ``features``: id and columns of
    features; by side.
    """
    tables = [ratings] if isinstance(ratings, pa.Table) else ratings
    is_validation = np.concatenate([table[IS_VALIDATION].to_numpy() for table in tables])
    rating = np.concatenate([_decoded(table[RATING]) for table in tables], dtype=np.float32)
    with ThreadPoolExecutor(len(Side)) as pool:
        counted = _count_sides(pool, tables, is_validation)
    positions = {side: found.positions for side, found in counted.items()}
    is_warm = (positions[USER] >= 0) & (positions[ITEM] >= 0)
    n_cold = len(is_warm) - int(is_warm.sum())
    if n_cold:
        positions = {side: part[is_warm] for side, part in positions.items()}
        rating, is_validation = rating[is_warm], is_validation[is_warm]
    ids = {side: found.ids for side, found in counted.items()}
    return IndexedRatings(
        ids=ids,
        n_ratings={side: found.n_ratings for side, found in counted.items()},
        positions=positions,
        rating=rating,
        is_validation=is_validation,
        n_cold=n_cold,
        known={side: known_rows(ids[side], rows, side) for side, rows in (known or {}).items()},
        features=features or {},
    )


@dataclass(frozen=True)
class _CountedSide:
    """Ids with training ratings, the most rated first; their numbers of ratings; of each row the
    position of its id, −1 when it has no training rating."""

    ids: pa.Array
    n_ratings: Int64s
    positions: Int32s


def _count_sides(
    pool: Executor, tables: Sequence[pa.Table], is_validation: Bools
) -> dict[Side, _CountedSide]:
    """A thread for each side; tables count, and look up, by their own dictionaries."""

    def count(side: Side) -> _CountedSide:
        """Number the ids of all tables, count their ratings, and look every rating up."""
        parts = [encode_ids(table[side]) for table in tables]
        ids = pc.unique(pa.chunked_array([of_part for of_part, _ in parts]))
        places = [pc.index_in(of_part, value_set=ids).to_numpy() for of_part, _ in parts]
        rows = _rows_of_parts([codes for _, codes in parts])
        counts = np.zeros(len(ids), np.int64)
        for (of_part, codes), place, row in zip(parts, places, rows, strict=True):
            is_held_out = is_validation[row]
            fitted = codes[~is_held_out] if is_held_out.any() else codes
            np.add.at(counts, place, count_codes(fitted, len(of_part)))
        found = pa.table({"count": counts, "id": ids})
        order = pc.sort_indices(found, [("count", "descending"), ("id", "ascending")]).to_numpy()
        kept = order[: int(np.count_nonzero(counts))]
        position = np.full(len(ids), -1, np.int32)
        position[kept] = np.arange(len(kept), dtype=np.int32)
        positions = np.empty(len(is_validation), np.int32)
        for (_, codes), place, row in zip(parts, places, rows, strict=True):
            positions[row] = pa.array(position[place]).take(pa.array(codes)).to_numpy()
        return _CountedSide(ids.take(pa.array(kept)), counts[kept], positions)

    return dict(zip(Side, pool.map(count, Side), strict=True))


def _rows_of_parts(parts: Sequence[Array]) -> list[slice]:
    """Of each part, where its rows are among all."""
    ends = np.cumsum([0, *map(len, parts)]).tolist()
    return [slice(first, last) for first, last in pairwise(ends)]


def _decoded(column: pa.ChunkedArray) -> Array:
    if pa.types.is_dictionary(column.type):
        column = column.combine_chunks().dictionary_decode()
    values: Array = column.to_numpy()
    return values


def encode_ids(column: pa.ChunkedArray) -> tuple[pa.Array, Array]:
    """Distinct ids, and of each row the place of its id among them: int32, or as narrow as the
    column has them."""
    if not pa.types.is_dictionary(column.type):
        # To unify the dictionaries of many chunks takes ten times as long as to make one.
        whole = column.combine_chunks()
        if isinstance(whole, pa.Array):
            encoded = whole.dictionary_encode()
            return encoded.dictionary, encoded.indices.to_numpy()
        column = whole.dictionary_encode()
    if column.num_chunks > 1:
        column = column.unify_dictionaries()
    codes = [chunk.indices.to_numpy() for chunk in column.chunks]
    return column.chunk(0).dictionary, codes[0] if len(codes) == 1 else np.concatenate(codes)


def count_codes(codes: Array, n: int) -> Int64s:
    """How often each number below ``n`` occurs, int64 [n]. NumPy's own count makes a copy of all
    ``codes`` that is up to eight times as large."""
    counts = np.zeros(n, np.int64)
    for some in slices(len(codes), n):
        counts += np.bincount(codes[some], minlength=n)
    return counts


def slices(n: int, least: int = 0) -> list[slice]:
    """``n`` places in slices whose 64-bit copies stay in the cache, or of ``least`` places."""
    step = max(_AT_A_TIME, least)
    return [slice(first, first + step) for first in range(0, n, step)]
