"""How much better a model predicts than baselines, on the same rows and with intervals.

The gain is RMSE of the baseline − RMSE of the model. Over all rows its interval is that of the
paired bootstrap (:mod:`mfspark.evaluation.bootstrap`). By slice it is the normal one of the
linearised difference, users being the units: with sums S_u of squared errors, counts n_u and means
M, a user moves it by (S_u − M n_u) / (2 n √M) of the baseline less the same of the model. Levels
are 95 % for all comparisons of a table together (Bonferroni).
"""

from functools import reduce
from operator import and_
from statistics import NormalDist

import numpy as np
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from mfspark.columns import RATING, USER
from mfspark.evaluation.bootstrap import resample

_LEVEL, _RESAMPLES, _SEED = 0.05, 2000, 0
# Users of whom a normal interval says something.
_LEAST_USERS = 20


def overall_gains(predictions: DataFrame, model: str, baselines: list[str]) -> DataFrame:
    """baseline, n, rmse, baseline_rmse, gain, low, high on the rows that all can score.

    ``predictions``: user, rating, and a column of predictions by predictor.
    """
    names = [model, *baselines]
    squares = [_square(name) for name in names]
    scored = predictions.where(reduce(and_, [square.isNotNull() for square in squares]))
    sums = scored.groupBy(USER).agg(
        F.count("*").cast("double").alias("n"),
        F.array(*[F.sum(square) for square in squares]).alias("squares"),
    )
    row = scored.agg(F.count("*"), *[F.sqrt(F.avg(square)) for square in squares]).first()
    assert row is not None
    schema = (
        "baseline string, n long, rmse double, baseline_rmse double, gain double, low double, "
        "high double"
    )
    if not row[0]:
        return predictions.sparkSession.createDataFrame([], schema)
    samples = resample(sums, len(names), _RESAMPLES, _SEED)
    tail = 100 * _LEVEL / 2 / len(baselines)
    rows = []
    for place, name in enumerate(baselines, start=1):
        low, high = np.percentile(samples[:, place] - samples[:, 0], [tail, 100 - tail])
        gain = row[place + 1] - row[1]
        rows.append((name, row[0], row[1], row[place + 1], gain, float(low), float(high)))
    return predictions.sparkSession.createDataFrame(rows, schema)


def gains_by_slice(predictions: DataFrame, model: str, baseline: str) -> DataFrame:
    """slice, value, n, n_users, rmse, baseline_rmse, gain, low, high on the rows that both can
    score; no interval with few users.

    ``predictions``: user, rating, slice, value, and the two columns of predictions.
    """
    group = ["slice", "value"]
    squares = {"model": _square(model), "baseline": _square(baseline)}
    scored = predictions.where(reduce(and_, [square.isNotNull() for square in squares.values()]))
    users = scored.groupBy(*group, USER).agg(
        F.count("*").alias("n"), *[F.sum(square).alias(name) for name, square in squares.items()]
    )
    means = users.groupBy(*group).agg(
        F.sum("n").alias("total"), F.count("*").alias("n_users"),
        *[(F.sum(name) / F.sum("n")).alias(f"{name}_mse") for name in squares],
    )  # fmt: skip
    moved = _moved("baseline") - _moved("model")
    spread = users.join(means, group).groupBy(*group).agg(F.sum(moved * moved).alias("variance"))
    quantile = _quantile(means)
    gain = F.sqrt("baseline_mse") - F.sqrt("model_mse")
    half = F.when(F.col("n_users") >= _LEAST_USERS, quantile * F.sqrt("variance"))
    return means.join(spread, group).select(
        *group, F.col("total").alias("n"), "n_users", F.sqrt("model_mse").alias("rmse"),
        F.sqrt("baseline_mse").alias("baseline_rmse"), gain.alias("gain"),
        (gain - half).alias("low"), (gain + half).alias("high"),
    )  # fmt: skip


def _quantile(means: DataFrame) -> Column:
    """Of the normal distribution, for as many comparisons as there are slices."""
    n = max(1, means.count())
    return F.lit(NormalDist().inv_cdf(1 - _LEVEL / 2 / n))


def _moved(name: str) -> Column:
    mean = F.col(f"{name}_mse")
    part = (F.col(name) - mean * F.col("n")) / (2 * F.col("total") * F.sqrt(mean))
    # Without any error there is nothing that could vary.
    return F.when(mean > 0, part).otherwise(F.lit(0.0))


def _square(name: str) -> Column:
    error = F.col(f"`{name}`") - F.col(RATING)
    return F.when(~F.isnan(error), error * error)
