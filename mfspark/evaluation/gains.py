"""How much better a model predicts than baselines, on the same rows and with intervals.

The gain is RMSE of the baseline − RMSE of the model. Over all rows its interval is that of the
paired bootstrap (:mod:`mfspark.evaluation.bootstrap`). By slice it is the normal one of the
linearised difference, users being the units: with sums S_u of squared errors, counts n_u and means
M, a user moves it by (S_u − M n_u) / (2 n √M) of the baseline less the same of the model. Levels
are 95 % for all comparisons of a table together (Bonferroni).
"""

import math
from functools import reduce
from itertools import combinations_with_replacement
from operator import and_
from statistics import NormalDist
from typing import Any

import numpy as np
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from mfspark.columns import RATING, USER
from mfspark.evaluation.bootstrap import resample
from mfspark.small_tables import table_of

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
        return table_of(predictions.sparkSession, [], schema)
    samples = resample(sums, len(names), _RESAMPLES, _SEED)
    tail = 100 * _LEVEL / 2 / len(baselines)
    rows = []
    for place, name in enumerate(baselines, start=1):
        low, high = np.percentile(samples[:, place] - samples[:, 0], [tail, 100 - tail])
        gain = row[place + 1] - row[1]
        rows.append((name, row[0], row[1], row[place + 1], gain, float(low), float(high)))
    return table_of(predictions.sparkSession, rows, schema)


def gains_by_slice(predictions: DataFrame, model: str, baseline: str) -> DataFrame:
    """slice, value, n, n_users, rmse, baseline_rmse, gain, low, high on the rows that both can
    score; no interval with few users.

    ``predictions``: user, rating, slice, value, and the two columns of predictions.
    """
    group = ["slice", "value"]
    squares = {"model": _square(model), "baseline": _square(baseline)}
    scored = predictions.where(reduce(and_, [square.isNotNull() for square in squares.values()]))
    users = scored.groupBy(*group, USER).agg(
        F.count("*").cast("double").alias("n"),
        *[F.sum(square).alias(name) for name, square in squares.items()],
    )
    names = ["n", *squares]
    pairs = list(combinations_with_replacement(names, 2))
    sums = users.groupBy(*group).agg(
        F.count("*").alias("n_users"),
        *[F.sum(name).alias(name) for name in names],
        *[F.sum(F.col(a) * F.col(b)).alias(f"{a} {b}") for a, b in pairs],
    )
    # A row for each slice.
    found = [row.asDict() for row in sums.collect()]
    quantile = NormalDist().inv_cdf(1 - _LEVEL / 2 / max(1, len(found)))
    schema = (
        "slice string, value string, n long, n_users long, rmse double, baseline_rmse double, "
        "gain double, low double, high double"
    )
    rows = [(row["slice"], row["value"], *_gain_of(row, quantile)) for row in found]
    return table_of(predictions.sparkSession, rows, schema)


def _gain_of(sums: dict[str, Any], quantile: float) -> tuple[float | None, ...]:
    """n, n_users, rmse, baseline_rmse, gain, low, high from sums over users of n, S and S' of the
    two predictors, and of their products.

    Σ (S − M n) (S' − M' n) = Σ S S' − M Σ S' n − M' Σ S n + M M' Σ n².
    """
    n, mean = sums["n"], {name: sums[name] / sums["n"] for name in ("model", "baseline")}
    # Without any error there is nothing that could vary.
    by = {name: m and 1 / (2 * n * math.sqrt(m)) for name, m in mean.items()}

    def covariance(a: str, b: str) -> float:
        of_both = mean[a] * sums[f"n {b}"] + mean[b] * sums[f"n {a}"]
        return float(by[a] * by[b] * (sums[f"{a} {b}"] - of_both + mean[a] * mean[b] * sums["n n"]))

    of_each = covariance("model", "model") + covariance("baseline", "baseline")
    half = quantile * math.sqrt(max(0.0, of_each - 2 * covariance("model", "baseline")))
    rmse = {name: math.sqrt(m) for name, m in mean.items()}
    gain = rmse["baseline"] - rmse["model"]
    ends = (gain - half, gain + half) if sums["n_users"] >= _LEAST_USERS else (None, None)
    return int(n), sums["n_users"], rmse["model"], rmse["baseline"], gain, *ends


def _square(name: str) -> Column:
    error = F.col(f"`{name}`") - F.col(RATING)
    return F.when(~F.isnan(error), error * error)
