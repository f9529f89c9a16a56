"""A run in MLflow's store, and its model loaded back where nothing else of it is."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from running import make_ratings, run_job

from mfspark import FactorModel

mlflow = pytest.importorskip("mlflow")

ELSEWHERE = """
import sys, pandas as pd, mlflow
from pyspark.sql import SparkSession
SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
model = mlflow.pyfunc.load_model(sys.argv[1])
pairs = pd.read_csv(sys.argv[2])
model.predict(pairs).to_csv(sys.argv[3], index=False)
"""


@pytest.fixture(scope="module")
def tracked(spark, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tracked")
    make_ratings(folder / "ratings.csv")
    (folder / "run.toml").write_text(
        '[run]\nname = "mine"\n[data]\npath = "ratings.csv"\nduplicates = "mean"\n'
        "[als]\nrank = 2\nmax_iter = 3\ntol = 0.0\n"
        f'[mlflow]\ntracking_uri = "{(folder / "store").as_uri()}"\nexperiment = "films"\n'
    )
    # A store of files is what needs no database.
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    early = run_job(spark, "track", folder / "run.toml")
    assert early.returncode == 3
    assert "model is missing; run the train job" in early.stdout
    for job in ("ingest", "train", "evaluate", "track"):
        result = run_job(spark, job, folder / "run.toml")
        assert result.returncode == 0, result.stdout
    return folder


def only_run(folder: Path) -> "mlflow.entities.Run":
    client = mlflow.MlflowClient((folder / "store").as_uri())
    experiment = client.get_experiment_by_name("films")
    (run,) = client.search_runs([experiment.experiment_id])
    return run


def test_parameters_history_and_figures_are_there(spark, tracked):
    run = only_run(tracked)
    assert run.info.run_name == "mine"
    assert run.data.params["als.rank"] == "2"
    assert run.data.params["split.test"] == "0.1"
    assert run.data.tags["mfspark.stopped"] == "max_iter"
    client = mlflow.MlflowClient((tracked / "store").as_uri())
    history = client.get_metric_history(run.info.run_id, "train_rmse")
    model = FactorModel.load(str(tracked / "runs/mine/model"))
    expected = model.history.orderBy("iteration").toPandas()["train_rmse"]
    np.testing.assert_allclose([entry.value for entry in history], expected)
    metrics = pd.read_parquet(tracked / "runs/mine/evaluation/metrics")
    rmse = metrics[(metrics["slice"] == "all") & (metrics["predictor"] == "model")]["rmse"].item()
    assert run.data.metrics["test_rmse.model"] == pytest.approx(rmse)
    names = {entry.path for entry in client.list_artifacts(run.info.run_id)}
    assert {"run.json", "ingest.json"} <= names


def test_the_model_loads_where_the_run_is_not(spark, tracked, tmp_path, of_short_life):
    from mfspark.models import mlflow_flavor

    mlflow.set_tracking_uri((tracked / "store").as_uri())
    model = FactorModel.load(str(tracked / "runs/mine/model"))
    pairs = pd.DataFrame({"user": ["u1", "u5", "nobody"], "item": ["i-3", "i-9", "i-3"]})
    expected = model.transform(pairs).toPandas().set_index(["user", "item"])["prediction"]
    uri = f"runs:/{only_run(tracked).info.run_id}/model"
    copy = tmp_path / "elsewhere"
    shutil.copytree(mlflow.artifacts.download_artifacts(uri), copy)
    # No pickle among its files.
    assert not [path for path in copy.rglob("*") if path.suffix in (".pkl", ".pickle")]
    again = mlflow_flavor.load_model(str(copy)).transform(pairs).toPandas()
    found = again.set_index(["user", "item"])["prediction"].loc[expected.index]
    np.testing.assert_allclose(found, expected, rtol=1e-6)

    pairs.to_csv(tmp_path / "pairs.csv", index=False)
    result = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(copy), str(tmp_path / "pairs.csv"),
         str(tmp_path / "found.csv")],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env={**os.environ, **of_short_life},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    by_function = pd.read_csv(tmp_path / "found.csv")["prediction"]
    in_order = expected.loc[list(zip(pairs["user"], pairs["item"], strict=True))]
    np.testing.assert_allclose(by_function, in_order, rtol=1e-6)
