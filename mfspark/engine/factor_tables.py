"""From factor cells back to tables with ids, in canonical rotation."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.columns import BIAS, FACTORS, N_RATINGS, Side
from mfspark.engine.cells import ChangedRatingsError, LostCellError, values
from mfspark.engine.factor_cells import factor_rows
from mfspark.engine.index import SideIndex
from mfspark.engine.kept_cells import KeptCells
from mfspark.engine.recovery import recovering
from mfspark.engine.workspace import Workspace, from_driver, materialised
from mfspark.kernels.arrays import Float32s, Float64s
from mfspark.kernels.rotation import Rotation, canonical_rotation
from mfspark.persisted import unpersist

# Small batches: a list array counts its values in 32 bits.
_ROWS_PER_BATCH = 65_536

_GRAM = pa.schema([("number", pa.int32()), ("gram", pa.binary()), ("sums", pa.binary())])


def factor_tables(
    workspace: Workspace,
    cells: dict[Side, KeptCells],
    indices: dict[Side, SideIndex],
    rank: int,
    scale: float,
) -> tuple[dict[Side, DataFrame], Rotation]:
    """Tables of users and items in canonical rotation, and the rotation, all in the unit of the
    user's ratings, which is ``scale`` times smaller."""
    n_blocks = max(index.layout.n_blocks for index in indices.values())
    found = recovering(workspace, n_blocks, lambda: find_rotation(cells, rank))
    rotation = found.scaled(scale)

    def table(side: Side, matrix: Float64s) -> DataFrame:
        """Whole before the workspace lets go of blocks and ids."""
        on_driver = cells[side].on_driver
        if on_driver is not None:
            ids = recovering(workspace, n_blocks, partial(_all_ids, indices[side]))
            return from_driver(
                workspace.spark, _table_on_driver(on_driver, ids, matrix, side, scale)
            )
        n_bytes = table_bytes(indices[side].layout.n_rows, rank)
        made = factor_table(cells[side].table, indices[side], matrix, side, scale)
        return recovering(workspace, n_blocks, partial(_all_factors, made, n_bytes, indices[side]))

    with ThreadPoolExecutor(2) as pool:
        tables = pool.map(table, Side, (rotation.users, rotation.items))
    return dict(zip(Side, tables, strict=True)), rotation


def _all_ids(index: SideIndex) -> pa.Table:
    """The ids of a side, which Spark may have had to count again."""
    if index.on_driver is not None:
        return index.on_driver
    ids = index.table.select("position", "id", N_RATINGS).toArrow()
    _check(index, ids.num_rows, pc.sum(ids[N_RATINGS]).as_py())
    return ids


def _all_factors(made: DataFrame, n_bytes: int, index: SideIndex) -> DataFrame:
    """``materialised`` of a factor table, whose ids Spark may have had to count again."""
    table = materialised(made, n_bytes)
    row = table.agg(F.count("*"), F.sum(N_RATINGS)).first()
    assert row is not None
    try:
        _check(index, *row)
    except ChangedRatingsError:
        unpersist(table)
        raise
    return table


def _check(index: SideIndex, n_rows: int, n_ratings: int) -> None:
    if (n_rows, n_ratings) != (index.layout.n_rows, index.n_ratings):
        raise ChangedRatingsError(
            f"{index.n_ratings} ratings of {index.layout.n_rows} ids were fitted, and then counted "
            f"as {n_ratings} of {n_rows}"
        )


def table_bytes(n_rows: int, rank: int) -> int:
    """About what a factor table takes: an id, the number of ratings, bias and factors."""
    return n_rows * 4 * (rank + 7)


def find_rotation(cells: dict[Side, KeptCells], rank: int) -> Rotation:
    """The canonical rotation of the factor cells of both sides; ships rank² numbers per block of
    those that are not on the driver."""
    (users, _), (items, sums) = (_side_gram(cells[side], rank) for side in Side)
    return canonical_rotation(users, items, sums)


def _side_gram(cells: KeptCells, rank: int) -> tuple[Float64s, Float64s]:
    """Σ p pᵀ and Σ p over the factors of one side."""
    if cells.on_driver is not None:
        parts = pa.Table.from_batches(_block_gram(cells.on_driver.to_batches(), rank), _GRAM)
    else:
        rows = cells.table.select("number", "rows")
        parts = rows.mapInArrow(
            partial(_block_gram, rank=rank), "number int, gram binary, sums binary"
        ).toArrow()
    # In the order of the blocks, so that the sums are the same in every run.
    parts = parts.sort_by("number")
    gram, sums = np.zeros((rank, rank)), np.zeros(rank)
    for of_gram, of_sums in zip(values(parts["gram"]), values(parts["sums"]), strict=True):
        gram += np.frombuffer(of_gram).reshape(rank, rank)
        sums += np.frombuffer(of_sums)
    return gram, sums


def _block_gram(batches: Iterable[pa.RecordBatch], rank: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for row, rows in enumerate(factor_rows(batch.column("rows"), rank)):
            factors = rows[:, :rank].astype(np.float64)
            gram, sums = factors.T @ factors, factors.sum(axis=0)
            yield pa.RecordBatch.from_arrays(
                [
                    batch.column("number").slice(row, 1),
                    pa.array([gram.tobytes()], pa.binary()),
                    pa.array([sums.tobytes()], pa.binary()),
                ],
                schema=_GRAM,
            )


def factor_table(
    cells: DataFrame, index: SideIndex, rotation: Float64s, side: Side, scale: float
) -> DataFrame:
    """One row per id: ``side`` (the id), n_ratings, bias float, factors array<float>."""
    unpacked = cells.select("number", "rows").mapInArrow(
        partial(_unpack, rotation=rotation, scale=scale),
        "block int, local int, bias float, factors array<float>",
    )
    return index.table.join(unpacked, on=["block", "local"], how="inner").select(
        F.col("id").alias(side), N_RATINGS, BIAS, FACTORS
    )


def _table_on_driver(
    cells: pa.Table, ids: pa.Table, rotation: Float64s, side: Side, scale: float
) -> pa.Table:
    """As ``factor_table``, of cells and ids that were collected; in the order of positions."""
    rows = np.concatenate(factor_rows(cells.sort_by("number")["rows"], len(rotation)))
    if len(rows) != ids.num_rows:
        raise LostCellError(f"got {len(rows)} rows of factors for {ids.num_rows} ids")
    ids = ids.sort_by("position")
    parts = [
        pa.table({BIAS: bias, FACTORS: factors})
        for _, bias, factors in factor_batches(rows, rotation, scale)
    ]
    made = pa.concat_tables(parts)
    return pa.table(
        {side: ids["id"], N_RATINGS: ids[N_RATINGS], BIAS: made[BIAS], FACTORS: made[FACTORS]}
    )


def _unpack(
    batches: Iterator[pa.RecordBatch], rotation: Float64s, scale: float
) -> Iterator[pa.RecordBatch]:
    """Cells into rows (block, local, bias, factors), rotated and in the unit of the ratings."""
    for batch in batches:
        blocks = batch.column("number").to_pylist()
        for block, rows in zip(
            blocks, factor_rows(batch.column("rows"), len(rotation)), strict=True
        ):
            for first, bias, factors in factor_batches(rows, rotation, scale):
                n = len(bias)
                yield pa.RecordBatch.from_pydict(
                    {
                        "block": pa.array(np.full(n, block, np.int32)),
                        "local": pa.array(np.arange(first, first + n, dtype=np.int32)),
                        "bias": bias,
                        "factors": factors,
                    }
                )


def factor_batches(
    rows: Float32s, rotation: Float64s, scale: float
) -> Iterator[tuple[int, pa.Array, pa.ListArray]]:
    """Number of the first row, scaled biases and rotated factors of some rows after others."""
    rank = len(rotation)
    for first in range(0, len(rows), _ROWS_PER_BATCH):
        part = rows[first : first + _ROWS_PER_BATCH]
        rotated = (part[:, :rank].astype(np.float64) @ rotation).astype(np.float32)
        ends = rank * np.arange(len(part) + 1, dtype=np.int32)
        bias = pa.array(np.float32(scale) * part[:, rank])
        yield first, bias, pa.ListArray.from_arrays(ends, rotated.ravel())
