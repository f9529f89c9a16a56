"""Where a fit begins: rows drawn from seed and id, or those of a model that knows the id."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.columns import BIAS, FACTORS, N_RATINGS
from mfspark.engine.index import SideIndex
from mfspark.kernels.csr import Float32s, Int64s
from mfspark.kernels.initialise import initial_rows


def start_rows(ids: pa.Array, known: pa.Table | None, side: str, rank: int, seed: int) -> Float32s:
    """Rows [factors, bias] to start from, float32 [n, rank + 1].

    ``known`` (bias, factors; a row per id) goes before what is drawn, where it is not null.
    """
    rows = initial_rows(initial_keys(ids, side, seed), rank)
    if known is None:
        return rows
    is_known = known[BIAS].is_valid().to_numpy()
    rows[is_known, :rank] = _flat(known[FACTORS]).reshape(-1, rank)
    rows[is_known, rank] = known[BIAS].drop_null().to_numpy()
    return rows


def _flat(lists: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    return np.asarray(lists.drop_null().combine_chunks().flatten(), np.float32)


def known_rows(ids: pa.Array, table: pa.Table, side: str) -> pa.Table:
    """Rows of ``table`` (the id ``side``, bias, factors) for ``ids``; null for others."""
    at = pc.index_in(ids, table[side].combine_chunks())
    return table.select([BIAS, FACTORS]).take(at)


def initial_keys(ids: pa.Array, side: str, seed: int) -> npt.NDArray[np.uint64]:
    """What the initial factors of each id are drawn from, uint64.

    Keys are made of text, so 7 (int), 7 (long) and "7" start alike.
    """
    text = pc.binary_join_element_wise(f"{seed}/{side}", pc.cast(ids, pa.string()), "/")
    values: Any = text.to_numpy(zero_copy_only=False).astype(object)
    return np.asarray(pd.util.hash_array(values, categorize=False), np.uint64)


# (block, rows, ratings of each row) → a row of a table of cells.
MakeCell = Callable[[int, Float32s, Int64s], pa.RecordBatch]


def start_cells(
    index: SideIndex,
    known: DataFrame | None,
    side: str,
    rank: int,
    seed: int,
    make: MakeCell,
    schema: str,
) -> DataFrame:
    """The start of every block of a side as cells; ``known``: the id ``side``, bias, factors."""
    ids = index.table.select("block", "local", "id", N_RATINGS)
    if known is not None:
        rows = known.select(F.col(side).alias("id"), BIAS, FACTORS)
        # The join scatters the rows of a block.
        ids = ids.join(rows, "id", "left").repartitionById(len(index.layout.sizes), F.col("block"))
    return ids.mapInArrow(partial(_start_block, side=side, rank=rank, seed=seed, make=make), schema)


def _start_block(
    batches: Iterator[pa.RecordBatch], side: str, rank: int, seed: int, make: MakeCell
) -> Iterator[pa.RecordBatch]:
    """One partition of a side's index holds one block, whole."""
    parts = [part for part in batches if part.num_rows]
    if parts:
        ids = pa.Table.from_batches(parts).sort_by("local")
        known = ids if BIAS in ids.column_names else None
        rows = start_rows(ids["id"].combine_chunks(), known, side, rank, seed)
        yield make(ids["block"][0].as_py(), rows, ids[N_RATINGS].to_numpy())
