"""Several models on the same test rows: errors, and differences of errors with intervals.

Models are compared on the rows that all of them can score. Differences are paired; their intervals
are normal ones, with standard deviations of :mod:`mfspark.evaluation.bootstrap`, wide enough to
hold for all pairs together with 95 % (Bonferroni; tails so thin would need a hundred thousand
resamples to be counted).
"""

from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from mfspark.columns import ITEM, RATING, USER
from mfspark.engine.workspace import materialised
from mfspark.evaluation.bootstrap import resample
from mfspark.evaluation.ratings import rating_metrics
from mfspark.small_tables import table_of

_OUTSIDE = 0.05
# Sums in another order differ by less, as a share of the RMSE.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Comparison:
    """``metrics``: predictor, n, n_unscored, and on the rows that all models score n_common, rmse,
    rmse_low, rmse_high, mae, mae_low, mae_high. ``differences``: for each two models better, worse,
    difference (of their RMSEs), low, high, is_clear, verdict. ``folds``: predictor, fold, rmse on
    all rows that the model scores."""

    metrics: DataFrame
    differences: DataFrame
    folds: DataFrame


def compare(predictions: DataFrame, resamples: int, seed: int) -> Comparison:
    """Compare predictions of models on the same rows: fold, user, item, rating, predictor,
    predicted (double; null or NaN: not scored)."""
    spark = predictions.sparkSession
    names = sorted(row[0] for row in predictions.select("predictor").distinct().collect())
    row_key = ["fold", USER, ITEM]
    is_scored = F.col("predicted").isNotNull() & ~F.isnan("predicted")
    scored_by = predictions.groupBy(*row_key).agg(F.count_if(is_scored).alias("n_models"))
    common = predictions.join(scored_by.where(F.col("n_models") == len(names)), row_key, "semi")
    own = _metrics(predictions).select("predictor", "n", "n_unscored")
    shared = _metrics(common).drop("n_unscored").withColumnRenamed("n", "n_common")
    error = F.col("predicted") - F.col(RATING)
    squares = [F.sum(F.when(F.col("predictor") == name, error * error)) for name in names]
    sums = common.groupBy(USER).agg(
        F.count_if(F.col("predictor") == names[0]).cast("double").alias("n"),
        F.array(*squares).alias("squares"),
    )
    samples = resample(sums, len(names), resamples, seed)
    # The verdicts need the figures as well: computed once, a row for each model.
    metrics = materialised(own.join(shared, "predictor", "left"), n_bytes=0)
    folds = predictions.where(is_scored).groupBy("predictor", "fold")
    return Comparison(
        metrics,
        _differences(spark, names, metrics, samples),
        folds.agg(F.sqrt(F.avg(error * error)).alias("rmse")),
    )


def _metrics(predictions: DataFrame) -> DataFrame:
    sliced = predictions.select(
        USER, RATING, F.lit("all").alias("slice"), F.lit("all").alias("value"), "predictor",
        "predicted",
    )  # fmt: skip
    return rating_metrics(sliced).drop("slice", "value")


def _differences(
    spark: SparkSession, names: list[str], metrics: DataFrame, samples: npt.NDArray[np.float64]
) -> DataFrame:
    """Of each two models, with intervals for all pairs together."""
    rmse = {row["predictor"]: row["rmse"] for row in metrics.collect()}
    pairs = list(combinations(range(len(names)), 2))
    quantile = NormalDist().inv_cdf(1 - _OUTSIDE / 2 / max(len(pairs), 1))
    rows = []
    for pair in pairs:
        better, worse = sorted(pair, key=lambda place: rmse[names[place]])
        difference = rmse[names[worse]] - rmse[names[better]]
        half = quantile * float(np.std(samples[:, worse] - samples[:, better], ddof=1))
        rows.append(
            _verdict(names[better], names[worse], rmse, difference - half, difference + half)
        )
    schema = (
        "better string, worse string, difference double, low double, high double, "
        "is_clear boolean, verdict string"
    )
    return table_of(spark, rows, schema)


def _verdict(
    better: str, worse: str, rmse: dict[str, float], low: float, high: float
) -> tuple[str, str, float, float, float, bool, str]:
    difference = rmse[worse] - rmse[better]
    interval = f"95 %: {low:.4f} to {high:.4f}".replace("-", "\u2212")
    is_clear = low > _ROUNDING * rmse[better]
    if is_clear:
        text = f"{better} is better than {worse}: RMSE lower by {difference:.4f} ({interval})"
    else:
        text = f"no clear difference between {better} and {worse}: {difference:.4f} ({interval})"
    return better, worse, difference, low, high, is_clear, text
