"""What the estimators of factor models share: columns, metadata, the model of a fit."""

from typing import Any

from pyspark.ml.base import Estimator
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import NumericType, StringType

from mfspark.columns import BIAS, FACTORS, HELD_OUT, ITEM, RATING, USER
from mfspark.engine.alternate import HISTORY_SCHEMA
from mfspark.engine.fit import Fit
from mfspark.errors import ConfigError, DataError
from mfspark.ids import column, require_column, typed_ids
from mfspark.models.factor_model import FactorModel
from mfspark.models.metadata import SCHEMA_VERSION, ModelMetadata, Rotation
from mfspark.models.params import FactorisationParams
from mfspark.settings import FactorisationSettings, PredictorSettings


class Factorisation(Estimator[FactorModel], FactorisationParams):
    """An estimator of r̂(u, i) = μ + b_u + b_i + p_u·q_i; the subclass says how it is fitted."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.set_params(arguments)

    def run_fit(self, ratings: DataFrame, known: dict[str, DataFrame]) -> Fit:
        """Fit to ratings under the names of :mod:`mfspark.columns`; ``known``: id, bias and factors
        to start from, by side."""
        raise NotImplementedError

    def settings(self) -> FactorisationSettings:
        """The values in force, checked; ``ConfigError`` names the Param that is out of bounds."""
        settings = super().settings()
        assert isinstance(settings, FactorisationSettings)
        return settings

    def _fit(self, dataset: DataFrame) -> FactorModel:
        settings = self.settings()
        ratings = select_ratings(dataset, settings, settings.validation_indicator_col)
        result = self.run_fit(ratings, _known_factors(ratings, settings))
        return self._copyValues(model_of(result, dataset, settings, settings.rank, type(self)))


def _known_factors(ratings: DataFrame, settings: FactorisationSettings) -> dict[str, DataFrame]:
    """Id, bias and factors that the initial model has of users and items, by side."""
    if settings.initial_model is None:
        return {}
    model = FactorModel.load(settings.initial_model)
    if model.rank != settings.rank:
        raise ConfigError(
            f"initialModel {settings.initial_model} has rank {model.rank}, which factors of rank "
            f"{settings.rank} cannot begin with; set rank to {model.rank} or train without it"
        )
    has_biases = model.metadata.hyper_parameters.get("fitBiases", True)
    if has_biases != settings.fit_biases:
        raise ConfigError(
            f"initialModel {settings.initial_model} was fitted with fitBiases = {has_biases}, this "
            f"fit has {settings.fit_biases}: factors beside biases and factors alone stand for "
            "different things; set fitBiases alike or train without it"
        )
    tables = {USER: model.user_factors, ITEM: model.item_factors}
    for side, table in tables.items():
        theirs, ours = table.schema[side].dataType, ratings.schema[side].dataType
        if isinstance(theirs, StringType) != isinstance(ours, StringType):
            raise ConfigError(
                f"initialModel {settings.initial_model} has {side} ids of type "
                f"{theirs.simpleString()}, these ratings of type {ours.simpleString()}: no id "
                "would be known; cast the column, or train without it"
            )
    return {
        side: table.select(F.col(side).cast(ratings.schema[side].dataType), BIAS, FACTORS)
        for side, table in tables.items()
    }


def model_of(
    result: Fit, dataset: DataFrame, settings: PredictorSettings, rank: int, estimator: type
) -> FactorModel:
    """The model of a fit to ``dataset``."""
    metadata = ModelMetadata(
        schema_version=SCHEMA_VERSION,
        algorithm=estimator.__name__,
        rank=rank,
        global_mean=result.mean,
        scale=result.scale,
        rating_scale=(result.summary.lowest, result.summary.highest),
        n_users=result.n_users,
        n_items=result.n_items,
        n_ratings=result.summary.n_ratings,
        n_validation=result.summary.n_validation,
        n_cold_validation=result.n_cold_validation,
        user_type=result.users.schema[USER].dataType.simpleString(),
        item_type=result.items.schema[ITEM].dataType.simpleString(),
        hyper_parameters=settings.model_dump(by_alias=True),
        rotation=Rotation(name="canonical", singular_values=result.singular_values),
        best_iteration=result.best_iteration,
        stopped=result.stopped,
        execution=result.execution,
        exchange=result.exchange,
    )
    history = dataset.sparkSession.createDataFrame(result.history, HISTORY_SCHEMA)
    return FactorModel(result.users, result.items, history, metadata)


def select_ratings(
    dataset: DataFrame, settings: PredictorSettings, validation_indicator: str | None = None
) -> DataFrame:
    """The columns to fit, under the names of :mod:`mfspark.columns`, with typed ids."""
    held_out = []
    if validation_indicator:
        require_column(dataset, validation_indicator, "validationIndicatorCol")
        # A row whose indicator is null is a training row.
        indicator = column(validation_indicator).cast("boolean")
        held_out = [F.coalesce(indicator, F.lit(False)).alias(HELD_OUT)]
    require_column(dataset, settings.rating_col, "ratingCol")
    found = dataset.schema[settings.rating_col].dataType
    if not isinstance(found, NumericType):
        raise DataError(
            f"column {settings.rating_col!r} has type {found.simpleString()}, but ratingCol needs "
            "a numeric column"
        )
    ids = typed_ids(dataset, {USER: settings.user_col, ITEM: settings.item_col})
    return dataset.select(*ids, column(settings.rating_col).alias(RATING), *held_out)
