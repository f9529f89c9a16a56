"""Transitive inference: from romances to science fiction by way of dramas."""

import numpy as np
import pytest

from mfspark import BiasedALS, BiasedSGD
from mfspark.data.chained_genres import chained_genres
from mfspark.models.baselines import BiasOnly
from mfspark.models.knn import ItemKNN


@pytest.fixture(scope="module")
def planted(spark):
    ratings, asked = chained_genres()
    both = ratings.assign(genre=ratings["item"].str.rsplit(" ", n=1).str[0])
    genres = both.groupby("user")["genre"].agg(set)
    assert not any({"romance", "science fiction"} <= kinds for kinds in genres)
    assert set(asked["user"]) == set(genres[genres == {"romance"}].index)
    return spark.createDataFrame(ratings).cache(), spark.createDataFrame(asked).cache()


def scored(model, asked):
    frame = model.transform(asked).toPandas()
    error = frame["prediction"] - frame["rating"]
    return frame, float(np.sqrt(np.mean(error**2)))


@pytest.mark.parametrize(
    ("estimator", "least_correlation", "most_error"),
    [
        # The penalty is what lines up the genres: of all factors that fit, the smallest win.
        (BiasedALS(rank=2, regParam=1.1, maxIter=30, tol=0.0), 0.9, 0.5),
        (BiasedSGD(rank=2, regParam=1.1, maxIter=120, tol=0.0, learningRate=0.2), 0.85, 0.65),
    ],
    ids=["als", "sgd"],
)
def test_factors_carry_taste_along_the_chain_where_item_knn_has_nobody_to_ask(
    planted, estimator, least_correlation, most_error
):
    ratings, asked = planted
    by_factors, error = scored(estimator.fit(ratings), asked)
    by_neighbours, neighbours_error = scored(ItemKNN(minSupport=1).fit(ratings), asked)
    by_bias, _ = scored(BiasOnly().fit(ratings), asked)
    # No rated neighbour: item kNN falls back on biases, row by row.
    key = ["user", "item"]
    joined = by_neighbours.merge(by_bias, on=key, suffixes=("", "_bias"))
    np.testing.assert_allclose(joined["prediction"], joined["prediction_bias"], atol=1e-6)
    assert np.corrcoef(by_factors["prediction"], by_factors["rating"])[0, 1] > least_correlation
    assert error < most_error * neighbours_error
