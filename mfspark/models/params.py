"""``Param``s of the estimators and the model, made from :mod:`mfspark.settings`."""

from typing import Any, TypedDict

from pydantic import ValidationError
from pydantic.alias_generators import to_camel
from pyspark.ml.param import Param, Params

from mfspark.errors import ConfigError
from mfspark.settings import ALSSettings, ColdStartStrategy, Exchange, Execution


class BiasedALSArguments(TypedDict, total=False):
    """Keyword arguments of ``BiasedALS``; meaning and defaults are those of ``ALSSettings``."""

    rank: int
    maxIter: int
    regParam: float
    userRegParam: float | None
    itemRegParam: float | None
    biasRegParam: float
    regExponent: float
    fitBiases: bool
    numUserBlocks: int | None
    numItemBlocks: int | None
    execution: Execution
    exchange: Exchange
    tol: float
    validationIndicatorCol: str | None
    seed: int
    userCol: str
    itemCol: str
    ratingCol: str
    predictionCol: str
    coldStartStrategy: ColdStartStrategy
    clipPredictions: bool


def _param(setting: str) -> Param[Any]:
    description = ALSSettings.model_fields[setting].description or ""
    return Param(Params._dummy(), to_camel(setting), description)


def _defaults(*settings: str) -> dict[str, Any]:
    return {to_camel(name): ALSSettings.model_fields[name].default for name in settings}


class FactorModelParams(Params):
    """What a fitted model needs to know to predict."""

    userCol: Param[str] = _param("user_col")
    itemCol: Param[str] = _param("item_col")
    predictionCol: Param[str] = _param("prediction_col")
    coldStartStrategy: Param[ColdStartStrategy] = _param("cold_start_strategy")
    clipPredictions: Param[bool] = _param("clip_predictions")

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(
            **_defaults(
                "user_col", "item_col", "prediction_col", "cold_start_strategy", "clip_predictions"
            )
        )


class BiasedALSParams(FactorModelParams):
    """Everything that can be set on ``BiasedALS``."""

    rank: Param[int] = _param("rank")
    maxIter: Param[int] = _param("max_iter")
    regParam: Param[float] = _param("reg_param")
    userRegParam: Param[float] = _param("user_reg_param")
    itemRegParam: Param[float] = _param("item_reg_param")
    biasRegParam: Param[float] = _param("bias_reg_param")
    regExponent: Param[float] = _param("reg_exponent")
    fitBiases: Param[bool] = _param("fit_biases")
    numUserBlocks: Param[int] = _param("num_user_blocks")
    numItemBlocks: Param[int] = _param("num_item_blocks")
    execution: Param[str] = _param("execution")
    exchange: Param[str] = _param("exchange")
    tol: Param[float] = _param("tol")
    validationIndicatorCol: Param[str] = _param("validation_indicator_col")
    seed: Param[int] = _param("seed")
    ratingCol: Param[str] = _param("rating_col")

    def __init__(self) -> None:
        super().__init__()
        self._setDefault(**_defaults(*ALSSettings.model_fields))

    def settings(self) -> ALSSettings:
        """The values in force, checked; ``ConfigError`` names the Param that is out of bounds."""
        values = {param.name: value for param, value in self.extractParamMap().items()}
        return check_settings(values)


def check_settings(values: dict[str, Any]) -> ALSSettings:
    """Settings from values under their Param names; ``ConfigError`` for what is not allowed."""
    try:
        return ALSSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"{name} = {first['input']!r} is not allowed ({first['msg'].lower()}); "
            f"{name} is the {_meaning(name)}"
        ) from None


def _meaning(name: str) -> str:
    by_param = {to_camel(key): field for key, field in ALSSettings.model_fields.items()}
    return by_param[name].description or ""
