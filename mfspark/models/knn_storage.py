"""A neighbourhood model on disk: Parquet tables, the model of its biases, and one JSON file."""

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict
from pyspark.ml.util import DefaultParamsWriter, MLReader, MLWriter
from pyspark.sql import SparkSession

from mfspark import __version__, files
from mfspark.engine.find_neighbours import Neighbourhood
from mfspark.errors import ModelFormatError, one_line
from mfspark.models.documents import read_document
from mfspark.models.factor_model import FactorModel
from mfspark.spark_errors import SPARK_ERRORS

if TYPE_CHECKING:
    from mfspark.models.knn import KNNModel

# Raised whenever a reader of the previous version would misread a table.
_SCHEMA_VERSION = 2
_NAME = "knn.json"


class KNNMetadata(BaseModel):
    """``knn.json``: which ids are neighbours (user or item), how many count, Params of the model.

    ``has_means``: whether predictions start from means, in a table of their own, and not from the
    biases. ``n_rows``: of each table.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: int = _SCHEMA_VERSION
    mfspark_version: str = __version__
    side: str
    k: int
    has_means: bool
    n_rows: dict[str, int]
    params: dict[str, Any]


def write_content(model: "KNNModel", directory: str) -> None:
    """Tables, biases and ``knn.json`` into a directory."""
    tables = {
        "neighbours": model.neighbourhood.neighbours,
        "rated": model.neighbourhood.rated,
    }
    if model.means is not None:
        tables["means"] = model.means
    for name, table in tables.items():
        files.write_parquet(table, f"{directory}/{name}")
    model.biases.save(f"{directory}/biases")
    metadata = KNNMetadata(
        side=model.side,
        k=model.k,
        has_means=model.means is not None,
        n_rows={name: table.count() for name, table in tables.items()},
        params={param.name: value for param, value in model.extractParamMap().items()},
    )
    files.write_text(f"{directory}/{_NAME}", metadata.model_dump_json(indent=2) + "\n")


def read_content(path: str) -> dict[str, Any]:
    """What ``KNNModel`` is made of, and its ``params``; ``ModelFormatError`` says what is wrong."""
    metadata = read_document(path, _NAME, KNNMetadata, _SCHEMA_VERSION, "KNNModel.save")
    spark = SparkSession.active()
    names = ["neighbours", "rated", *(["means"] if metadata.has_means else [])]
    tables = {}
    for name in names:
        try:
            tables[name] = files.read_parquet(spark, f"{path}/{name}")
            n_found = tables[name].count()
        except SPARK_ERRORS as error:
            raise ModelFormatError(
                f"table {name} of model {path} is missing or damaged ({one_line(error)}); restore "
                "it from a copy or train again"
            ) from None
        if n_found != metadata.n_rows.get(name):
            raise ModelFormatError(
                f"table {name} of model {path} has {n_found} rows, but {_NAME} counts "
                f"{metadata.n_rows.get(name)}: a file is missing or was added; restore it from a "
                "copy or train again"
            )
    return {
        "neighbourhood": Neighbourhood(tables["neighbours"], tables["rated"]),
        "biases": FactorModel.load(f"{path}/biases"),
        "side": metadata.side,
        "k": metadata.k,
        "means": tables.get("means"),
        "params": metadata.params,
    }


class KNNModelWriter(MLWriter):
    """Writer for ``pyspark.ml`` pipelines: the model directory, and Spark's own ``metadata/``."""

    def __init__(self, model: "KNNModel") -> None:
        super().__init__()
        self._model = model

    def save(self, path: str) -> None:
        """Write to ``path``; needs ``overwrite()`` when it exists."""
        with files.staged_directory(path, self.shouldOverwrite) as stage:
            write_content(self._model, stage)
            spark = self._model.biases.sparkSession
            DefaultParamsWriter.saveMetadata(self._model, files.for_spark(stage), spark)


class KNNModelReader(MLReader["KNNModel"]):
    """Reader for ``pyspark.ml`` pipelines."""

    def load(self, path: str) -> "KNNModel":
        """Read the model directory ``path``."""
        from mfspark.models.knn import KNNModel

        return KNNModel.load(path)
