"""Predictors that every model must beat, as estimators: the mean, and biases alone."""

from typing import Any

from pyspark.ml.base import Estimator, Model
from pyspark.ml.param import Param, Params
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from typing_extensions import Unpack

from mfspark.algorithms.history import Learnt
from mfspark.columns import BIAS, FACTORS, ITEM, N_RATINGS, RATING, USER, Side
from mfspark.engine.factor_tables import table_bytes
from mfspark.engine.fit_als import fit_als
from mfspark.engine.packed import summarise
from mfspark.engine.phases import Phases
from mfspark.engine.training import Fit, objective_of, prepare
from mfspark.engine.workspace import materialised
from mfspark.models.factor_model import FactorModel
from mfspark.models.factorisation import model_of, select_ratings
from mfspark.models.frames import FitsFrames, TransformsFrames
from mfspark.models.params import (
    BiasOnlyArguments,
    BiasOnlyParams,
    PredictorArguments,
    PredictorParams,
)
from mfspark.settings import ALSSettings, BiasOnlySettings

# The joint biases are a small, well-conditioned problem: this is far below any rating's rounding.
_TOL, _MOST_ITERATIONS = 1e-7, 50


class GlobalMean(
    FitsFrames,
    Estimator["MeanModel"],
    PredictorParams,
    DefaultParamsReadable["GlobalMean"],
    DefaultParamsWritable,
):
    """Predicts μ, the mean of the training ratings, for every pair; nothing is cold to it."""

    def __init__(self, **arguments: Unpack[PredictorArguments]) -> None:
        super().__init__()
        self.set_params(arguments)

    def _fit(self, dataset: DataFrame) -> "MeanModel":
        summary = summarise(select_ratings(dataset, self.settings()))
        return MeanModel(summary.mean, self.settings().prediction_col)


class MeanModel(TransformsFrames, Model, DefaultParamsReadable["MeanModel"], DefaultParamsWritable):
    """Predicts the same for every pair."""

    mean: Param[float] = Param(Params._dummy(), "mean", "what is predicted")
    predictionCol: Param[str] = PredictorParams.predictionCol

    def __init__(self, mean: float = 0.0, prediction_col: str = "prediction") -> None:
        super().__init__()
        self._set(mean=mean, predictionCol=prediction_col)

    @property
    def n_parameters(self) -> int:
        """Numbers in the model: μ."""
        return 1

    def _transform(self, dataset: DataFrame) -> DataFrame:
        value = F.lit(float(self.getOrDefault(self.mean)))
        return dataset.withColumn(self.getOrDefault(self.predictionCol), value)


class BiasOnly(
    FitsFrames,
    Estimator[FactorModel],
    BiasOnlyParams,
    DefaultParamsReadable["BiasOnly"],
    DefaultParamsWritable,
):
    """r̂(u, i) = μ + b_u + b_i; a :class:`FactorModel` of rank 0.

    joint    minimises Σ (r − μ − b_u − b_i)² + d (Σ b_u² + Σ b_i²), d = ``damping``
    damped   b_i = Σ (r − μ) / (n_i + d), then b_u = Σ (r − μ − b_i) / (n_u + d)
             (Koren, Factor in the Neighbors, 2010, section 2.1)
    """

    def __init__(self, **arguments: Unpack[BiasOnlyArguments]) -> None:
        super().__init__()
        self.set_params(arguments)

    def setParams(self, **arguments: Unpack[BiasOnlyArguments]) -> "BiasOnly":
        """Set Params by name; ``ConfigError`` for a bad value, ``TypeError`` for a bad name."""
        self.set_params(arguments)
        return self

    def _fit(self, dataset: DataFrame) -> FactorModel:
        settings: Any = self.settings()
        ratings = select_ratings(dataset, settings)
        fit = (
            _joint(ratings, settings) if settings.method == "joint" else _damped(ratings, settings)
        )
        return self._copyValues(model_of(fit, dataset, settings, 0, type(self)))


def _joint(ratings: DataFrame, settings: BiasOnlySettings) -> Fit:
    als = ALSSettings(
        rank=0, bias_reg_param=settings.damping, reg_exponent=0.0, tol=_TOL,
        max_iter=_MOST_ITERATIONS,
    )  # fmt: skip
    return fit_als(ratings, als, name=None)


def _damped(ratings: DataFrame, settings: BiasOnlySettings) -> Fit:
    """Item biases as damped means, then user biases of what they leave."""
    phases = Phases()
    # In the unit of the ratings: the damping counts ratings, whatever their scale.
    training = prepare(summarise(ratings), 0, objective_of(ALSSettings()), known={}, scale=1.0)
    phases.end("prepare")
    rating = F.col(RATING).cast("double") - F.lit(training.unit.mean)

    def biases(deviations: DataFrame, side: Side) -> DataFrame:
        n = F.count("*")
        found = deviations.groupBy(side).agg(
            n.alias(N_RATINGS),
            (F.sum("deviation") / (n + settings.damping)).cast("float").alias(BIAS),
        )
        found = found.withColumn(FACTORS, F.array().cast("array<float>"))
        # At most every rating has an id of its own.
        return materialised(found, table_bytes(training.summary.n_ratings, 0))

    deviations = ratings.select(USER, ITEM, rating.alias("deviation"))
    items = biases(deviations, ITEM)
    rest = deviations.join(items, ITEM).withColumn("deviation", F.col("deviation") - F.col(BIAS))
    users = biases(rest, USER)
    tables = {USER: users, ITEM: items}
    learnt = Learnt.without_passes(users.count(), items.count(), "converged")
    return training.fit(tables, learnt, phases)
