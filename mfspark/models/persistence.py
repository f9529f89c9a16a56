"""Model directories: Parquet tables and a versioned JSON document, refused with a reason if not
whole, and the classes by which ``pyspark.ml`` writes and reads them."""

from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ValidationError
from pyspark.ml.util import (
    DefaultParamsReader,
    DefaultParamsWriter,
    MLReadable,
    MLReader,
    MLWritable,
    MLWriter,
)
from pyspark.sql import DataFrame, SparkSession

from mfspark import files
from mfspark.errors import ConfigError, ModelFormatError, one_line
from mfspark.spark_errors import SPARK_ERRORS

DocumentT = TypeVar("DocumentT", bound=BaseModel)
PersistentT = TypeVar("PersistentT", bound="Persistent")


class Persistent(MLWritable, MLReadable["Persistent"]):
    """A model that is written to a directory of its own, and read from it.

    ``has_own_params``: whether the model's document holds its Params; those of others are read from
    Spark's ``metadata/``.
    """

    has_own_params: ClassVar[bool] = True

    def write_content(self, directory: str) -> None:
        """Write tables and document to a new ``directory``."""
        raise NotImplementedError

    @classmethod
    def read_content(cls: type[PersistentT], path: str) -> PersistentT:
        """The model of the directory ``path``; ``ModelFormatError`` says what is wrong with it."""
        raise NotImplementedError

    @property
    def sparkSession(self) -> SparkSession:
        """The session that holds the tables."""
        raise NotImplementedError

    def write(self) -> "ModelWriter":
        """Writer for ``pyspark.ml``; ``write().overwrite().save(path)`` replaces."""
        return ModelWriter(self)

    @classmethod
    def read(cls: type[PersistentT]) -> "ModelReader[PersistentT]":
        """Reader for ``pyspark.ml``."""
        return ModelReader(cls)

    @classmethod
    def load(cls: type[PersistentT], path: str) -> PersistentT:
        """Read a model directory; ``ModelFormatError`` says what is wrong with it."""
        return cls.read().load(path)


class ModelWriter(MLWriter):
    """Writes the model directory, and Spark's own ``metadata/`` beside it for pipelines."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = model

    def save(self, path: str) -> None:
        """Write to ``path``, whole or not at all; needs ``overwrite()`` when it exists."""
        with files.staged_directory(path, self.shouldOverwrite) as stage:
            self._model.write_content(stage)
            DefaultParamsWriter.saveMetadata(
                self._model, files.for_spark(stage), self._model.sparkSession
            )


class ModelReader(MLReader[PersistentT]):
    """Reads what ``ModelWriter`` or the model's ``save`` wrote."""

    def __init__(self, model_type: type[PersistentT]) -> None:
        super().__init__()
        self._model_type = model_type

    def load(self, path: str) -> PersistentT:
        """Read the model directory ``path``."""
        path = files.current(path)
        if stray := files.stray_entry(path):
            raise ModelFormatError(
                f"{path} holds {stray}, which is a link to something outside of it or no file at "
                "all, so reading it could read anything on this machine; a model consists of files "
                "of its own: remove it, or copy in what it leads to"
            )
        model: Any = self._model_type.read_content(path)
        if not self._model_type.has_own_params:
            _set_params_of_spark(model, path)
        found: PersistentT = model
        return found


def _set_params_of_spark(model: Any, path: str) -> None:
    """Params that Spark keeps in ``metadata/``."""
    try:
        saved = DefaultParamsReader.loadMetadata(files.to_read(path), SparkSession.active())
        model._resetUid(saved["uid"])
        DefaultParamsReader.getAndSetParams(model, saved)
    except (*SPARK_ERRORS, ValueError, LookupError, TypeError, AssertionError, RecursionError) as e:
        raise ModelFormatError(
            f"{path}/metadata is missing or damaged ({one_line(e)}); restore it from a copy or "
            "train again"
        ) from None


def set_stored_params(model: Any, params: dict[str, Any], path: str) -> None:
    """Set the Params of a ``model`` that the document in its directory ``path`` has."""
    try:
        model.set_params(params)
    except (ConfigError, TypeError) as error:
        raise ModelFormatError(
            f"the parameters of model {path} are damaged: {error}; restore it from a copy or train "
            "again"
        ) from None


def read_table(path: str, name: str, columns: set[str]) -> DataFrame:
    """A table of the model directory ``path``; ``ModelFormatError`` when it is missing or damaged,
    or lacks one of ``columns``."""
    try:
        table = files.read_parquet(SparkSession.active(), f"{path}/{name}")
        # On Spark Connect nothing is read before one asks.
        found = set(table.columns)
    except SPARK_ERRORS as error:
        raise damaged(path, name, error) from None
    missing = columns - found
    if missing:
        raise ModelFormatError(
            f"table {name} of model {path} lacks the columns {sorted(missing)}; train again"
        )
    return table


def damaged(path: str, name: str, error: Exception) -> ModelFormatError:
    """What to say when Spark cannot read a table of a model."""
    return ModelFormatError(
        f"table {name} of model {path} is missing or damaged ({one_line(error)}); restore it from "
        "a copy or train again"
    )


def require_rows(path: str, name: str, n_found: int, n_rows: int | None, document: str) -> None:
    """``ModelFormatError`` when a table has not as many rows as its document counts."""
    if n_found != n_rows:
        raise ModelFormatError(
            f"table {name} of model {path} has {n_found} rows, but {document} counts {n_rows}: a "
            "file is missing or was added; restore it from a copy or train again"
        )


def read_document(
    path: str, name: str, model: type[DocumentT], version: int, written_by: str
) -> DocumentT:
    """The checked content of the document ``name`` in the directory ``path``.

    Raises ``ModelFormatError`` when it is missing, damaged, or of another ``schema_version`` than
    ``version``; ``written_by`` says what would have written it.
    """
    content = _read(path, name, written_by)
    found = content.get("schema_version") if isinstance(content, dict) else None
    if found != version:
        author = content.get("mfspark_version", "unknown") if isinstance(content, dict) else "?"
        raise ModelFormatError(
            f"{path} has model schema version {found}, but this mfspark reads version {version}; "
            f"train the model again or install the mfspark that wrote it ({author})"
        )
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        told = f"at {where!r}" if where else f"({first['msg'].removeprefix('Value error, ')})"
        raise ModelFormatError(
            f"{path}/{name} is damaged {told}; restore it from a copy or train again"
        ) from None


def _read(path: str, name: str, written_by: str) -> Any:
    """The JSON of a model's document; ``ModelFormatError`` when there is none or it is damaged."""
    try:
        return files.read_json(f"{path}/{name}")
    except FileNotFoundError:
        raise ModelFormatError(
            f"{path} is not a model directory: it has no {name}; give the directory that "
            f"{written_by} wrote"
        ) from None
    except OSError as error:
        raise ModelFormatError(
            f"{path} cannot be read as a model directory ({error.strerror or error}); give the "
            f"directory that {written_by} wrote"
        ) from None
    except ValueError as error:
        raise ModelFormatError(
            f"{path}/{name} is damaged ({error}); restore it from a copy or train again"
        ) from None
