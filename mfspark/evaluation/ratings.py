"""RMSE and MAE of several predictors on the same test rows, overall and by slice."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from mfspark.columns import ITEM, PREDICTION, RATING, TIMESTAMP, USER, Side
from mfspark.evaluation.gains import gains_by_slice, overall_gains
from mfspark.evaluation.intervals import STD, Intervals, intervals_of
from mfspark.evaluation.metadata_slices import add_metadata_slices
from mfspark.evaluation.slices import ALL, add_slices
from mfspark.models.factor_model import FactorModel
from mfspark.persisted import persist, unpersist

MODEL = "model"
GLOBAL_MEAN, ITEM_MEAN, BIAS_ONLY = "global mean", "item mean", "bias only"
PREDICTORS = (MODEL, BIAS_ONLY, ITEM_MEAN, GLOBAL_MEAN)
# Scales up to this length have bars of half a point, others so many bars.
_SHORT_SCALE, _N_BARS = 10, 20
# The 97.5 % quantile of the normal distribution.
_Z = 1.959964
# Shares of the ratings whose misses are told.
_SHARES, _ACCURACY = (0.5, 0.8, 0.9, 0.95), 10_000


@dataclass(frozen=True)
class Evaluation:
    """Tables of an evaluation.

    ``metrics``: predictor, slice, value, n, n_unscored, rmse, rmse_low, rmse_high, mae, mae_low,
    mae_high. ``histogram``: rating (the middle of a class), n_test, n_predicted. ``calibration``:
    value (a tenth of the predictions), n, predicted, rating (their means), bias (predicted −
    rating), residual_std. ``residuals``: predictor (model, bias only), residual (predicted −
    rating, the middle of a class), n. ``misses``: predictor, share, within (the predictor misses
    that share of the ratings by no more than that). ``gains``, ``slice_gains``: see
    :mod:`mfspark.evaluation.gains`. ``intervals``: of models that know how sure they are.
    """

    metrics: DataFrame
    histogram: DataFrame
    calibration: DataFrame
    residuals: DataFrame
    misses: DataFrame
    gains: DataFrame
    slice_gains: DataFrame
    intervals: Intervals | None
    persisted: tuple[DataFrame, ...]

    def release(self) -> None:
        """Let go of the memory of what the tables are made of, once they are written."""
        for table in self.persisted:
            unpersist(table)

    def tables(self) -> dict[str, DataFrame]:
        """The tables by name."""
        found = {
            "metrics": self.metrics,
            "histogram": self.histogram,
            "calibration": self.calibration,
            "residuals": self.residuals,
            "misses": self.misses,
            "gains": self.gains,
            "slice_gains": self.slice_gains,
        }
        if self.intervals is None:
            return found
        return found | {
            "coverage": self.intervals.coverage, "reliability": self.intervals.reliability
        }  # fmt: skip


def evaluate(
    model: FactorModel,
    biases: FactorModel,
    train: DataFrame,
    test: DataFrame,
    known: Mapping[Side, DataFrame] = MappingProxyType({}),
) -> Evaluation:
    """Measure ``model`` and the baselines on ``test`` (user, item, rating, and maybe timestamp).

    ``biases``: of ``train`` alone, as :class:`mfspark.BiasOnly` fits them. ``known``: columns of
    users and items by which rows are sliced. Every test row counts: one without a prediction is in
    ``n_unscored``, never dropped in silence.
    """
    # Several tables are made of them.
    predictions = persist(predict(model, biases, train, test))
    rated = {USER: biases.user_factors, ITEM: biases.item_factors}
    sliced = add_slices(predictions, rated, MODEL)
    if known:
        sliced = add_metadata_slices(sliced, predictions.select(USER, ITEM), known)
    sliced = persist(sliced)
    by_slice = sliced.withColumn("member", F.explode("slices")).select(
        USER, RATING, "member.slice", "member.value", *PREDICTORS
    )
    long = by_slice.unpivot(
        [USER, RATING, "slice", "value"], list(PREDICTORS), "predictor", "predicted"
    )
    intervals = None
    if STD in predictions.columns:
        intervals = intervals_of(
            sliced.select(RATING, F.col(MODEL).alias("predicted"), STD, "slices")
        )
    others = [name for name in PREDICTORS if name != MODEL]
    return Evaluation(
        rating_metrics(long),
        _histogram(predictions, model.metadata.rating_scale),
        _calibration(sliced),
        _residuals(predictions, model.metadata.rating_scale),
        _misses(predictions),
        overall_gains(predictions, MODEL, others),
        gains_by_slice(by_slice.where(F.col("slice") != ALL), MODEL, BIAS_ONLY),
        intervals,
        (predictions, sliced),
    )


def predict(
    model: FactorModel, biases: FactorModel, train: DataFrame, test: DataFrame
) -> DataFrame:
    """Test rows (user, item, rating) with one column of predictions per predictor, and that of
    standard deviations where the model has draws."""
    # A model told to drop cold rows would hide them from the count of unscored rows.
    keeps_rows = model
    if model.getOrDefault(model.coldStartStrategy) == "drop":
        keeps_rows = model.copy({model.coldStartStrategy: "nan"})
    keeps_rows = keeps_rows.copy(
        {
            model.userCol: USER,
            model.itemCol: ITEM,
            model.predictionCol: PREDICTION,
            model.predictionStdCol: STD if model.has_spread else None,
        }
    )
    kept = [name for name in (USER, ITEM, RATING, TIMESTAMP) if name in test.columns]
    scored = keeps_rows.transform(test.select(*kept))
    return add_baselines(scored, train, biases).withColumnRenamed(PREDICTION, MODEL)


def add_baselines(test: DataFrame, train: DataFrame, biases: FactorModel) -> DataFrame:
    """Add the columns ``global mean``, ``item mean`` and ``bias only`` to the test rows.

    global mean: μ, that of ``biases``. item mean: the mean rating of the item, μ for items
    without one. bias only: μ + b_u + b_i, by ``biases``.
    """
    biases = biases.copy({biases.predictionCol: BIAS_ONLY, biases.clipPredictions: True})
    item_means = train.groupBy(ITEM).agg(F.avg(RATING).alias(ITEM_MEAN))
    return (
        biases.transform(test.withColumn(GLOBAL_MEAN, F.lit(biases.global_mean)))
        .join(item_means, on=ITEM, how="left")
        .select(
            *test.columns,
            GLOBAL_MEAN,
            F.coalesce(ITEM_MEAN, GLOBAL_MEAN).alias(ITEM_MEAN),
            F.col(BIAS_ONLY).cast("double").alias(BIAS_ONLY),
        )
    )


def rmse_of(model: Any, ratings: DataFrame) -> float | None:
    """RMSE of a model on those of the ``ratings`` (user, item, rating) that it scores; None when
    there are none."""
    square = F.pow(F.col(RATING) - F.col(PREDICTION), 2)
    row = model.transform(ratings).agg(F.sqrt(F.avg(square))).first()
    assert row is not None
    found: float | None = row[0]
    return found


def rating_metrics(predictions: DataFrame) -> DataFrame:
    """Metrics of long predictions: user, rating, slice, value, predictor, predicted.

    The 95 % intervals take users, not ratings, as the independent units (ratings of one user err
    together): with sums S_u and counts n_u per user and mean m, the variance of m is
    Σ_u (S_u − m·n_u)² / n². RMSE's ends are the roots of the ends of the mean squared error.
    """
    error = F.col("predicted") - F.col(RATING)
    error = F.when(F.col("predicted").isNotNull() & ~F.isnan("predicted"), error)
    group = ["predictor", "slice", "value"]
    per_user = predictions.groupBy(*group, USER).agg(
        F.count("*").alias("rows"),
        F.count(error).alias("n"),
        F.sum(error * error).alias("squares"),
        F.sum(F.abs(error)).alias("absolutes"),
    )
    sums = per_user.groupBy(*group).agg(
        F.sum("n").alias("n"),
        (F.sum("rows") - F.sum("n")).alias("n_unscored"),
        *_mean_and_variance("squares", "mse"),
        *_mean_and_variance("absolutes", "mae"),
    )
    half = {
        name: _Z * F.sqrt(F.greatest(f"{name}_variance", F.lit(0.0))) for name in ("mse", "mae")
    }
    mse, mae = F.col("mse"), F.col("mae")
    return sums.select(
        *group,
        "n",
        "n_unscored",
        F.sqrt(mse).alias("rmse"),
        F.sqrt(F.greatest(mse - half["mse"], F.lit(0.0))).alias("rmse_low"),
        F.sqrt(mse + half["mse"]).alias("rmse_high"),
        mae.alias("mae"),
        F.greatest(mae - half["mae"], F.lit(0.0)).alias("mae_low"),
        (mae + half["mae"]).alias("mae_high"),
    )


def _mean_and_variance(sums: str, name: str) -> list[Column]:
    total, n = F.sum(sums), F.sum("n")
    mean = F.try_divide(total, n)
    spread = (
        F.sum(F.col(sums) * F.col(sums))
        - 2 * mean * F.sum(F.col(sums) * F.col("n"))
        + mean * mean * F.sum(F.col("n") * F.col("n"))
    )
    return [mean.alias(name), F.try_divide(spread, n * n).alias(f"{name}_variance")]


def _histogram(predictions: DataFrame, scale: tuple[float, float]) -> DataFrame:
    """How often each rating is given and predicted: by half points on short scales, by twentieths
    of long ones."""
    width = _bar(scale)
    columns = {"n_test": RATING, "n_predicted": MODEL}
    both = predictions.select(
        *[F.col(column).cast("double").alias(name) for name, column in columns.items()]
    )
    long = both.unpivot([], list(columns), "of", "number")
    known = long.where(F.col("number").isNotNull() & ~F.isnan("number"))
    nearest = (F.round(F.col("number") / width) * width).alias(RATING)
    counts = [F.count_if(F.col("of") == name).alias(name) for name in columns]
    return known.groupBy(nearest).agg(*counts).orderBy(RATING)


def _bar(scale: tuple[float, float]) -> float:
    span = scale[1] - scale[0]
    return 0.5 if span <= _SHORT_SCALE else span / _N_BARS


def _residuals(predictions: DataFrame, scale: tuple[float, float]) -> DataFrame:
    """How often the model, and biases, miss by how much: by half of the bars of a histogram."""
    width = _bar(scale) / 2
    nearest = F.round(F.col("residual") / width) * width
    return (
        _of_both(predictions)
        .groupBy("predictor", nearest.alias("residual"))
        .agg(F.count("*").alias("n"))
        .orderBy("predictor", "residual")
    )


def _misses(predictions: DataFrame) -> DataFrame:
    within = F.percentile_approx(F.abs("residual"), list(_SHARES), _ACCURACY)
    pairs = F.arrays_zip(F.lit(list(_SHARES)).alias("share"), within.alias("within"))
    return _of_both(predictions).groupBy("predictor").agg(pairs.alias("pairs")).select(
        "predictor", F.inline("pairs")
    )  # fmt: skip


def _of_both(predictions: DataFrame) -> DataFrame:
    """predictor, residual of the model and of biases alone, where they have one."""
    columns = [F.col(name) - F.col(RATING) for name in (MODEL, BIAS_ONLY)]
    both = predictions.select(
        *[each.alias(name) for each, name in zip(columns, (MODEL, BIAS_ONLY), strict=True)]
    )
    long = both.unpivot([], [MODEL, BIAS_ONLY], "predictor", "residual")
    return long.where(F.col("residual").isNotNull() & ~F.isnan("residual"))


def _calibration(sliced: DataFrame) -> DataFrame:
    """Means of predictions and of ratings by tenth of the predictions."""
    members = sliced.select(RATING, F.col(MODEL).alias("predicted"), F.explode("slices").alias("m"))
    error = F.col("predicted") - F.col(RATING)
    return (
        members.where((F.col("m.slice") == "predicted value") & ~F.isnan("predicted"))
        .groupBy("m.value")
        .agg(
            F.count("*").alias("n"),
            F.avg("predicted").alias("predicted"),
            F.avg(RATING).alias(RATING),
            F.avg(error).alias("bias"),
            F.stddev(error).alias("residual_std"),
        )
        .orderBy("predicted")
    )
