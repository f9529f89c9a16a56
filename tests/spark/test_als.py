"""``mfspark.ALS`` in place of ``pyspark.ml.recommendation.ALS``: one import line changes."""

import inspect
import logging

import numpy as np
import pandas as pd
import pytest
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml import recommendation as theirs
from pyspark.ml.evaluation import RegressionEvaluator
from pyspark.ml.feature import StringIndexer
from pyspark.ml.tuning import CrossValidator, ParamGridBuilder
from pyspark.sql import functions as F

from mfspark import ALS, ALSModel, BiasedALS, FactorModel
from mfspark.errors import ConfigError, DataError, ModelFormatError

TOY = [(0, 0, 4.0), (0, 1, 2.0), (1, 1, 3.0), (1, 2, 4.0), (2, 1, 1.0), (2, 2, 5.0)]


@pytest.fixture
def toy(spark):
    return spark.createDataFrame(TOY, ["user", "item", "rating"])


@pytest.mark.parametrize(("ours", "other"), [(ALS, theirs.ALS), (ALSModel, theirs.ALSModel)])
def test_every_public_name_is_there(ours, other):
    names = {name for name in dir(other) if not name.startswith("_")}
    assert names - set(dir(ours)) == set()
    for name in names:
        method = getattr(other, name)
        if inspect.isfunction(method) and inspect.isfunction(getattr(ours, name)):
            expected = [p for p in inspect.signature(method).parameters if p != "kwargs"]
            found = list(inspect.signature(getattr(ours, name)).parameters)
            assert found[: len(expected)] == expected, name


def test_defaults_are_the_same(spark):
    ours, other = ALS(), theirs.ALS()
    assert {p.name for p in ours.params} == {p.name for p in other.params}
    for param in other.params:
        if param.name != "seed":
            assert ours.hasDefault(param.name) == other.hasDefault(param.name), param.name
            if other.hasDefault(param.name):
                assert ours.getOrDefault(param.name) == other.getOrDefault(param.name), param.name


def test_setters_and_getters_go_around(spark):
    als = ALS(7, 3, 0.2)
    assert (als.getRank(), als.getMaxIter(), als.getRegParam()) == (7, 3, 0.2)
    assert als.setNumBlocks(4) is als
    assert (als.getNumUserBlocks(), als.getNumItemBlocks()) == (4, 4)
    values = {
        "Rank": 5, "MaxIter": 2, "RegParam": 0.3, "NumUserBlocks": 1, "NumItemBlocks": 2,
        "ImplicitPrefs": True, "Alpha": 2.0, "UserCol": "u", "ItemCol": "i", "RatingCol": "r",
        "Nonnegative": True, "CheckpointInterval": 3, "IntermediateStorageLevel": "DISK_ONLY",
        "FinalStorageLevel": "DISK_ONLY", "ColdStartStrategy": "drop", "BlockSize": 8, "Seed": 9,
        "PredictionCol": "p",
    }  # fmt: skip
    for name, value in values.items():
        assert getattr(als, f"set{name}")(value) is als
        assert getattr(als, f"get{name}")() == value
    assert als.setParams(rank=2, seed=None).getSeed() == 9
    als.clear(als.regParam)
    assert als.getRegParam() == 0.1
    with pytest.raises(TypeError):
        ALS(ranks=3)


def test_the_session_of_its_manual(spark, toy, tmp_path):
    als = ALS(rank=10, seed=0)
    als.setMaxIter(5)
    model = als.fit(toy)
    assert model.uid == als.uid
    assert model.getUserCol() == "user"
    model.setUserCol("user")
    model.setPredictionCol("newPrediction")
    assert model.rank == 10
    assert model.userFactors.columns == ["id", "features"]
    assert dict(model.itemFactors.dtypes) == {"id": "int", "features": "array<float>"}
    assert [row["id"] for row in model.userFactors.orderBy("id").collect()] == [0, 1, 2]
    test = spark.createDataFrame([(0, 2), (1, 0), (2, 0)], ["user", "item"])
    predicted = model.transform(test)
    assert dict(predicted.dtypes)["newPrediction"] == "float"
    assert predicted.count() == 3
    lists = model.recommendForAllUsers(3)
    assert lists.dtypes == [
        ("user", "int"), ("recommendations", "array<struct<item:int,rating:float>>")
    ]  # fmt: skip
    assert lists.where(lists.user == 0).select("recommendations.item").first()[0][0] == 0
    assert model.recommendForAllItems(3).where("item = 2").count() == 1
    twice = toy.where(toy.user == 2)
    assert twice.count() == 2
    assert model.recommendForUserSubset(twice, 3).count() == 1
    assert model.recommendForItemSubset(toy.where(toy.item == 0), 3).count() == 1
    als.save(str(tmp_path / "als"))
    assert ALS.load(str(tmp_path / "als")).getMaxIter() == 5
    path = str(tmp_path / "my model #1")
    model.save(path)
    loaded = ALSModel.load(path)
    assert loaded.uid == model.uid
    assert loaded.getPredictionCol() == "newPrediction"
    assert loaded.transform(test).collect() == predicted.collect()
    with pytest.raises(Exception, match="exists"):
        model.save(path)
    model.write().overwrite().save(path)


@pytest.mark.parametrize("is_strict", [True, False])
def test_pairs_of_its_own_tables_can_be_predicted(spark, toy, tmp_path, is_strict):
    """Columns of the tables that predictions are joined with are not ambiguous."""
    ALS(rank=2, numUserBlocks=10, numItemBlocks=10, maxIter=1, seed=42).fit(toy).write().save(
        str(tmp_path / "model")
    )
    model = ALSModel().load(str(tmp_path / "model"))
    users = model.userFactors.select(F.col("id").alias("user"))
    items = model.itemFactors.select(F.col("id").alias("item"))
    name = "spark.sql.analyzer.failAmbiguousSelfJoin"
    before = spark.conf.get(name)
    spark.conf.set(name, is_strict)
    try:
        assert model.transform(users.crossJoin(items)).count() == 9
    finally:
        spark.conf.set(name, before)


def test_an_empty_model_says_where_factors_come_from(spark, toy):
    with pytest.raises(ModelFormatError, match=r"ALSModel\.load\(path\)"):
        ALSModel().transform(toy)


def test_the_example_of_spark_with_ratings_of_text(spark, tmp_path):
    file = tmp_path / "ratings.txt"
    rng = np.random.default_rng(0)
    pairs = [(u, i) for u in range(30) for i in range(u % 7, 40)]
    lines = [f"{u}::{i}::{rng.integers(1, 6)}::1424380312" for u, i in pairs]
    file.write_text("\n".join(lines))
    parts = spark.read.text(str(file)).select(F.split("value", "::").alias("p"))
    ratings = parts.select(
        F.col("p")[0].cast("int").alias("userId"), F.col("p")[1].cast("int").alias("movieId"),
        F.col("p")[2].cast("float").alias("rating"), F.col("p")[3].cast("long").alias("timestamp"),
    )  # fmt: skip
    training, test = ratings.randomSplit([0.8, 0.2], seed=1)
    als = ALS(
        maxIter=5, regParam=0.01, userCol="userId", itemCol="movieId", ratingCol="rating",
        coldStartStrategy="drop",
    )  # fmt: skip
    model = als.fit(training)
    evaluator = RegressionEvaluator(
        metricName="rmse", labelCol="rating", predictionCol="prediction"
    )
    assert evaluator.evaluate(model.transform(test)) < 6
    assert model.recommendForAllUsers(10).columns == ["userId", "recommendations"]
    users = ratings.select(als.getUserCol()).distinct().limit(3)
    assert model.recommendForUserSubset(users, 10).count() == 3


def test_the_converged_objective_is_that_of_pyspark(spark, ratings_frame, tmp_path):
    # Theirs would overflow the stack.
    spark.sparkContext.setCheckpointDir(str(tmp_path))
    frame = ratings_frame[["user", "item", "rating"]]
    rows, penalty = spark.createDataFrame(frame), 0.05
    common = {"rank": 3, "maxIter": 40, "regParam": penalty, "seed": 3}

    def objective(model):
        p, q = (
            {row["id"]: np.array(row["features"]) for row in table.collect()}
            for table in (model.userFactors, model.itemFactors)
        )
        if isinstance(model, ALSModel):
            # The canonical rotation shares the scale evenly; the penalty sees what is optimal.
            p, q = balanced(p, q, frame)
        total = sum((r - p[u] @ q[i]) ** 2 for u, i, r in frame.itertuples(index=False))
        for vectors, column in ((p, "user"), (q, "item")):
            counts = frame.groupby(column).size()
            total += penalty * sum(n * vectors[key] @ vectors[key] for key, n in counts.items())
        return total

    found = objective(ALS(**common).fit(rows))
    assert found == pytest.approx(
        objective(theirs.ALS(checkpointInterval=5, **common).fit(rows)), rel=1e-3
    )


def balanced(p, q, frame):
    """The pair of factors with the same products that the weighted penalty prefers."""
    n_u, n_i = frame.groupby("user").size(), frame.groupby("item").size()
    a = sum(n * np.outer(p[key], p[key]) for key, n in n_u.items())
    b = sum(n * np.outer(q[key], q[key]) for key, n in n_i.items())
    # A with p → pA, q → qA⁻ᵀ such that AᵀaA = A⁻¹bA⁻ᵀ, by the square root of a matrix.
    root = matrix_power(a, 0.5)
    inverse = np.linalg.inv(root)
    middle = matrix_power(matrix_power(root @ b @ root, 0.5), 0.5)
    turn = inverse @ middle
    back = np.linalg.inv(turn).T
    return {k: v @ turn for k, v in p.items()}, {k: v @ back for k, v in q.items()}


def matrix_power(matrix, power):
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.maximum(values, 0) ** power) @ vectors.T


def test_ids_of_a_string_indexer(spark):
    frame = pd.DataFrame(TOY, columns=["user", "item", "rating"])
    frame["name"], frame["thing"] = "u" + frame["user"].astype(str), "i" + frame["item"].astype(str)
    rows = spark.createDataFrame(frame[["name", "thing", "rating"]])
    stages = [
        StringIndexer(inputCol="name", outputCol="user"),
        StringIndexer(inputCol="thing", outputCol="item"),
        ALS(rank=2, maxIter=3, seed=1),
    ]
    model = Pipeline(stages=stages).fit(rows)
    scored = model.transform(rows)
    assert dict(scored.dtypes)["user"] == "double"
    assert scored.where(F.isnan("prediction")).count() == 0
    assert dict(model.stages[2].userFactors.dtypes)["id"] == "int"


@pytest.mark.parametrize("kind", ["double", "float", "decimal(10,0)", "long", "short"])
def test_whole_numbers_of_any_type_are_ids(toy, kind):
    typed = toy.select(F.col("user").cast(kind), F.col("item").cast(kind), "rating")
    expected = ALS(rank=2, maxIter=3).fit(toy).transform(toy).toPandas()["prediction"]
    model = ALS(rank=2, maxIter=3).fit(typed)
    scored = model.transform(typed)
    np.testing.assert_allclose(scored.toPandas()["prediction"], expected, atol=1e-6)
    assert scored.dtypes[:2] == typed.dtypes[:2]
    biased = BiasedALS(rank=2, maxIter=2).fit(typed)
    assert biased.transform(typed).where(F.isnan("prediction")).count() == 0


def test_fractions_are_no_ids(spark, toy):
    odd = toy.withColumn("user", F.col("user") + 0.5)
    with pytest.raises(DataError, match="'user' has 6 values that are no whole numbers"):
        ALS(rank=1).fit(odd)
    model = ALS(rank=2, maxIter=2).fit(toy)
    assert np.isnan(model.transform(odd).toPandas()["prediction"]).all()
    big = toy.withColumn("item", F.col("item") + 2**40)
    assert dict(ALS(rank=2, maxIter=2).fit(big).itemFactors.dtypes)["id"] == "bigint"


def test_cold_rows_by_the_strategy_in_any_case(spark, toy):
    cold = spark.createDataFrame([(0, 0), (9, 0)], ["user", "item"])
    model = ALS(rank=2, maxIter=2, coldStartStrategy="NaN").fit(toy)
    assert np.isnan(model.transform(cold).toPandas()["prediction"]).sum() == 1
    model.setColdStartStrategy("DROP")
    assert model.transform(cold).count() == 1
    model.setColdStartStrategy("foo")
    with pytest.raises(ConfigError, match="set it to nan or drop"):
        model.transform(cold)
    with pytest.raises(ConfigError, match="set it to nan or drop"):
        ALS(coldStartStrategy="zero").fit(toy)


def test_no_iteration_leaves_random_factors(toy):
    model = ALS(rank=3, maxIter=0, seed=2).fit(toy)
    assert model.userFactors.count() == 3
    vectors = np.stack([row["features"] for row in model.itemFactors.collect()])
    assert vectors.shape == (3, 3)
    assert np.isfinite(vectors).all()
    assert model.transform(toy).count() == 6
    assert model.factor_model.history.count() == 0


def test_what_is_not_there_is_refused_in_a_line(toy):
    with pytest.raises(ConfigError, match=r"implicitPrefs = True is not there.*explicit ratings"):
        ALS(implicitPrefs=True, alpha=40.0).fit(toy)
    with pytest.raises(ConfigError, match="nonnegative = True is not there"):
        ALS(nonnegative=True).fit(toy)
    with pytest.raises(ConfigError, match="rank = 0 is not allowed"):
        ALS(rank=0).fit(toy)


def test_what_has_no_effect_says_so_once(toy, caplog):
    logging.getLogger("mfspark").propagate = True
    with caplog.at_level(logging.WARNING, "mfspark"):
        ALS(rank=2, maxIter=1, checkpointInterval=2, blockSize=16).fit(toy)
    lines = [r.getMessage() for r in caplog.records if "no effect" in r.getMessage()]
    assert lines == [
        "ALS: checkpointInterval, blockSize have no effect here: the engine keeps and checkpoints "
        "by itself"
    ]


def test_an_empty_rating_column_counts_pairs(toy):
    model = ALS(rank=2, maxIter=3, ratingCol="", regParam=0.01).fit(toy)
    np.testing.assert_allclose(model.transform(toy).toPandas()["prediction"], 1.0, atol=0.1)


def test_cross_validator_and_pipelines_take_it(spark, ratings, tmp_path):
    als = ALS(maxIter=2, coldStartStrategy="drop", seed=1)
    grid = ParamGridBuilder().addGrid(als.rank, [1, 2]).addGrid(als.regParam, [0.1]).build()
    evaluator = RegressionEvaluator(labelCol="rating", metricName="rmse")
    best = CrossValidator(
        estimator=als, estimatorParamMaps=grid, evaluator=evaluator, numFolds=2
    ).fit(ratings)
    assert isinstance(best.bestModel, ALSModel)
    path = str(tmp_path / "pipeline")
    pipeline = Pipeline(stages=[als]).fit(ratings)
    pipeline.save(path)
    loaded = PipelineModel.load(path).stages[0]
    assert isinstance(loaded, ALSModel)
    assert loaded.uid == pipeline.stages[0].uid
    assert loaded.transform(ratings).count() == ratings.count()


def test_constructor_calls_as_people_write_them(spark):
    """The argument lists of two public notebooks on MovieLens."""
    rows = spark.createDataFrame(
        [(u, i, float((u * i) % 5 + 1)) for u in range(9) for i in range(7)],
        ["userId", "movieId", "rating"],
    )
    calls = [
        {
            "maxIter": 5, "regParam": 0.09, "rank": 8, "userCol": "userId", "itemCol": "movieId",
            "ratingCol": "rating", "coldStartStrategy": "drop", "nonnegative": False,
        },
        {
            "userCol": "userId", "itemCol": "movieId", "ratingCol": "rating", "rank": 5,
            "maxIter": 4, "regParam": 0.1, "implicitPrefs": False, "seed": 42,
        },
    ]  # fmt: skip
    for arguments in calls:
        model = ALS(**arguments).fit(rows)
        assert model.transform(rows).where("prediction between 0 and 7").count() == rows.count()


def test_biased_als_has_setters_and_getters_and_names_of_columns(toy):
    named = toy.toDF("u", "i", "stars")
    als = BiasedALS().setUserCol("u").setItemCol("i").setRatingCol("stars").setRank(2).setMaxIter(2)
    assert als.getRank() == 2
    model = als.fit(named)
    assert isinstance(model, FactorModel)
    assert model.recommendForAllUsers(2).dtypes == [
        ("u", "bigint"), ("recommendations", "array<struct<i:bigint,rating:float>>")
    ]  # fmt: skip
    assert model.userFactors.columns[0] == "u"
    assert model.getColdStartStrategy() == "baseline"


def test_a_refused_set_changes_nothing(toy):
    als = BiasedALS(rank=4)
    with pytest.raises(ConfigError, match="maxIter = 0"):
        als.setParams(rank=7, maxIter=0)
    assert als.getRank() == 4
    model = BiasedALS(rank=2, maxIter=1).fit(toy)
    with pytest.raises(ConfigError, match="coldStartStrategy = 'foo'"):
        model.setParams(predictionCol="p", coldStartStrategy="foo")
    assert model.getPredictionCol() == "prediction"
    wrong = model.copy({model.coldStartStrategy: "foo"})
    with pytest.raises(ConfigError, match="coldStartStrategy = 'foo'"):
        wrong.transform(toy)


def test_a_rating_beyond_single_precision_is_refused(spark):
    rows = [(u, i, 1e39 if u == i == 0 else 3.0) for u in range(4) for i in range(3)]
    data = spark.createDataFrame(rows, "user int, item int, rating double")
    with pytest.raises(DataError, match=r"rating of 1e\+39 is beyond single precision"):
        ALS(rank=2, maxIter=1).fit(data)
