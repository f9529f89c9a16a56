"""Delimited text as string columns, keeping the lines that cannot be split."""

from typing import NamedTuple

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from mfspark import files

MALFORMED = "malformed"


class Quoting(NamedTuple):
    """What fields may stand in, and what goes before such a mark inside of one."""

    mark: str
    escape: str


DOUBLED = Quoting('"', '"')
UNQUOTED = Quoting("", "\\")


def read_delimited(
    spark: SparkSession,
    path: str,
    separator: str,
    columns: list[str],
    *,
    header: bool = False,
    quoting: Quoting = UNQUOTED,
    encoding: str = "UTF-8",
) -> DataFrame:
    """Columns as strings, plus ``malformed`` (the line) where the number of fields is wrong.

    Handles Unix and Windows line ends. With ``header``, the first line of each file must name
    ``columns``.
    """
    fields = [StructField(name, StringType()) for name in [*columns, MALFORMED]]
    return (
        spark.read.schema(StructType(fields))
        .option("sep", separator)
        .option("header", header)
        .option("enforceSchema", not header)
        .option("quote", quoting.mark)
        .option("escape", quoting.escape)
        .option("encoding", encoding)
        .option("mode", "PERMISSIVE")
        .option("columnNameOfCorruptRecord", MALFORMED)
        .csv(files.to_read(path))
    )


def header_of(
    spark: SparkSession, path: str, separator: str, quoting: Quoting, encoding: str
) -> list[str]:
    """The column names in the first line of a delimited file."""
    reader = spark.read.option("sep", separator).option("header", True)
    reader = reader.option("quote", quoting.mark).option("escape", quoting.escape)
    return reader.option("encoding", encoding).csv(files.to_read(path)).columns


def file_path() -> Column:
    """The file that a row was read from."""
    return decoded(F.col("_metadata.file_path"))


def decoded(path: Column) -> Column:
    """A path as it is written, of one as Spark tells it: escaped, and with the scheme of files."""
    return F.regexp_replace(
        F.url_decode(F.replace(path, F.lit("+"), F.lit("%2B"))), "^file:(//)?", ""
    )
