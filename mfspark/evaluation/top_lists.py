"""Top-N lists to be measured, of a model and of what one would do without it."""

from collections.abc import Iterator
from functools import partial, reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.algorithms.start import start_keys
from mfspark.columns import BIAS, ITEM, N_RATINGS, USER
from mfspark.kernels.arrays import Int64s, UInt64s
from mfspark.kernels.random import uniform
from mfspark.models.broadcast import read, with_tables
from mfspark.models.factor_model import FactorModel

ITEMS = "items"
AS_RECOMMENDED, BY_PREDICTION, BY_BIASES, BY_POPULARITY = (
    "model", "model, plain predictions", "bias only", "popularity",
)  # fmt: skip
# Items are drawn so many at a time, some of which are known or drawn before.
_SPARE = 2.0


def scorers(model: FactorModel, biases: FactorModel, caution: float) -> dict[str, FactorModel]:
    """Models whose predictions put items in order, by name: as the recommend job lists them with
    ``caution``, by plain predictions, by ``biases`` alone with the same caution, and by the number
    of training ratings."""
    plain = model.copy(
        {
            model.userCol: USER,
            model.itemCol: ITEM,
            model.predictionStdCol: None,
            model.clipPredictions: False,
            model.coldStartStrategy: "baseline",
        }
    )
    biases = biases.copy({biases.clipPredictions: False})
    same_for_all = biases.user_factors.withColumn(BIAS, F.lit(0.0).cast("float"))
    counts = biases.item_factors.withColumn(BIAS, F.col(N_RATINGS).cast("float"))
    popularity = FactorModel(same_for_all, counts, biases.history, biases.metadata)
    return {
        AS_RECOMMENDED: plain.cautious(caution),
        BY_PREDICTION: plain,
        BY_BIASES: biases.cautious(caution),
        BY_POPULARITY: popularity.setParams(clipPredictions=False),
    }


def lists_of_unseen(
    models: dict[str, FactorModel], users: DataFrame, seen: DataFrame, n: int, min_ratings: int
) -> DataFrame:
    """predictor, user, items array (best first): of each of ``users`` the ``n`` best of all items
    with training ratings that it has not ``seen`` (user, item)."""
    parts = [
        model.recommendForUserSubset(users, n, seen, min_ratings, caution=0.0).select(
            F.lit(name).alias("predictor"),
            USER,
            F.col("recommendations")[ITEM].alias(ITEMS),
        )
        for name, model in models.items()
    ]
    return reduce(DataFrame.unionByName, parts)


def lists_of_sampled(models: dict[str, FactorModel], candidates: DataFrame, n: int) -> DataFrame:
    """As ``lists_of_unseen``, the best of ``candidates`` (user, item)."""
    parts = [
        model.transform(candidates).select(
            F.lit(name).alias("predictor"), USER, ITEM,
            F.col(model.getOrDefault(model.predictionCol)).cast("double").alias("predicted"),
        )
        for name, model in models.items()
    ]  # fmt: skip
    return lists_of_scored(reduce(DataFrame.unionByName, parts), n)


def lists_of_scored(scored: DataFrame, n: int) -> DataFrame:
    """predictor, user, items array (best first): the ``n`` best of each predictor and user by
    ``predicted``; null and NaN come last. Ties are in an order that tells nothing (a hash): ids
    are often given to the best known items first."""
    order = F.coalesce(-F.col("predicted"), F.lit(float("nan"))).alias("order")
    entries = F.array_sort(F.collect_list(F.struct(order, F.xxhash64(USER, ITEM), F.col(ITEM))))
    lists = scored.groupBy("predictor", USER).agg(F.slice(entries, 1, n).alias("best"))
    return lists.select("predictor", USER, F.col("best")[ITEM].alias(ITEMS))


def sampled_candidates(
    users: DataFrame, train: DataFrame, test: DataFrame, n: int, seed: int
) -> DataFrame:
    """user, item: of each user the items of the test part and ``n`` others that it has rated in
    neither part, drawn from those of the training part (all of them where there are no more)."""
    own = test.join(users, USER, "semi").select(USER, ITEM)
    rated = train.join(users, USER, "semi").select(USER, ITEM).union(own)
    known = rated.groupBy(USER).agg(F.collect_set(ITEM).alias(ITEMS))
    kinds = [train.schema[side].dataType.simpleString() for side in (USER, ITEM)]
    drawn = with_tables(known, [train.select(ITEM).distinct()]).mapInArrow(
        partial(_draw, n=n, seed=seed), f"{USER} {kinds[0]}, {ITEMS} array<{kinds[1]}>"
    )
    return drawn.select(USER, F.explode(ITEMS).alias(ITEM)).union(own)


def _draw(batches: Iterator[pa.RecordBatch], n: int, seed: int) -> Iterator[pa.RecordBatch]:
    """Items of each user, drawn by the user's own random numbers."""
    for known, (catalogue,) in read(batches):
        all_items = catalogue.column(0).combine_chunks()
        lists = known[ITEMS].combine_chunks()
        keys = start_keys(known[USER].combine_chunks(), "candidates", seed)
        found, lengths = [], []
        for row in range(len(lists)):
            excluded = _places(lists[row].values, all_items)
            chosen = _drawn_places(keys[row : row + 1], len(all_items), excluded, n)
            found.append(chosen)
            lengths.append(len(chosen))
        places = np.concatenate([np.zeros(0, np.int64), *found])
        ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        items = pa.ListArray.from_arrays(ends, all_items.take(pa.array(places)))
        yield pa.RecordBatch.from_arrays(
            [known[USER].combine_chunks(), items], names=[str(USER), ITEMS]
        )


def _places(items: pa.Array, all_items: pa.Array) -> Int64s:
    found = pc.index_in(items, value_set=all_items).drop_null()
    return np.asarray(found.to_numpy(), np.int64)


def _drawn_places(key: UInt64s, n_items: int, excluded: Int64s, n: int) -> Int64s:
    """``n`` different numbers below ``n_items`` that are not excluded, or all of these."""
    n_free = n_items - len(excluded)
    if n_free <= n:
        free: Int64s = np.setdiff1d(np.arange(n_items), excluded)
        return free
    # More than are wanted, as some are excluded or come twice; where nearly all are, one order.
    n_draws = int(_SPARE * n * n_items / n_free) + 32
    while True:
        drawn = (uniform(key, n_draws)[0] * n_items).astype(np.int64)
        first = np.sort(np.unique(drawn, return_index=True)[1])
        chosen: Int64s = drawn[first]
        chosen = chosen[~np.isin(chosen, excluded)]
        if len(chosen) >= n:
            return chosen[:n]
        n_draws *= 2
