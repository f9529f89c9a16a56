"""Other libraries as estimators, for the comparison: ratings go to this process and predictions
come back, as a user of these libraries would do it."""

import os
from typing import Any

from pyspark.ml.base import Estimator, Model
from pyspark.ml.param import Param
from pyspark.sql import DataFrame
from pyspark.sql.types import DoubleType, StructField, StructType

from mfspark.app.config import (
    CmfrecSettings,
    LibmfSettings,
    MyfmSettings,
    PeerSettings,
    SurpriseSettings,
)
from mfspark.app.packages import (
    Fitted,
    Numbered,
    fit_cmfrec,
    fit_libmf,
    fit_myfm,
    fit_surprise,
)
from mfspark.columns import ITEM, RATING, USER
from mfspark.models.params import PredictorParams


class PackageEstimator(Estimator["PackageModel"], PredictorParams):
    """Fits ratings (user, item, rating) by the library that ``settings`` are for."""

    def __init__(self, settings: PeerSettings) -> None:
        super().__init__()
        self._peer = settings

    def _fit(self, dataset: DataFrame) -> "PackageModel":
        collected: Any = dataset.select(USER, ITEM, RATING).toPandas()
        ratings = Numbered.of(collected)
        fitted = fit_package(self._peer, ratings)
        return PackageModel(ratings, fitted, self.getOrDefault(self.predictionCol))


class PackageModel(Model):
    """Predictions of a library; NaN where it has none."""

    predictionCol: Param[str] = PredictorParams.predictionCol

    def __init__(self, ratings: Numbered, fitted: Fitted, prediction_col: str) -> None:
        super().__init__()
        self._ratings, self._fitted = ratings, fitted
        self._set(predictionCol=prediction_col)

    @property
    def n_parameters(self) -> int:
        """Numbers that the library keeps of the ratings."""
        return self._fitted.n_parameters

    def _transform(self, dataset: DataFrame) -> DataFrame:
        name = self.getOrDefault(self.predictionCol)
        pairs: Any = dataset.toPandas()
        pairs[name] = self._fitted.predict(*self._ratings.numbers(pairs))
        schema = StructType([*dataset.schema.fields, StructField(name, DoubleType())])
        return dataset.sparkSession.createDataFrame(pairs, schema)


def fit_package(settings: PeerSettings, ratings: Numbered) -> Fitted:
    """What is learnt by the library that ``settings`` are for."""
    # Estimators.contenders has set the rank.
    rank = settings.rank or 0
    n_threads = os.cpu_count() or 1
    if isinstance(settings, LibmfSettings):
        return fit_libmf(
            ratings, rank, settings.max_iter, n_threads, settings.reg_param, settings.learning_rate
        )
    if isinstance(settings, CmfrecSettings):
        return fit_cmfrec(
            ratings, rank, settings.max_iter, n_threads, settings.reg_param, settings.scale_reg,
            settings.implicit_features,
        )  # fmt: skip
    if isinstance(settings, MyfmSettings):
        return fit_myfm(ratings, rank, settings.max_iter, settings.implicit_features, settings.seed)
    assert isinstance(settings, SurpriseSettings)
    return fit_surprise(ratings, rank, settings.max_iter, settings.implicit_features, settings.seed)
