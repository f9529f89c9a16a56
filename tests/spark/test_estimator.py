"""The estimator among pyspark.ml's: Params, tuning, refused input, a session left as it was."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from chispa import assert_df_equality
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.evaluation import RegressionEvaluator
from pyspark.ml.tuning import CrossValidator, ParamGridBuilder, TrainValidationSplit
from pyspark.sql import functions as F

from mfspark import BiasedALS, FactorModel
from mfspark.engine.workspace import FIT_SETTINGS
from mfspark.errors import ConfigError, DataError
from mfspark.models.params import BiasedALSArguments
from mfspark.settings import ALSSettings


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(1, 1, float("nan")), (2, 1, 3.0)], "found 1 ratings that are NaN"),
        ([(1, 1, None), (2, 1, 3.0)], "found 1 ratings that are null"),
        ([(None, 1, 1.0), (2, 1, 3.0)], "found 1 user ids that are null"),
        ([], "no training ratings"),
    ],
)
def test_unusable_ratings_are_refused(spark, rows, message):
    data = spark.createDataFrame(rows, "user int, item int, rating double")
    with pytest.raises(DataError, match=message):
        BiasedALS(rank=1).fit(data)


def test_wrong_columns_are_named(spark, ratings):
    with pytest.raises(
        DataError, match=r"no column 'stars' among user, item, rating; set ratingCol"
    ):
        BiasedALS(ratingCol="stars").fit(ratings)
    with pytest.raises(DataError, match="'rating' has type string"):
        BiasedALS().fit(ratings.withColumn("rating", F.col("rating").cast("string")))


@pytest.mark.classic
@pytest.mark.parametrize("execution", ["one_task", "distributed"])
def test_settings_and_cache_are_as_before_also_after_a_failure(
    spark, ratings, monkeypatch, execution
):
    # Of two tables with the same rows Spark persists one: no other test has this seed.
    seed = {"one_task": 71, "distributed": 72}[execution]
    # Values that are neither the defaults nor the fit's own.
    unusual = {
        "spark.sql.adaptive.enabled": "true",
        "spark.sql.execution.arrow.maxBytesPerBatch": "123456789",
        "spark.sql.shuffle.orderIndependentChecksum.enabled": "false",
        "spark.sql.shuffle.orderIndependentChecksum.enableFullRetryOnMismatch": "false",
    }
    assert unusual.keys() == FIT_SETTINGS.keys()
    given = {name: spark.conf.get(name) for name in unusual}
    catalog = spark._jsparkSession.sharedState().cacheManager()

    def left_behind():
        settings = {name: spark.conf.get(name) for name in unusual}
        return settings, catalog.numCachedEntries(), len(block_files(spark))

    for name, value in unusual.items():
        spark.conf.set(name, value)
    try:
        before = left_behind()
        BiasedALS(
            rank=2, maxIter=2, regParam=0.2, biasRegParam=0.1, seed=seed, execution=execution,
            exchange="broadcast",
        ).fit(ratings).unpersist()  # fmt: skip
        assert left_behind() == before

        seen = []

        def fail(*_):
            seen.append(left_behind())
            raise RuntimeError("on purpose")

        at = {"one_task": "fit_als.fit_in_one_task", "distributed": "factor_tables.find_rotation"}[
            execution
        ]
        monkeypatch.setattr(f"mfspark.engine.{at}", fail)
        with pytest.raises(RuntimeError, match="on purpose"):
            BiasedALS(rank=2, maxIter=1, execution=execution, exchange="broadcast").fit(ratings)
        assert left_behind() == before
        during = seen[0]
        # Ratings are packed by then, and cells travel.
        batch = {"spark.sql.execution.arrow.maxBytesPerBatch": "4194304"}
        assert during[0] == {**FIT_SETTINGS, **batch}
        assert during[2] - before[2] == (4 if execution == "distributed" else 0)
    finally:
        for name, value in given.items():
            spark.conf.set(name, value)


def block_files(spark) -> list[str]:
    """Files of rating blocks among Spark's temporary ones."""

    def find(batches):
        list(batches)
        folders = os.environ["SPARK_LOCAL_DIRS"].split(",")
        found = [str(path) for folder in folders for path in Path(folder).glob("mfspark-*")]
        yield pa.RecordBatch.from_pydict({"file": pa.array(found, pa.string())})

    rows = spark.range(1).coalesce(1).mapInArrow(find, "file string").collect()
    return [row["file"] for row in rows]


def test_params_have_one_source():
    names = set(BiasedALSArguments.__annotations__)
    als = BiasedALS()
    assert names == {param.name for param in als.params}
    assert als.settings() == ALSSettings()
    assert "λ" in als.explainParam("regParam")


def test_params_follow_pyspark_conventions(tmp_path):
    als = BiasedALS(rank=4).setParams(maxIter=3, userCol="u")
    other = als.copy({als.rank: 9})
    assert (als.getOrDefault("rank"), other.getOrDefault("rank")) == (4, 9)
    assert other.getOrDefault("userCol") == "u"
    als.save(str(tmp_path / "als"))
    assert BiasedALS.load(str(tmp_path / "als")).settings() == als.settings()
    with pytest.raises(ConfigError, match=r"rank = -1 is not allowed.*number of factors"):
        BiasedALS(rank=-1)
    with pytest.raises(TypeError, match="no parameter 'ranks'"):
        BiasedALS(ranks=3)


def test_cross_validator_pipeline_and_split_accept_it(spark, ratings, tmp_path):
    als = BiasedALS(maxIter=2, regParam=0.2)
    grid = ParamGridBuilder().addGrid(als.rank, [1, 3]).build()
    evaluator = RegressionEvaluator(labelCol="rating", metricName="rmse")
    validated = CrossValidator(
        estimator=als,
        estimatorParamMaps=grid,
        evaluator=evaluator,
        numFolds=2,
        parallelism=2,
        seed=1,
    ).fit(ratings)
    assert all(math.isfinite(metric) for metric in validated.avgMetrics)
    assert spark.conf.get("spark.sql.adaptive.enabled") == "true"
    split = TrainValidationSplit(
        estimator=als, estimatorParamMaps=grid, evaluator=evaluator, seed=1
    ).fit(ratings)
    assert split.bestModel.rank in (1, 3)
    pipeline = Pipeline(stages=[als]).fit(ratings)
    path = str(tmp_path / "pipeline")
    pipeline.save(path)
    loaded = PipelineModel.load(path)
    assert isinstance(loaded.stages[0], FactorModel)
    assert_df_equality(
        loaded.transform(ratings), pipeline.transform(ratings), ignore_row_order=True
    )


def test_model_directory_is_readable_by_pandas_alone(model, ratings, tmp_path):
    path = tmp_path / "model"
    model.save(str(path))
    assert {entry.name for entry in path.iterdir()} == {
        "metadata.json",
        "user_factors",
        "item_factors",
        "history",
    }
    users = pd.read_parquet(path / "user_factors").set_index("user")
    items = pd.read_parquet(path / "item_factors").set_index("item")
    metadata = json.loads((path / "metadata.json").read_text())
    row = ratings.first()
    user, item = users.loc[row["user"]], items.loc[row["item"]]
    by_hand = (
        metadata["global_mean"]
        + float(user["bias"])
        + float(item["bias"])
        + float(np.dot(user["factors"].astype(float), item["factors"].astype(float)))
    )
    loaded = FactorModel.load(str(path))
    predicted = loaded.transform(ratings.limit(1)).first()["prediction"]
    assert predicted == pytest.approx(by_hand, abs=1e-12)
    assert list(pd.read_parquet(path / "history").columns) == [
        "iteration",
        "side",
        "objective",
        "train_rmse",
        "validation_rmse",
        "seconds",
        "bytes",
        "learning_rate",
    ]
