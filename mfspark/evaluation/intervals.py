"""Whether the standard deviations of a Bayesian model are what its errors are."""

from dataclasses import dataclass
from statistics import NormalDist

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.columns import RATING

STD = "std"
# Shares of the ratings that intervals should hold.
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
# Classes of equal size, by the standard deviation.
_N_CLASSES = 10


@dataclass(frozen=True)
class Intervals:
    """Tables about predictions ± a multiple of their standard deviation.

    ``coverage``: slice, value, level, n, covered (the share of the n ratings in the interval that
    should hold ``level`` of them). ``reliability``: class (1: the surest tenth), n, std (root mean
    square of what was predicted), rmse (what it was).
    """

    coverage: DataFrame
    reliability: DataFrame


def intervals_of(predictions: DataFrame) -> Intervals:
    """Measure ``predictions``: rating, predicted, std, slices (see ``add_slices``).

    Rows without prediction are left out. An interval is predicted ± z·std with the normal
    quantile z; coverage depends on it having the normal distribution's shape, reliability does
    not.
    """
    known = predictions.where(F.col(STD).isNotNull() & ~F.isnan(STD))
    error = F.abs(F.col("predicted") - F.col(RATING))
    covered = [
        (error <= F.lit(NormalDist().inv_cdf(0.5 + level / 2)) * F.col(STD)).alias(str(level))
        for level in LEVELS
    ]
    members = known.select(F.explode("slices").alias("member"), *covered)
    shares = members.groupBy("member.slice", "member.value").agg(
        F.count("*").alias("n"),
        *[F.avg(F.col(f"`{level}`").cast("int")).alias(str(level)) for level in LEVELS],
    )
    coverage = shares.unpivot(
        ["slice", "value", "n"], [f"`{level}`" for level in LEVELS], "level", "covered"
    )
    return Intervals(
        coverage.withColumn("level", F.col("level").cast("double")), _reliability(known)
    )


def _reliability(known: DataFrame) -> DataFrame:
    """By tenths of the standard deviation, whose bounds are those of quantiles (to a thousandth of
    the rows)."""
    shares = [n / _N_CLASSES for n in range(1, _N_CLASSES)]
    bounds = known.agg(F.percentile_approx(STD, shares, 1000).alias("bounds"))
    number = F.size(F.filter("bounds", lambda bound: bound < F.col(STD))) + 1
    square = F.pow(F.col("predicted") - F.col(RATING), 2)
    return (
        known.crossJoin(F.broadcast(bounds))
        .groupBy(number.alias("class"))
        .agg(
            F.count("*").alias("n"),
            F.sqrt(F.avg(F.col(STD) * F.col(STD))).alias(STD),
            F.sqrt(F.avg(square)).alias("rmse"),
        )
        .orderBy("class")
    )
