"""Groups of users: by taste, or any that one asks about, and what sets them apart.

Taste has no borders in most data: k-means divides what is a continuum, so that a few typical tastes
can be looked at. Users are placed by their factors in units of the factors' spread over users, and
only by factors that would be found again (see :mod:`mfspark.interpretation.stability`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from scipy.cluster.vq import kmeans2

from mfspark.columns import BIAS, FACTORS, ITEM, N_RATINGS, TITLE, USER
from mfspark.kernels.arrays import Float64s
from mfspark.models.factor_model import FactorModel
from mfspark.models.list_columns import matrix_of
from mfspark.small_tables import table_of

GROUP = "taste"
# Users whom the centres are learnt from; everybody is placed by them.
_MOST_LEARNT_FROM = 50_000
_STARTS, _PASSES = 10, 100
# The 97.5 % quantile of the normal distribution.
_Z = 1.959964


@dataclass(frozen=True)
class UserGroups:
    """``user_groups``: taste (from 1), n_users, share, n_ratings (the median), bias (the mean).

    ``group_factors``: taste, factor, z (mean of the users' z-scores), low, high (its 95 %
    interval). ``group_items``: taste, place, item, title, difference: items whose prediction is
    higher, in the unit of the ratings, for the mean user of the group than for the mean user of
    all, biases of users aside.
    """

    user_groups: DataFrame
    group_factors: DataFrame
    group_items: DataFrame

    def tables(self) -> dict[str, DataFrame]:
        """The tables by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def taste_groups(
    model: FactorModel, stability: DataFrame, min_ratings: int, n_groups: int, seed: int = 0
) -> DataFrame:
    """User and taste (int from 1, the largest group first) of all users with ``min_ratings``.

    ``stability``: factor, is_stable. The table is empty where no factor is stable, or for fewer
    than twice ``n_groups`` users: there is nothing to divide them by.
    """
    stable = [row[0] for row in stability.where("is_stable").select("factor").collect()]
    users = model.user_factors.where(F.col(N_RATINGS) >= min_ratings)
    kind = users.schema[USER].dataType.simpleString()
    n_users = users.count() if stable and n_groups else 0
    if n_users < 2 * n_groups or not n_users:
        return table_of(model.sparkSession, [], f"{USER} {kind}, {GROUP} int")
    own = F.array(*[F.element_at(FACTORS, number) for number in sorted(stable)])
    places = users.select(USER, own.alias(FACTORS))
    order = F.xxhash64(F.lit(seed), F.col(USER).cast("string"))
    sample = places.orderBy(order).limit(_MOST_LEARNT_FROM).select(FACTORS)
    row = (
        sample.repartition(1)
        .mapInArrow(
            partial(_centres, n_factors=len(stable), n_groups=n_groups, seed=seed),
            "mean array<double>, spread array<double>, centre array<array<double>>",
        )
        .collect()[0]
    )
    centres = np.array(row["centre"])
    place = partial(
        _nearest, mean=np.array(row["mean"]), spread=np.array(row["spread"]), centres=centres
    )
    nearest = places.mapInArrow(place, f"{USER} {kind}, number int")
    sizes = nearest.groupBy("number").count().orderBy(F.desc("count"), "number").collect()
    names = table_of(
        model.sparkSession,
        [(row["number"], n) for n, row in enumerate(sizes, start=1)],
        f"number int, {GROUP} int",
    )
    return nearest.join(F.broadcast(names), "number").select(USER, GROUP)


def describe_groups(
    model: FactorModel, groups: DataFrame, described: DataFrame, n_shown: int
) -> UserGroups:
    """What sets groups of users apart from all users with ratings.

    ``groups``: user, taste (int): those of :func:`taste_groups`, or any filter of users under a
    number; without any the tables are empty. ``described``: item, title, factors of the items
    that may be named.
    """
    rated = model.user_factors.where(F.col(N_RATINGS) > 0)
    of_groups = rated.join(groups.select(USER, GROUP), USER)
    n_all = rated.count()
    sizes = of_groups.groupBy(GROUP).agg(
        F.count("*").alias("n_users"),
        (F.count("*") / F.lit(n_all)).alias("share"),
        F.percentile_approx(N_RATINGS, 0.5).alias("n_ratings"),
        F.avg(BIAS).alias("bias"),
    )
    population = factors_of_population(rated)
    rows = (
        of_groups.select(GROUP, F.posexplode(FACTORS).alias("place", "value"))
        .groupBy(GROUP, "place")
        .agg(
            F.avg("value").alias("mean"), F.stddev("value").alias("spread"), F.count("*").alias("n")
        )
        .orderBy(GROUP, "place")
        .collect()
    )
    factors: list[tuple[int, int, float, float, float]] = []
    moved: dict[int, list[float]] = {}
    for row in rows:
        mean, unit = population[row["place"]]
        error = _Z * (row["spread"] or 0.0) / row["n"] ** 0.5 / unit
        z = (row["mean"] - mean) / unit
        factors.append((row[GROUP], row["place"] + 1, z, z - error, z + error))
        moved.setdefault(row[GROUP], []).append(row["mean"] - mean)
    spark = model.sparkSession
    return UserGroups(
        sizes.orderBy(GROUP),
        table_of(
            spark, factors, f"{GROUP} int, factor int, z double, low double, high double"
        ),
        _items_of(described, table_of(
            spark, list(moved.items()), f"{GROUP} int, moved array<double>"
        ), n_shown),
    )  # fmt: skip


def factors_of_population(users: DataFrame) -> dict[int, tuple[float, float]]:
    """By place of a factor, from 0, its mean over the users and the unit of z-scores: its standard
    deviation, or 1 where it has none."""
    long = users.select(F.posexplode(FACTORS).alias("place", "value"))
    sums = long.groupBy("place").agg(F.avg("value").alias("m"), F.stddev("value").alias("s"))
    return {row["place"]: (row["m"], row["s"] or 1.0) for row in sums.collect()}


def _items_of(described: DataFrame, moved: DataFrame, n_shown: int) -> DataFrame:
    products = F.zip_with("moved", FACTORS, lambda a, b: a * b.cast("double"))
    difference = F.aggregate(products, F.lit(0.0), lambda total, each: total + each)
    order = Window.partitionBy(GROUP).orderBy(F.desc("difference"), ITEM)
    return (
        described.select(ITEM, TITLE, FACTORS)
        .crossJoin(F.broadcast(moved))
        .withColumn("difference", difference)
        .withColumn("place", F.row_number().over(order))
        .where(F.col("place") <= n_shown)
        .select(GROUP, "place", ITEM, TITLE, "difference")
        .orderBy(GROUP, "place")
    )


def _centres(
    batches: Iterator[pa.RecordBatch], n_factors: int, n_groups: int, seed: int
) -> Iterator[pa.RecordBatch]:
    """Of all rows mean and spread, and the centres of the best of several k-means (Lloyd's passes
    from k-means++ starts)."""
    rows = np.concatenate([matrix_of(batch.column(0), n_factors) for batch in batches])
    # The order in which rows arrive is not that of the table.
    rows = rows[np.lexsort(rows.T)]
    mean, spread = rows.mean(axis=0), rows.std(axis=0)
    spread[spread == 0] = 1
    places = (rows - mean) / spread
    best, least = None, np.inf
    for start in range(_STARTS):
        centres, _ = kmeans2(
            places, n_groups, iter=_PASSES, minit="++", rng=np.random.default_rng([seed, start])
        )
        squares = float(_distances(places, centres).min(axis=1).sum())
        if squares < least:
            best, least = centres, squares
    assert best is not None
    yield pa.RecordBatch.from_pydict(
        {"mean": [mean.tolist()], "spread": [spread.tolist()], "centre": [best.tolist()]}
    )


def _nearest(
    batches: Iterator[pa.RecordBatch], mean: Float64s, spread: Float64s, centres: Float64s
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        distances = _distances((matrix_of(batch.column(1), len(mean)) - mean) / spread, centres)
        numbers = pa.array(distances.argmin(axis=1).astype(np.int32))
        yield pa.RecordBatch.from_arrays([batch.column(0), numbers], names=[USER, "number"])


def _distances(places: Float64s, centres: Float64s) -> Float64s:
    """Squares, float64 [n, n_groups]."""
    found: Float64s = np.square(places[:, None, :] - centres[None]).sum(axis=2)
    return found
