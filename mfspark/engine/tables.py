"""From factor cells back to tables with ids, in canonical rotation."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.columns import BIAS, FACTORS, N_RATINGS
from mfspark.engine.half_step import matrix
from mfspark.engine.index import SideIndex
from mfspark.kernels.csr import Float64s
from mfspark.kernels.rotation import Rotation, canonical_rotation


def find_rotation(users: DataFrame, items: DataFrame, rank: int) -> Rotation:
    """The canonical rotation of two tables of factor cells; ships rank² numbers per block."""
    user_gram, _ = _gram(users, rank)
    item_gram, item_sums = _gram(items, rank)
    return canonical_rotation(user_gram, item_gram, item_sums)


def _gram(cells: DataFrame, rank: int) -> tuple[Float64s, Float64s]:
    parts = cells.mapInArrow(partial(_block_gram, rank=rank), "gram binary, sums binary").collect()
    gram = np.sum([np.frombuffer(part["gram"]).reshape(rank, rank) for part in parts], axis=0)
    return gram, np.sum([np.frombuffer(part["sums"]) for part in parts], axis=0)


def _block_gram(batches: Iterator[pa.RecordBatch], rank: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for row in range(batch.num_rows):
            factors = matrix(batch, row, rank)[:, :rank].astype(np.float64)
            gram, sums = factors.T @ factors, factors.sum(axis=0)
            yield pa.RecordBatch.from_pydict({"gram": [gram.tobytes()], "sums": [sums.tobytes()]})


def factor_table(cells: DataFrame, index: SideIndex, rotation: Float64s, name: str) -> DataFrame:
    """One row per id: ``name`` (the id), n_ratings, bias float, factors array<float>."""
    unpacked = cells.mapInArrow(
        partial(_unpack, rotation=rotation),
        "block int, local int, bias float, factors array<float>",
    )
    return index.table.join(unpacked, on=["block", "local"], how="inner").select(
        F.col("id").alias(name), N_RATINGS, BIAS, FACTORS
    )


def _unpack(batches: Iterator[pa.RecordBatch], rotation: Float64s) -> Iterator[pa.RecordBatch]:
    rank = len(rotation)
    for batch in batches:
        for row in range(batch.num_rows):
            rows = matrix(batch, row, rank)
            block = batch.column("block")[row].as_py()
            # Small batches: a list array counts its values in 32 bits.
            for first in range(0, len(rows), 65_536):
                part = rows[first : first + 65_536]
                rotated = (part[:, :rank].astype(np.float64) @ rotation).astype(np.float32)
                yield pa.RecordBatch.from_pydict(
                    {
                        "block": pa.array(np.full(len(part), block, np.int32)),
                        "local": pa.array(np.arange(first, first + len(part), dtype=np.int32)),
                        "bias": pa.array(np.ascontiguousarray(part[:, rank])),
                        "factors": pa.ListArray.from_arrays(
                            np.arange(0, rotated.size + 1, rank, dtype=np.int32), rotated.ravel()
                        ),
                    }
                )
