"""A linear blend of models: how much of each makes the best prediction together.

    r̂ = w_0 + Σ_m w_m r̂_m

by ridge regression on ratings that no model was fitted to (as by Jahrer, Töscher, Legenstein:
Combining predictions for accurate recommender systems, KDD 2010, section 3.1).
"""

from dataclasses import dataclass

from pyspark.ml.feature import VectorAssembler
from pyspark.ml.regression import LinearRegression
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.columns import ITEM, RATING, USER
from mfspark.errors import DataError

_FEATURES = "_features"


@dataclass(frozen=True)
class Blend:
    """``weights`` by name of the member, and the ``intercept`` w_0."""

    intercept: float
    weights: dict[str, float]

    def predict(self, predictions: DataFrame) -> DataFrame:
        """user, item, rating, predicted; not scored where a member does not score.

        ``predictions``: user, item, rating, predictor, predicted, of all members and maybe others.
        """
        table = _by_member(predictions, list(self.weights))
        parts = [
            F.lit(weight) * F.col(_column(n)) for n, weight in enumerate(self.weights.values())
        ]
        total = F.lit(self.intercept)
        for part in parts:
            total = total + part
        return table.select(USER, ITEM, RATING, total.alias("predicted"))


def fit_blend(predictions: DataFrame, members: list[str], reg_param: float) -> Blend:
    """Fit to predictions (user, item, rating, predictor, predicted) of validation rows.

    ``reg_param`` penalises the weights of predictions that are scaled to variance 1. Raises
    ``DataError`` when there are fewer rows that all members score than members.
    """
    columns = [_column(n) for n in range(len(members))]
    table = _by_member(predictions, members)
    for column in columns:
        table = table.where(F.col(column).isNotNull() & ~F.isnan(column))
    n = table.count()
    if n <= len(members):
        raise DataError(
            f"found {n} validation ratings that all of {', '.join(members)} score, too few to fit "
            "a blend to; raise split.validation"
        )
    assembled = VectorAssembler(inputCols=columns, outputCol=_FEATURES).transform(table)
    regression = LinearRegression(
        featuresCol=_FEATURES, labelCol=RATING, regParam=reg_param, solver="normal"
    )
    fitted = regression.fit(assembled)
    weights = dict(zip(members, map(float, fitted.coefficients), strict=True))
    return Blend(float(fitted.intercept), weights)


def _by_member(predictions: DataFrame, members: list[str]) -> DataFrame:
    """user, item, rating, and a column for each member."""
    picked = [
        F.max(F.when(F.col("predictor") == name, F.col("predicted"))).alias(_column(n))
        for n, name in enumerate(members)
    ]
    return predictions.groupBy(USER, ITEM).agg(
        F.first(RATING).cast("double").alias(RATING), *picked
    )


def _column(n: int) -> str:
    # Names of models may hold anything.
    return f"_member_{n}"
