"""Estimators as the configuration describes them."""

from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pyspark.ml import Estimator
from pyspark.ml.recommendation import ALS
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.app.config import (
    BlendSettings,
    Config,
    MllibSettings,
    ModelKind,
    PeerSettings,
    explain,
)
from mfspark.app.package_estimator import PackageEstimator
from mfspark.app.packages import require_package
from mfspark.columns import ITEM, RATING, USER, Side
from mfspark.errors import ConfigError
from mfspark.evaluation.top_lists import BY_POPULARITY
from mfspark.models.baselines import BiasOnly, GlobalMean
from mfspark.models.bayesian_mf import BayesianMF
from mfspark.models.biased_als import BiasedALS
from mfspark.models.biased_sgd import BiasedSGD
from mfspark.models.knn import ItemKNN, UserKNN
from mfspark.settings import FactorisationSettings

_ESTIMATORS: dict[str, Any] = {
    "als": BiasedALS,
    "sgd": BiasedSGD,
    "bayes": BayesianMF,
    "global_mean": GlobalMean,
    "bias_only": BiasOnly,
    "item_knn": ItemKNN,
    "user_knn": UserKNN,
}
_NAMES = {
    "als": "ALS",
    "sgd": "SGD",
    "bayes": "Bayesian MF",
    "global_mean": "global mean",
    "bias_only": "bias only",
    "item_knn": "item kNN",
    "user_knn": "user kNN",
    "mllib": "pyspark.ml ALS",
    "libmf": "LIBMF",
    "cmfrec": "cmfrec",
    "myfm": "myFM",
    "surprise": "Surprise",
    "blend": "blend",
}


@dataclass(frozen=True)
class Contender:
    """A model to compare: its name in tables, its kind, its settings."""

    name: str
    kind: str
    settings: BaseModel


def contenders(config: Config) -> list[Contender]:
    """What ``compare.models`` lists; ``ConfigError`` for a bad setting or two of one name."""
    found = []
    for n, entry in enumerate(config.compare.models):
        given = {"kind": entry} if isinstance(entry, str) else dict(entry)
        kind = given.pop("kind", None)
        if kind not in _NAMES:
            raise ConfigError(
                f"compare.models[{n}] has the kind {kind!r}; known are "
                f"{', '.join(get_args(ModelKind))}"
            )
        name = given.pop("name", _NAMES[kind])
        section = getattr(config, kind)
        try:
            settings = type(section).model_validate(section.model_dump() | given)
        except ValidationError as error:
            place = f"compare.models[{n}]"
            raise ConfigError(explain(error, type(section), place)) from None
        require_package(kind, f"compare.models[{n}]")
        if isinstance(settings, PeerSettings) and settings.rank is None:
            settings = settings.model_copy(update={"rank": config.als.rank})
        found.append(Contender(str(name), kind, settings))
    names = [each.name for each in found]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"compare.models has {name!r} more than once; give one of them another name"
            )
    if BY_POPULARITY in names:
        raise ConfigError(
            f"compare.models has a model with the name {BY_POPULARITY!r}, which tables of lists "
            "have for lists by popularity; give it another name"
        )
    return found


def members(blend: Contender, others: list[Contender]) -> list[str]:
    """Names of the models that a blend is made of."""
    settings = blend.settings
    assert isinstance(settings, BlendSettings)
    wanted = set(settings.members)
    found = [each.name for each in others if {each.name, each.kind} & wanted]
    if not found:
        raise ConfigError(
            f"none of the members of {blend.name!r} ({', '.join(settings.members)}) is among "
            "compare.models; list one there, or leave the blend out"
        )
    return found


def mark_validation(train: DataFrame, validation: DataFrame, column: str) -> DataFrame:
    """Rows of both, with a boolean ``column`` that is true for those of ``validation``."""
    return train.withColumn(column, F.lit(False)).unionByName(
        validation.withColumn(column, F.lit(True))
    )


def make_estimator(
    kind: str,
    settings: BaseModel,
    validation: str | None = None,
    features: dict[Side, DataFrame] | None = None,
) -> Estimator[Any]:
    """The estimator of a kind, for columns under the names of :mod:`mfspark.columns`.

    ``validation``: the column of validation rows, for the kinds that learn from them when to stop.
    ``features`` of users and items, for the kinds that learn from them.
    """
    if isinstance(settings, MllibSettings):
        # contenders() has set the rank.
        assert settings.rank is not None
        return ALS(
            rank=settings.rank,
            maxIter=settings.max_iter,
            regParam=settings.reg_param,
            seed=settings.seed,
            coldStartStrategy="nan",
            userCol=USER,
            itemCol=ITEM,
            ratingCol=RATING,
        )
    if isinstance(settings, PeerSettings):
        return PackageEstimator(settings)
    fixed = {"user_col": USER, "item_col": ITEM, "rating_col": RATING}
    for name, value in {**fixed, "validation_indicator_col": None}.items():
        if getattr(settings, name, value) != value:
            raise ConfigError(
                f"{kind}.{name} = {getattr(settings, name)!r} has no effect in jobs, which have "
                "columns of their own; set data.columns, and split.validation for early stopping"
            )
    arguments = settings.model_dump(by_alias=True)
    if isinstance(settings, FactorisationSettings):
        arguments["validationIndicatorCol"] = validation
    estimator: Estimator[Any] = _ESTIMATORS[kind](**arguments)
    if isinstance(estimator, BayesianMF) and features:
        estimator.setFeatures(users=features.get(USER), items=features.get(ITEM))
    return estimator
