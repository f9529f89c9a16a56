"""Measures of top-N lists against plain Python over all users and items."""

from functools import reduce

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark import BiasedALS, BiasOnly
from mfspark.evaluation.ranking import (
    RankingSettings,
    candidates_of,
    evaluate_lists,
    evaluate_predictions,
)
from mfspark.evaluation.top_lists import sampled_candidates, scorers
from mfspark.kernels.rank_metrics import METRICS

N_USERS, N_ITEMS = 60, 45


@pytest.fixture(scope="module")
def parts(spark):
    """Training and test ratings with unknown users and items in the test part."""
    rng = np.random.default_rng(4)
    user, item = np.nonzero(rng.random((N_USERS, N_ITEMS)) < 0.4)
    taste, kind = rng.normal(size=(N_USERS, 2)), rng.normal(size=(N_ITEMS, 2))
    rating = (3.3 + (taste[user] * kind[item]).sum(axis=1)).clip(1, 5).round()
    frame = pd.DataFrame({"user": user, "item": item, "rating": rating})
    # Scarce items, which only caution keeps off the lists.
    is_test = (rng.random(len(frame)) < 0.3) | (user == 7) | (item == 9)
    return [
        spark.createDataFrame(frame[kept]).repartition(3).persist() for kept in (~is_test, is_test)
    ]


@pytest.fixture(scope="module")
def model(parts):
    return BiasedALS(rank=2, maxIter=5, regParam=1.0, biasRegParam=0.5).fit(parts[0])


@pytest.fixture(scope="module")
def settings():
    return RankingSettings(k=[3, 8], relevance=4.0)


@pytest.fixture(scope="module")
def found(model, parts, settings):
    return lists_of(model, *parts, settings, caution=1.0, min_ratings=0)


def lists_of(model, train, test, *arguments, **named):
    return evaluate_lists(model, BiasOnly().fit(train), train, test, *arguments, **named)


def expected_lists(model, train, caution):
    """Items of each user in order of plain or lowered predictions, without those rated."""
    users = model.user_factors.toPandas().set_index("user")
    items = model.cautious(caution).item_factors.toPandas().set_index("item")
    seen = train.toPandas().groupby("user")["item"].agg(set)
    lists = {}
    for user, row in users.iterrows():
        scores = {
            item: float(np.dot(row["factors"], other["factors"])) + float(other["bias"])
            for item, other in items.iterrows()
            if item not in seen[user]
        }
        lists[user] = sorted(scores, key=scores.get, reverse=True)
    return lists


def measured(lists, train, test, k):
    """Means over users and figures of the lists, by plain loops."""
    truth = {
        user: rows.set_index("item")["rating"] for user, rows in test.toPandas().groupby("user")
    }
    counts = train.toPandas()["item"].value_counts()
    each = {name: [] for name in (*METRICS, "novelty", "popularity")}
    exposure = dict.fromkeys(counts.index, 0)
    for user, ratings in truth.items():
        relevant = set(ratings.index[ratings >= 4])
        if user not in lists or not relevant:
            continue
        top = lists[user][:k]
        hits = [item in relevant for item in top]
        gains = [(ratings.get(item, 1.0) - 1) / 4 for item in top]
        best = sorted((ratings - 1) / 4, reverse=True)[:k]
        discount = [1 / np.log2(place + 2) for place in range(k)]
        each["NDCG"].append(np.dot(gains, discount) / np.dot(best, discount[: len(best)]))
        each["binary NDCG"].append(np.dot(hits, discount) / sum(discount[: len(relevant)]))
        each["recall"].append(sum(hits) / len(relevant))
        each["precision"].append(sum(hits) / k)
        precisions = [sum(hits[: n + 1]) / (n + 1) for n in range(k) if hits[n]]
        each["MAP"].append(sum(precisions) / len(relevant))
        each["MRR"].append(1 / (hits.index(True) + 1) if any(hits) else 0.0)
        each["hit rate"].append(float(any(hits)))
        each["popularity"].append(np.mean([counts[item] for item in top]))
        each["novelty"].append(np.mean([-np.log2(counts[item]) for item in top]))
        for item in top:
            exposure[item] += 1
    times = np.sort(list(exposure.values()))
    n = len(times)
    gini = np.abs(times[:, None] - times[None, :]).sum() / (2 * n * times.sum())
    return each, (times > 0).mean(), gini


@pytest.mark.parametrize(("name", "caution"), [("model", 1.0), ("model, plain predictions", 0.0)])
@pytest.mark.parametrize("k", [3, 8])
def test_against_plain_loops(found, model, parts, name, caution, k):
    train, test = parts
    each, coverage, gini = measured(expected_lists(model, train, caution), train, test, k)
    rows = found.ranking.where((F.col("predictor") == name) & (F.col("k") == k)).toPandas()
    rows = rows.set_index("measure")
    n_users = train.select("user").distinct().count()
    for measure, values in each.items():
        mean = np.mean(values) + (np.log2(n_users) if measure == "novelty" else 0)
        assert rows.loc[measure, "value"] == pytest.approx(mean, abs=1e-9), measure
        half = 1.959964 * np.std(values, ddof=1) / np.sqrt(len(values))
        assert rows.loc[measure, "high"] - mean == pytest.approx(half, abs=1e-9), measure
        assert rows.loc[measure, "n_users"] == len(values)
    assert rows.loc["coverage", "value"] == pytest.approx(coverage)
    assert rows.loc["Gini", "value"] == pytest.approx(gini)
    assert np.isnan(rows.loc["Gini", "low"])
    assert set(rows["relevance"]) == {"rated 4 or more"}
    assert set(rows["candidates"]) == {"all items not rated in training"}


def test_popularity_and_biases_are_there_and_personal_lists_are_more_diverse(found, parts):
    rows = found.ranking.where("k = 8").toPandas()
    ranking = rows.pivot_table(index="predictor", columns="measure", values="value")
    assert set(ranking.index) == {"model", "model, plain predictions", "bias only", "popularity"}
    assert ranking["popularity"].idxmax() == "popularity"
    assert ranking.loc["model", "coverage"] > ranking.loc["bias only", "coverage"]
    assert ranking.loc["model", "NDCG"] > ranking.loc["bias only", "NDCG"]


def test_users_that_are_not_measured_are_counted(found, parts):
    train, test = (part.toPandas() for part in parts)
    counts = {row[0]: row[1] for row in found.ranking_users.collect()}
    of_test = set(test["user"])
    relevant = set(test[test["rating"] >= 4]["user"])
    warm = set(train["user"])
    assert counts["users of the test part"] == len(of_test)
    assert counts["without training ratings"] == len(of_test - warm) == 1
    assert counts["measured"] == len(relevant & warm)
    assert counts["without relevant items"] == len((of_test & warm) - relevant)


def test_relevance_by_the_users_own_mean(model, parts):
    train, test = (part.toPandas() for part in parts)
    means = train.groupby("user")["rating"].mean()
    liked = test[test["rating"] >= test["user"].map(means)]
    settings = RankingSettings(k=[N_ITEMS])
    found = lists_of(model, *parts, settings, 0.0, 0).ranking
    row = found.where("predictor = 'model' and measure = 'recall'").first()
    # Everything is on such lists but the unknown item.
    shares = liked.groupby("user")["item"].agg(lambda items: (items != 9).mean())
    assert row["value"] == pytest.approx(shares.mean())
    everything = RankingSettings(k=[N_ITEMS], relevance="rated")
    found = lists_of(model, *parts, everything, 0.0, 0).ranking
    row = found.where("predictor = 'model' and measure = 'recall'").first()
    shares = test[test["user"] != 7].groupby("user")["item"].agg(lambda items: (items != 9).mean())
    assert row["value"] == pytest.approx(shares.mean())


def test_sampled_candidates(parts):
    train, test = parts
    users = train.select("user").distinct()
    own = test.join(users, "user", "semi")
    drawn = sampled_candidates(users, train, test, 10, seed=3)
    rows = drawn.toPandas()
    assert not rows.duplicated().any()
    rated = pd.concat([part.toPandas() for part in parts])[["user", "item"]]
    pairs = set(map(tuple, rows.to_numpy()))
    assert set(map(tuple, own.toPandas()[["user", "item"]].to_numpy())) <= pairs
    others = pairs - set(map(tuple, rated.to_numpy()))
    n_free = {u: N_ITEMS - 1 - len(set(g["item"]) - {9}) for u, g in rated.groupby("user")}
    counts = pd.Series([user for user, _ in others]).value_counts()
    assert all(counts[user] == min(10, n_free[user]) for user in counts.index)
    again = sampled_candidates(users, train.repartition(5), test, 10, seed=3).toPandas()
    assert set(map(tuple, again.to_numpy())) == pairs
    other = sampled_candidates(users, train, test, 10, seed=4).toPandas()
    assert set(map(tuple, other.to_numpy())) != pairs


def test_among_sampled_candidates_all_of_them_are_as_all_unseen(model, parts, found):
    """More others than there are: only the unknown item of the test part is new."""
    train, test = parts
    settings = RankingSettings(k=[3], relevance=4.0, candidates=N_ITEMS)
    known = test.where("item != 9")
    sampled = lists_of(model, train, known, settings, 1.0, 0).ranking
    whole = lists_of(model, train, known, RankingSettings(k=[3], relevance=4.0), 1.0, 0).ranking
    assert {row[0] for row in sampled.select("candidates").distinct().collect()} == {
        f"items of the test part and {N_ITEMS} others"
    }
    a, b = (
        table.where("predictor != 'popularity'")
        .toPandas()
        .set_index(["predictor", "measure"])["value"]
        for table in (sampled, whole)
    )
    np.testing.assert_allclose(a[b.index], b, atol=1e-6)


def test_lists_in_order_of_a_lower_bound(model, parts):
    lowered = (
        scorers(model, BiasOnly().fit(parts[0]), 1.0)["model"]
        .item_factors.toPandas()
        .set_index("item")
    )
    plain = model.item_factors.toPandas().set_index("item")
    taken_off = plain["bias"] - lowered["bias"][plain.index]
    assert (taken_off > 0).all()
    assert np.corrcoef(taken_off, plain["n_ratings"])[0, 1] < 0


def test_drawn_candidates_may_be_unknown_to_the_model(spark, model, parts):
    """As many unknown items as known ones, on lists that are long enough for all."""
    train, test = parts
    unknown = spark.range(60).select(
        (F.col("id") % 20).cast("int").alias("user"),
        (F.col("id") + 1000).cast("int").alias("item"), F.lit(5.0).alias("rating"),
    )  # fmt: skip
    both = test.select("user", "item", "rating").unionByName(unknown)
    settings = RankingSettings(k=[120], relevance=4.0, candidates=50)
    rows = lists_of(model, train, both, settings, 0.0, 0).ranking.toPandas()
    by_measure = rows[rows["predictor"] == "model"].set_index("measure")["value"]
    assert by_measure["recall"] == pytest.approx(1)
    assert 0.5 < by_measure["coverage"] <= 1


def test_lists_in_order_of_given_predictions(spark, parts, settings):
    """Those of a comparison: what the ratings were, their reverse, and no score for most."""
    train, test = parts
    candidates = candidates_of(train, test, settings)
    known = test.withColumnRenamed("rating", "true")
    pairs = candidates.join(known, ["user", "item"], "left")
    true = F.coalesce("true", F.lit(0.0))
    predictors = {
        "best": true, "worst": -true, "hardly": F.when(F.col("true") == 5, F.lit(0.1)),
        "equal": F.lit(1.0),
    }  # fmt: skip
    predictions = reduce(
        DataFrame.unionByName,
        [
            pairs.select(F.lit(name).alias("predictor"), "user", "item", score.alias("predicted"))
            for name, score in predictors.items()
        ],
    )
    found = evaluate_predictions(predictions, train, test, settings)
    rows = found.ranking.where("k = 3").toPandas()
    rows = rows.pivot_table(index="predictor", columns="measure", values="value")
    assert set(rows.index) == {*predictors, "popularity"}
    assert rows.loc["best", "NDCG"] == pytest.approx(1)
    assert rows.loc["best", "MRR"] == pytest.approx(1)
    assert rows.loc["worst", "NDCG"] < 0.1
    assert 0.2 < rows.loc["hardly", "NDCG"] < 1
    assert rows["popularity"].idxmax() == "popularity"
    # By hand: most ratings first, then by the hash, unknown items last.
    counts = train.toPandas()["item"].value_counts()
    truth = test.toPandas()
    hits = []
    hashed = candidates.withColumn("hash", F.xxhash64("user", "item")).toPandas()
    for user, of_user in hashed.assign(n=-hashed["item"].map(counts)).groupby("user"):
        items = of_user.sort_values(["n", "hash"], na_position="last")["item"].head(3)
        liked = set(truth.loc[(truth["user"] == user) & (truth["rating"] >= 4), "item"])
        hits.append(len(liked & set(items)) / 3)
    assert rows.loc["popularity", "precision"] == pytest.approx(np.mean(hits))
    n_measured = {row[0]: row[1] for row in found.ranking_users.collect()}["measured"]
    assert n_measured == len(hits)


def test_nobody_to_measure(model, parts):
    train, test = parts
    strangers = test.withColumn("user", F.col("user") + 10_000)
    found = lists_of(model, train, strangers, RankingSettings(), 1.0, 0)
    assert found.ranking.isEmpty()
    counts = {row[0]: row[1] for row in found.ranking_users.collect()}
    assert counts["without training ratings"] == counts["users of the test part"] > 0
    assert counts["measured"] == 0
