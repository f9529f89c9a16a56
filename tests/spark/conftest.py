"""Small planted ratings and a model fitted to them once."""

from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.conf import RuntimeConfig

from mfspark import BiasedALS, FactorModel


def planted_ratings(
    n_users: int = 60, n_items: int = 40, density: float = 0.4, seed: int = 0
) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    p, q = rng.normal(0, 0.7, (n_users, 2)), rng.normal(0, 0.7, (n_items, 2))
    truth = 3.2 + rng.normal(0, 0.4, n_users)[:, None] + rng.normal(0, 0.4, n_items) + p @ q.T
    truth += rng.normal(0, 0.2, truth.shape)
    users, items = np.nonzero(rng.random(truth.shape) < density)
    # Ids with gaps, so that an index that leaks out as an id is noticed.
    return pd.DataFrame(
        {"user": users * 7 + 100, "item": items * 3 + 5, "rating": truth[users, items]}
    )


@pytest.fixture(scope="session")
def ratings_frame() -> pd.DataFrame:
    return planted_ratings()


@pytest.fixture(scope="session")
def ratings(spark: SparkSession, ratings_frame: pd.DataFrame) -> DataFrame:
    return spark.createDataFrame(ratings_frame).cache()


@pytest.fixture(scope="session")
def model(ratings: DataFrame) -> FactorModel:
    return BiasedALS(rank=3, maxIter=6, regParam=0.2, biasRegParam=0.1, seed=1).fit(ratings)


@pytest.fixture(scope="session")
def noise(spark: SparkSession, ratings_frame: pd.DataFrame) -> DataFrame:
    """Noise alone, so that the more is fitted the worse is the validation; a fifth of the rows is
    ``held`` out, and one more of a user without training ratings."""
    rng = np.random.default_rng(1)
    frame = ratings_frame.assign(
        rating=3 + rng.normal(0, 1, len(ratings_frame)),
        held=rng.random(len(ratings_frame)) < 0.2,
    )
    cold = pd.DataFrame({"user": [-1], "item": [5], "rating": [3.0], "held": [True]})
    return spark.createDataFrame(pd.concat([frame, cold])).cache()


@contextmanager
def session_setting(name: str, value: str, is_set: bool):
    """A static setting cannot be set in a running session: its configuration is asked instead."""
    get = RuntimeConfig.get
    with pytest.MonkeyPatch.context() as patch:
        if is_set:
            patch.setattr(
                RuntimeConfig,
                "get",
                lambda conf, key, *d: value if key == name else get(conf, key, *d),
            )
        yield
