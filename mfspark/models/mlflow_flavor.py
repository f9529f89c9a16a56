"""The MLflow flavour of a factor model: its directory as it is, without a pickle.

    from mfspark.models import mlflow_flavor
    mlflow_flavor.log_model(model, "model")
    model = mlflow_flavor.load_model("models:/ratings/1")

As a ``python_function`` it takes a table of users and items and returns predictions. Needs
``pip install 'mfspark[mlflow]'``, and Spark where it is loaded.
"""

import sys
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.models import Model
from mlflow.models.model import ModelInfo

from mfspark import __version__, files
from mfspark.models.factor_model import FactorModel

FLAVOR_NAME = "mfspark"
_DATA = "factors"


def save_model(model: FactorModel, path: str, mlflow_model: Model | None = None) -> None:
    """Write the new directory ``path`` of this machine: MLmodel, requirements.txt and the model."""
    folder, described = Path(files.absolute(path)), mlflow_model or Model()
    folder.mkdir(parents=True)
    model.save(str(folder / _DATA))
    requirements = folder / "requirements.txt"
    requirements.write_text(f"mfspark=={__version__}\n")
    described.add_flavor(FLAVOR_NAME, mfspark_version=__version__, data=_DATA)
    described.add_flavor(
        "python_function", loader_module=__name__, data=_DATA, env={"virtualenv": "python_env.yaml"}
    )
    (folder / "python_env.yaml").write_text(f"dependencies:\n- -r {requirements.name}\n")
    described.save(str(folder / "MLmodel"))


def log_model(model: FactorModel, name: str) -> ModelInfo:
    """Log the model to the active run of MLflow under a ``name``."""
    logged: ModelInfo = Model.log(artifact_path=name, flavor=sys.modules[__name__], model=model)
    return logged


def load_model(uri: str) -> FactorModel:
    """The model at a URI of MLflow or a path, fetched to this machine; ``ModelFormatError`` where
    it is damaged."""
    return FactorModel.load(files.join(mlflow.artifacts.download_artifacts(uri), _DATA))


class PairPredictor:
    """A model as MLflow calls it."""

    def __init__(self, model: FactorModel) -> None:
        self._model = model

    def predict(self, pairs: Any, params: dict[str, Any] | None = None) -> pd.Series:
        """Predictions for the rows of a pandas DataFrame of users and items, in their order."""
        place = "_place"
        numbered = pairs.reset_index(drop=True).assign(**{place: range(len(pairs))})
        column = self._model.getOrDefault(self._model.predictionCol)
        found: Any = self._model.transform(numbered).select(place, column).toPandas()
        return found.set_index(place)[column].reindex(range(len(pairs))).set_axis(pairs.index)


def _load_pyfunc(path: str) -> PairPredictor:
    """What MLflow calls to load the ``python_function``."""
    return PairPredictor(FactorModel.load(path))
