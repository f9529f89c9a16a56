"""Ratings as packs: the only pass of a fit over ratings as rows, which checks and sums them up.

What ratings are made of may take long to compute, and may not come out the same twice; and Spark
hands rows to Python one by one. So rows are read once: each task makes packs of some millions of
them, of which all else is made. In a pack each id occurs once, and a rating is three numbers, as
narrow as their range allows.

Ratings are fitted in a unit of their own, which is known when all of them have been read: packs
have them as they came.

Worked example: three ratings, the last of which is for validation.

>>> table = pa.table({"user": [7, 9, 7], "item": ["b", "b", "a"], "rating": [4.0, 5.0, 1.0],
...                   "is_validation": [False, False, True]})
>>> (row,) = pack_rows(iter(table.to_batches()))
>>> [row[name][0].as_py() for name in ("n_ratings", "n_validation", "mean", "squares", "highest")]
[2, 1, 4.5, 0.5, 5.0]
>>> ratings = ratings_of(values(row["cell"])[0], Unit(mean=4.5, scale=0.5))
>>> {side: ratings[side].combine_chunks().indices.to_pylist() for side in ("user", "item")}
{'user': [0, 1, 0], 'item': [0, 0, 1]}
>>> ratings["rating"].combine_chunks().dictionary_decode().to_pylist()
[-1.0, 1.0, -7.0]
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DataType

from mfspark.algorithms.indexed_ratings import encode_ids, with_validation_column
from mfspark.columns import IS_VALIDATION, ITEM, RATING, USER, Side
from mfspark.engine.cells import (
    ROWS_PER_PACK,
    NarrowRatings,
    from_cell,
    index_type,
    packs,
    to_cell,
    values,
)
from mfspark.engine.plan import Workload, one_task_factor_bytes
from mfspark.engine.workspace import Workspace
from mfspark.errors import DataError
from mfspark.kernels.arrays import Array, Bools, Float32s, UInt64s
from mfspark.kernels.random import mix

# Factors that take no more than this are no reason to plan a fit one way or another.
_FEW_BYTES = 256 * 2**20

# What may not be fitted: the number of such rows in a pack.
_UNFIT = {
    f"null_{USER}s": f"{USER} ids that are null",
    f"null_{ITEM}s": f"{ITEM} ids that are null",
    "null_ratings": "ratings that are null",
    "not_finite": "ratings that are NaN or infinite",
}
_SPANS = {side: (f"least_{side}", f"most_{side}") for side in Side}
_SCHEMA = ", ".join(
    [
        *[f"{name} long" for name in (*_UNFIT, "n_ratings", "n_validation")],
        *[f"{name} double" for name in ("mean", "squares", "lowest", "highest")],
        *[f"{name} double" for span in _SPANS.values() for name in span],
    ]
)
_FIELDS = pa.schema(
    [
        *[(name, pa.int64()) for name in (*_UNFIT, "n_ratings", "n_validation")],
        *[(name, pa.float64()) for name in ("mean", "squares", "lowest", "highest")],
        *[(name, pa.float64()) for span in _SPANS.values() for name in span],
    ]
)
_CELL = "cell"


class Unit(NamedTuple):
    """The unit in which ratings are fitted: (r − ``mean``) / ``scale``."""

    mean: float = 0.0
    scale: float = 1.0

    def of(self, ratings: Array) -> Float32s:
        """Ratings in this unit, of the numbers that came in; computed in double."""
        return ((ratings.astype(np.float64) - self.mean) / self.scale).astype(np.float32)


@dataclass(frozen=True)
class Summary:
    """What is known of the training ratings before anything is built.

    ``n_users`` and ``n_items``: at most so many ids have training ratings; of packed ratings so
    many, to some per cent, unless that makes no difference. ``fingerprint``: of all rows, where it
    was asked for.
    """

    n_ratings: int
    n_validation: int
    n_users: int
    n_items: int
    mean: float
    variance: float
    lowest: float
    highest: float
    fingerprint: str | None = None

    @property
    def n_rows(self) -> int:
        """Training and validation ratings."""
        return self.n_ratings + self.n_validation

    def squared_deviation(self, center: float) -> float:
        """Σ (r − center)² over the training ratings."""
        return self.n_ratings * (self.variance + (self.mean - center) ** 2)


@dataclass(frozen=True)
class Packs:
    """``table``: cell binary (an Arrow stream; see ``ratings_of``), maybe other columns beside."""

    table: DataFrame
    id_types: dict[Side, DataType]

    @property
    def cells(self) -> DataFrame:
        """The packs alone."""
        return self.table.select(_CELL)


def pack_ratings(
    workspace: Workspace, ratings: DataFrame, rank: int, is_fingerprinted: bool = False
) -> tuple[Packs, Summary]:
    """Pack ``ratings`` (user, item, rating, and maybe is_validation boolean), which is one pass,
    and another one for a fingerprint: the same for the same rows in any order. Packs are persisted.

    ``rank``: of the factors to come; where they may be so many that the number of ids matters to
    the plan, the ids are counted. Raises ``DataError`` for ids or ratings that are null or not
    finite.
    """
    schema = f"{_SCHEMA}, {_CELL} binary"
    workspace.send("rows")
    table = workspace.persist(_plain(ratings).mapInArrow(pack_rows, schema), made_of="ratings")
    packs = Packs(table, {side: ratings.schema[side].dataType for side in Side})
    summary = _summary(table.drop(_CELL).toArrow())
    workspace.send("cells")
    workload = Workload(summary.n_ratings, summary.n_users, summary.n_items, rank)
    if one_task_factor_bytes(workload) > _FEW_BYTES:
        counts = _estimated_counts(packs.cells)
        summary = replace(summary, n_users=counts[USER], n_items=counts[ITEM])
    if is_fingerprinted:
        row = ratings.agg(F.bit_xor(F.xxhash64(*ratings.columns))).first()
        assert row is not None
        told = f"{summary.n_ratings} {summary.n_validation} {row[0]}"
        summary = replace(summary, fingerprint=told)
    return packs, summary


def pack_ids(ids: DataFrame, side: Side) -> Packs:
    """Packs of the ids of one side, the only column of ``ids``."""
    table = ids.mapInArrow(_pack_ids, f"{_CELL} binary")
    return Packs(table, {side: ids.schema[side].dataType})


def summarise(ratings: DataFrame) -> Summary:
    """What ``pack_ratings`` finds out, in one pass, and without packs."""
    measure = partial(pack_rows, has_cells=False)
    return _summary(_plain(ratings).mapInArrow(measure, _SCHEMA).toArrow())


def ratings_of(cell: pa.Buffer, unit: Unit) -> pa.Table:
    """The ratings of a pack: user and item dictionary-encoded, rating float32 in the ``unit``,
    dictionary-encoded where it has few values, is_validation boolean."""
    table = from_cell(cell)
    rating = table[RATING].combine_chunks()
    if pa.types.is_dictionary(rating.type):
        palette = pa.array(unit.of(rating.dictionary.to_numpy()))
        rating = pa.DictionaryArray.from_arrays(rating.indices, palette)
    else:
        rating = pa.array(unit.of(rating.to_numpy()))
    return table.set_column(table.column_names.index(RATING), RATING, rating)


def pack_rows(
    batches: Iterator[pa.RecordBatch], has_cells: bool = True
) -> Iterator[pa.RecordBatch]:
    """A row for each pack of rows (user, item, rating double, and maybe is_validation boolean):
    the sums over its ratings and, with ``has_cells``, the pack; without one where rows are unfit.
    """
    for rows in packs(batches, ROWS_PER_PACK):
        table = with_validation_column(rows)
        unfit = _unfit(table)
        found: dict[str, object] = dict(unfit)
        if any(unfit.values()):
            found |= {"n_ratings": 0, "n_validation": 0}
            cell = None
        else:
            ids = {side: encode_ids(table[side]) for side in Side}
            ratings = NarrowRatings.of(table[RATING].to_numpy())
            is_validation = table[IS_VALIDATION].combine_chunks()
            found |= _sums(ratings, is_validation.to_numpy(zero_copy_only=False))
            for side in Side:
                found |= _span(ids[side][0], side)
            cell = to_cell(_narrow(ids, ratings, is_validation)) if has_cells else None
        row = pa.RecordBatch.from_pylist([found], schema=_FIELDS)
        yield row.append_column(_CELL, pa.array([cell], pa.binary())) if has_cells else row


def pack_of(ratings: pa.Table) -> bytes:
    """The cell of some of the ratings of a pack."""
    columns = {name: ratings[name].combine_chunks() for name in ratings.column_names}
    plain = pa.table(
        {
            name: column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
            for name, column in columns.items()
        }
    )
    ids = {side: encode_ids(plain[side]) for side in Side}
    return to_cell(_narrow(ids, NarrowRatings.of(plain[RATING].to_numpy()), columns[IS_VALIDATION]))


def _plain(ratings: DataFrame) -> DataFrame:
    """The columns that packs are made of, with the ratings as doubles."""
    is_validation = [IS_VALIDATION] if IS_VALIDATION in ratings.columns else []
    rating = F.col(RATING).cast("double").alias(RATING)
    return ratings.select(*Side, rating, *is_validation)


def _unfit(table: pa.Table) -> dict[str, int]:
    ratings = table[RATING].drop_null().to_numpy()
    counts = [table[name].null_count for name in (*Side, RATING)]
    not_finite = len(ratings) - int(np.count_nonzero(np.isfinite(ratings)))
    return dict(zip(_UNFIT, [*counts, not_finite], strict=True))


def _narrow(
    ids: dict[Side, tuple[pa.Array, Array]], ratings: NarrowRatings, is_validation: pa.Array
) -> pa.Table:
    """The content of a pack."""
    columns: dict[str, pa.Array] = {
        side.value: pa.DictionaryArray.from_arrays(codes.astype(index_type(len(of_side))), of_side)
        for side, (of_side, codes) in ids.items()
    }
    rating = ratings.rating
    if len(ratings.palette):
        columns[RATING] = pa.DictionaryArray.from_arrays(rating, ratings.palette)
    else:
        with np.errstate(over="ignore"):
            single = rating.astype(np.float32)
        columns[RATING] = pa.array(single if np.array_equal(single, rating) else rating)
    return pa.table({**columns, IS_VALIDATION: is_validation})


def _sums(ratings: NarrowRatings, is_validation: Bools) -> dict[str, float]:
    """Number, mean, sum of squared deviations from it, and range of the training ratings."""
    n_validation = int(np.count_nonzero(is_validation))
    rated = ratings.rating[~is_validation] if n_validation else ratings.rating
    found: dict[str, float] = {"n_ratings": len(rated), "n_validation": n_validation}
    if not len(rated):
        return found
    if len(ratings.palette):
        weights = np.bincount(rated, minlength=len(ratings.palette))
        rated, weights = ratings.palette[weights > 0], weights[weights > 0]
    else:
        weights = np.ones(len(rated), np.int64)
    mean = float(weights @ rated / weights.sum())
    return {
        **found,
        "mean": mean,
        "squares": float(weights @ (rated - mean) ** 2),
        "lowest": float(rated.min()),
        "highest": float(rated.max()),
    }


def _span(ids: pa.Array, side: Side) -> dict[str, float]:
    """The range of integer ids; of text there is none."""
    if not pa.types.is_integer(ids.type):
        return {}
    ends = pc.min_max(ids).as_py()
    return dict(zip(_SPANS[side], (float(ends["min"]), float(ends["max"])), strict=True))


def _summary(told: pa.Table) -> Summary:
    """Of all packs, from their rows; variances are put together as in Chan, Golub, LeVeque:
    Updating formulae and a pairwise algorithm for computing sample variances, 1979."""
    for name, what in _UNFIT.items():
        n = pc.sum(told[name]).as_py()
        if n:
            raise DataError(
                f"found {n} {what} in the ratings to fit, which would spoil every factor; "
                "drop these rows, or let the ingest job put them in quarantine"
            )
    n_validation = pc.sum(told["n_validation"]).as_py() or 0
    rated = told.filter(pc.greater(told["n_ratings"], 0))
    if not rated.num_rows:
        raise DataError("there are no training ratings to fit; check filters and splits upstream")
    n, means = rated["n_ratings"].to_numpy(), rated["mean"].to_numpy()
    n_ratings = int(n.sum())
    mean = float(n @ means / n_ratings)
    squares = float(rated["squares"].to_numpy().sum() + n @ (means - mean) ** 2)
    # At most each rating has a user of its own, and integers lie in their range.
    n_ids = {}
    for side, (least, most) in _SPANS.items():
        n_ids[side] = n_ratings
        if not told[least].null_count:
            span = pc.max(told[most]).as_py() - pc.min(told[least]).as_py() + 1
            n_ids[side] = min(n_ratings, int(span))
    return Summary(
        n_ratings=n_ratings,
        n_validation=n_validation,
        n_users=n_ids[USER],
        n_items=n_ids[ITEM],
        mean=mean,
        variance=squares / n_ratings,
        lowest=pc.min(rated["lowest"]).as_py(),
        highest=pc.max(rated["highest"]).as_py(),
    )


def _estimated_counts(cells: DataFrame) -> dict[Side, int]:
    """Users and items with training ratings, estimated (Heule, Nunkesser, Hall: HyperLogLog in
    practice, 2013); cost: a pass over the ids of all packs."""
    hashes = cells.mapInArrow(_rated_hashes, f"{USER} long, {ITEM} long")
    # Nulls do not count.
    row = hashes.agg(*[F.approx_count_distinct(side) for side in Side]).first()
    assert row is not None
    return dict(zip(Side, row, strict=True))


def _rated_hashes(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Of each pack the hashes of the ids that have training ratings."""
    for batch in batches:
        for cell in values(batch.column(0)):
            table = from_cell(cell)
            is_rated = pc.invert(table[IS_VALIDATION]).combine_chunks()
            hashes = {}
            for side in Side:
                column = table[side].combine_chunks()
                occurs = pc.unique(column.indices.filter(is_rated))
                ids = hash_ids(column.dictionary.take(occurs))
                hashes[side] = pa.array(ids.view(np.int64))
            n = max(map(len, hashes.values()))
            columns = [
                pa.concat_arrays([each, pa.nulls(n - len(each), pa.int64())])
                for each in hashes.values()
            ]
            yield pa.RecordBatch.from_arrays(columns, names=list(hashes))


def hash_ids(ids: pa.Array) -> UInt64s:
    """Hashes of strings or integers, uint64 [n]; those of different integers differ."""
    if pa.types.is_integer(ids.type):
        return mix(ids.to_numpy().astype(np.int64).view(np.uint64))
    text = ids.to_numpy(zero_copy_only=False)
    return np.asarray(pd.util.hash_array(text, categorize=False), np.uint64)


def _pack_ids(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for rows in packs(batches, ROWS_PER_PACK):
        (side,) = rows.column_names
        ids, codes = encode_ids(rows[side])
        table = pa.table({side: pa.DictionaryArray.from_arrays(codes, ids)})
        yield pa.RecordBatch.from_arrays([pa.array([to_cell(table)])], names=[_CELL])
