"""Items and users in two dimensions: two of the factors, or all of them folded by UMAP."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from importlib.util import find_spec
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.columns import BIAS, FACTORS, GENRES, ITEM, N_RATINGS, TITLE, USER
from mfspark.errors import ConfigError
from mfspark.interpretation.user_groups import GROUP
from mfspark.kernels.arrays import Float64s
from mfspark.models.factor_model import FactorModel

MapMethod = Literal["factors", "umap"]
# The most rated items, and users in an order of their own.
_MOST_ITEMS, _MOST_USERS = 300, 2000
_LEAST_PLACED = 20


@dataclass(frozen=True)
class Maps:
    """``item_map``: item, title, genre (the first that is named), n_ratings, bias, x, y, of the
    most rated items. ``user_map``: taste (null without), x, y, of as many users as a map bears."""

    item_map: DataFrame
    user_map: DataFrame

    def tables(self) -> dict[str, DataFrame]:
        """The tables by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


class MapSettings(NamedTuple):
    """``axes``: numbers of two factors, from 1, of the method factors."""

    method: MapMethod
    axes: tuple[int, int]


def draw_maps(
    model: FactorModel, described: DataFrame, tastes: DataFrame, settings: MapSettings
) -> Maps:
    """Place the items of ``described`` (item, title, genres, n_ratings, bias, factors) and the
    users of ``model``; ``tastes``: user, taste.

    UMAP (McInnes, Healy and Melville 2018) folds the factors in units of their deviation, items and
    users each for themselves. ``ConfigError`` for an axis that is no factor of the model, or where
    umap-learn is not installed.
    """
    if settings.method == "umap" and find_spec("umap") is None:
        raise ConfigError(
            "interpret.map_method = umap needs umap-learn here and on the workers; install "
            "mfspark[umap], or draw factors"
        )
    if settings.method == "factors" and model.rank and max(settings.axes) > max(model.rank, 2):
        raise ConfigError(
            f"interpret.map_axes names factor {max(settings.axes)}, but the model has "
            f"{model.rank}; number them from 1"
        )
    items = described.orderBy(F.desc(N_RATINGS), ITEM).limit(_MOST_ITEMS)
    genre = F.try_element_at(GENRES, F.lit(1)).alias("genre")
    users = model.user_factors.where(F.col(N_RATINGS) > 0)
    order = F.xxhash64(F.col(USER).cast("string"))
    drawn = users.orderBy(order).limit(_MOST_USERS).join(tastes, USER, "left")
    return Maps(
        _placed(items.select(ITEM, TITLE, genre, N_RATINGS, BIAS, FACTORS), settings),
        _placed(drawn.select(GROUP, FACTORS), settings),
    )


def _placed(table: DataFrame, settings: MapSettings) -> DataFrame:
    """``table`` with x and y in place of factors."""
    others = [name for name in table.columns if name != FACTORS]
    if settings.method == "factors":
        x, y = (
            F.coalesce(F.try_element_at(FACTORS, F.lit(axis)), F.lit(0.0)).cast("double")
            for axis in settings.axes
        )
        return table.select(*others, x.alias("x"), y.alias("y"))
    schema = table.select(*others, F.lit(0.0).alias("x"), F.lit(0.0).alias("y")).schema
    return table.select(*others, FACTORS).repartition(1).mapInArrow(folded, schema)


def folded(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The rows with x and y in place of their factors."""
    parts = list(batches)
    if not parts:
        return
    table = pa.Table.from_batches(parts).combine_chunks()
    places = _umap(np.stack(table[FACTORS].to_numpy(zero_copy_only=False)).astype(np.float64))
    for number, name in enumerate(("x", "y")):
        table = table.append_column(name, pa.array(places[:, number]))
    yield from table.drop_columns([FACTORS]).to_batches()


def _umap(rows: Float64s) -> Float64s:
    """Places, float64 [n, 2], the same whenever the rows are the same."""
    spread = rows.std(axis=0)
    scaled = (rows - rows.mean(axis=0)) / np.where(spread == 0, 1, spread)
    if len(rows) < _LEAST_PLACED or rows.shape[1] < 2:
        return np.column_stack([scaled, np.zeros((len(rows), 2))])[:, :2]
    from umap import UMAP

    found: Float64s = UMAP(random_state=0, n_jobs=1).fit_transform(scaled).astype(np.float64)
    return found
