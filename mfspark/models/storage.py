"""A model on disk: Parquet tables and one JSON file, readable without mfspark."""

from typing import TYPE_CHECKING

from pyspark.ml.util import DefaultParamsWriter, MLReader, MLWriter
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

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
    tables = [
        _read_factors(spark, path, side, n_rows, metadata.rank)
        for side, n_rows in ((USER, metadata.n_users), (ITEM, metadata.n_items))
    ]
    history = _read_table(spark, path, "history")
    return tables[0], tables[1], history, metadata


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


def _read_table(spark: SparkSession, path: str, name: str) -> DataFrame:
    try:
        table = files.read_parquet(spark, f"{path}/{name}")
    except SPARK_ERRORS as error:
        raise ModelFormatError(
            f"table {name} of model {path} is missing or damaged "
            f"({one_line(error)}); restore it from a copy or train again"
        ) from None
    missing = _COLUMNS[name] - set(table.columns)
    if missing:
        raise ModelFormatError(
            f"table {name} of model {path} lacks the columns {sorted(missing)}; train again"
        )
    return table


def _read_factors(spark: SparkSession, path: str, side: str, n_rows: int, rank: int) -> DataFrame:
    """A factor table, checked in one pass: as many rows as there were, each id once, and of each
    a bias and ``rank`` factors that are finite numbers."""
    name = f"{side}_factors"
    table = _read_table(spark, path, name)
    kinds = {field: table.schema[field].dataType.simpleString() for field in (BIAS, FACTORS)}
    if kinds != {BIAS: "float", FACTORS: "array<float>"}:
        raise ModelFormatError(
            f"table {name} of model {path} has {BIAS} and {FACTORS} of the types "
            f"{kinds[BIAS]} and {kinds[FACTORS]}, not float and array<float>; train again"
        )

    def is_odd(number: Column) -> Column:
        return number.isNull() | F.isnan(number) | (F.abs(number) == float("inf"))

    faults = {
        "rows without an id": F.col(side).isNull(),
        f"rows whose list of factors has not the length {rank} that metadata.json says": F.col(
            FACTORS
        ).isNull()
        | (F.size(FACTORS) != rank),
        "rows with a bias or factors that are null, NaN or infinite": is_odd(F.col(BIAS))
        | F.coalesce(F.exists(FACTORS, is_odd), F.lit(False)),
    }
    try:
        row = table.agg(
            F.count(F.lit(1)),
            F.count_distinct(side),
            *[F.count(F.when(fault, 1)) for fault in faults.values()],
        ).first()
    except SPARK_ERRORS as error:
        raise ModelFormatError(
            f"table {name} of model {path} is damaged ({one_line(error)}); restore it from a copy "
            "or train again"
        ) from None
    assert row is not None
    if row[0] != n_rows:
        raise ModelFormatError(
            f"table {name} of model {path} has {row[0]} rows, but metadata.json counts {n_rows}: "
            "a file is missing or was added; restore it from a copy or train again"
        )
    found = dict(zip(faults, row[2:], strict=True)) | {"ids that occur twice": n_rows - row[1]}
    for fault, n in found.items():
        if n:
            raise ModelFormatError(
                f"table {name} of model {path} has {n} {fault}; restore it from a copy or train "
                "again"
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
