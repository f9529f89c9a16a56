"""Weights of the penalties that are left to the data, from short fits of a sample in one task."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql.pandas.types import from_arrow_schema

from mfspark.algorithms.indexed_ratings import index_ratings
from mfspark.algorithms.penalties import PenaltySearch
from mfspark.columns import IS_VALIDATION, USER
from mfspark.engine.cells import from_cell, values
from mfspark.engine.packed import Packs, Unit, hash_ids, pack_of, ratings_of
from mfspark.engine.training import Training, auto_weights
from mfspark.settings import PenalisedSettings

logger = logging.getLogger("mfspark")

# Ratings of the sample: λ from so many of MovieLens 1M is a sixth higher than that from all, which
# costs less than .2 % of the RMSE.
_SAMPLE = 120_000
_WEIGHTS = ("user_factors", "user_bias", "item_factors", "item_bias", "link_weight")
_CHOSEN = pa.schema(
    [(name, pa.float64()) for name in (*_WEIGHTS, "rmse")]
    + [(name, pa.int64()) for name in ("n_held_out", "n_fits")]
)


def with_weights(
    packs: Packs, training: Training, settings: PenalisedSettings, n_threads: int
) -> Training:
    """``training`` with the weights of its objective that ``settings`` leave to the data.

    Cost: a pass over the packs and some 25 short fits of at most some 120,000 of them, all those
    of a part of the users, so that each keeps what tells of them.
    """
    left = auto_weights(settings)
    if not any(left):
        return training
    search = PenaltySearch(
        objective=training.objective,
        factors=left.factors,
        biases=left.biases,
        link=left.link,
        rank=settings.rank,
        seed=settings.seed,
        scale=training.scale,
    )
    share = _SAMPLE / training.summary.n_ratings
    rows = (
        packs.cells.mapInArrow(partial(sample, unit=training.unit, share=share), "cell binary")
        .repartition(1)
        .mapInArrow(
            partial(choose_weights, search=search, n_threads=n_threads),
            from_arrow_schema(_CHOSEN),
        )
        # first() would plan without statistics, and take half a second longer.
        .collect()
    )
    row = rows[0] if rows else None
    if row is None or not row["n_held_out"]:
        logger.info("too few ratings to choose penalties from; starting values are used")
        return training
    objective = replace(
        training.objective,
        users=replace(training.objective.users, factors=row["user_factors"], bias=row["user_bias"]),
        items=replace(training.objective.items, factors=row["item_factors"], bias=row["item_bias"]),
        link_weight=row["link_weight"],
    )
    logger.info(
        "penalties from the data: λ %.3g (users) and %.3g (items), λ_b %.3g and %.3g%s; "
        "RMSE %.4f on %d ratings held out of a sample, %d short fits",
        row["user_factors"], row["item_factors"], row["user_bias"], row["item_bias"],
        "" if row["link_weight"] is None else f", κ {row['link_weight']:.3g}", row["rmse"],
        row["n_held_out"], row["n_fits"],
    )  # fmt: skip
    return replace(training, objective=objective)


def sample(batches: Iterator[pa.RecordBatch], unit: Unit, share: float) -> Iterator[pa.RecordBatch]:
    """Cells of the training ratings, in the ``unit``, of about a ``share`` of the users, who are
    chosen by their ids."""
    for batch in batches:
        for cell in values(batch.column(0)):
            ratings = ratings_of(cell, unit)
            users = ratings[USER].combine_chunks()
            # As a share of all hashes.
            place = (hash_ids(users.dictionary) >> np.uint64(32)) / 2.0**32
            is_chosen = pa.array((place < share)[users.indices.to_numpy()])
            rows = ratings.filter(pc.and_not(is_chosen, ratings[IS_VALIDATION]))
            if rows.num_rows:
                yield pa.RecordBatch.from_arrays([pa.array([pack_of(rows)])], names=["cell"])


def choose_weights(
    batches: Iterator[pa.RecordBatch], search: PenaltySearch, n_threads: int
) -> Iterator[pa.RecordBatch]:
    """One row of what ``search`` chooses for the ratings in all cells."""
    cells = [from_cell(cell) for batch in batches for cell in values(batch.column(0))]
    if not cells:
        return
    ratings = index_ratings(cells)
    chosen = search.choose(ratings, n_threads)
    users, items = chosen.objective.users, chosen.objective.items
    weights = [users.factors, users.bias, items.factors, items.bias, chosen.objective.link_weight]
    found = [*weights, chosen.rmse, chosen.n_held_out, chosen.n_fits]
    columns = [pa.array([value], field.type) for value, field in zip(found, _CHOSEN, strict=True)]
    yield pa.RecordBatch.from_arrays(columns, schema=_CHOSEN)
