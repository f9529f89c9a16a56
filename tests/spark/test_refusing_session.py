"""A session that refuses what serverless Spark refuses: to persist and to checkpoint tables, to
change settings, to tell of most of them."""

import numpy as np
import pandas as pd
import pytest
from pyspark.errors import AnalysisException
from pyspark.sql.classic.dataframe import DataFrame
from pyspark.sql.conf import RuntimeConfig

from mfspark import BayesianMF, BiasedALS, BiasedSGD, BiasOnly, FactorModel, ItemKNN
from mfspark.errors import ConfigError
from mfspark.evaluation.ranking import RankingSettings, evaluate_lists
from mfspark.evaluation.ratings import evaluate
from mfspark.persisted import SCRATCH

REFUSED = ("persist", "cache", "unpersist", "localCheckpoint", "checkpoint")
TOLD = ("spark.sql.shuffle.partitions", "spark.sql.session.timeZone", "spark.sql.ansi.enabled")


@pytest.fixture
def refusing(spark, monkeypatch, tmp_path):
    """Another session beside that of other tests, which has not been asked yet."""
    tried = []

    def refuse(name):
        def method(self, *arguments, **named):
            tried.append(name)
            raise AnalysisException(
                f"[NOT_SUPPORTED_WITH_SERVERLESS] {name} is not supported on serverless compute. "
                "SQLSTATE: 0A000"
            )

        return method

    told = RuntimeConfig.get

    def get(self, key, *default):
        if key not in TOLD:
            raise AnalysisException(f"[CONFIG_NOT_AVAILABLE] Configuration {key} is not available.")
        return told(self, key, *default)

    for name in REFUSED:
        monkeypatch.setattr(DataFrame, name, refuse(name))
    monkeypatch.setattr(RuntimeConfig, "set", refuse("conf.set"))
    monkeypatch.setattr(RuntimeConfig, "get", get)
    monkeypatch.setenv(SCRATCH, str(tmp_path / "scratch"))
    yield spark.newSession()
    assert "persist" in tried
    # Not tried again for each table.
    assert len([name for name in tried if name == "persist"]) <= 2


@pytest.fixture
def rows(refusing, ratings_frame):
    return refusing.createDataFrame(ratings_frame)


def values(model, pairs) -> np.ndarray:
    found = model.transform(pairs).toPandas().sort_values(["user", "item"])
    return found["prediction"].to_numpy()


@pytest.fixture(scope="module")
def allowed(ratings):
    """What the same fits predict in a session that persists."""
    return {name: values(make().fit(ratings), ratings) for name, make in FITS.items()}


SETTINGS = {"rank": 2, "maxIter": 4, "seed": 1}
SAMPLED = {"rank": 2, "maxIter": 8, "burnIn": 2, "seed": 1}
FITS = {
    "als in one task": lambda: BiasedALS(execution="one_task", **SETTINGS),
    "als broadcast": lambda: BiasedALS(execution="distributed", exchange="broadcast", **SETTINGS),
    "als routed": lambda: BiasedALS(execution="distributed", exchange="routed", **SETTINGS),
    "als by moments": lambda: BiasedALS(execution="distributed", exchange="moments", **SETTINGS),
    "sgd": lambda: BiasedSGD(execution="distributed", **SETTINGS),
    "bayes": lambda: BayesianMF(execution="distributed", implicitFeatures=False, **SAMPLED),
    "item knn": lambda: ItemKNN(k=5),
}


@pytest.mark.parametrize("name", FITS)
def test_models_are_those_of_any_other_session(allowed, rows, name):
    np.testing.assert_allclose(values(FITS[name]().fit(rows), rows), allowed[name], atol=2e-5)


def test_factors_kept_on_executors_are_written(allowed, rows, monkeypatch):
    monkeypatch.setattr("mfspark.engine.plan.BROADCAST_LIMIT", 0)
    monkeypatch.setattr("mfspark.engine.plan.CHEAP_BYTES", 0)
    monkeypatch.setattr("mfspark.engine.workspace.BROADCAST_LIMIT", 0)
    model = FITS["als routed"]().fit(rows)
    np.testing.assert_allclose(values(model, rows), allowed["als routed"], atol=2e-5)


def test_a_model_is_saved_evaluated_and_makes_lists(rows, tmp_path):
    train, test = rows.randomSplit([0.8, 0.2], seed=1)
    model = BiasedALS(**SETTINGS).fit(train)
    model.save(str(tmp_path / "model"))
    loaded = FactorModel.load(str(tmp_path / "model"))
    biases = BiasOnly().fit(train)
    result = evaluate(loaded, biases, train, test, {})
    metrics = result.metrics.toPandas()
    assert metrics["rmse"].notna().all()
    result.release()
    found = evaluate_lists(loaded, biases, train, test, RankingSettings(k=[3]), 1.0, 0)
    assert found.ranking.count() > 0
    lists = loaded.recommendForAllUsers(3, train)
    assert lists.count() == train.select("user").distinct().count()
    folded = loaded.foldIn(train.withColumn("user", train.user + 10_000), "user")
    assert folded.user_factors.count() == 2 * loaded.user_factors.count()


def test_nothing_is_left_in_the_scratch_folder(rows, tmp_path):
    model = BiasedALS(execution="distributed", **SETTINGS).fit(rows)
    assert isinstance(model.user_factors.toPandas(), pd.DataFrame)
    assert list(tmp_path.glob("scratch/*/*")) == []


def test_without_a_scratch_folder_the_error_names_it(rows, monkeypatch):
    monkeypatch.delenv(SCRATCH)
    with pytest.raises(ConfigError, match=r"refuses to persist .* MFSPARK_SCRATCH to a"):
        BiasedALS(execution="distributed", **SETTINGS).fit(rows)
