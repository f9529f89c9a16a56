"""``initialModel``: a fit goes on where another one ended, ALS and SGD alike."""

import numpy as np
import pytest
from pyspark.sql import functions as F

from mfspark import BiasedALS, BiasedSGD
from mfspark.errors import ConfigError, ModelFormatError

SETTINGS = {"rank": 3, "regParam": 0.2, "biasRegParam": 0.1, "seed": 1, "tol": 0.0}
RATE = {"learningRate": 0.02, "schedule": "constant"}


@pytest.fixture(scope="module")
def trained(ratings, tmp_path_factory) -> str:
    path = str(tmp_path_factory.mktemp("warm") / "model")
    BiasedALS(maxIter=12, **SETTINGS).fit(ratings).save(path)
    return path


def objectives(model) -> list[float]:
    return list(model.history.orderBy("iteration", F.desc("side")).toPandas()["objective"])


@pytest.mark.parametrize("execution", ["one_task", "distributed"])
def test_als_goes_on_where_it_ended(ratings, trained, execution):
    whole = objectives(BiasedALS(maxIter=14, **SETTINGS).fit(ratings))
    rest = BiasedALS(maxIter=2, initialModel=trained, execution=execution, **SETTINGS).fit(ratings)
    # Tables are in canonical rotation and come back to coordinates with the same penalty.
    np.testing.assert_allclose(objectives(rest), whole[24:], rtol=2e-6)
    assert min(whole[:4]) > 1.1 * max(objectives(rest))


@pytest.mark.parametrize("execution", ["one_task", "distributed"])
def test_sgd_begins_where_als_ended_and_als_where_sgd_did(
    ratings, trained, execution, tmp_path_factory
):
    cold = BiasedSGD(maxIter=2, execution=execution, **RATE, **SETTINGS).fit(ratings)
    warm = BiasedSGD(
        maxIter=2, execution=execution, initialModel=trained, **RATE, **SETTINGS
    ).fit(ratings)  # fmt: skip
    als = objectives(BiasedALS(maxIter=12, **SETTINGS).fit(ratings))[-1]
    assert max(objectives(warm)) < 1.05 * als < 0.5 * min(objectives(cold))
    path = str(tmp_path_factory.mktemp("back") / "model")
    warm.save(path)
    back = BiasedALS(maxIter=1, initialModel=path, execution=execution, **SETTINGS).fit(ratings)
    assert objectives(back)[0] < 1.02 * als


@pytest.mark.parametrize("execution", ["one_task", "distributed"])
def test_new_ids_begin_at_random_and_gone_ids_are_gone(spark, ratings, trained, execution):
    new = spark.createDataFrame([(-1, 5, 4.0), (-1, 8, 3.0)], ratings.schema)
    later = ratings.where("user > 150").union(new)
    model = BiasedALS(maxIter=3, initialModel=trained, execution=execution, **SETTINGS).fit(later)
    expected = {row[0] for row in later.select("user").distinct().collect()}
    users = model.user_factors.toPandas().set_index("user")
    assert set(users.index) == expected
    assert np.isfinite(np.stack(users["factors"])).all()


def test_what_cannot_be_a_start(ratings, trained, tmp_path):
    with pytest.raises(ConfigError, match="has rank 3, which factors of rank 4 cannot begin with"):
        BiasedALS(rank=4, initialModel=trained).fit(ratings)
    with pytest.raises(ConfigError, match="was fitted with fitBiases = True, this fit has False"):
        BiasedALS(rank=3, fitBiases=False, initialModel=trained).fit(ratings)
    plain = str(tmp_path / "plain")
    BiasedALS(rank=3, maxIter=1, fitBiases=False).fit(ratings).save(plain)
    with pytest.raises(ConfigError, match="was fitted with fitBiases = False, this fit has True"):
        BiasedSGD(rank=3, initialModel=plain).fit(ratings)
    with pytest.raises(ModelFormatError, match="is not a model directory"):
        BiasedALS(rank=3, initialModel=str(tmp_path)).fit(ratings)
