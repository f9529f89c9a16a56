"""A model on disk: Parquet tables and one JSON file, readable without mfspark."""

from typing import TYPE_CHECKING

from pyspark.ml.util import DefaultParamsWriter, MLReader, MLWriter
from pyspark.sql import DataFrame, SparkSession

from mfspark import files
from mfspark.columns import BIAS, FACTORS, ITEM, N_RATINGS, USER
from mfspark.errors import ModelFormatError, one_line
from mfspark.models.documents import read_document
from mfspark.models.metadata import SCHEMA_VERSION, ModelMetadata
from mfspark.spark_errors import SPARK_ERRORS

if TYPE_CHECKING:
    from mfspark.models.factor_model import FactorModel

_COLUMNS = {
    "user_factors": {USER, N_RATINGS, BIAS, FACTORS},
    "item_factors": {ITEM, N_RATINGS, BIAS, FACTORS},
    "history": {"iteration", "side", "objective", "train_rmse", "validation_rmse"},
}


def save_model(model: "FactorModel", path: str, overwrite: bool) -> None:
    """Write the tables and ``metadata.json`` to ``path``, whole or not at all."""
    with files.staged_directory(path, overwrite) as stage:
        _write_content(model, stage)


def load_model(
    spark: SparkSession, path: str
) -> tuple[DataFrame, DataFrame, DataFrame, ModelMetadata]:
    """User factors, item factors, history and metadata of a model directory.

    Raises ``ModelFormatError`` when a part is missing, damaged, or of another schema version.
    """
    metadata = read_metadata(path)
    users = _read_table(spark, path, "user_factors", metadata.n_users)
    items = _read_table(spark, path, "item_factors", metadata.n_items)
    return users, items, _read_table(spark, path, "history", None), metadata


def read_metadata(path: str) -> ModelMetadata:
    """The checked content of ``metadata.json``; errors as in :func:`load_model`."""
    return read_document(
        path, "metadata.json", ModelMetadata, SCHEMA_VERSION, "FactorModel.save or the train job"
    )


def _write_content(model: "FactorModel", directory: str) -> None:
    files.write_parquet(model.user_factors, f"{directory}/user_factors")
    files.write_parquet(model.item_factors, f"{directory}/item_factors")
    files.write_parquet(model.history.coalesce(1), f"{directory}/history")
    in_force = {param.name: value for param, value in model.extractParamMap().items()}
    metadata = model.metadata.model_copy(
        update={"hyper_parameters": model.metadata.hyper_parameters | in_force}
    )
    files.write_text(f"{directory}/metadata.json", metadata.model_dump_json(indent=2) + "\n")


def _read_table(spark: SparkSession, path: str, name: str, n_rows: int | None) -> DataFrame:
    try:
        table = files.read_parquet(spark, f"{path}/{name}")
        missing = _COLUMNS[name] - set(table.columns)
        n_found = table.count()
    except SPARK_ERRORS as error:
        raise ModelFormatError(
            f"table {name} of model {path} is missing or damaged "
            f"({one_line(error)}); restore it from a copy or train again"
        ) from None
    if missing:
        raise ModelFormatError(
            f"table {name} of model {path} lacks the columns {sorted(missing)}; train again"
        )
    if n_rows is not None and n_found != n_rows:
        raise ModelFormatError(
            f"table {name} of model {path} has {n_found} rows, but metadata.json counts {n_rows}: "
            "a file is missing or was added; restore it from a copy or train again"
        )
    return table


class FactorModelWriter(MLWriter):
    """Writer for ``pyspark.ml`` pipelines: the model directory, and Spark's own ``metadata/``."""

    def __init__(self, model: "FactorModel") -> None:
        super().__init__()
        self._model = model

    def save(self, path: str) -> None:
        """Write to ``path``; needs ``overwrite()`` when it exists."""
        with files.staged_directory(path, self.shouldOverwrite) as stage:
            _write_content(self._model, stage)
            DefaultParamsWriter.saveMetadata(
                self._model, files.for_spark(stage), self._model.sparkSession
            )


class FactorModelReader(MLReader["FactorModel"]):
    """Reader for ``pyspark.ml`` pipelines."""

    def load(self, path: str) -> "FactorModel":
        """Read the model directory ``path``."""
        from mfspark.models.factor_model import FactorModel

        return FactorModel.load(path)
