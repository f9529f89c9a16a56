"""RMSE and MAE of several predictors on the same test rows, overall and by slice."""

from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from mfspark.columns import ITEM, PREDICTION, RATING, USER
from mfspark.evaluation.intervals import STD, Intervals, intervals_of
from mfspark.evaluation.slices import add_slices
from mfspark.models.baselines import BiasOnly, GlobalMean
from mfspark.models.factor_model import FactorModel

MODEL = "model"
GLOBAL_MEAN, ITEM_MEAN, BIAS_ONLY = "global mean", "item mean", "bias only"
PREDICTORS = (MODEL, BIAS_ONLY, ITEM_MEAN, GLOBAL_MEAN)
# The 97.5 % quantile of the normal distribution.
_Z = 1.959964


@dataclass(frozen=True)
class Evaluation:
    """Tables of an evaluation.

    ``metrics``: predictor, slice, value, n, n_unscored, rmse, rmse_low, rmse_high, mae, mae_low,
    mae_high. ``histogram``: rating (to the nearest half star), n_test, n_predicted. ``intervals``:
    of models that know how sure they are.
    """

    metrics: DataFrame
    histogram: DataFrame
    intervals: Intervals | None

    def tables(self) -> dict[str, DataFrame]:
        """The tables by name."""
        found = {"metrics": self.metrics, "histogram": self.histogram}
        if self.intervals is None:
            return found
        return found | {
            "coverage": self.intervals.coverage, "reliability": self.intervals.reliability
        }  # fmt: skip


def evaluate(model: FactorModel, train: DataFrame, test: DataFrame) -> Evaluation:
    """Measure ``model`` and the baselines on ``test`` (user, item, rating).

    Every test row counts: one without a prediction is in ``n_unscored``, never dropped in silence.
    """
    predictions = predict(model, train, test)
    sliced = add_slices(predictions, train)
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
    return Evaluation(rating_metrics(long), _histogram(predictions), intervals)


def predict(model: FactorModel, train: DataFrame, test: DataFrame) -> DataFrame:
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
    scored = keeps_rows.transform(test.select(USER, ITEM, RATING))
    return add_baselines(scored, train).withColumnRenamed(PREDICTION, MODEL)


def add_baselines(test: DataFrame, train: DataFrame) -> DataFrame:
    """Add the columns ``global mean``, ``item mean`` and ``bias only`` to the test rows.

    global mean: μ, by :class:`GlobalMean`. item mean: the mean rating of the item, μ for items
    without one. bias only: μ + b_u + b_i, by :class:`BiasOnly` with its defaults.
    """
    means = GlobalMean(predictionCol=GLOBAL_MEAN).fit(train)
    biases = BiasOnly(predictionCol=BIAS_ONLY).fit(train)
    # The predictions are computed later, from the tables on the driver.
    biases.unpersist()
    item_means = train.groupBy(ITEM).agg(F.avg(RATING).alias(ITEM_MEAN))
    return (
        biases.transform(means.transform(test))
        .join(item_means, on=ITEM, how="left")
        .select(
            *test.columns,
            GLOBAL_MEAN,
            F.coalesce(ITEM_MEAN, GLOBAL_MEAN).alias(ITEM_MEAN),
            F.col(BIAS_ONLY).cast("double").alias(BIAS_ONLY),
        )
    )


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


def _histogram(predictions: DataFrame) -> DataFrame:
    """How often each rating is given and predicted."""

    def counts(column: str, name: str) -> DataFrame:
        nearest = (F.round(F.col(column) * 2) / 2).alias(RATING)
        known = predictions.where(F.col(column).isNotNull() & ~F.isnan(column))
        return known.groupBy(nearest).agg(F.count("*").alias(name))

    joined = counts(RATING, "n_test").join(counts(MODEL, "n_predicted"), RATING, "full")
    return joined.fillna(0).orderBy(RATING)
