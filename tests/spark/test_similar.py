"""Nearest items and users of models."""

import numpy as np
import pytest
from pyspark.sql import functions as F

from mfspark import BayesianMF, BiasedALS
from mfspark.errors import ConfigError
from mfspark.kernels.similarity import SimilarRows, similar_rows
from mfspark.models.similar import evidence_of


def by_kernel(model, side, n):
    """Neighbours from tables in pandas and second moments in NumPy."""
    table = (model.user_factors if side == "user" else model.item_factors).toPandas()
    other = (model.item_factors if side == "user" else model.user_factors).toPandas()
    factors = np.stack(other["factors"]).astype(float)
    evidence = evidence_of(side, model.metadata, model.history)
    np.testing.assert_allclose(evidence.squares, (factors**2).mean(axis=0), rtol=1e-3)
    own = SimilarRows(
        np.stack(table["factors"]).astype(np.float32), table["n_ratings"].to_numpy(np.int64),
        np.arange(len(table), dtype=np.uint64),
    )  # fmt: skip
    positions, similarity, _ = similar_rows(own, own, evidence, n, 0)
    ids = table[side].to_numpy()
    return {
        ids[row]: dict(zip(ids[positions[row]], similarity[row], strict=True))
        for row in range(len(ids))
    }


@pytest.mark.parametrize("side", ["user", "item"])
def test_neighbours_are_those_of_the_kernel(model, side):
    method = model.similarUsers if side == "user" else model.similarItems
    table = model.user_factors if side == "user" else model.item_factors
    rows = method(table, 4, minAgreement=0.0).collect()
    expected = by_kernel(model, side, 4)
    n_ratings = {row[side]: row["n_ratings"] for row in table.collect()}
    assert {row[side] for row in rows} == set(expected)
    for row in rows:
        found = row["recommendations"]
        values = [entry["similarity"] for entry in found]
        assert values == sorted(values, reverse=True)
        np.testing.assert_allclose(
            values, sorted(expected[row[side]].values(), reverse=True), atol=1e-5
        )
        for entry in found:
            assert entry[f"similar_{side}"] != row[side]
            assert entry["n_ratings"] == n_ratings[entry[f"similar_{side}"]]


def test_neighbours_that_are_not_found_again_are_left_out(model):
    everyone = model.similarItems(model.item_factors, 5, minAgreement=0.0)
    surer = model.similarItems(model.item_factors, 5)
    reliable = everyone.select(
        "item", F.filter("recommendations", lambda entry: entry["agreement"] >= 0.5).alias("r")
    )
    assert surer.exceptAll(reliable).isEmpty()
    least = everyone.agg(F.min(F.array_min("recommendations.agreement"))).first()[0]
    assert least < 0.5
    with pytest.raises(ConfigError, match=r"minAgreement = 1.5"):
        model.similarItems(model.item_factors, 5, minAgreement=1.5)


def test_noise_has_no_reliable_neighbours(spark):
    ratings = spark.range(3000).select(
        (F.col("id") % 60).alias("user"),
        (F.floor(F.col("id") / 60) + 0).alias("item"),
        (F.randn(3) + 3).alias("rating"),
    )
    model = BiasedALS(rank=4, maxIter=4, regParam=0.1, biasRegParam=0.1).fit(ratings)
    rows = model.similarItems(model.item_factors, 3).collect()
    assert len(rows) == 50
    n_found = sum(len(row["recommendations"]) for row in rows)
    assert n_found < 0.25 * 3 * 50


def test_names_of_the_columns_and_limits(spark, model):
    renamed = model.copy({model.itemCol: "movie.id", model.userCol: "who"})
    five = spark.createDataFrame([(5,)], "`movie.id` long")
    few = spark.createDataFrame([(5,), (8,), (11,)], "`movie.id` long")
    row = renamed.similarItems(five, 4, among=few, minAgreement=0.0).first()
    assert {entry["similar_movie.id"] for entry in row["recommendations"]} == {8, 11}
    assert row["movie.id"] == 5
    unknown = spark.createDataFrame([(-1,)], "who long")
    assert renamed.similarUsers(unknown, 4).isEmpty()


def test_of_a_posterior_and_of_biases_alone(ratings):
    posterior = BayesianMF(rank=2, maxIter=6, burnIn=2, keepDraws=0, implicitFeatures=False)
    sampled = posterior.fit(ratings)
    by_hand = by_kernel(sampled, "item", 2)
    for row in sampled.similarItems(sampled.item_factors, 2, minAgreement=0.0).collect():
        found = [entry["similarity"] for entry in row["recommendations"]]
        np.testing.assert_allclose(
            found, sorted(by_hand[row["item"]].values(), reverse=True), atol=1e-5
        )
    alone = BiasedALS(rank=0, maxIter=2).fit(ratings)
    assert all(
        entry["similarity"] == 0
        for row in alone.similarItems(alone.item_factors, 2, minAgreement=0.0).collect()
        for entry in row["recommendations"]
    )
