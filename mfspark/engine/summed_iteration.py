"""The exchange of moments: an iteration in which a big side ships sums in place of its factors.

Where users are many and items few, the task that has just solved a block of users has all that the
items need of it: from the same ratings in the order of items, and the rows in its cache, it forms
for each item its part of Σ v vᵀ, v = [p, 1, r − μ − b_u] (see :func:`packed_moments`). The parts
are added up by the block of the item, which is solved from them; the error comes out of the same
sums. Ratings lie in one place. Shipped are (k + 2)(k + 3)/2 numbers at rank k for each pair of a
block of users and an item that they have rated; where these are few, to the driver, which adds them
up itself. Of a pair of at most k/2 ratings these and the rows of their users are fewer bytes; they
are shipped instead, and no other factor of a user leaves its task.

Summing partial normal equations of distributed rows goes back to Zhou et al. (2008) and Schelter et
al. (2013).
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial, reduce
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.columns import ITEM, USER, Side
from mfspark.engine.als_half_step import SolvedSide, block_solver
from mfspark.engine.block_files import FILES_LOST, Arrays, BlockFiles, delivered
from mfspark.engine.blocks import BlockedSide, RatingBlockFormat
from mfspark.engine.cells import cells_of, values
from mfspark.engine.factor_cells import FACTORS, FACTORS_SCHEMA, factor_rows, factors_cell
from mfspark.engine.index import Layout
from mfspark.engine.kept_cells import KeptCells
from mfspark.engine.plan import Keep, is_cheap, moments_bytes
from mfspark.engine.recovery import recovering
from mfspark.engine.workspace import Workspace
from mfspark.errors import FitError
from mfspark.kernels.arrays import AlignedRows, Array, Bools, Float32s
from mfspark.kernels.csr import Csr, transposed
from mfspark.kernels.moments import half_step_of_moments, packed_moments, unpacked_moments
from mfspark.kernels.objective import Objective, PassSums, add_sums

# Of items in a block of users: the block of the items, that of the users, whether of their
# validation ratings, and local indices int32. Then either the moments of these items float32, the
# upper triangle row by row, or what they are made of: how many ratings each has, int32, the places
# of their users among ``rows``, int32, the ratings, and rows, both float32. ``sums``, to the first
# block of items, are those of the users' half-step, and the bytes of training ratings that were
# sent, float64; NaN where there was no file of their block.
_MOMENTS_SCHEMA = (
    "target int, block int, is_validation boolean, items binary, moments binary, counts binary, "
    "users binary, ratings binary, rows binary, sums binary"
)
_PLAIN = ("target", "block", "is_validation")
_FIELDS = pa.schema(
    [
        ("target", pa.int32()),
        ("block", pa.int32()),
        ("is_validation", pa.bool_()),
        ("items", pa.binary()),
        ("moments", pa.binary()),
        ("counts", pa.binary()),
        ("users", pa.binary()),
        ("ratings", pa.binary()),
        ("rows", pa.binary()),
        ("sums", pa.binary()),
    ]
)

logger = logging.getLogger("mfspark")

# Of the users' half-step, and the bytes sent.
_N_SUMS = len(PassSums._fields) + 1

# Items whose moments are held in double at a time.
_ITEMS_AT_A_TIME = 512


@dataclass(frozen=True)
class SummedBlockFormat(RatingBlockFormat):
    """A rating block, and its training and validation ratings by the fixed row: two CSR whose rows
    are places among the needed positions, and whose columns rows of the block."""

    dtypes: ClassVar[tuple[type, ...]] = (np.int32, *4 * (np.int64, np.int32, np.float32))

    def arrays(self, chunks: pa.Table, layout: Layout, n_fixed: int) -> Arrays:
        """See ``BlockFormat``."""
        needed, *parts = super().arrays(chunks, layout, n_fixed)
        ratings = Csr(*parts[:3]), Csr(*parts[3:])
        by_item = [transposed(part, len(needed)) for part in ratings]
        return [needed, *parts, *by_item[0], *by_item[1]]


@dataclass(frozen=True)
class SummedItems:
    """What the half-steps of items without blocks of ratings share."""

    layout: Layout
    objective: Objective
    rank: int
    keep: Keep
    side: Side = ITEM

    def most_bytes(self, users: BlockedSide) -> int:
        """The most bytes of training ratings that are sent per half-step, all as moments."""
        return users.n_needed * moments_bytes(self.rank)


def run_summed_iteration(
    workspace: Workspace, users: SolvedSide, items: SummedItems, begun: KeptCells
) -> tuple[KeptCells, dict[Side, PassSums], int]:
    """Both half-steps as one Spark job of two stages, or of one where the driver adds up, from and
    to cells of the factors of items; those of users follow from the items that it ``begun`` with.
    Returns the sums of either, and the bytes of training ratings sent."""
    blocks = users.blocks.blocks
    n_blocks = blocks.files.layout.n_blocks
    delivery = users.exchange.deliver(begun)
    work = partial(
        _solve_and_sum,
        solve=block_solver(users),
        files=blocks.files,
        items=items.layout,
        rank=items.rank,
        mean=items.objective.mean,
    )

    is_few = is_cheap(items.most_bytes(users.blocks))

    def solved(*places: DataFrame) -> tuple[KeptCells, pa.Table]:
        sent = reduce(
            DataFrame.unionAll,
            [delivered(delivery, each, work, _MOMENTS_SCHEMA) for each in places],
        )
        if is_few:
            arrived = recovering(workspace, n_blocks, sent.toArrow)
            cells = pa.Table.from_batches(_solve_on_driver(arrived, items))
            kept = KeptCells(workspace.spark, on_driver=cells.select(FACTORS))
            return kept, cells.drop_columns("rows")
        summed = sent.repartitionById(items.layout.n_blocks, F.col("target")).mapInArrow(
            partial(_solve_sums, items=items), FACTORS_SCHEMA
        )
        return recovering(workspace, n_blocks, lambda: workspace.keep(summed, items.keep, FACTORS))

    kept, found = solved(blocks.placed)
    of_users, missing = _user_sums(found)
    if missing:
        logger.debug("the files of %d blocks are not where they are needed", len(missing))
        others = blocks.placed.where(~F.col("block").isin(missing))
        kept, found = solved(others, blocks.placed_anew(missing))
        of_users, missing = _user_sums(found)
        if missing:
            raise FitError(FILES_LOST)
    sums = {
        USER: add_sums(part[:-1] for part in of_users),
        ITEM: add_sums(found["sums"].to_pylist()),
    }
    return kept, sums, int(sum(part[-1] for part in of_users))


def _user_sums(found: pa.Table) -> tuple[list[list[float]], list[int]]:
    """By block the sums of the users' half-step with the bytes sent, and the blocks whose files
    were missing."""
    rows = np.concatenate(
        [np.frombuffer(part).reshape(-1, 1 + _N_SUMS) for part in values(found["hot"])]
    )
    rows = rows[np.argsort(rows[:, 0])]
    is_missing = np.isnan(rows[:, 1])
    return rows[~is_missing, 1:].tolist(), rows[is_missing, 0].astype(int).tolist()


def _solve_and_sum(
    arrived: pa.Table,
    solve: Callable[[pa.Table], pa.RecordBatch],
    files: BlockFiles,
    items: Layout,
    rank: int,
    mean: float,
) -> Iterator[pa.RecordBatch]:
    """Solve a block of users, and form the moments of the items that it has rated; rows of
    ``_MOMENTS_SCHEMA``."""
    block = arrived["block"][0].as_py()
    solved = solve(arrived)
    arrays = None if solved["sums"].null_count else files.open(block)
    if arrays is None:
        yield _row(target=0, block=block, sums=np.full(_N_SUMS, np.nan))
        return
    rows = factor_rows(solved["rows"], rank)[0]
    fixed = AlignedRows.of(rows)
    needed, by_item = arrays[0], (Csr(*arrays[7:10]), Csr(*arrays[10:13]))
    offsets = items.offsets
    ends = np.searchsorted(needed, [*offsets, items.n_rows])
    n_bytes = 0
    for target, (first, last) in enumerate(pairwise(ends.tolist())):
        local = (needed[first:last] - offsets[target]).astype(np.int32)
        for is_validation, ratings in zip((False, True), by_item, strict=True):
            own = ratings.slice(first, last)
            is_sparse = own.counts <= rank // 2
            for some, of_some in (
                (~is_sparse, partial(_moments_of, fixed=fixed, mean=mean)),
                (is_sparse & (own.counts > 0), partial(_ratings_of, rows=rows)),
            ):
                if some.any():
                    sent = of_some(own, some) | {"items": local[some]}
                    n_bytes += 0 if is_validation else sum(part.nbytes for part in sent.values())
                    yield _row(target=target, block=block, is_validation=is_validation, **sent)
    sums = [*solved["sums"][0].as_py(), n_bytes]
    yield _row(target=0, block=block, sums=np.array(sums, float))


def _moments_of(ratings: Csr, items: Bools, fixed: AlignedRows, mean: float) -> dict[str, Array]:
    """Columns of ``_MOMENTS_SCHEMA`` for items of many ratings."""
    return {"moments": packed_moments(ratings, items, fixed, mean)}


def _ratings_of(of_all: Csr, items: Bools, rows: Float32s) -> dict[str, Array]:
    """Columns of ``_MOMENTS_SCHEMA`` for items of few ratings."""
    ratings = of_all.some(items)
    users, places = np.unique(ratings.columns, return_inverse=True)
    return {
        "counts": ratings.counts.astype(np.int32),
        "users": places.astype(np.int32),
        "ratings": ratings.values,
        "rows": rows[users],
    }


def _packed(row: dict[str, Any], items: SummedItems) -> Float32s:
    """The moments that a row of ``_MOMENTS_SCHEMA`` brings, or those of the ratings in it."""
    if row["moments"]:
        return np.frombuffer(row["moments"], np.float32)
    counts, users = (np.frombuffer(row[name], np.int32) for name in ("counts", "users"))
    ratings, rows = (np.frombuffer(row[name], np.float32) for name in ("ratings", "rows"))
    indptr = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    # As cells lend theirs: numba compiles for each combination of types.
    indptr.setflags(write=False)
    fixed, every = AlignedRows.of(rows.reshape(-1, items.rank + 1)), np.ones(len(counts), bool)
    return packed_moments(Csr(indptr, users, ratings), every, fixed, items.objective.mean)


def _row(**columns: int | bool | Array) -> pa.RecordBatch:
    """One row of ``_MOMENTS_SCHEMA``; arrays as binary values, without a copy."""
    whole = np.zeros(1, np.int64)
    cells = [
        cells_of(value.ravel(), whole)
        if isinstance(value := columns.get(field.name), np.ndarray)
        else pa.array([value], field.type)
        for field in _FIELDS
    ]
    return pa.RecordBatch.from_arrays(cells, schema=_FIELDS)


def _solve_on_driver(arrived: pa.Table, items: SummedItems) -> Iterator[pa.RecordBatch]:
    """``_solve_sums`` of every block of items."""
    for target in pc.unique(arrived["target"]).sort().to_pylist():
        of_target = arrived.filter(pc.equal(arrived["target"], target))
        yield from _solve_sums(iter(of_target.to_batches()), items)


def _solve_sums(batches: Iterator[pa.RecordBatch], items: SummedItems) -> Iterator[pa.RecordBatch]:
    """Add up what arrived for a block of items and solve it: one row of ``FACTORS_SCHEMA``, with
    the sums of the users' blocks in place of ``hot``."""
    parts = [batch for batch in batches if batch.num_rows]
    if not parts:
        return
    arrived = pa.Table.from_batches(parts)
    target = arrived["target"][0].as_py()
    size, n_features = int(items.layout.sizes[target]), items.rank + 2
    blocks, flags = arrived["block"].to_numpy(), arrived["is_validation"].to_pylist()
    n_kinds = 2 if True in flags else 1
    packed = np.zeros((n_kinds, size, n_features * (n_features + 1) // 2))
    cells = {name: values(arrived[name]) for name in _FIELDS.names if name not in _PLAIN}
    of_users = []
    # In the order of the blocks, so that the sums are the same in every run.
    for number in np.argsort(blocks, kind="stable"):
        row = {name: column[number] for name, column in cells.items()}
        if flags[number] is None:
            of_users.append([blocks[number], *np.frombuffer(row["sums"])])
            continue
        at = np.frombuffer(row["items"], np.int32)
        # They ascend; of all items the sums are added where they lie.
        to = slice(None) if len(at) == size else at
        packed[int(flags[number]), to] += _packed(row, items).reshape(len(at), -1)
    solved, of_items = [], []
    for first in range(0, max(size, 1), _ITEMS_AT_A_TIME):
        some = packed[:, first : first + _ITEMS_AT_A_TIME]
        train, *validation = unpacked_moments(some, items.rank)
        rows, sums = half_step_of_moments(
            train, validation[0] if validation else None, items.objective, ITEM
        )
        solved.append(rows)
        of_items.append(sums)
    total = [float(value) for value in add_sums(of_items)]
    yield factors_cell(target, np.concatenate(solved), total, np.array(of_users))
