"""A reason for every bad row: clean ratings on one side, the quarantine on the other."""

import logging
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.types import (
    DateType,
    IntegralType,
    NumericType,
    StringType,
    TimestampNTZType,
    TimestampType,
)

from mfspark.columns import ITEM, ORIGIN, RATING, REASON, TIMESTAMP, USER
from mfspark.data.source import RAW_COLUMNS, IdType, RawRatings
from mfspark.data.text import MALFORMED
from mfspark.errors import DataError
from mfspark.ids import whole
from mfspark.persisted import persist, unpersist

logger = logging.getLogger("mfspark")

DUPLICATE = "duplicate of a later rating of the same user and item"
_INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"


class Checks(BaseModel):
    """What a good row is, and how many bad ones are too many."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rating_scale: tuple[float, float] | None = Field(
        None, description="lowest and highest rating; not set: what the format says, else any"
    )
    user_type: IdType = Field(
        "auto", description="type of text user ids; auto is long if all are plain integers"
    )
    item_type: IdType = Field("auto", description="type of text item ids, as user_type")
    duplicates: Literal["last", "mean", "error"] = Field(
        "last", description="of several ratings of a pair keep the last, their mean, or fail"
    )
    max_bad_share: float = Field(
        0.05, ge=0, le=1, description="fail above this share of bad rows (duplicates not counted)"
    )


@dataclass(frozen=True)
class CheckedRatings:
    """The outcome of the checks; both tables are persisted until ``release``.

    ``clean``: user, item, rating double, timestamp long (Unix seconds, null when unknown); one row
    per user and item. ``quarantine``: raw fields as strings, line, origin, reason. ``bad_rows``
    counts the quarantine by reason, ``n_merged`` the rows that a mean took the place of; ``scale``
    is what good ratings lie in, None where nobody said.
    """

    clean: DataFrame
    quarantine: DataFrame
    n_read: int
    n_clean: int
    n_merged: int
    bad_rows: dict[str, int]
    scale: tuple[float, float] | None
    persisted: DataFrame

    def release(self) -> None:
        """Let go of the memory."""
        unpersist(self.persisted)


def check_ratings(raw: RawRatings, checks: Checks) -> CheckedRatings:
    """Type the fields, find the bad rows, and settle duplicates.

    Raises ``DataError`` when there are no rows, when bad rows exceed ``max_bad_share``, and for
    duplicates under the policy ``error``.
    """
    typed = raw.table.select(
        *_typed_ids(raw.table, checks),
        _number(raw.table, RATING).alias("parsed_rating"),
        _unix_seconds(raw.table).alias("parsed_timestamp"),
        *[F.col(name).cast("string").alias(f"raw_{name}") for name in RAW_COLUMNS],
        ORIGIN,
        MALFORMED,
    )
    scale = checks.rating_scale or raw.scale
    checked = persist(
        _settle_duplicates(typed.withColumn(REASON, _reason(scale, raw.has_fields)), checks)
    )
    try:
        return _outcome(raw, checks, checked)
    except BaseException:
        unpersist(checked)
        raise


def _outcome(raw: RawRatings, checks: Checks, checked: DataFrame) -> CheckedRatings:
    """Split checked rows into good ones and quarantine, and count."""
    n_read = checked.count()
    counts = {row[REASON]: row["count"] for row in checked.groupBy(REASON).count().collect()}
    n_clean = counts.pop(None, 0)
    bad_rows = dict(sorted(counts.items()))
    _refuse_too_many(bad_rows, n_read, checks, checked)
    n_merged = 0
    clean = checked.where(F.col(REASON).isNull())
    n_pairs_twice = bad_rows.get(DUPLICATE, 0)
    if n_pairs_twice and checks.duplicates == "error":
        raise DataError(
            f"{n_pairs_twice} of {n_read} ratings repeat a pair of user and item, and "
            'data.duplicates is "error"; set it to "last" or "mean", or clean the source'
        )
    if n_pairs_twice and checks.duplicates == "last":
        _refuse_ambiguous(checked, raw.has_timestamps)
    if checks.duplicates == "mean":
        n_merged = bad_rows.pop(DUPLICATE, 0)
        clean = (
            checked.where(F.col(REASON).isNull() | (F.col(REASON) == DUPLICATE))
            .groupBy(USER, ITEM)
            .agg(
                F.avg("parsed_rating").alias("parsed_rating"),
                F.max("parsed_timestamp").alias("parsed_timestamp"),
            )
        )
        checked_bad = checked.where(F.col(REASON) != DUPLICATE)
    else:
        checked_bad = checked.where(F.col(REASON).isNotNull())
    return CheckedRatings(
        clean=clean.select(
            USER,
            ITEM,
            F.col("parsed_rating").alias(RATING),
            F.col("parsed_timestamp").alias(TIMESTAMP),
        ),
        quarantine=checked_bad.select(
            *[F.col(f"raw_{name}").alias(name) for name in RAW_COLUMNS],
            F.col(MALFORMED).alias("line"),
            ORIGIN,
            REASON,
        ),
        n_read=n_read,
        n_clean=n_clean,
        n_merged=n_merged,
        bad_rows=bad_rows,
        scale=checks.rating_scale or raw.scale,
        persisted=checked,
    )


def _reason(scale: tuple[float, float] | None, has_fields: bool) -> Column:
    """The first reason that applies, null for a good row; see ``RawRatings``."""

    def is_blank(name: str) -> Column:
        raw = F.col(f"raw_{name}")
        return raw.isNull() | (F.trim(raw) == "")

    def is_missing_id(name: str) -> Column:
        # What pandas writes for a missing number.
        return is_blank(name) | (F.col(name).isNull() & (F.col(f"raw_{name}") == "NaN"))

    def has(name: str, what: Column) -> Column:
        return F.col(f"raw_{name}").contains(what)

    def has_odd_quote(name: str) -> Column:
        raw = F.col(f"raw_{name}")
        return (F.length(raw) - F.length(F.replace(raw, F.lit('"'), F.lit("")))) % 2 == 1

    # What Spark makes of bytes that are no characters.
    unknown = F.lit("\ufffd")
    rating = F.col("parsed_rating")
    reason = (
        F.when(F.col(MALFORMED).isNotNull(), "line with a wrong number of fields")
        .when(
            has(USER, unknown) | has(ITEM, unknown),
            "id with bytes that are not of the character set (set data.encoding)",
        )
        .when(
            F.lit(not has_fields) & (has_odd_quote(USER) | has_odd_quote(ITEM)),
            "id with half a pair of quotes (is there a line break inside a field?)",
        )
        .when(is_missing_id(USER), "null user")
        .when(is_missing_id(ITEM), "null item")
        .when(F.col(USER).isNull(), "unparsable user")
        .when(F.col(ITEM).isNull(), "unparsable item")
        .when(is_blank(RATING), "null rating")
        .when(rating.isNull(), "unparsable rating")
        .when(F.isnan(rating) | (F.abs(rating) == float("inf")), "NaN or infinite rating")
    )
    if scale is not None:
        lowest, highest = scale
        outside = (rating < lowest) | (rating > highest)
        reason = reason.when(outside, f"rating outside the scale {lowest:g} to {highest:g}")
    unparsed_time = ~is_blank(TIMESTAMP) & F.col("parsed_timestamp").isNull()
    return reason.when(unparsed_time, "unparsable timestamp")


def _settle_duplicates(checked: DataFrame, checks: Checks) -> DataFrame:
    """Mark all but the latest rating of a pair; a tie goes to the higher rating."""
    latest_first = Window.partitionBy(USER, ITEM, F.col(REASON).isNull()).orderBy(
        F.desc_nulls_last("parsed_timestamp"), F.desc("parsed_rating")
    )
    is_later = F.row_number().over(latest_first) > 1
    return checked.withColumn(
        REASON, F.when(F.col(REASON).isNull() & is_later, DUPLICATE).otherwise(F.col(REASON))
    )


def _typed_ids(table: DataFrame, checks: Checks) -> list[Column]:
    """User and item with their final types: typed columns stay, text becomes long if it can."""
    declared = {USER: checks.user_type, ITEM: checks.item_type}
    texts = [name for name in declared if isinstance(table.schema[name].dataType, StringType)]
    automatic = [name for name in texts if declared[name] == "auto"]
    is_integer = dict.fromkeys(automatic, True)
    if automatic:
        # Not trimmed, and no leading zeros: an id must come back out exactly as it went in.
        odd = [
            F.count(F.when(~F.col(name).rlike(_INTEGER) & (F.trim(name) != ""), 1)).alias(name)
            for name in automatic
        ]
        row = table.where(F.col(MALFORMED).isNull()).agg(*odd).first()
        assert row is not None
        is_integer = {name: row[name] == 0 for name in automatic}
    columns = []
    for name, choice in declared.items():
        as_long = choice == "long" or (choice == "auto" and is_integer.get(name, False))
        column, found = F.col(name), table.schema[name].dataType
        if name in texts and as_long:
            column = column.try_cast("long")
        elif name not in texts and choice == "string":
            column = column.cast("string")
        elif not isinstance(found, StringType | NumericType):
            raise DataError(
                f"the {name} ids have type {found.simpleString()}; ids are strings or whole "
                f'numbers: set data.{name}_type = "string", or another data.columns.{name}'
            )
        elif not isinstance(found, StringType | IntegralType):
            # Whole numbers become doubles where pandas has seen a gap.
            column = whole(column)
        columns.append(column.alias(name))
    return columns


def _number(table: DataFrame, name: str) -> Column:
    if isinstance(table.schema[name].dataType, NumericType):
        return F.col(name).cast("double")
    return F.trim(F.col(name).cast("string")).try_cast("double")


def _unix_seconds(table: DataFrame) -> Column:
    found = table.schema[TIMESTAMP].dataType
    column = F.col(TIMESTAMP)
    if isinstance(found, TimestampType | TimestampNTZType | DateType):
        return F.unix_timestamp(column.cast("timestamp"))
    if isinstance(found, NumericType):
        # One NaN or 1e300 is one bad row.
        return column.try_cast("long")
    text = F.trim(column.cast("string"))
    return F.coalesce(
        text.try_cast("long"),
        text.try_cast("double").try_cast("long"),
        F.unix_timestamp(text.try_cast("timestamp")),
    )


def _refuse_too_many(
    bad_rows: dict[str, int], n_read: int, checks: Checks, checked: DataFrame
) -> None:
    """``DataError`` when more rows are bad than the checks allow, with the commonest reasons."""
    if n_read == 0:
        raise DataError("the source of ratings has no rows; check the file that data.path names")
    n_bad = sum(n for reason, n in bad_rows.items() if reason != DUPLICATE)
    if n_bad == 0 or (n_bad / n_read <= checks.max_bad_share and n_bad < n_read):
        return
    reasons = ", ".join(f"{n} × {why}" for why, n in bad_rows.items() if why != DUPLICATE)
    row = checked.where(F.col(REASON).isNotNull()).first()
    assert row is not None
    shown = row[MALFORMED] or ", ".join(f"{name}={row[f'raw_{name}']}" for name in RAW_COLUMNS)
    limit = (
        "so nothing is left"
        if n_bad == n_read
        else f"more than data.max_bad_share = {checks.max_bad_share:g} allows"
    )
    raise DataError(
        f"{n_bad} of {n_read} rows are bad ({reasons}), {limit}; one of them is [{shown}] in "
        f"{row[ORIGIN]}; check data.format, data.columns and data.rating_scale, or raise "
        "data.max_bad_share"
    )


def _refuse_ambiguous(checked: DataFrame, has_timestamps: bool) -> None:
    """Raise where the last of several different ratings is not known; say where two have the same
    time."""
    of_pair = checked.where(F.col(REASON).isNull() | (F.col(REASON) == DUPLICATE)).groupBy(
        USER, ITEM
    )
    newest = F.max_by(F.struct("parsed_timestamp"), F.coalesce("parsed_timestamp", F.lit(-(2**62))))
    latest = of_pair.agg(newest["parsed_timestamp"].alias("latest"))
    row = (
        checked.where(F.col(REASON).isNull() | (F.col(REASON) == DUPLICATE))
        .join(latest, [str(USER), str(ITEM)])
        .where(F.col("parsed_timestamp").eqNullSafe(F.col("latest")))
        .groupBy(USER, ITEM, "latest")
        .agg(F.count_distinct("parsed_rating").alias("n"))
        .where("n > 1")
        .agg(
            F.count(F.when(F.col("latest").isNull(), 1)).alias("unknown"),
            F.count(F.when(F.col("latest").isNotNull(), 1)).alias("tied"),
        )
        .first()
    )
    assert row is not None
    if row["unknown"]:
        remedy = "fill in the blank timestamps" if has_timestamps else "set data.columns.timestamp"
        raise DataError(
            f"{row['unknown']} pairs of user and item have several different ratings and no "
            f'timestamp tells which is the last; {remedy}, or set data.duplicates = "mean"'
        )
    if row["tied"]:
        logger.warning(
            "%d pairs of user and item have several different ratings of the same time; the "
            'highest is kept (data.duplicates = "mean" takes their mean)',
            row["tied"],
        )
