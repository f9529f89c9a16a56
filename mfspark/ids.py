"""Columns of ids: what may be one, and which ids are the same."""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import IntegralType, NumericType, StringType

from mfspark.errors import DataError


def typed_ids(dataset: DataFrame, names: dict[str, str]) -> list[Column]:
    """Columns of ids by side: strings and integers as they are, floating-point numbers and
    decimals (of ``StringIndexer``, or of pandas where a value was missing) as long.

    Raises ``DataError`` for columns that are missing or of another type, and for ids that are no
    whole numbers.
    """
    columns, fractional = [], {}
    for side, name in names.items():
        require_column(dataset, name, f"{side}Col")
        found = dataset.schema[name].dataType
        if not isinstance(found, StringType | NumericType):
            raise DataError(
                f"column {name!r} has type {found.simpleString()}, but {side}Col needs a column of "
                "strings or of whole numbers"
            )
        if isinstance(found, StringType | IntegralType):
            columns.append(column(name).alias(side))
        else:
            fractional[side] = name
            columns.append(whole(column(name)).alias(side))
    if fractional:
        odd = [
            F.count(F.when(column(name).isNotNull() & whole(column(name)).isNull(), 1)).alias(side)
            for side, name in fractional.items()
        ]
        row = dataset.agg(*odd).first()
        for side, name in fractional.items():
            if row is not None and row[side]:
                raise DataError(
                    f"column {name!r} has {row[side]} values that are no whole numbers, which "
                    f"cannot be {side} ids: equal ones need not be equal to the last bit; cast the "
                    "column to string"
                )
    return columns


def whole(number: Column) -> Column:
    """A number as long; null where it has a fraction or is beyond 2⁵³, NaN or infinite."""
    double = number.cast("double")
    is_whole = (F.floor(double).cast("double") == double) & (F.abs(double) <= F.lit(2.0**53))
    return F.when(is_whole, double.cast("long"))


def column(name: str) -> Column:
    """The column of that very name, also when it holds dots."""
    return F.col("`" + name.replace("`", "``") + "`")


def require_column(dataset: DataFrame, name: str, param: str) -> None:
    """Raise ``DataError`` when ``dataset`` lacks the column that ``param`` names."""
    if name not in dataset.columns:
        raise DataError(
            f"there is no column {name!r} among {', '.join(dataset.columns)}; "
            f"set {param} to the right one"
        )
