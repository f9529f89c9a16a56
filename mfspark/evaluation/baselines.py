"""Predictors that every model must beat, as columns beside the model's predictions."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.columns import ITEM, RATING
from mfspark.models.baselines import BiasOnly, GlobalMean

GLOBAL_MEAN, ITEM_MEAN, BIAS_ONLY = "global mean", "item mean", "bias only"


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
