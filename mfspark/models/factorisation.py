"""What the estimators of factor models share: columns, metadata, the model of a fit."""

import json
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from pyspark.ml.base import Estimator
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import NumericType, StringType
from typing_extensions import Self

from mfspark import files
from mfspark.algorithms.history import HISTORY_SCHEMA, FeatureCounts, Learnt
from mfspark.algorithms.snapshots import Snapshots
from mfspark.columns import BIAS, FACTORS, IS_VALIDATION, ITEM, RATING, USER, Side
from mfspark.engine.training import Fit
from mfspark.errors import ConfigError, DataError
from mfspark.ids import column, require_column, typed_ids
from mfspark.kernels.new_rows import penalty_root
from mfspark.kernels.objective import Objective
from mfspark.models.factor_model import FactorModel
from mfspark.models.frames import FitsFrames, with_rows_apart
from mfspark.models.metadata import (
    SCHEMA_VERSION,
    CoordinateSystem,
    DiagnosticFacts,
    FeatureFacts,
    ModelMetadata,
    PenaltyFacts,
    PosteriorFacts,
)
from mfspark.models.params import FactorisationParams
from mfspark.models.turned_factors import turned_factors
from mfspark.settings import FactorisationSettings, PenalisedSettings, PredictorSettings
from mfspark.small_tables import table_of

AnySettings = TypeVar("AnySettings", bound=FactorisationSettings)


class Factorisation(FitsFrames, Estimator[FactorModel], FactorisationParams):
    """An estimator of r̂(u, i) = μ + b_u + b_i + p_u·q_i."""

    # Not Params: where a fit leaves its state does not belong to what a saved estimator is.
    _snapshots: Snapshots | None

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self._snapshots = None
        self.set_params(arguments)

    def setSnapshots(self, folder: str | None, seconds: float = 60.0) -> Self:
        """Have ``fit`` leave its state in ``folder`` (path or URI) from time to time, and go on
        from the state that it finds there of a fit to the same ratings with the same settings that
        was broken off: with the same result (to float32 rounding).

        ``seconds``: saved at the end of the first iteration after so many, and never so often that
        it takes more than 4 % of the time; 0 for every iteration. The folder stays when the fit has
        ended, until the next one or you remove it: the model may still be lost. On a cluster it
        must be one that executors see, too. None: no snapshots.
        """
        self._snapshots = None
        if folder is not None:
            self._snapshots = Snapshots(folder, seconds, identity="")
        return self

    def snapshots(self, part: str, settings: FactorisationSettings) -> Snapshots | None:
        """Those of a part of ``fit`` (fit or refit) with these settings."""
        if self._snapshots is None:
            return None
        told = [type(self).__name__, part, settings.model_dump(mode="json")]
        if settings.initial_model is not None:
            # Another model may have come to the same place.
            told.append(FactorModel.load(settings.initial_model).metadata.model_dump(mode="json"))
        folder = files.join(self._snapshots.folder, part)
        return replace(self._snapshots, folder=folder, identity=json.dumps(told))

    def settings(self) -> FactorisationSettings:
        """The values in force, checked; ``ConfigError`` names the Param that is out of bounds."""
        settings = super().settings()
        assert isinstance(settings, FactorisationSettings)
        return settings


def known_factors(
    ratings: DataFrame, settings: FactorisationSettings, fit_biases: bool = True
) -> dict[Side, DataFrame]:
    """Id, bias and factors that the initial model has of users and items, by side.

    A model that minimised a penalty comes in coordinates in which the penalty is what it was in its
    fit, so that a fit with the same settings goes on where that one ended.
    """
    if settings.initial_model is None:
        return {}
    model = FactorModel.load(settings.initial_model)
    if model.rank != settings.rank:
        raise ConfigError(
            f"initialModel {settings.initial_model} has rank {model.rank}, which factors of rank "
            f"{settings.rank} cannot begin with; set rank to {model.rank} or train without it"
        )
    has_biases = model.metadata.hyper_parameters.get("fitBiases", True)
    if has_biases != fit_biases:
        raise ConfigError(
            f"initialModel {settings.initial_model} was fitted with fitBiases = {has_biases}, this "
            f"fit has {fit_biases}: factors beside biases and factors alone stand for "
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
    if model.metadata.rotation.user_penalty:
        root, inverse = penalty_root(np.array(model.metadata.rotation.user_penalty))
        unit = model.metadata.scale**0.5
        tables = {
            USER: turned_factors(model.user_factors, unit * root),
            ITEM: turned_factors(model.item_factors, inverse / unit),
        }
    return {
        side: table.select(F.col(side).cast(ratings.schema[side].dataType), BIAS, FACTORS)
        for side, table in tables.items()
    }


def for_refit(
    ratings: DataFrame, settings: AnySettings, first: Fit
) -> tuple[DataFrame, AnySettings]:
    """All rows as training rows, and settings under which a fit goes on for as long as the
    ``first`` one did before validation rows had it stop."""
    as_long = {"max_iter": first.learnt.best_iteration, "tol": 0.0}
    return ratings.drop(IS_VALIDATION), settings.model_copy(update=as_long)


def after_refit(first: Fit, again: Fit) -> Fit:
    """The tables of the fit to all rows, with the history of the one that chose its length."""
    learnt = replace(
        again.learnt,
        history=first.learnt.history,
        stopped=first.learnt.stopped,
        n_cold_validation=first.learnt.n_cold_validation,
    )
    summary = replace(again.summary, n_validation=first.summary.n_validation)
    return replace(again, learnt=learnt, summary=summary)


def model_of(
    fit: Fit,
    dataset: DataFrame,
    settings: PredictorSettings,
    rank: int,
    estimator: type,
    feature_columns: dict[Side, list[str]] | None = None,
) -> FactorModel:
    """The model of a fit to ``dataset``, and to features in ``feature_columns``, by side."""
    learnt, summary = fit.learnt, fit.summary
    metadata = ModelMetadata(
        schema_version=SCHEMA_VERSION,
        algorithm=estimator.__name__,
        rank=rank,
        global_mean=fit.mean,
        scale=fit.scale,
        rating_scale=(summary.lowest, summary.highest),
        n_users=learnt.n_users,
        n_items=learnt.n_items,
        n_ratings=summary.n_ratings,
        n_validation=summary.n_validation,
        n_cold_validation=learnt.n_cold_validation,
        user_type=fit.users.schema[USER].dataType.simpleString(),
        item_type=fit.items.schema[ITEM].dataType.simpleString(),
        hyper_parameters=settings.model_dump(by_alias=True),
        rotation=CoordinateSystem(
            name="canonical",
            singular_values=learnt.singular_values,
            user_penalty=learnt.user_penalty,
        ),
        best_iteration=learnt.best_iteration,
        stopped=learnt.stopped,
        execution=learnt.execution,
        exchange={str(side): name for side, name in learnt.exchange.items()},
        penalties=_penalties(fit.objective) if isinstance(settings, PenalisedSettings) else None,
        posterior=_posterior(learnt),
        features={
            str(side): FeatureFacts(
                columns=columns, **learnt.features.get(side, FeatureCounts(0, 0, 0))._asdict()
            )
            for side, columns in (feature_columns or {}).items()
        },
    )
    history = table_of(dataset.sparkSession, learnt.history, HISTORY_SCHEMA)
    return FactorModel(fit.users, fit.items, history, metadata, fit.draws, dict(fit.seconds))


def _penalties(objective: Objective) -> PenaltyFacts:
    return PenaltyFacts(
        users=objective.users.factors,
        items=objective.items.factors,
        user_bias=objective.users.bias,
        item_bias=objective.items.bias,
        link=objective.link_weight,
    )


def _posterior(learnt: Learnt) -> PosteriorFacts | None:
    if learnt.spread is None:
        return None
    diagnostics = [DiagnosticFacts(**found._asdict()) for found in learnt.diagnostics]
    return PosteriorFacts(
        n_draws=learnt.n_draws, **learnt.spread._asdict(), diagnostics=diagnostics
    )


def select_ratings(
    dataset: DataFrame, settings: PredictorSettings, validation_indicator: str | None = None
) -> DataFrame:
    """The columns to fit, under the names of :mod:`mfspark.columns`, with typed ids."""
    marks = []
    if isinstance(settings, FactorisationSettings) and settings.refit and not validation_indicator:
        raise ConfigError(
            "refit = True needs validation rows, which decide how long to fit; set "
            "validationIndicatorCol (in jobs: split.validation), or leave refit out"
        )
    if validation_indicator:
        require_column(dataset, validation_indicator, "validationIndicatorCol")
        # A row whose indicator is null is a training row.
        indicator = column(validation_indicator).cast("boolean")
        marks = [F.coalesce(indicator, F.lit(False)).alias(IS_VALIDATION)]
    require_column(dataset, settings.rating_col, "ratingCol")
    found = dataset.schema[settings.rating_col].dataType
    if not isinstance(found, NumericType):
        raise DataError(
            f"column {settings.rating_col!r} has type {found.simpleString()}, but ratingCol needs "
            "a numeric column"
        )
    ids = typed_ids(dataset, {USER: settings.user_col, ITEM: settings.item_col})
    selected = dataset.select(*ids, column(settings.rating_col).alias(RATING), *marks)
    return with_rows_apart(selected) if dataset.isLocal() else selected
