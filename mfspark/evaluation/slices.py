"""Groups of test rows to look at one by one."""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from mfspark.columns import ITEM, RATING, USER

ALL = "all"
# Lower ends of the classes of training ratings per user or item.
_ACTIVITY = (0, 1, 10, 50, 200)


def add_slices(test: DataFrame, train: DataFrame) -> DataFrame:
    """Add ``slices``: array<struct<slice string, value string>>, every slice the row is in.

    Slices: all; user activity and item popularity by training ratings; rating value (rounded down
    to whole stars); cold start (warm, cold user, cold item, cold user and item).
    """
    counted = test
    for side in (USER, ITEM):
        counts = train.groupBy(side).agg(F.count("*").alias(f"_n_{side}"))
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
        "rating value": F.floor(RATING).cast("string"),
        "cold start": cold,
    }
    slices = F.array(
        *[
            F.struct(F.lit(name).alias("slice"), value.alias("value"))
            for name, value in members.items()
        ]
    )
    return counted.select(*[counted[name] for name in test.columns], slices.alias("slices"))


def _activity(n: Column) -> Column:
    label = F.lit(None).cast("string")
    for low, after in zip(_ACTIVITY, [*_ACTIVITY[1:], None], strict=True):
        name = "0" if after == 1 else f"{low}+" if after is None else f"{low}–{after - 1}"
        label = F.when(n >= low, name).otherwise(label)
    return label
