"""The start of a fit: rows drawn from seed and id, or those of a model that knows the id."""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from mfspark.columns import BIAS, FACTORS, Side
from mfspark.kernels.arrays import Float32s, UInt64s
from mfspark.kernels.random import random_rows


def start_rows(ids: pa.Array, known: pa.Table | None, side: Side, rank: int, seed: int) -> Float32s:
    """Rows [factors, bias] to start from, float32 [n, rank + 1].

    ``known`` (bias, factors; a row per id) goes before what is drawn, where it is not null.
    """
    rows = random_rows(start_keys(ids, side, seed), rank)
    if known is None:
        return rows
    assert known.num_rows == len(ids)
    is_known = known[BIAS].is_valid().to_numpy()
    rows[is_known, :rank] = _flat(known[FACTORS]).reshape(-1, rank)
    rows[is_known, rank] = known[BIAS].drop_null().to_numpy()
    return rows


def _flat(lists: pa.ChunkedArray) -> Float32s:
    return np.asarray(lists.drop_null().combine_chunks().flatten(), np.float32)


def known_rows(ids: pa.Array, table: pa.Table, side: Side) -> pa.Table:
    """Rows of ``table`` (the id ``side``, bias, factors) for ``ids``; null for others."""
    at = pc.index_in(ids, table[side].combine_chunks())
    return table.select([BIAS, FACTORS]).take(at)


def start_keys(ids: pa.Array, use: str, seed: int) -> UInt64s:
    """What random numbers of each id are drawn from, uint64 [n]; ``use`` keeps uses apart.

    Keys are made of text, so 7 (int), 7 (long) and "7" start alike.
    """
    text = pc.binary_join_element_wise(f"{seed}/{use}", pc.cast(ids, pa.string()), "/")
    values: Any = text.to_numpy(zero_copy_only=False).astype(object)
    return np.asarray(pd.util.hash_array(values, categorize=False), np.uint64)
