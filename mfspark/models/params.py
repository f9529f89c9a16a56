"""``Param``s of the estimators and the model, made from :mod:`mfspark.settings`."""

from typing import Any, ClassVar, Literal, TypedDict

from pydantic import ValidationError
from pydantic.alias_generators import to_camel
from pyspark.ml.param import Param, Params

from mfspark.errors import ConfigError
from mfspark.settings import (
    ALSSettings,
    BayesianSettings,
    BiasMethod,
    BiasOnlySettings,
    Centring,
    ColdStartStrategy,
    ExchangeName,
    Execution,
    FactorColdStart,
    FactorisationSettings,
    KNNSettings,
    PenalisedSettings,
    PredictorSettings,
    Schedule,
    SGDSettings,
    Similarity,
    Solver,
)


class PredictorArguments(TypedDict, total=False):
    """Keyword arguments of all estimators; meaning and defaults are those of the settings."""

    userCol: str
    itemCol: str
    ratingCol: str
    predictionCol: str
    coldStartStrategy: ColdStartStrategy
    clipPredictions: bool


class BiasOnlyArguments(PredictorArguments, total=False):
    """Keyword arguments of ``BiasOnly``; see ``BiasOnlySettings``."""

    method: BiasMethod
    damping: float


class KNNArguments(PredictorArguments, total=False):
    """Keyword arguments of ``ItemKNN`` and ``UserKNN``; see ``KNNSettings``."""

    k: int
    nStored: int
    similarity: Similarity
    shrinkage: float
    neighbourDamping: float
    minSupport: int
    centring: Centring
    damping: float


class FactorisationArguments(PredictorArguments, total=False):
    """Keyword arguments of the estimators of factors; see ``FactorisationSettings``."""

    rank: int
    maxIter: int
    execution: Execution
    tol: float
    validationIndicatorCol: str | None
    refit: bool
    seed: int
    initialModel: str | None


class PenalisedArguments(FactorisationArguments, total=False):
    """Keyword arguments of the estimators that minimise an objective; see ``PenalisedSettings``."""

    regParam: float | Literal["auto"]
    userRegParam: float | None
    itemRegParam: float | None
    biasRegParam: float | Literal["auto"]
    regExponent: float
    fitBiases: bool
    implicitFeatures: bool


class BayesianMFArguments(FactorisationArguments, total=False):
    """Keyword arguments of ``BayesianMF``; see ``BayesianSettings``."""

    coldStartStrategy: FactorColdStart  # type: ignore[misc]
    burnIn: int
    keepDraws: int
    numChains: int
    implicitFeatures: bool
    predictionStdCol: str | None


class BiasedALSArguments(PenalisedArguments, total=False):
    """Keyword arguments of ``BiasedALS``; see ``ALSSettings``."""

    solver: Solver
    numUserBlocks: int | None
    numItemBlocks: int | None
    exchange: ExchangeName
    halfWidth: bool


class BiasedSGDArguments(PenalisedArguments, total=False):
    """Keyword arguments of ``BiasedSGD``; see ``SGDSettings``."""

    learningRate: float
    schedule: Schedule
    rateDecay: float
    numBlocks: int | None


def _param(setting: str, settings: type[PredictorSettings] = FactorisationSettings) -> Param[Any]:
    description = settings.model_fields[setting].description or ""
    return Param(Params._dummy(), to_camel(setting), description)


class FactorModelParams(Params):
    """What a fitted model needs to know to predict.

    Of every Param ``name`` of a subclass there are ``getName`` and ``setName``.
    """

    # Where names, defaults and bounds come from.
    settings_type: ClassVar[type[PredictorSettings]] = PredictorSettings

    userCol: Param[str] = _param("user_col")
    itemCol: Param[str] = _param("item_col")
    predictionCol: Param[str] = _param("prediction_col")
    coldStartStrategy: Param[FactorColdStart] = _param("cold_start_strategy")
    clipPredictions: Param[bool] = _param("clip_predictions")

    def __init__(self) -> None:
        super().__init__()
        defaults = {
            to_camel(name): field.default for name, field in self.settings_type.model_fields.items()
        }
        own = {param.name for param in self.params}
        self._setDefault(**{name: value for name, value in defaults.items() if name in own})

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        for name, value in list(vars(cls).items()):
            if isinstance(value, Param):
                _add_accessors(cls, name)

    def settings(self) -> PredictorSettings:
        """The values in force, checked; ``ConfigError`` names the Param that is out of bounds."""
        values = {param.name: value for param, value in self.extractParamMap().items()}
        try:
            return self.settings_type.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            problem = first["msg"].lower().removeprefix("value error, ")
            raise ConfigError(
                f"{name} = {first['input']!r} is not allowed: {problem}; "
                f"{name} is the {self.getParam(name).doc}"
            ) from None

    def set_params(self, arguments: Any) -> None:
        """Set Params by name, all or none of them; ``ConfigError`` for a bad value, ``TypeError``
        for a bad name."""
        before = dict(self._paramMap)
        try:
            for name, value in arguments.items():
                if not self.hasParam(name):
                    raise TypeError(f"{type(self).__name__} has no parameter {name!r}")
                self._set(**{name: value})
                if value is None:
                    self.set(self.getParam(name), None)
            self.settings()
        except Exception:
            self._paramMap.clear()
            self._paramMap.update(before)
            raise


def _add_accessors(cls: type[FactorModelParams], name: str) -> None:
    """Give a class ``getName`` and ``setName`` of a Param, unless it has its own."""

    def get(self: FactorModelParams) -> Any:
        return self.getOrDefault(name)

    def set_(self: FactorModelParams, value: Any) -> FactorModelParams:
        self.set_params({name: value})
        return self

    suffix = name[0].upper() + name[1:]
    for prefix, method, doc in (
        ("get", get, f"The value of {name}."),
        ("set", set_, f"Set {name}; ``ConfigError`` for a bad value."),
    ):
        method.__name__, method.__doc__ = prefix + suffix, doc
        if prefix + suffix not in vars(cls):
            setattr(cls, prefix + suffix, method)


# Of this class itself __init_subclass__ does not hear.
for _name, _value in list(vars(FactorModelParams).items()):
    if isinstance(_value, Param):
        _add_accessors(FactorModelParams, _name)


class PredictorParams(FactorModelParams):
    """Everything that can be set on all estimators."""

    ratingCol: Param[str] = _param("rating_col")


class BiasOnlyParams(PredictorParams):
    """Everything that can be set on ``BiasOnly``."""

    settings_type = BiasOnlySettings

    method: Param[str] = _param("method", BiasOnlySettings)
    damping: Param[float] = _param("damping", BiasOnlySettings)


class KNNParams(PredictorParams):
    """Everything that can be set on ``ItemKNN`` and ``UserKNN``."""

    settings_type = KNNSettings

    k: Param[int] = _param("k", KNNSettings)
    nStored: Param[int] = _param("n_stored", KNNSettings)
    similarity: Param[str] = _param("similarity", KNNSettings)
    shrinkage: Param[float] = _param("shrinkage", KNNSettings)
    neighbourDamping: Param[float] = _param("neighbour_damping", KNNSettings)
    minSupport: Param[int] = _param("min_support", KNNSettings)
    centring: Param[str] = _param("centring", KNNSettings)
    damping: Param[float] = _param("damping", KNNSettings)


class FactorisationParams(PredictorParams):
    """Everything that can be set on all estimators of factors."""

    settings_type = FactorisationSettings

    rank: Param[int] = _param("rank")
    maxIter: Param[int] = _param("max_iter")
    execution: Param[str] = _param("execution")
    tol: Param[float] = _param("tol")
    refit: Param[bool] = _param("refit")
    validationIndicatorCol: Param[str] = _param("validation_indicator_col")
    seed: Param[int] = _param("seed")
    initialModel: Param[str] = _param("initial_model")


class PenalisedParams(FactorisationParams):
    """Everything that can be set on all estimators that minimise an objective."""

    settings_type = PenalisedSettings

    regParam: Param[float] = _param("reg_param", PenalisedSettings)
    userRegParam: Param[float] = _param("user_reg_param", PenalisedSettings)
    itemRegParam: Param[float] = _param("item_reg_param", PenalisedSettings)
    biasRegParam: Param[float] = _param("bias_reg_param", PenalisedSettings)
    regExponent: Param[float] = _param("reg_exponent", PenalisedSettings)
    fitBiases: Param[bool] = _param("fit_biases", PenalisedSettings)
    implicitFeatures: Param[bool] = _param("implicit_features", PenalisedSettings)


class BayesianMFParams(FactorisationParams):
    """Everything that can be set on ``BayesianMF``."""

    settings_type = BayesianSettings

    maxIter: Param[int] = _param("max_iter", BayesianSettings)
    seed: Param[int] = _param("seed", BayesianSettings)
    tol: Param[float] = _param("tol", BayesianSettings)
    burnIn: Param[int] = _param("burn_in", BayesianSettings)
    keepDraws: Param[int] = _param("keep_draws", BayesianSettings)
    numChains: Param[int] = _param("num_chains", BayesianSettings)
    implicitFeatures: Param[bool] = _param("implicit_features", BayesianSettings)
    coldStartStrategy: Param[FactorColdStart] = _param("cold_start_strategy", BayesianSettings)
    predictionStdCol: Param[str] = _param("prediction_std_col", BayesianSettings)


class BiasedALSParams(PenalisedParams):
    """Everything that can be set on ``BiasedALS``."""

    settings_type = ALSSettings

    solver: Param[str] = _param("solver", ALSSettings)
    numUserBlocks: Param[int] = _param("num_user_blocks", ALSSettings)
    numItemBlocks: Param[int] = _param("num_item_blocks", ALSSettings)
    exchange: Param[str] = _param("exchange", ALSSettings)
    halfWidth: Param[bool] = _param("half_width", ALSSettings)


class BiasedSGDParams(PenalisedParams):
    """Everything that can be set on ``BiasedSGD``."""

    settings_type = SGDSettings

    maxIter: Param[int] = _param("max_iter", SGDSettings)
    seed: Param[int] = _param("seed", SGDSettings)
    tol: Param[float] = _param("tol", SGDSettings)
    learningRate: Param[float] = _param("learning_rate", SGDSettings)
    schedule: Param[str] = _param("schedule", SGDSettings)
    rateDecay: Param[float] = _param("rate_decay", SGDSettings)
    numBlocks: Param[int] = _param("num_blocks", SGDSettings)
