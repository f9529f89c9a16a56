"""One entry point for ratings and item metadata of every format."""

import logging
import os
import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, StructType

from mfspark import files
from mfspark.columns import GENRES, ITEM, RATING, TITLE, USER, YEAR, Side
from mfspark.data import movielens, netflix
from mfspark.data.dialect import (
    TAG_SEPARATORS,
    Dialect,
    dialect_of,
    guessed_name,
    has_decimal_comma,
)
from mfspark.data.source import (
    RAW_COLUMNS,
    ColumnMapping,
    Format,
    ItemColumns,
    RawRatings,
    UserColumns,
)
from mfspark.data.text import MALFORMED, file_path, header_of, read_delimited
from mfspark.errors import DataError, one_line
from mfspark.ids import column
from mfspark.spark_errors import SPARK_ERRORS

logger = logging.getLogger("mfspark")

_MOVIELENS_FILES = ("u.data", "ratings.dat")
_TEXT = ("csv", "tsv")
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
    encoding: str | None = Field(
        None,
        description="character set of CSV, TSV and JSON files; not set: ISO-8859-1 where a file "
        "begins with what is no UTF-8",
    )
    separator: str | None = Field(
        None,
        min_length=1,
        description="what stands between the fields of CSV files; not set: comma, semicolon, tab, "
        ":: or |, by the first lines",
    )
    quote: str | None = Field(
        None,
        max_length=1,
        description="what fields of CSV files may stand in; not set: \" or ', by the first lines; "
        "empty: nothing",
    )
    decimal: Literal[".", ","] | None = Field(
        None, description="decimal mark of ratings; not set: by the first lines"
    )
    items_path: str | None = Field(
        None,
        description="table of items (CSV, TSV, Parquet, JSON: item, title, year, genres, and more "
        "columns for train.item_features)",
    )
    item_columns: ItemColumns = Field(default_factory=ItemColumns)
    users_path: str | None = Field(
        None,
        description="table of users (CSV, TSV, Parquet, JSON: user, and columns for "
        "train.user_features)",
    )
    user_columns: UserColumns = Field(default_factory=UserColumns)


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
        return _read_side_table(spark, source, source.items_path, ITEM)
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
        return _read_side_table(spark, source, source.users_path, USER)
    kind = detect_format(source)
    folder = Path(source.path)
    if kind == "movielens":
        return movielens.movielens_users(spark, _folder(folder))
    if kind == "recbole":
        file = _atomic_file(folder, "inter").with_suffix(".user")
        users = movielens.recbole_users(spark, file)
        return None if users is None else _with_numbers(users.drop(MALFORMED), {USER})
    return None


def _read_side_table(
    spark: SparkSession, source: RatingsSource, path: str, side: Side
) -> DataFrame:
    """A table of users or items."""
    try:
        if side == ITEM:
            return _read_item_table(spark, path, source.item_columns)
        return _read_user_table(spark, path, source.user_columns)
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


def _read_table(
    spark: SparkSession,
    path: str,
    kind: str,
    dialect: Dialect | None,
    encoding: str | None = None,
    known: list[str] | None = None,
) -> DataFrame:
    """Rows of a file of a format, with the column ``malformed``.

    Delimited text is of ``dialect``; it has a header unless that knows none of the names in
    ``known`` and fields are separated as in MovieLens' files, which have none.
    """
    if dialect is not None:
        names = header_of(spark, path, dialect.separator, dialect.quoting, dialect.encoding)
        if not names:
            raise DataError(f"{path} is empty: it has no header line; check how it was written")
        has_header = dialect.separator != "::" or not known or bool({*known} & {*names})
        if not has_header:
            names = [*(known or []), *(f"field{n}" for n in range(len(names)))][: len(names)]
        return read_delimited(
            spark, path, dialect.separator, names, header=has_header,
            quoting=dialect.quoting, encoding=dialect.encoding,
        )  # fmt: skip
    if kind == "parquet":
        table = spark.read.parquet(files.to_read(path))
    else:
        # An array of objects, as pandas writes it, is one value that spans lines.
        reader = spark.read.option("multiLine", _begins_with_bracket(path))
        table = reader.option("encoding", encoding or "UTF-8").json(files.to_read(path))
    return table.withColumn(MALFORMED, _malformed_json(table))


def _dialect(path: str, kind: str, source: RatingsSource) -> Dialect | None:
    """How a file of a format is written; None where that is not delimited text."""
    if kind not in _TEXT:
        return None
    separator = source.separator or ("\t" if kind == "tsv" else None)
    found = dialect_of(path, separator, source.encoding, source.quote)
    if found.encoding == "UTF-16":
        raise DataError(
            f"{path} is written in UTF-16, whose lines Spark cannot tell apart; convert it to "
            "UTF-8, as by iconv -f UTF-16 -t UTF-8"
        )
    return found


def _begins_with_bracket(path: str) -> bool:
    return not files.is_folder(path) and files.read_bytes(path, 1024).lstrip().startswith(b"[")


def _malformed_json(table: DataFrame) -> Column:
    corrupt = "_corrupt_record"
    return F.col(corrupt) if corrupt in table.columns else F.lit(None).cast("string")


def read_catalog_ratings(
    spark: SparkSession, name: str, condition: str | None, columns: ColumnMapping
) -> RawRatings:
    """Ratings in a table of Spark's catalog, of any format that the session knows (Parquet, Delta,
    Iceberg, …), as they are there.

    ``condition``: SQL that rows must fulfil; on partition columns only those partitions are read.
    Raises ``DataError`` for a table or columns that are not there.
    """
    try:
        table = spark.table(name)
        if condition is not None:
            table = table.where(condition)
        # Analysed now, so that errors are those of this table.
        found = _mapped(table, name, columns)
    except SPARK_ERRORS as error:
        raise DataError(
            f"the table {name} cannot be read ({one_line(error)}); check data.table and "
            "data.table_filter, and that the session has the table's catalog and format (for Delta "
            "and Iceberg their package: spark-submit --packages)"
        ) from None
    selected = [found[role].alias(role) for role in RAW_COLUMNS]
    nothing = F.lit(None).cast("string").alias(MALFORMED)
    return RawRatings(
        table.select(*selected, F.lit(name).alias("origin"), nothing),
        has_timestamps=columns.timestamp is not None,
        has_fields=True,
    )


def catalog_files(spark: SparkSession, name: str, condition: str | None) -> list[str]:
    """The files that rows of a table of the catalog come from, sorted: writers never use a name
    twice, so they tell whether the table has changed. Empty where it has none or cannot be read."""
    try:
        table = spark.table(name)
        return sorted((table if condition is None else table.where(condition)).inputFiles())
    except SPARK_ERRORS:
        return []


def _mapped(table: DataFrame, name: str, mapping: ColumnMapping) -> dict[str, Column]:
    """The columns of the table ``name`` by role; null for a role that has none."""
    found = [each for each in table.columns if each not in (MALFORMED, "_corrupt_record")]
    wanted = {role: each for role, each in mapping.model_dump().items() if each is not None}
    columns = {role: _column_or_field(table, each) for role, each in wanted.items()}
    missing = {role: wanted[role] for role, each in columns.items() if each is None}
    _require_columns(name, missing, found, "columns")
    there = {role: each for role, each in columns.items() if each is not None}
    return dict.fromkeys(RAW_COLUMNS, F.lit(None).cast("string")) | there


def _read_mapped(spark: SparkSession, source: RatingsSource, kind: str) -> RawRatings:
    """Ratings of any file, whose columns ``data.columns`` names."""
    dialect = _dialect(source.path, kind, source)
    table = _read_table(spark, source.path, kind, dialect, source.encoding)
    columns = _mapped(table, source.path, source.columns)
    decimal = source.decimal
    if dialect is not None:
        mapping = source.columns.model_dump()
        found = [name for name in table.columns if name not in (MALFORMED, "_corrupt_record")]
        at = found.index(mapping[RATING]) if mapping[RATING] in found else None
        values = [row[at] for row in dialect.rows[1:] if at is not None and at < len(row)]
        decimal = decimal or ("," if has_decimal_comma(values) else ".")
        logger.info(
            "%s: fields are separated by %r and quoted by %s, decimals by %r, characters are %s",
            source.path, dialect.separator, dialect.quoting.mark or "nothing", decimal,
            dialect.encoding,
        )  # fmt: skip
    if decimal == ",":
        text = columns[RATING].cast("string")
        columns[RATING] = F.replace(text, F.lit(","), F.lit("."))
    selected = [columns[role].alias(role) for role in RAW_COLUMNS]
    return RawRatings(
        table.select(*selected, file_path().alias("origin"), MALFORMED),
        has_timestamps=source.columns.timestamp is not None,
        has_fields=dialect is None,
    )


def _require_columns(path: str, missing: dict[str, str], found: list[str], section: str) -> None:
    """Raise ``DataError`` for columns that a table lacks, by role, with what to type."""
    if not missing:
        return
    free = [name for name in found if name not in missing.values()]
    settings = []
    for role in missing:
        guess = guessed_name(role, free)
        settings.append(f"--set data.{section}.{role}={guess or 'NAME'}")
        free = [name for name in free if name != guess]
    role, name = next(iter(missing.items()))
    raise DataError(
        f"{path} has no column {name!r} for the {role}; it has {', '.join(found) or 'none'}; pass "
        f"{' '.join(settings)}"
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


def _read_item_table(spark: SparkSession, path: str, columns: ItemColumns) -> DataFrame:
    """Items of any table that has ids and titles."""
    table = _read_typed(spark, path, ITEM, columns.model_dump())
    described = {TITLE, YEAR, GENRES, ITEM}
    rest = [column(name) for name in table.columns if name not in described]
    genres = F.array().cast("array<string>")
    if GENRES in table.columns:
        is_text = table.schema[GENRES].dataType.simpleString() == "string"
        genres = _tags(table, GENRES) if is_text else F.col(GENRES)
    if YEAR in table.columns:
        titles = [F.col(TITLE), F.col(YEAR).try_cast("int").alias(YEAR)]
    else:
        titles = list(movielens.title_and_year(F.col(TITLE)))
    return table.select(ITEM, *titles, genres.alias(GENRES), *rest)


def _tags(table: DataFrame, name: str) -> Column:
    """Text like A|B, A; B, A, B or ['A', 'B'] as a list, without spaces around its elements."""
    text = F.regexp_replace(F.col(name), r"^\s*\[|\]\s*$", "")
    separators = [F.max(F.col(name).contains(each)) for each in TAG_SEPARATORS]
    row = table.agg(*separators).collect()[0]
    occurring = [each for each, occurs in zip(TAG_SEPARATORS, row, strict=True) if occurs]
    if not occurring:
        return F.array_compact(F.array(F.nullif(F.trim(text), F.lit(""))))
    logger.info("the table of items: genres are separated by %r", occurring[0])
    parts = F.split(text, re.escape(occurring[0]))
    trimmed = F.transform(parts, lambda part: F.regexp_replace(part, r"^[\s'\"]+|[\s'\"]+$", ""))
    return F.filter(trimmed, lambda part: part != "")


def _read_user_table(spark: SparkSession, path: str, columns: UserColumns) -> DataFrame:
    """Users of any table that has ids."""
    return _read_typed(spark, path, USER, columns.model_dump())


def _read_typed(spark: SparkSession, path: str, side: Side, columns: dict[str, str]) -> DataFrame:
    """A table of any format under our names, without lines that cannot be split into fields.

    ``columns``: the names that it has for ours; ids, and titles of items, must be there.
    """
    if not files.exists(path):
        raise DataError(f"there is no {side} table {path}; set data.{side}s_path")
    kind = _by_name(path) or ("csv" if path.lower().endswith((".dat", ".txt")) else "parquet")
    # The ratings' own separator and characters say nothing of another file.
    dialect = dialect_of(path, "\t" if kind == "tsv" else None, None) if kind in _TEXT else None
    known = [columns[name] for name in (side, TITLE, GENRES) if name in columns]
    table = _read_table(spark, path, kind, dialect, None, known)
    found = [name for name in table.columns if name not in (MALFORMED, "_corrupt_record")]
    needed = {name: columns[name] for name in (side, TITLE) if name in columns}
    _require_columns(
        f"the {side} table {path}",
        {role: name for role, name in needed.items() if name not in found},
        found,
        f"{side}_columns",
    )
    if dialect is not None:
        table = table.where(F.col(MALFORMED).isNull())
    # Of two columns the one that is named goes before one that has our name by chance.
    taken = {theirs: ours for ours, theirs in columns.items() if theirs in found}
    kept = [name for name in found if name in taken or name not in columns]
    table = table.select(*[column(name).alias(taken.get(name, name)) for name in kept])
    if dialect is None:
        return table
    # Between commas 1,234 is more likely a thousand.
    return _with_numbers(table, {side, TITLE, YEAR, GENRES}, dialect.separator != ",")


def _with_numbers(table: DataFrame, texts: set[str], has_decimal_commas: bool = False) -> DataFrame:
    """``table``, columns of text in which every value is a number as doubles; but for ``texts``.

    With ``has_decimal_commas``, 3,5 is a number in columns in which no value is written as 3.5.
    """
    names = [name for name in table.columns if name not in texts]
    if not names:
        return table
    written = {name: [column(name).try_cast("double")] for name in names}
    if has_decimal_commas:
        for name in names:
            with_point = F.replace(column(name), F.lit(","), F.lit("."))
            is_plain = column(name).rlike(r"^\s*[-+]?\d+(,\d+)?\s*$")
            written[name].append(F.when(is_plain, with_point.try_cast("double")))
    counted = [F.count(number) for name in names for number in (column(name), *written[name])]
    counts = iter(table.agg(*counted).collect()[0])
    for name in names:
        known = next(counts)
        numbers = [number for number in written[name] if next(counts) == known]
        if numbers:
            table = table.withColumn(name, numbers[0])
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
