"""Features of users or items as users have them: checked, and named as a fit wants them."""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import (
    ArrayType,
    BooleanType,
    DataType,
    NumericType,
    StringType,
)

from mfspark.columns import FEATURE, Side
from mfspark.errors import DataError
from mfspark.ids import column, typed_ids


def feature_columns(table: DataFrame, id_column: str) -> list[str]:
    """The columns of features, in the order in which a fit numbers them."""
    return sorted(set(table.columns) - {id_column})


def feature_table(table: DataFrame, id_column: str, side: Side, rating_ids: DataType) -> DataFrame:
    """Id ``side`` (of the type ``rating_ids``), feature_0, feature_1, …: double, string or
    array<string>.

    Raises ``DataError`` for a missing or null id, for ids that occur twice or can be none of the
    ratings', and for columns that are no numbers, text or lists of text.
    """
    ids = typed_ids(table, {side: id_column})[0]
    found = table.select(ids).schema[side].dataType
    if isinstance(found, StringType) != isinstance(rating_ids, StringType):
        raise DataError(
            f"the features have {side} ids of type {found.simpleString()}, the ratings of type "
            f"{rating_ids.simpleString()}: no id would match; cast one of the columns"
        )
    names = feature_columns(table, id_column)
    if not names:
        raise DataError(
            f"the features of {side}s have no column beside {id_column!r}; add some, or leave "
            "them out"
        )
    numbered = [
        _as_feature(table, name, side).alias(f"{FEATURE}{n}") for n, name in enumerate(names)
    ]
    _refuse_odd_ids(table.select(ids), side)
    result = table.select(ids.try_cast(rating_ids).alias(side), *numbered)
    # An id beyond the range of those of the ratings can be none of them.
    return result.where(F.col(side).isNotNull())


def _as_feature(table: DataFrame, name: str, side: Side) -> Column:
    kind = table.schema[name].dataType
    if isinstance(kind, NumericType | BooleanType):
        number = column(name).cast("double")
        return F.when(~F.isnan(number), number)
    is_text = isinstance(kind, StringType)
    if is_text or (isinstance(kind, ArrayType) and isinstance(kind.elementType, StringType)):
        return column(name)
    raise DataError(
        f"column {name!r} in the features of {side}s has type {kind.simpleString()}, but features "
        "are numbers, text (a category) or lists of text (tags); cast the column, or drop it"
    )


def _refuse_odd_ids(table: DataFrame, side: Side) -> None:
    """``DataError`` for no ids at all, null ones, and ids that occur twice."""
    of_id = table.groupBy(side).agg(F.count(F.lit(1)).alias("n"))
    row = of_id.agg(
        F.max(F.when(F.col(side).isNull(), F.col("n"))).alias("n_null"),
        F.count(F.when(F.col(side).isNotNull() & (F.col("n") > 1), 1)).alias("n_repeated"),
        F.sum("n").alias("n_rows"),
    ).collect()[0]
    if not row["n_rows"]:
        raise DataError(
            f"the features of {side}s have no rows, so nothing can be learnt from them; check how "
            "the table was made, or leave it out"
        )
    if row["n_null"]:
        raise DataError(
            f"the features of {side}s have {row['n_null']} rows whose id is null; drop them"
        )
    if row["n_repeated"]:
        raise DataError(
            f"the features of {side}s have {row['n_repeated']} ids more than once, and which of "
            "their rows counts is not clear; keep one row per id"
        )
