"""Groups of test rows to look at one by one."""

from collections.abc import Callable, Mapping
from datetime import datetime, timezone

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from mfspark.columns import ITEM, N_RATINGS, TIMESTAMP, USER, Side

ALL, UNKNOWN = "all", "unknown"
# Lower ends of the classes of training ratings per user or item.
_ACTIVITY = (0, 1, 10, 50, 200)


# Classes of equal size of predicted values and of time.
_N_PREDICTED, _N_TIMES = 10, 5
_ACCURACY = 1000


def add_slices(test: DataFrame, rated: Mapping[Side, DataFrame], predicted: str) -> DataFrame:
    """Add ``slices``: array<struct<slice string, value string>>, every slice the row is in.

    Slices: all; user activity and item popularity by training ratings; predicted value (tenths of
    the column ``predicted``, which unlike the rating is known beforehand); cold start (warm, cold
    user, cold item, cold user and item); and time (fifths), where there are timestamps.

    ``rated``: by side the ids with training ratings, and n_ratings, how many each has.
    """
    counted = test
    for side in (USER, ITEM):
        counts = rated[side].select(side, F.col(N_RATINGS).alias(f"_n_{side}"))
        counted = counted.join(counts, side, "left").fillna(0, [f"_n_{side}"])
    n_user, n_item = F.col(f"_n_{USER}"), F.col(f"_n_{ITEM}")
    cold = (
        F.when((n_user == 0) & (n_item == 0), "cold user and item")
        .when(n_user == 0, "cold user")
        .when(n_item == 0, "cold item")
        .otherwise("warm")
    )
    members = {
        ALL: F.lit("all test ratings"),
        "user activity": _activity(n_user),
        "item popularity": _activity(n_item),
        "cold start": cold,
    }
    numbers = {"predicted value": F.col(predicted).cast("double")}
    members |= classes_of_equal_size(test, numbers, _N_PREDICTED, "{:.4g}".format)
    if TIMESTAMP in test.columns:
        times = {"time": F.col(TIMESTAMP).cast("double")}
        members |= classes_of_equal_size(test, times, _N_TIMES, _day)
    slices = F.array(
        *[
            F.struct(F.lit(name).alias("slice"), value.alias("value"))
            for name, value in members.items()
        ]
    )
    return counted.select(*[counted[name] for name in test.columns], slices.alias("slices"))


def classes_of_equal_size(
    rows: DataFrame, numbers: dict[str, Column], n: int, show: Callable[[float], str]
) -> dict[str, Column]:
    """The class of each row by each of the ``numbers``: ``n`` classes of about equal size, called
    by their bounds, and ``unknown``; without those of which there is no value at all."""
    if not numbers:
        return {}
    known = {name: F.when(~F.isnan(number), number) for name, number in numbers.items()}
    shares = [part / n for part in range(n + 1)]
    found = rows.agg(
        *[F.percentile_approx(number, shares, _ACCURACY) for number in known.values()]
    ).collect()[0]
    return {
        name: _by_bounds(number, sorted(set(bounds)), show)
        for (name, number), bounds in zip(known.items(), found, strict=True)
        if bounds is not None
    }


def _by_bounds(value: Column, bounds: list[float], show: Callable[[float], str]) -> Column:
    label = F.lit(UNKNOWN)
    for low, high in zip(bounds, bounds[1:] or bounds, strict=False):
        label = F.when(value >= low, f"{show(low)} to {show(high)}").otherwise(label)
    # What lies below the lowest bound of an approximation belongs to the first class.
    first = f"{show(bounds[0])} to {show(bounds[min(1, len(bounds) - 1)])}"
    return F.when(value < bounds[0], first).otherwise(label)


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, tz=timezone.utc).strftime("%Y-%m-%d")


def _activity(n: Column) -> Column:
    label = F.lit(None).cast("string")
    for low, after in zip(_ACTIVITY, [*_ACTIVITY[1:], None], strict=True):
        name = "0" if after == 1 else f"{low}+" if after is None else f"{low}–{after - 1}"
        label = F.when(n >= low, name).otherwise(label)
    return label
