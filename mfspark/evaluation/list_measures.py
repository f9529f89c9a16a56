"""Measures of top-N lists, over the users whose lists they are and over the whole catalogue."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.columns import FACTORS, ITEM, N_RATINGS, USER
from mfspark.evaluation.top_lists import ITEMS
from mfspark.kernels.arrays import Bools, Float32s, Float64s, Int64s
from mfspark.kernels.rank_metrics import METRICS, RankedLists, diversity, ranking_metrics
from mfspark.models.broadcast import read, with_tables
from mfspark.models.factor_model import FactorModel

# Of the lists themselves, whatever is in the test part.
OF_LISTS = ("novelty", "popularity", "diversity")
COVERAGE, GINI = "coverage", "Gini"
# The 97.5 % quantile of the normal distribution.
_Z = 1.959964
_USERS_PER_STEP = 2000


@dataclass(frozen=True)
class Catalogue:
    """What lists are made from: ``items`` (item, n_ratings, factors array<float>), and by how much
    the predictions of all users differ along each factor, ``weights`` float64 [rank]. Of rank 0
    there is nothing that tells how alike items are."""

    items: DataFrame
    weights: Float64s
    n_users: int
    n_items: int

    @classmethod
    def of_model(cls, model: FactorModel) -> "Catalogue":
        """Items are as alike as what ``model`` predicts of them."""
        squares = np.array(model.metadata.rotation.singular_values) / model.metadata.n_users
        items = model.item_factors.select(ITEM, N_RATINGS, FACTORS)
        return cls(items, np.sqrt(squares), model.metadata.n_users, model.metadata.n_items)

    @classmethod
    def of_ratings(cls, train: DataFrame) -> "Catalogue":
        """Of rank 0."""
        counts = train.groupBy(ITEM).agg(F.count("*").alias(N_RATINGS))
        items = counts.withColumn(FACTORS, F.array().cast("array<float>"))
        n_users, n_items = (train.select(side).distinct().count() for side in (USER, ITEM))
        return cls(items, np.zeros(0), n_users, n_items)


def measure_lists(
    lists: DataFrame, truth: DataFrame, catalogue: Catalogue, ks: list[int]
) -> DataFrame:
    """predictor, measure, k, value, low, high, n_users.

    ``lists``: predictor, user, items (best first, none twice). ``truth``: user, test_items, gains,
    is_relevant (arrays of the test part), n_relevant.
    """
    rows = lists.join(truth, USER).select("predictor", ITEMS, "test_items", "gains", "is_relevant")
    sums = with_tables(rows, [catalogue.items]).mapInArrow(
        partial(_measure, ks=ks, weights=catalogue.weights, n_users=catalogue.n_users),
        "predictor string, measure string, k int, n long, total double, squares double",
    )
    n, mean = F.sum("n"), F.try_divide(F.sum("total"), F.sum("n"))
    variance = F.try_divide(F.sum("squares") - n * mean * mean, n - 1)
    half = F.lit(_Z) * F.sqrt(F.greatest(F.try_divide(variance, n), F.lit(0.0)))
    found = sums.groupBy("predictor", "measure", "k").agg(
        mean.alias("value"), (mean - half).alias("low"), (mean + half).alias("high"),
        n.alias("n_users"),
    )  # fmt: skip
    return found.unionByName(_exposure(lists, ks, catalogue.n_items))


def _exposure(lists: DataFrame, ks: list[int], n_items: int) -> DataFrame:
    """Coverage of the ``n_items`` and Gini coefficient of how often each is listed."""
    listed = lists.select("predictor", F.posexplode(ITEMS).alias("place", ITEM))
    # At the first place is one item for each list.
    counts = [F.count_if(F.col("place") < k).alias(f"at_{k}") for k in (1, *ks)]
    by_item = listed.groupBy("predictor", ITEM).agg(*counts).drop(ITEM)

    def concentration(table: pa.Table) -> pa.Table:
        return _concentration(table, ks, n_items)

    return by_item.groupBy("predictor").applyInArrow(
        concentration,
        "predictor string, measure string, k int, value double, low double, high double, "
        "n_users long",
    )


def _concentration(table: pa.Table, ks: list[int], n_items: int) -> pa.Table:
    """Coverage and Gini = Σ_j (2j − N − 1) x_j / (N Σ x), x rising, of the lists of a predictor."""
    predictor, n_users = table["predictor"][0].as_py(), int(pc.sum(table["at_1"]).as_py())
    # Drawn candidates may be items without training ratings.
    n_items = max(n_items, table.num_rows)
    rows = []
    for k in ks:
        times = np.zeros(n_items)
        times[: table.num_rows] = table[f"at_{k}"].to_numpy()
        times.sort()
        spread = (2 * np.arange(1, n_items + 1) - n_items - 1) @ times
        rows += [
            (predictor, COVERAGE, k, float((times > 0).mean()), None, None, n_users),
            (predictor, GINI, k, float(spread / (n_items * times.sum())), None, None, n_users),
        ]
    names = ["predictor", "measure", "k", "value", "low", "high", "n_users"]
    kinds = [pa.string(), pa.string(), pa.int32(), *3 * [pa.float64()], pa.int64()]
    return pa.table(
        [
            pa.array(list(values), kind)
            for values, kind in zip(zip(*rows, strict=True), kinds, strict=True)
        ],
        names=names,
    )


def _measure(
    batches: Iterator[pa.RecordBatch], ks: list[int], weights: Float64s, n_users: int
) -> Iterator[pa.RecordBatch]:
    """Sums over the users of each cell, by predictor, measure and k."""
    for rows, (items,) in read(batches):
        facts = _Items(items, weights, n_users)
        predictors = np.asarray(rows["predictor"].to_pylist(), object)
        for name in sorted(set(predictors)):
            own = rows.filter(pa.array(predictors == name))
            parts = [
                _of_users(own.slice(first, _USERS_PER_STEP), facts, ks)
                for first in range(0, own.num_rows, _USERS_PER_STEP)
            ]
            yield _sums(name, {key: [part[key] for part in parts] for key in parts[0]})


class _Items:
    """Ids, vectors of length 1 whose products are cosines of what the model predicts, novelty and
    popularity of all items."""

    def __init__(self, table: pa.Table, weights: Float64s, n_users: int) -> None:
        self.ids = table.column(0).combine_chunks()
        flat = table[FACTORS].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        vectors = flat.reshape(table.num_rows, len(weights)) * weights.astype(np.float32)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        self.unit: Float32s = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
        self.popularity = table[N_RATINGS].to_numpy().astype(np.float64)
        self.novelty = -np.log2(np.maximum(self.popularity, 1) / n_users)


def _of_users(rows: pa.Table, facts: _Items, ks: list[int]) -> dict[tuple[str, int], Float64s]:
    """Each measure of each user; NaN where it has no value."""
    longest = max(ks)
    places, gains, hits = _lists(rows, facts, longest)
    n_relevant, best = _best(rows, longest)
    found: dict[tuple[str, int], Float64s] = {}
    for k in ks:
        columns = ranking_metrics(RankedLists(gains, hits, best, n_relevant), k)
        found |= {(name, k): columns[:, n] for n, name in enumerate(METRICS)}
        is_listed = places[:, :k] >= 0
        at, n = np.maximum(places[:, :k], 0), is_listed.sum(axis=1)
        for name, values in zip(OF_LISTS[:2], (facts.novelty, facts.popularity), strict=True):
            total = np.where(is_listed, values[at], 0).sum(axis=1)
            found[name, k] = np.divide(total, n, out=np.full(len(n), np.nan), where=n > 0)
        found[OF_LISTS[2], k] = diversity(facts.unit[at], is_listed)
    return found


def _lists(rows: pa.Table, facts: _Items, longest: int) -> tuple[Int64s, Float64s, Bools]:
    """Places in the catalogue (−1: none), gains and relevance of the listed items, all
    [n_users, longest]."""
    tested = rows["test_items"].combine_chunks()
    # Drawn candidates may be items that are in the test part alone: they come behind the others.
    ids = pc.unique(pa.concat_arrays([facts.ids, tested.flatten().cast(facts.ids.type)]))
    user, place, item = _flat(rows[ITEMS].combine_chunks(), ids)
    kept = place < longest
    user, place, item = user[kept], place[kept], item[kept]
    shape = rows.num_rows, longest
    places = np.full(shape, -1, np.int64)
    places[user, place] = np.where(item < len(facts.ids), item, -1)
    # Items of the test part by user and item, in order, to be found among the listed ones.
    test_user, _, test_item = _flat(tested, ids)
    keys = test_user * len(ids) + test_item
    order = np.argsort(keys, kind="stable")
    wanted = np.where(item >= 0, user * len(ids) + item, -2)
    at = np.searchsorted(keys[order], wanted)
    is_found = np.append(keys[order], -1)[at] == wanted
    source = order[at[is_found]]
    gains, hits = np.zeros(shape), np.zeros(shape, np.bool_)
    gains[user[is_found], place[is_found]] = _values(rows["gains"])[source]
    hits[user[is_found], place[is_found]] = _values(rows["is_relevant"])[source]
    return places, gains, hits


def _best(rows: pa.Table, longest: int) -> tuple[Int64s, Float64s]:
    """Numbers of relevant items, and the highest gains of each user, falling."""
    lists = rows["gains"].combine_chunks()
    user = np.repeat(np.arange(len(lists)), pc.list_value_length(lists).to_numpy())
    gains = _values(rows["gains"])
    n_relevant = np.bincount(user, _values(rows["is_relevant"]), len(lists)).astype(np.int64)
    order = np.lexsort((-gains, user))
    first = np.searchsorted(user, np.arange(len(lists)))
    place = np.arange(len(user)) - first[user]
    best = np.zeros((len(lists), longest))
    kept = place < longest
    best[user[kept], place[kept]] = gains[order][kept]
    return n_relevant, best


def _values(lists: pa.ChunkedArray) -> Float64s:
    flat = lists.combine_chunks().flatten()
    return np.asarray(flat.to_numpy(zero_copy_only=False), np.float64)


def _flat(lists: pa.ListArray, ids: pa.Array) -> tuple[Int64s, Int64s, Int64s]:
    """Row, place in the row and place in ``ids`` (−1: not there) of every entry."""
    lengths = pc.list_value_length(lists).to_numpy()
    row = np.repeat(np.arange(len(lists)), lengths)
    place = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    found = pc.fill_null(pc.index_in(lists.flatten().cast(ids.type), value_set=ids), -1)
    return row, place, np.asarray(found.to_numpy(zero_copy_only=False), np.int64)


def _sums(predictor: str, values: dict[tuple[str, int], list[Float64s]]) -> pa.RecordBatch:
    rows = []
    for (measure, k), parts in values.items():
        each = np.concatenate(parts)
        each = each[~np.isnan(each)]
        rows.append((predictor, measure, k, len(each), each.sum(), (each**2).sum()))
    names = ["predictor", "measure", "k", "n", "total", "squares"]
    columns = [pa.array(list(column)) for column in zip(*rows, strict=True)]
    columns[2] = columns[2].cast(pa.int32())
    return pa.RecordBatch.from_arrays(columns, names=names)
