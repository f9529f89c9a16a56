"""Tables of what ratings there are: how many of whom, which values, and when."""

from dataclasses import dataclass
from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.columns import N_RATINGS, RATING, TIMESTAMP, USER, Side

# Up to so many different ratings are counted one by one, others in so many classes.
_MOST_VALUES, _N_CLASSES = 40, 20
_MOST_PERIODS = 60
_SECONDS_OF = {
    "day": 86_400, "week": 604_800, "month": 2_629_746, "quarter": 7_889_238, "year": 31_556_952,
}  # fmt: skip


@dataclass(frozen=True)
class Description:
    """Tables of ratings.

    ``activity``: side (user, item), n_ratings, n_ids: how many users and items have just so many
    ratings. ``rating_values``: rating (or the middle of a class of equal width), n. ``over_time``:
    period (date of its first day in UTC), length (day, week, month, quarter, year: the shortest
    that makes at most 60 periods), n, n_users, mean_rating; empty without timestamps.
    """

    activity: DataFrame
    rating_values: DataFrame
    over_time: DataFrame

    def tables(self) -> dict[str, DataFrame]:
        """The tables by name."""
        return {
            "activity": self.activity,
            "rating_values": self.rating_values,
            "over_time": self.over_time,
        }


def describe(ratings: DataFrame) -> Description:
    """Describe clean ratings: user, item, rating, timestamp (Unix seconds or null)."""
    row = ratings.agg(F.min(RATING), F.max(RATING), F.min(TIMESTAMP), F.max(TIMESTAMP)).collect()[0]
    return Description(
        activity=reduce(DataFrame.unionByName, [_activity(ratings, side) for side in Side]),
        rating_values=_rating_values(ratings, row[0], row[1]),
        over_time=_over_time(ratings, row[2], row[3]),
    )


def _activity(ratings: DataFrame, side: Side) -> DataFrame:
    counts = ratings.groupBy(side).agg(F.count("*").alias(N_RATINGS))
    numbers = counts.groupBy(N_RATINGS).agg(F.count("*").alias("n_ids"))
    return numbers.select(F.lit(str(side)).alias("side"), N_RATINGS, "n_ids")


def _rating_values(ratings: DataFrame, low: float, high: float) -> DataFrame:
    value = F.col(RATING)
    if ratings.select(RATING).distinct().limit(_MOST_VALUES + 1).count() > _MOST_VALUES:
        width = (high - low) / _N_CLASSES
        place = F.least(F.floor((value - low) / width), F.lit(_N_CLASSES - 1))
        value = low + width * (place + 0.5)
    return ratings.groupBy(value.alias(RATING)).agg(F.count("*").alias("n")).orderBy(RATING)


def _over_time(ratings: DataFrame, first: int | None, last: int | None) -> DataFrame:
    span = 0 if first is None or last is None else last - first
    length = next(
        (name for name, n in _SECONDS_OF.items() if span <= (_MOST_PERIODS - 1) * n), "year"
    )
    # Dates of the session's time zone would differ between machines.
    utc = F.to_utc_timestamp(F.timestamp_seconds(TIMESTAMP), F.current_timezone())
    period = F.to_date(F.date_trunc(length, utc)).alias("period")
    known = ratings.where(F.col(TIMESTAMP).isNotNull())
    return known.groupBy(period, F.lit(length).alias("length")).agg(
        F.count("*").alias("n"), F.count_distinct(USER).alias("n_users"),
        F.avg(RATING).alias("mean_rating"),
    ).orderBy("period")  # fmt: skip
