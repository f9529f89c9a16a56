"""Small factors travel with the code of the tasks: the same numbers, and one job per half-step."""

import uuid

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from mfspark import BayesianMF, BiasedALS, BiasedSGD
from mfspark.engine import block_files
from mfspark.engine.block_files import CLOSURE_BYTES, Delivery

SETTINGS = {"rank": 2, "seed": 1, "execution": "distributed"}


@pytest.fixture(scope="module")
def ratings(spark):
    """With an item that half of all ratings are of, and ratings for validation."""
    rng = np.random.default_rng(5)
    n = 8000
    item = rng.integers(0, 60, n)
    item[: n // 2] = 0
    frame = pd.DataFrame({"user": rng.integers(0, 1000, n), "item": item}).drop_duplicates()
    tastes, kinds = rng.normal(0, 1, 1000), rng.normal(0, 1, 60)
    rating = 3 + tastes[frame["user"]] * kinds[frame["item"]] + rng.normal(0, 0.3, len(frame))
    frame["rating"] = rating.astype(np.float32)
    frame["is_validation"] = rng.random(len(frame)) < 0.1
    table = spark.createDataFrame(frame).persist()
    yield table
    table.unpersist()


@pytest.mark.parametrize(
    "estimator",
    [
        BiasedALS(**SETTINGS, maxIter=2, numUserBlocks=3, numItemBlocks=2),
        BiasedSGD(**SETTINGS, maxIter=2, numBlocks=3),
        BayesianMF(**SETTINGS, maxIter=2, burnIn=0, keepDraws=1, implicitFeatures=False),
    ],
    ids=["als", "sgd", "bayes"],
)
def test_numbers_are_those_of_factors_in_tables(monkeypatch, ratings, estimator):
    estimator = estimator.copy().setValidationIndicatorCol("is_validation")
    seen = []
    with_code = Delivery.with_code.__func__

    def watch(cls, *tables):
        seen.append(with_code(cls, *tables))
        return seen[-1]

    monkeypatch.setattr(Delivery, "with_code", classmethod(watch))
    found = estimator.fit(ratings)
    assert seen
    assert None not in seen
    seen.clear()
    monkeypatch.setattr(block_files, "CLOSURE_BYTES", 0)
    expected = estimator.fit(ratings)
    assert set(seen) == {None}
    for told, wanted in (
        (found.history, expected.history),
        (found.itemFactors, expected.itemFactors),
    ):
        one, other = (table.orderBy(table.columns[:2]).toPandas() for table in (told, wanted))
        numbers = one.select_dtypes("number").columns.drop("seconds", errors="ignore")
        np.testing.assert_allclose(one[numbers], other[numbers], rtol=1e-6)


@pytest.mark.classic
@pytest.mark.parametrize(
    ("exchange", "n_jobs", "cheap"),
    [("broadcast", 2, 2**24), ("moments", 1, 2**24), ("moments", 1, 0)],
)
def test_a_half_step_is_one_job(spark, ratings, monkeypatch, exchange, n_jobs, cheap):
    """And both half-steps are one, where they exchange moments."""
    monkeypatch.setattr("mfspark.engine.plan.CHEAP_BYTES", cheap)
    train = ratings.where("not is_validation").drop("is_validation")

    def n_jobs_with(n_iterations: int) -> int:
        first = job_id(spark)
        BiasedALS(**SETTINGS, maxIter=n_iterations, tol=0.0, exchange=exchange).fit(train)
        return job_id(spark) - first

    assert n_jobs_with(4) - n_jobs_with(1) == 3 * n_jobs


def job_id(spark) -> int:
    """The number of a job that is run here; numbers ascend."""
    group = uuid.uuid4().hex
    spark.sparkContext.setJobGroup(group, "a job")
    try:
        spark.range(1).collect()
        (number,) = spark.sparkContext.statusTracker().getJobIdsForGroup(group)
    finally:
        spark.sparkContext.setLocalProperty("spark.jobGroup.id", None)
    return number


def test_what_is_too_big_or_not_on_the_driver_does_not_travel_with_code():
    small = pa.table({"number": [0], "rows": [b"x"]})
    assert Delivery.with_code(small) is not None
    assert Delivery.with_code(small, None) is None
    big = pa.table({"number": [0], "rows": [b"x" * CLOSURE_BYTES]})
    assert Delivery.with_code(big) is None
