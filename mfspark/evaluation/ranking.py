"""How good top-N lists are: whether they hold what users like, and how much of the catalogue."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from mfspark.columns import FACTORS, ITEM, N_RATINGS, RATING, USER
from mfspark.evaluation.top_lists import (
    ITEMS,
    lists_of_sampled,
    lists_of_unseen,
    sampled_candidates,
    scorers,
)
from mfspark.kernels.arrays import Bools, Float32s, Float64s, Int64s
from mfspark.kernels.rank_metrics import METRICS, RankedLists, diversity, ranking_metrics
from mfspark.models.broadcast import read, with_tables
from mfspark.models.factor_model import FactorModel

# Of the lists themselves, whatever is in the test part.
OF_LISTS = ("novelty", "popularity", "diversity")
COVERAGE, GINI = "coverage", "Gini"
_Z = 1.959964
_USERS_PER_STEP = 2000


class RankingSettings(BaseModel):
    """How top-N lists are measured on the test part."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    k: list[Annotated[int, Field(ge=1)]] = Field(
        [5, 10, 20], min_length=1, description="lengths of the lists"
    )
    relevance: float | Literal["user_mean", "rated"] = Field(
        "user_mean",
        description="what a list should hold: items of the test part rated at least user_mean (the "
        "mean of the user's training ratings), or at least this rating, or all of them (rated)",
    )
    candidates: int | None = Field(
        None,
        ge=1,
        description="put the items of the test part in order among so many others, drawn for each "
        "user; not set: among all items that the user has not rated in training",
    )
    seed: int = Field(0, description="seed of the drawn candidates")


@dataclass(frozen=True)
class Ranking:
    """Tables about top-N lists.

    ``ranking``: predictor, measure, k, value, low, high (95 %, users being the units; null of
    coverage and Gini), n_users, relevance, candidates. Measures are those of
    :mod:`mfspark.kernels.rank_metrics`; novelty, the mean of −log₂ of the share of users who rated
    an item; popularity, the mean number of its training ratings; diversity, the mean of 1 − cosine
    of what the model predicts of two items; coverage, the share of all items on some list; and
    Gini, of how often each item is listed. ``ranking_users``: quantity, value: how many users there
    are and why some are not measured.
    """

    ranking: DataFrame
    ranking_users: DataFrame

    def tables(self) -> dict[str, DataFrame]:
        """The tables by name."""
        return {"ranking": self.ranking, "ranking_users": self.ranking_users}


def evaluate_lists(
    model: FactorModel,
    train: DataFrame,
    test: DataFrame,
    settings: RankingSettings,
    caution: float,
    min_ratings: int,
) -> Ranking:
    """Measure the lists of ``model`` and of the baselines on ``test`` (user, item, rating).

    Lists are made for users with training ratings and at least one relevant item in the test part;
    the others are counted.
    """
    longest = max(settings.k)
    models = scorers(model, train, caution)
    truth = _truth(model, train, test, settings).persist()
    users = truth.where(F.col("n_relevant") > 0).select(USER)
    if settings.candidates is None:
        # Each model groups them by user, where they lie.
        pairs = train.join(users, USER, "semi").select(USER, ITEM).repartition(USER).persist()
        lists = lists_of_unseen(models, users, pairs, longest, min_ratings).persist()
        candidates = "all items not rated in training"
    else:
        n = settings.candidates
        pairs = sampled_candidates(users, train, test, n, settings.seed).persist()
        lists = lists_of_sampled(models, pairs, longest).persist()
        candidates = f"items of the test part and {n} others"
    measured = measure_lists(lists, truth, model, settings.k).select(
        "*",
        F.lit(_said(settings.relevance)).alias("relevance"),
        F.lit(candidates).alias("candidates"),
    )
    # Some rows for each model, made before what they are made of is let go.
    rows = test.sparkSession.createDataFrame(measured.collect(), measured.schema)
    result = Ranking(rows, _users(test, truth))
    for table in (truth, pairs, lists):
        table.unpersist()
    return result


def _said(relevance: float | str) -> str:
    if relevance == "rated":
        return "rated in the test part"
    if relevance == "user_mean":
        return "rated at least the user's mean"
    return f"rated {relevance:g} or more"


def _truth(
    model: FactorModel, train: DataFrame, test: DataFrame, settings: RankingSettings
) -> DataFrame:
    """user, test_items, gains, is_relevant (arrays), n_relevant, of users with training ratings.

    A gain is the rating's place in the range of the training ratings, from 0 to 1.
    """
    low, high = model.metadata.rating_scale
    gain = (F.col(RATING) - low) / max(high - low, 1e-300)
    if settings.relevance == "rated":
        is_relevant: Column = F.lit(True)
    elif settings.relevance == "user_mean":
        is_relevant = F.col(RATING) >= F.col("_mean")
    else:
        is_relevant = F.col(RATING) >= F.lit(float(settings.relevance))
    means = train.groupBy(USER).agg(F.avg(RATING).alias("_mean"))
    rows = test.join(means, USER).select(
        USER, ITEM, F.least(F.greatest(gain, F.lit(0.0)), F.lit(1.0)).alias("gain"),
        is_relevant.alias("is_relevant"),
    )  # fmt: skip
    entries = F.collect_list(F.struct(ITEM, "gain", "is_relevant"))
    return rows.groupBy(USER).agg(entries.alias("entries")).select(
        USER,
        F.col("entries")[ITEM].alias("test_items"),
        F.col("entries.gain").alias("gains"),
        F.col("entries.is_relevant").alias("is_relevant"),
        F.size(F.filter("entries", lambda entry: entry["is_relevant"])).alias("n_relevant"),
    )  # fmt: skip


def _users(test: DataFrame, truth: DataFrame) -> DataFrame:
    row = truth.agg(F.count("*"), F.count_if(F.col("n_relevant") > 0)).first()
    assert row is not None
    n_users = test.select(USER).distinct().count()
    rows = {
        "users of the test part": n_users,
        "without training ratings": n_users - row[0],
        "without relevant items": row[0] - row[1],
        "measured": row[1],
    }
    return test.sparkSession.createDataFrame(list(rows.items()), "quantity string, value long")


def measure_lists(
    lists: DataFrame, truth: DataFrame, model: FactorModel, ks: list[int]
) -> DataFrame:
    """predictor, measure, k, value, low, high, n_users.

    ``lists``: predictor, user, items (best first, none twice); ``truth`` as ``_truth`` gives it.
    ``model`` says how popular and how alike items are.
    """
    rows = lists.join(truth, USER).select("predictor", ITEMS, "test_items", "gains", "is_relevant")
    catalogue = model.item_factors.select(ITEM, N_RATINGS, FACTORS)
    squares = np.array(model.metadata.rotation.singular_values) / model.metadata.n_users
    sums = with_tables(rows, [catalogue]).mapInArrow(
        partial(_measure, ks=ks, weights=np.sqrt(squares), n_users=model.metadata.n_users),
        "predictor string, measure string, k int, n long, total double, squares double",
    )
    n, mean = F.sum("n"), F.try_divide(F.sum("total"), F.sum("n"))
    variance = F.try_divide(F.sum("squares") - n * mean * mean, n - 1)
    half = F.lit(_Z) * F.sqrt(F.greatest(F.try_divide(variance, n), F.lit(0.0)))
    found = sums.groupBy("predictor", "measure", "k").agg(
        mean.alias("value"), (mean - half).alias("low"), (mean + half).alias("high"),
        n.alias("n_users"),
    )  # fmt: skip
    return found.unionByName(_exposure(lists, ks, model.metadata.n_items))


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
    for rows, (catalogue,) in read(batches):
        facts = _Catalogue(catalogue, weights, n_users)
        predictors = np.asarray(rows["predictor"].to_pylist(), object)
        for name in sorted(set(predictors)):
            own = rows.filter(pa.array(predictors == name))
            parts = [
                _of_users(own.slice(first, _USERS_PER_STEP), facts, ks)
                for first in range(0, own.num_rows, _USERS_PER_STEP)
            ]
            yield _sums(name, {key: [part[key] for part in parts] for key in parts[0]})


class _Catalogue:
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


def _of_users(rows: pa.Table, facts: _Catalogue, ks: list[int]) -> dict[tuple[str, int], Float64s]:
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


def _lists(rows: pa.Table, facts: _Catalogue, longest: int) -> tuple[Int64s, Float64s, Bools]:
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
