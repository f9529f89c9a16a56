"""One entry point for ratings and item metadata of every format."""

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, StructType

from mfspark import files
from mfspark.columns import GENRES, ITEM, TITLE, USER, YEAR, Side
from mfspark.data import movielens, netflix
from mfspark.data.source import RAW_COLUMNS, ColumnMapping, Format, RawRatings
from mfspark.data.text import MALFORMED, file_path, header_of, read_delimited
from mfspark.errors import DataError, one_line
from mfspark.ids import column
from mfspark.spark_errors import SPARK_ERRORS

_MOVIELENS_FILES = ("u.data", "ratings.dat")
_SEPARATORS = {"csv": ",", "tsv": "\t"}
_SUFFIXES = {
    ".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".parquet": "parquet", ".json": "json",
    ".jsonl": "json", ".ndjson": "json",
}  # fmt: skip
# What Spark unpacks by the name of the file.
_COMPRESSIONS = {".gz", ".bz2", ".zst", ".deflate"}


class RatingsSource(BaseModel):
    """Where ratings are and how to read them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(description="file or folder of ratings; a path of this machine or a URI")
    format: Format = Field("auto", description="file format; auto goes by the names of the files")
    columns: ColumnMapping = Field(default_factory=ColumnMapping)
    encoding: str = Field(
        "UTF-8", description="character set of CSV, TSV and JSON files, such as ISO-8859-1"
    )
    items_path: str | None = Field(
        None,
        description="table of items (CSV, TSV, Parquet, JSON: item, title, year, genres, and more "
        "columns for train.item_features)",
    )
    users_path: str | None = Field(
        None,
        description="table of users (CSV, TSV, Parquet, JSON: user, and columns for "
        "train.user_features)",
    )


def read_ratings(spark: SparkSession, source: RatingsSource) -> RawRatings:
    """Ratings as they are in the file; :mod:`mfspark.data.validate` checks them.

    Raises ``DataError`` for a missing or unreadable file and for columns that are not there.
    """
    kind = detect_format(source)
    path = source.path
    try:
        if kind == "movielens":
            return movielens.movielens_ratings(spark, _folder(Path(path)))
        if kind == "netflix":
            return netflix.netflix_ratings(spark, _netflix_files(Path(path)))
        if kind == "recbole":
            return movielens.recbole_ratings(spark, _atomic_file(Path(path), "inter"))
        return _read_mapped(spark, source, kind)
    except SPARK_ERRORS as error:
        raise DataError(
            f"{path} cannot be read as {kind} ({one_line(error)}); "
            "check the file, or set data.format"
        ) from None
    except PermissionError:
        raise _no_permission(path) from None


def _no_permission(path: str) -> DataError:
    return DataError(f"{path} may not be read by this user; change its permissions, or copy it")


def read_items(spark: SparkSession, source: RatingsSource) -> DataFrame | None:
    """Item metadata: item, title, year int, genres array<string>, and whatever else the table has;
    None without any."""
    if source.items_path:
        return _read_side_table(spark, source.items_path, ITEM)
    kind = detect_format(source)
    folder = Path(source.path)
    if kind == "movielens":
        return movielens.movielens_items(spark, _folder(folder))
    if kind == "netflix":
        return netflix.netflix_items(spark, _folder(folder))
    if kind == "recbole":
        return movielens.recbole_items(spark, _atomic_file(folder, "inter").with_suffix(".item"))
    return None


def read_users(spark: SparkSession, source: RatingsSource) -> DataFrame | None:
    """What is known of users: user, and columns of any kind; None without any."""
    if source.users_path:
        return _read_side_table(spark, source.users_path, USER)
    kind = detect_format(source)
    folder = Path(source.path)
    if kind == "movielens":
        return movielens.movielens_users(spark, _folder(folder))
    if kind == "recbole":
        file = _atomic_file(folder, "inter").with_suffix(".user")
        users = movielens.recbole_users(spark, file)
        return None if users is None else _with_numbers(users.drop(MALFORMED), {USER})
    return None


def _read_side_table(spark: SparkSession, path: str, side: Side) -> DataFrame:
    """A table of users or items."""
    try:
        return (_read_item_table if side == ITEM else _read_user_table)(spark, path)
    except SPARK_ERRORS as error:
        wanted = "the columns item and title" if side == ITEM else "the column user"
        raise DataError(
            f"the {side} table {path} cannot be read ({one_line(error)}); give a CSV, TSV, Parquet "
            f"or JSON file with {wanted} in data.{side}s_path"
        ) from None


def detect_format(source: RatingsSource) -> str:
    """The declared format, or the one that the names of the files tell; checks that they exist."""
    path = source.path
    if not files.exists(path):
        raise DataError(
            f"there is no file or folder {path}; set data.path, or data.dataset for a dataset that "
            "mfspark can download"
        )
    if files.is_local(path) and not os.access(files.absolute(path), os.R_OK):
        raise _no_permission(path)
    if source.format != "auto":
        return source.format
    dataset = _dataset(Path(path)) if files.is_local(path) else None
    found = dataset or _by_name(path)
    if found is None:
        raise DataError(
            f"the format of {path} is not clear from its name; set data.format to one of "
            "movielens, netflix, recbole, csv, tsv, parquet, json"
        )
    return found


def _dataset(path: Path) -> str | None:
    """The dataset whose file or folder that is, by the names that its files have."""
    if not path.is_dir():
        if path.name in _MOVIELENS_FILES:
            return "movielens"
        if path.name.startswith(("mv_", "combined_data_")):
            return "netflix"
        return "recbole" if path.suffix == ".inter" else None
    if any((path / name).exists() for name in _MOVIELENS_FILES):
        return "movielens"
    if (path / "ratings.csv").exists() and (path / "movies.csv").exists():
        return "movielens"
    if _netflix_files(path):
        return "netflix"
    return "recbole" if any(path.glob("*.inter")) else None


def _by_name(path: str) -> str | None:
    """The format that a file name tells, also behind that of a compression."""
    name = Path(path)
    if name.suffix.lower() in _COMPRESSIONS:
        name = name.with_suffix("")
    return _SUFFIXES.get(name.suffix.lower())


def _read_table(spark: SparkSession, path: str, kind: str, encoding: str = "UTF-8") -> DataFrame:
    """Rows of a file of a format, with the column ``malformed``."""
    if kind in _SEPARATORS:
        separator = _SEPARATORS[kind]
        names = header_of(spark, path, separator)
        if not names:
            raise DataError(f"{path} is empty: it has no header line; check how it was written")
        return read_delimited(
            spark, path, separator, names, header=True, quoted=True, encoding=encoding
        )
    if kind == "parquet":
        table = spark.read.parquet(files.to_read(path))
    else:
        # An array of objects, as pandas writes it, is one value that spans lines.
        reader = spark.read.option("multiLine", _begins_with_bracket(path))
        table = reader.option("encoding", encoding).json(files.to_read(path))
    return table.withColumn(MALFORMED, _malformed_json(table))


def _begins_with_bracket(path: str) -> bool:
    return not files.is_folder(path) and files.read_bytes(path, 1024).lstrip().startswith(b"[")


def _malformed_json(table: DataFrame) -> Column:
    corrupt = "_corrupt_record"
    return F.col(corrupt) if corrupt in table.columns else F.lit(None).cast("string")


def _read_mapped(spark: SparkSession, source: RatingsSource, kind: str) -> RawRatings:
    """Ratings of any table, whose columns ``data.columns`` names."""
    table = _read_table(spark, source.path, kind, source.encoding)
    mapping = source.columns.model_dump()
    found = [name for name in table.columns if name not in (MALFORMED, "_corrupt_record")]
    columns = {
        role: _column_or_field(table, name) for role, name in mapping.items() if name is not None
    }
    for role, name in mapping.items():
        if name is not None and columns[role] is None:
            raise DataError(
                f"{source.path} has no column {name!r} for the {role}; it has "
                f"{', '.join(found) or 'none'}; set data.columns.{role}"
            )
    selected = [
        F.lit(None).cast("string").alias(role) if found is None else found.alias(role)
        for role, found in ((role, columns.get(role)) for role in RAW_COLUMNS)
    ]
    return RawRatings(
        table.select(*selected, file_path().alias("origin"), MALFORMED),
        has_timestamps=mapping["timestamp"] is not None,
    )


def _column_or_field(table: DataFrame, name: str) -> Column | None:
    """The column of that name, or the field a.b of a column a; None without either."""
    if name in table.columns:
        return column(name)
    kind: DataType | None = table.schema
    for part in name.split("."):
        if not isinstance(kind, StructType) or part not in kind.names:
            return None
        kind = kind[part].dataType
    return F.col(".".join(f"`{part}`" for part in name.split(".")))


def _read_item_table(spark: SparkSession, path: str) -> DataFrame:
    """Items of any table with the columns item and title."""
    table = _read_typed(spark, path, ITEM)
    if ITEM not in table.columns or TITLE not in table.columns:
        raise DataError(
            f"the item table {path} has the columns {', '.join(table.columns)}, but needs at least "
            f"{ITEM!r} and {TITLE!r} (and may have {YEAR!r}, {GENRES!r}); rename them"
        )
    genres = F.array().cast("array<string>")
    if GENRES in table.columns:
        is_text = table.schema[GENRES].dataType.simpleString() == "string"
        genres = F.split(GENRES, r"\|") if is_text else F.col(GENRES)
    year = F.col(YEAR).try_cast("int") if YEAR in table.columns else F.lit(None).cast("int")
    described = {TITLE, YEAR, GENRES, ITEM}
    rest = [column(name) for name in table.columns if name not in described]
    return table.select(ITEM, TITLE, year.alias(YEAR), genres.alias(GENRES), *rest)


def _read_user_table(spark: SparkSession, path: str) -> DataFrame:
    """Users of any table with the column user."""
    table = _read_typed(spark, path, USER)
    if USER not in table.columns:
        raise DataError(
            f"the user table {path} has the columns {', '.join(table.columns)}, but needs "
            f"{USER!r} (and columns of features); rename the one of user ids"
        )
    return table


def _read_typed(spark: SparkSession, path: str, side: Side) -> DataFrame:
    """A table of any format, without lines that cannot be split into fields."""
    if not files.exists(path):
        raise DataError(f"there is no {side} table {path}; set data.{side}s_path")
    kind = _by_name(path) or "parquet"
    table = _read_table(spark, path, kind)
    if kind not in _SEPARATORS:
        return table.drop(MALFORMED, "_corrupt_record")
    table = table.where(F.col(MALFORMED).isNull()).drop(MALFORMED)
    return _with_numbers(table, {side, TITLE, YEAR, GENRES})


def _with_numbers(table: DataFrame, texts: set[str]) -> DataFrame:
    """``table``, columns of text in which every value is a number as doubles; but for ``texts``."""
    names = [name for name in table.columns if name not in texts]
    numbers = {name: column(name).try_cast("double") for name in names}
    if not names:
        return table
    counts = table.agg(
        *[F.count(column(name)) for name in names], *[F.count(numbers[name]) for name in names]
    ).collect()[0]
    for name, known, numeric in zip(names, counts[: len(names)], counts[len(names) :], strict=True):
        if known == numeric:
            table = table.withColumn(name, numbers[name])
    return table


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _netflix_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    nested = path / "training_set"
    found = [*path.glob("combined_data_*.txt"), *path.glob("mv_*.txt"), *nested.glob("mv_*.txt")]
    return sorted(found)


def _atomic_file(path: Path, suffix: str) -> Path:
    return next(path.glob(f"*.{suffix}")) if path.is_dir() else path
