"""A finished run in MLflow: parameters, history, figures, report and model."""

import importlib.util
import os
from collections.abc import Iterator
from typing import Any

import pandas as pd
from pydantic import BaseModel
from pyspark.sql import SparkSession

from mfspark import files
from mfspark.app.config import Config
from mfspark.app.run_directory import RunDirectory
from mfspark.errors import ConfigError, one_line
from mfspark.models.factor_model import FactorModel

# What decides how a model comes out.
_SECTIONS = ("data", "split", "train")
_MOST_CHARACTERS = 500
_FIGURES = ("objective", "train_rmse", "validation_rmse", "seconds")


def track(spark: SparkSession, run: RunDirectory) -> None:
    """Log a run that has been trained to MLflow (pip install 'mfspark[mlflow]').

    Parameters of data, split and model; objective, errors and seconds of each iteration; RMSE of
    each predictor if it was evaluated; report, run.json and ingest.json; and the model, in the
    flavour ``mfspark``, which ``mfspark.models.mlflow_flavor.load_model`` reads on any machine.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise ConfigError("the package mlflow is not installed; pip install 'mfspark[mlflow]'")
    # Nobody is told what runs here.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow

    from mfspark.models import mlflow_flavor

    settings = run.config.mlflow
    with run.step("track") as facts:
        model = FactorModel.load(run.require("model", "train"))
        try:
            if settings.tracking_uri is not None:
                mlflow.set_tracking_uri(settings.tracking_uri)
            mlflow.set_experiment(settings.experiment)
            with mlflow.start_run(run_name=run.config.run.name) as active:
                _log_run(run, model)
                mlflow_flavor.log_model(model, "model")
        except mlflow.MlflowException as error:
            raise ConfigError(
                f"MLflow cannot log the run ({one_line(error)}); check mlflow.tracking_uri"
            ) from None
        facts["mlflow_run"] = active.info.run_id
    print(f"MLflow run {active.info.run_id} of the experiment {settings.experiment}")


def _log_run(run: RunDirectory, model: FactorModel) -> None:
    """All but the model, to the active run of MLflow."""
    import mlflow

    mlflow.log_params(dict(_parameters(run.config)))
    for name in ("rank", "algorithm", "stopped", "best_iteration", "execution"):
        mlflow.set_tag(f"mfspark.{name}", getattr(model.metadata, name))
    history: Any = model.history.orderBy("iteration").toPandas()
    for row in history.to_dict("records"):
        # Of two half-steps of an iteration the last one counts.
        known = {name: row[name] for name in _FIGURES if pd.notna(row[name])}
        mlflow.log_metrics(known, step=row["iteration"])
    for name, text in _documents(run).items():
        mlflow.log_text(text, name)
    if files.exists(run.of("evaluation")):
        evaluated = run.require("evaluation", "evaluate")
        metrics = files.read_pandas(files.join(evaluated, "metrics"))
        overall = metrics[metrics["slice"] == "all"]
        for predictor, rmse in zip(overall["predictor"], overall["rmse"], strict=True):
            mlflow.log_metric(f"test_rmse.{predictor.replace(' ', '_')}", float(rmse))


def _parameters(config: Config) -> Iterator[tuple[str, str]]:
    sections: dict[str, BaseModel] = {name: getattr(config, name) for name in _SECTIONS}
    for section, settings in {**sections, config.train.model: config.trained}.items():
        dumped: dict[str, Any] = settings.model_dump(mode="json")
        for name, value in dumped.items():
            yield f"{section}.{name}", str(value)[:_MOST_CHARACTERS]


def _documents(run: RunDirectory) -> dict[str, str]:
    """Texts of the run that are there, by their names."""
    names = ("run.json", "ingest.json", "report/index.html", "description/index.html")
    paths = {name: run.current(name) for name in names}
    return {name: files.read_text(path) for name, path in paths.items() if files.exists(path)}
