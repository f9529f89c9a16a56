"""Splits that depend on seed, user and item alone, not on the partitioning or order of the rows."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from mfspark.columns import ITEM, TIMESTAMP, USER
from mfspark.errors import DataError

SPLIT = "split"
PARTS = ("train", "validation", "test")


class SplitSettings(BaseModel):
    """How ratings are divided into training, validation and test."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["random", "per_user", "leave_last", "temporal"] = Field(
        "random",
        description="random rows, a random share per user, the last n per user, or the latest rows",
    )
    test: float = Field(0.1, ge=0, lt=1, description="share of ratings to test on")
    validation: float = Field(
        0.0, ge=0, lt=1, description="share of ratings that decide when to stop"
    )
    leave_last_n: int = Field(
        1, ge=1, description="leave_last: test ratings per user (and validation, if that is > 0)"
    )
    seed: int = Field(0, description="seed of the random choices")


def split_ratings(ratings: DataFrame, settings: SplitSettings) -> DataFrame:
    """Add the column ``split``: train, validation or test."""
    if settings.method in ("leave_last", "temporal"):
        _require_timestamps(ratings, settings.method)
    rules = {
        "random": _random,
        "per_user": _per_user,
        "leave_last": _leave_last,
        "temporal": _temporal,
    }
    return rules[settings.method](ratings, settings)


def uniform(seed: int) -> Column:
    """A number in [0, 1) for each pair of user and item."""
    return F.pmod(_hash(seed), F.lit(2**53)) / F.lit(float(2**53))


def fold(seed: int, n_folds: int) -> Column:
    """The cross-validation fold 0 … n_folds − 1 of each pair of user and item."""
    return F.floor(uniform(seed) * n_folds).cast("int")


def _hash(seed: int) -> Column:
    # Text, so that an id falls into the same part whether it is read as int, long or string.
    return F.xxhash64(F.lit(seed), F.col(USER).cast("string"), F.col(ITEM).cast("string"))


def _part(number: Column, test: float | Column, validation: float | Column) -> Column:
    """Below ``test``: test; in the next ``validation``: validation; else train."""
    return (
        F.when(number < test, "test").when(number < test + validation, "validation")
        .otherwise("train")
    )  # fmt: skip


def _random(ratings: DataFrame, settings: SplitSettings) -> DataFrame:
    return ratings.withColumn(
        SPLIT, _part(uniform(settings.seed), settings.test, settings.validation)
    )


def _per_user(ratings: DataFrame, settings: SplitSettings) -> DataFrame:
    """Rounded shares of each user's ratings; a user's only rating is for training."""
    of_user = Window.partitionBy(USER)
    place = F.row_number().over(of_user.orderBy(_hash(settings.seed), ITEM)) - 1
    n = F.count(F.lit(1)).over(of_user)
    n_test = F.least(F.round(n * settings.test), n - 1)
    n_validation = F.least(F.round(n * settings.validation), n - 1 - n_test)
    return ratings.withColumn(SPLIT, _part(place, n_test, n_validation))


def _leave_last(ratings: DataFrame, settings: SplitSettings) -> DataFrame:
    """The last n ratings of each user; users with too few to leave one for training keep all."""
    of_user = Window.partitionBy(USER)
    latest = of_user.orderBy(F.desc_nulls_last(TIMESTAMP), _hash(settings.seed), ITEM)
    n_validation = settings.leave_last_n if settings.validation > 0 else 0
    part = _part(F.row_number().over(latest) - 1, F.lit(settings.leave_last_n), F.lit(n_validation))
    too_few = F.count(F.lit(1)).over(of_user) <= settings.leave_last_n + n_validation
    return ratings.withColumn(SPLIT, F.when(too_few, "train").otherwise(part))


def _temporal(ratings: DataFrame, settings: SplitSettings) -> DataFrame:
    """Cut at exact quantiles of time: no training rating is later than a test rating."""
    shares = [1 - settings.test - settings.validation, 1 - settings.test]
    row = ratings.agg(F.percentile(TIMESTAMP, F.array(*map(F.lit, shares)))).first()
    assert row is not None
    validation_from, test_from = row[0]
    time = F.col(TIMESTAMP)
    part = (
        F.when((time > test_from) & F.lit(settings.test > 0), "test")
        .when((time > validation_from) & F.lit(settings.validation > 0), "validation")
        .otherwise("train")
    )
    return ratings.withColumn(SPLIT, part)


def _require_timestamps(ratings: DataFrame, method: str) -> None:
    missing = ratings.where(F.col(TIMESTAMP).isNull()).limit(1).count()
    if missing:
        raise DataError(
            f'split.method = "{method}" orders ratings by time, but some have no timestamp; '
            "set data.columns.timestamp, or split.method to random or per_user"
        )
