"""Ratings with a known truth: planted biases and factors, long-tailed users and items.

Every value is a hash of (seed, what, id), so the rows are the same however Spark partitions them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field
from pyspark.sql import DataFrame, SparkSession

from mfspark.columns import GENRES, ITEM, RATING, TIMESTAMP, TITLE, USER, YEAR
from mfspark.kernels.arrays import Float64s, Int64s
from mfspark.kernels.random import hashed_uniform

_FIRST_SECOND = 1_500_000_000
_FIVE_YEARS = 5 * 365 * 86_400
# Numbers of a table of the truth about one side that a worker makes for itself: 512 MiB.
_MOST_TABULATED = 2**26
_PLANTED_GENRES = ("Amber", "Basalt", "Cobalt", "Dune", "Ember", "Fjord", "Garnet", "Haze")


class SyntheticSettings(BaseModel):
    """Size and truth of a synthetic dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_ratings: int = Field(100_000, ge=1, description="ratings drawn, before repeated pairs go")
    n_users: int = Field(2_000, ge=1, description="users to draw from")
    n_items: int = Field(1_000, ge=1, description="items to draw from")
    rank: int = Field(6, ge=1, le=len(_PLANTED_GENRES), description="planted factors")
    noise: float = Field(0.7, ge=0, description="standard deviation of the noise, in stars")
    skew: float = Field(
        2.0, ge=1, description="1: all users and items equally active; above: a longer tail"
    )
    seed: int = Field(0, description="seed of everything that is drawn")


@dataclass(frozen=True)
class PlantedSide:
    """The truth about some ids: factors float64 [n, rank], bias float64 [n]."""

    factors: Float64s
    bias: Float64s


def planted(settings: SyntheticSettings, side: str, ids: Int64s) -> PlantedSide:
    """Biases with standard deviation 0.4, factors such that p·q has standard deviation 0.6."""
    draws = _normals(settings.seed, side, ids, settings.rank + 1)
    scale = np.sqrt(0.6) / settings.rank**0.25
    return PlantedSide(draws[:, :-1] * scale, 0.4 * draws[:, -1])


def synthetic_ratings(spark: SparkSession, settings: SyntheticSettings) -> DataFrame:
    """user long, item long, rating double (half stars from 0.5 to 5), timestamp long.

    A pair that is drawn again is dropped, so there are somewhat fewer than ``n_ratings`` rows.
    """
    # The value is a function of the pair, so it does not matter which repetition stays.
    return drawn_ratings(spark, settings).dropDuplicates([USER, ITEM])


def drawn_ratings(spark: SparkSession, settings: SyntheticSettings) -> DataFrame:
    """``synthetic_ratings`` with the pairs that are drawn again, and so without a shuffle."""
    schema = f"{USER} long, {ITEM} long, {RATING} double, {TIMESTAMP} long"
    return spark.range(settings.n_ratings).mapInArrow(partial(_draw, settings=settings), schema)


def synthetic_items(spark: SparkSession, settings: SyntheticSettings) -> DataFrame:
    """Items whose genres are the planted factors in which they stand high."""
    schema = f"{ITEM} long, {TITLE} string, {YEAR} int, {GENRES} array<string>"
    return spark.range(settings.n_items).mapInArrow(partial(_describe, settings=settings), schema)


def _draw(
    batches: Iterator[pa.RecordBatch], settings: SyntheticSettings
) -> Iterator[pa.RecordBatch]:
    """User, item and rating of each row, drawn from its number."""
    for batch in batches:
        row = batch.column(0).to_numpy()
        draws = hashed_uniform(settings.seed, "draw", row, 2)
        user = (draws[:, 0] ** settings.skew * settings.n_users).astype(np.int64)
        item = (draws[:, 1] ** settings.skew * settings.n_items).astype(np.int64)
        pair = user * settings.n_items + item
        noise = settings.noise * _normals(settings.seed, "noise", pair, 1)[:, 0]
        users, items = _planted_in(settings, USER, user), _planted_in(settings, ITEM, item)
        exact = 3.5 + users.bias + items.bias + (users.factors * items.factors).sum(axis=1) + noise
        late = hashed_uniform(settings.seed, "time", pair, 1)[:, 0]
        yield pa.RecordBatch.from_pydict(
            {
                USER: user,
                ITEM: item,
                RATING: np.clip(np.round(2 * exact) / 2, 0.5, 5.0),
                TIMESTAMP: (_FIRST_SECOND + late * _FIVE_YEARS).astype(np.int64),
            }
        )


def _planted_in(settings: SyntheticSettings, side: str, ids: Int64s) -> PlantedSide:
    """``planted``, looked up where there are many ratings to an id."""
    n_ids = settings.n_users if side == USER else settings.n_items
    if n_ids * (settings.rank + 1) > _MOST_TABULATED or 8 * n_ids > settings.n_ratings:
        return planted(settings, side, ids)
    whole = _tabulated(settings, side, n_ids)
    return PlantedSide(whole.factors[ids], whole.bias[ids])


@cache
def _tabulated(settings: SyntheticSettings, side: str, n_ids: int) -> PlantedSide:
    return planted(settings, side, np.arange(n_ids))


def _describe(
    batches: Iterator[pa.RecordBatch], settings: SyntheticSettings
) -> Iterator[pa.RecordBatch]:
    """Title, year and genres of each item, drawn from its number."""
    for batch in batches:
        ids = batch.column(0).to_numpy()
        high = planted(settings, ITEM, ids).factors
        high = high > np.sqrt(0.6) / settings.rank**0.25
        names = np.array(_PLANTED_GENRES)[: settings.rank]
        years = 1980 + (hashed_uniform(settings.seed, "year", ids, 1)[:, 0] * 40).astype(np.int32)
        yield pa.RecordBatch.from_pydict(
            {
                ITEM: ids,
                TITLE: [f"Synthetic item {id_}" for id_ in ids],
                YEAR: pa.array(years, pa.int32()),
                GENRES: pa.array([list(names[row]) for row in high], pa.list_(pa.string())),
            }
        )


def _normals(seed: int, what: str, ids: Int64s, n: int) -> npt.NDArray[np.float64]:
    """Standard normal numbers [len(ids), n] by Box and Muller (1958)."""
    draws = hashed_uniform(seed, what, ids, 2 * n)
    radius = np.sqrt(-2 * np.log1p(-draws[:, :n]))
    return np.asarray(radius * np.cos(2 * np.pi * draws[:, n:]))
