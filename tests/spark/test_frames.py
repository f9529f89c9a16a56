"""Estimators and models take DataFrames of pandas, and say so of anything else."""

import numpy as np
import pandas as pd
import pytest
from pyspark.testing import assertDataFrameEqual

from mfspark import ALS, BiasedALS, BiasedSGD, BiasOnly, GlobalMean, ItemKNN
from mfspark.engine.fit_als import fit_als
from mfspark.errors import DataError
from mfspark.models.frames import spark_frame, with_rows_apart


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(5)
    user, item = np.nonzero(rng.random((30, 20)) < 0.5)
    return pd.DataFrame(
        {
            "who": [f"u{n}" for n in user],
            "what": item,
            "stars": rng.integers(1, 6, len(user)) * 1.0,
        },
        index=rng.permutation(len(user)),
    )


NAMES = {"userCol": "who", "itemCol": "what", "ratingCol": "stars"}


@pytest.mark.parametrize(
    "estimator",
    [BiasedALS(rank=2, maxIter=2, regParam=1.0, **NAMES), BiasedSGD(rank=2, maxIter=2, **NAMES),
     BiasOnly(**NAMES), GlobalMean(**NAMES), ItemKNN(**NAMES)],
    ids=lambda estimator: type(estimator).__name__,
)  # fmt: skip
def test_pandas_is_as_spark(spark, frame, estimator):
    model = estimator.fit(frame)
    found = model.transform(frame.head(50)).toPandas()
    table = spark.createDataFrame(frame)
    expected = estimator.fit(table).transform(spark.createDataFrame(frame.head(50))).toPandas()
    assert list(found.columns) == ["who", "what", "stars", "prediction"]
    key = ["who", "what"]
    pd.testing.assert_frame_equal(
        found.sort_values(key, ignore_index=True), expected.sort_values(key, ignore_index=True),
        atol=1e-5,
    )  # fmt: skip


def test_categories_and_lists_of_names(frame):
    als = BiasedALS(rank=2, maxIter=2, regParam=1.0, **NAMES)
    model = als.fit(frame.astype({"who": "category"}))
    assert model.metadata.user_type == "string"
    lists = model.recommendForUserSubset(frame[["who"]].head(3), 4, seen=frame)
    assert lists.columns == ["who", "recommendations"]
    assert lists.first()["recommendations"][0].asDict().keys() == {"what", "rating"}
    similar = model.similarItems(frame[["what"]].head(1), 2, minAgreement=0.0)
    assert similar.columns == ["what", "recommendations"]
    with pytest.raises(DataError, match="there is no column 'what' among who; set itemCol"):
        model.recommendForAllUsers(3, seen=frame[["who"]])
    with pytest.raises(DataError, match="there is no column 'who' among what; set userCol"):
        model.recommendForUserSubset(frame[["what"]], 3)


def test_the_interface_of_pyspark_takes_them_too(frame):
    ratings = frame.assign(user=frame["who"].str[1:].astype(int)).rename(
        columns={"what": "item", "stars": "rating"}
    )
    model = ALS(rank=2, maxIter=2).fit(ratings)
    assert model.transform(ratings).count() == len(ratings)


def test_anything_else_is_refused_in_a_sentence(frame):
    with pytest.raises(DataError, match="found a ndarray where ratings are asked for; give a"):
        BiasedALS().fit(frame.to_numpy())
    mixed = frame.assign(who=[1, "a"] * (len(frame) // 2) + [1] * (len(frame) % 2))
    with pytest.raises(DataError, match=r"cannot be handed to Spark .*make every column of one"):
        BiasedALS(**NAMES).fit(mixed)


def test_many_rows_are_no_part_of_the_plan(spark, monkeypatch):
    """Spark copies a plan with all of its rows, many times for each query."""
    n = 20_000
    frame = pd.DataFrame(
        {"user": [f"u{k % 900}" for k in range(n)], "item": np.arange(n) % 701,
         "rating": np.arange(n) % 5 + 1.0}
    )  # fmt: skip
    names = ["user", "item", "rating"]
    before = spark.conf.get("spark.sql.execution.arrow.localRelationThreshold")
    local = spark.createDataFrame(frame, "user string, item short, rating float")
    assert local.isLocal()
    apart = with_rows_apart(local)
    assert not apart.isLocal()
    assert apart.schema == local.schema
    assertDataFrameEqual(apart, local)
    assert not spark_frame(frame).isLocal()
    assert spark_frame(frame.head(50)).isLocal()
    few = local.limit(0)
    assert with_rows_apart(few) is few
    plans = []

    def watch(ratings, *arguments, **others):
        plans.append(ratings._jdf.queryExecution().analyzed().toString())
        return fit_als(ratings, *arguments, **others)

    monkeypatch.setattr("mfspark.models.biased_als.fit_als", watch)
    als = BiasedALS(rank=2, maxIter=1, regParam=1.0)
    models = [als.fit(local), als.fit(local.select(*names).where("rating > 0"))]
    assert ["LocalRelation" in plan for plan in plans] == [False, True]
    one, other = (model.transform(frame.head(500)).toPandas() for model in models)
    pd.testing.assert_frame_equal(
        one.sort_values(names, ignore_index=True), other.sort_values(names, ignore_index=True),
        atol=1e-5,
    )  # fmt: skip
    assert spark.conf.get("spark.sql.execution.arrow.localRelationThreshold") == before
