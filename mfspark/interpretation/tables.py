"""Tables that say what the factors and biases of a model mean."""

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from mfspark.columns import BIAS, FACTORS, GENRES, ITEM, N_RATINGS, TITLE, USER, YEAR
from mfspark.errors import DataError
from mfspark.interpretation.maps import MapMethod
from mfspark.models.factor_model import FactorModel
from mfspark.small_tables import table_of

_BYTES_PER_FLOAT = 4
# Items that can be looked up.
_MOST_INDEXED = 10_000
_OF_NEIGHBOUR = ("similarity", "agreement", N_RATINGS)


class InterpretSettings(BaseModel):
    """What the interpretation shows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_shown: int = Field(8, ge=1, description="items at each end of a factor, ids per bias list")
    min_ratings: int = Field(
        20, ge=1, description="training ratings that an item or user needs to be shown"
    )
    rotation: Literal["canonical", "varimax"] = Field(
        "canonical",
        description="coordinates that factors are read in: those of the model, which are ordered "
        "by variance, or varimax, in which each item has few large ones",
    )
    map_method: MapMethod = Field(
        "factors",
        description="maps of items and users: two of the factors, or all of them folded by umap "
        "(mfspark[umap])",
    )
    map_axes: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = Field(
        (1, 2), description="factors that are drawn, from left to right and from bottom to top"
    )
    relevance: float = Field(
        0.8,
        ge=0,
        le=1,
        description="weight of an item's place on a factor against its popularity when items at "
        "the ends are chosen; 1: the place alone",
    )
    similar_to: list[str | int] = Field(
        default_factory=list, description="items to find neighbours of; empty: the most rated ones"
    )
    n_similar: int = Field(5, ge=1, description="neighbours per item")
    labels: dict[str, str] = Field(
        default_factory=dict,
        description='names of factors by their numbers, as in { 1 = "art house" }; others are '
        "named by what is known of items",
    )
    taste_groups: int = Field(
        4, ge=0, description="groups that users are divided into by their stable factors; 0: none"
    )
    refits: int = Field(
        4,
        ge=0,
        description="fits to resampled users that say which factors would be found again; 0: none",
    )


@dataclass(frozen=True)
class Interpretation:
    """Tables of an interpretation; ``title`` is null for items without metadata.

    ``factors``: factor (from 1), singular_value, share (of the interaction variance).
    ``factor_items``: factor, end (top, bottom), place, item, title, year, value, n_ratings.
    ``biases``: side, end (highest, lowest), place, id string, title, bias, n_ratings.
    ``similar_items``: item, title, place, similar_item, similar_title, similarity, agreement,
    n_ratings (of the similar item); of an item without reliable neighbour one row with null in
    place of a neighbour.
    ``storage``: quantity, value double.
    ``item_index``: item, title, year, n_ratings, bias, factors, similar (array of similar_item,
    similarity, agreement) of the most rated items that have ``min_ratings``, for looking them up.
    """

    factors: DataFrame
    factor_items: DataFrame
    biases: DataFrame
    similar_items: DataFrame
    storage: DataFrame
    item_index: DataFrame

    def tables(self) -> dict[str, DataFrame]:
        """The tables by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def interpret(
    model: FactorModel,
    items: DataFrame | None,
    settings: InterpretSettings,
    canonical: FactorModel | None = None,
) -> Interpretation:
    """Describe ``model``; ``items``: item, title, year, genres, or None without metadata.

    ``canonical``: the same model with canonical factors, where those of ``model`` are rotated.
    """
    with_neighbours = canonical or model
    described = describe_items(model, items)
    supported = described.where(F.col(N_RATINGS) >= settings.min_ratings)
    return Interpretation(
        factors=_factors(model),
        factor_items=_factor_items(supported, settings),
        biases=_biases(model, supported, settings),
        similar_items=_similar_items(with_neighbours, described, supported, settings),
        storage=_storage(model),
        item_index=_item_index(with_neighbours, supported, settings.n_similar),
    )


def describe_items(model: FactorModel, items: DataFrame | None) -> DataFrame:
    """Item factors with title, year, genres and whatever else is known of items."""
    if items is None:
        return model.item_factors.select(
            "*",
            F.lit(None).cast("string").alias(TITLE),
            F.lit(None).cast("int").alias(YEAR),
            F.array().cast("array<string>").alias(GENRES),
        )
    own_type = model.item_factors.schema[ITEM].dataType
    taken = {name.lower() for name in model.item_factors.columns}
    others = [f"`{name}`" for name in items.columns if name.lower() not in taken]
    return model.item_factors.join(
        items.select(F.col(ITEM).try_cast(own_type).alias(ITEM), *others), ITEM, "left"
    )


def _factors(model: FactorModel) -> DataFrame:
    squares = [value**2 for value in model.metadata.rotation.singular_values]
    # A model that learnt only biases has no interaction variance to share out.
    total = sum(squares) or 1.0
    rows = [(number, value**0.5, value / total) for number, value in enumerate(squares, start=1)]
    return table_of(model.sparkSession, rows, "factor int, singular_value double, share double")


def _long(items: DataFrame, *columns: str) -> DataFrame:
    """One row per item and factor: factor (from 1), value, and the named columns."""
    return items.select(*columns, F.posexplode(FACTORS).alias("place", "value")).select(
        (F.col("place") + 1).alias("factor"), F.col("value").cast("double").alias("value"), *columns
    )


def _factor_items(items: DataFrame, settings: InterpretSettings) -> DataFrame:
    """The most relevant items at the ends of each factor, by value.

    Relevance is w z(value) + (1 − w) z(log n_ratings), z being standard deviations from the mean of
    the factor's items; the value's sign is turned for the other end. (After Sievert and Shirley
    2014, LDAvis, where terms far out on a topic are weighed against how common they are.)
    """
    weight, of_factor = settings.relevance, Window.partitionBy("factor")
    long = _long(items, ITEM, TITLE, YEAR, N_RATINGS)

    def z(column: Column) -> Column:
        spread = F.coalesce(F.nullif(F.stddev(column).over(of_factor), F.lit(0.0)), F.lit(1.0))
        return (column - F.avg(column).over(of_factor)) / spread

    long = long.withColumn("_place", z(F.col("value"))).withColumn("_known", z(F.log(N_RATINGS)))
    ends = []
    for end, sign in (("top", 1), ("bottom", -1)):
        relevance = sign * weight * F.col("_place") + (1 - weight) * F.col("_known")
        chosen = long.withColumn(
            "_order", F.row_number().over(of_factor.orderBy(F.desc(relevance), ITEM))
        ).where(F.col("_order") <= settings.n_shown)
        place = F.row_number().over(of_factor.orderBy(F.desc(sign * F.col("value")), ITEM))
        ends.append(chosen.withColumn("end", F.lit(end)).withColumn("place", place))
    return (
        ends[0]
        .unionByName(ends[1])
        .select("factor", "end", "place", ITEM, TITLE, YEAR, "value", N_RATINGS)
        .orderBy("factor", F.desc("end"), "place")
    )


def _biases(model: FactorModel, items: DataFrame, settings: InterpretSettings) -> DataFrame:
    """The highest and the lowest biases of each side, among ids with enough ratings."""
    users = model.user_factors.where(F.col(N_RATINGS) >= settings.min_ratings)
    sides = {
        USER: users.withColumn(TITLE, F.lit(None).cast("string")),
        ITEM: items,
    }
    parts = []
    for side, table in sides.items():
        for end, order in (("highest", F.desc(BIAS)), ("lowest", F.asc(BIAS))):
            chosen = table.orderBy(order, side).limit(settings.n_shown)
            place = F.row_number().over(Window.partitionBy(F.lit(1)).orderBy(order, side))
            parts.append(
                chosen.select(
                    F.lit(side).alias("side"),
                    F.lit(end).alias("end"),
                    place.alias("place"),
                    F.col(side).cast("string").alias("id"),
                    TITLE,
                    BIAS,
                    N_RATINGS,
                )
            )
    result = parts[0]
    for part in parts[1:]:
        result = result.unionByName(part)
    return result


def _similar_items(
    model: FactorModel, described: DataFrame, supported: DataFrame, settings: InterpretSettings
) -> DataFrame:
    """Neighbours of the chosen items among those with enough ratings to be told apart."""
    popular = described.orderBy(F.desc(N_RATINGS), ITEM)
    if settings.similar_to:
        wanted = [str(item) for item in settings.similar_to]
        chosen = described.where(F.col(ITEM).cast("string").isin(wanted))
        found = {str(row[0]) for row in chosen.select(ITEM).collect()}
        if missing := [item for item in wanted if item not in found]:
            raise DataError(
                f"interpret.similar_to names {', '.join(missing)}, which have no training rating; "
                "use ids from item_factors"
            )
    else:
        chosen = popular.limit(6)
    titles = described.select(ITEM, TITLE)
    same_names = model.copy({model.itemCol: ITEM})
    lists = same_names.similarItems(chosen, settings.n_similar, among=supported)
    return (
        # Outer, since an item may have no reliable neighbour.
        lists.select(ITEM, F.posexplode_outer("recommendations").alias("place", "match"))
        .select(
            ITEM,
            (F.col("place") + 1).alias("place"),
            *[F.col(f"match.{name}") for name in ("similar_item", *_OF_NEIGHBOUR)],
        )
        .join(titles, ITEM)
        .join(
            titles.select(F.col(ITEM).alias("similar_item"), F.col(TITLE).alias("similar_title")),
            "similar_item",
            "left",
        )
        .select(ITEM, TITLE, "place", "similar_item", "similar_title", *_OF_NEIGHBOUR)
        .orderBy(ITEM, "place")
    )


def _storage(model: FactorModel) -> DataFrame:
    """What the model stores against the matrix it stands for, both in float32."""
    meta = model.metadata
    cells = meta.n_users * meta.n_items
    parameters = model.n_parameters
    rows = {
        "users": meta.n_users,
        "items": meta.n_items,
        "ratings": meta.n_ratings,
        "density of the rating matrix": meta.n_ratings / cells,
        "cells of the full matrix": cells,
        "parameters of the model": parameters,
        "bytes of the full matrix": cells * _BYTES_PER_FLOAT,
        "bytes of the model": parameters * _BYTES_PER_FLOAT,
        "compression ratio": cells / parameters,
        "ratings per parameter": meta.n_ratings / parameters,
    }
    return table_of(
        model.sparkSession,
        [(name, float(value)) for name, value in rows.items()],
        "quantity string, value double",
    )


def _item_index(model: FactorModel, supported: DataFrame, n_similar: int) -> DataFrame:
    items = supported.orderBy(F.desc(N_RATINGS), ITEM).limit(_MOST_INDEXED)
    lists = model.copy({model.itemCol: ITEM}).similarItems(items, n_similar, among=supported)
    neighbours = lists.select(
        ITEM,
        F.transform(
            "recommendations",
            lambda row: F.struct(row.similar_item, row.similarity, row.agreement),
        ).alias("similar"),
    )
    return (
        items.select(ITEM, TITLE, YEAR, N_RATINGS, BIAS, FACTORS)
        .join(neighbours, ITEM, "left")
        .orderBy(F.desc(N_RATINGS), ITEM)
    )
