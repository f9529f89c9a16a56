"""``metadata.json`` of a model directory: what the factor tables mean, and its schema version."""

from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    model_validator,
)

from mfspark import __version__
from mfspark.columns import USER, Side

# Raised whenever a reader of the previous version would misread a table.
SCHEMA_VERSION = 1
# A variance over draws needs at least two.
LEAST_DRAWS = 2


class StoredFacts(BaseModel):
    """A part of ``metadata.json``, whose numbers are finite."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class CoordinateSystem(StoredFacts):
    """The coordinate system of the factors; see :mod:`mfspark.kernels.rotation`.

    ``user_penalty``: M, [rank][rank], of models that minimise a penalty: λ n^ν scale² p·M·p is that
    of a user's factors in this system and in the unit of the ratings. Empty in others.
    """

    name: str
    singular_values: list[float]
    user_penalty: list[list[float]] = []


class DiagnosticFacts(StoredFacts):
    """Of a quantity over all draws; see :class:`mfspark.algorithms.diagnostics.Diagnostic`."""

    quantity: str
    mean: float
    std: float
    rhat: float | None
    ess: float | None


class PosteriorFacts(StoredFacts):
    """What ``BayesianMF`` knows beside the mean; see :mod:`mfspark.algorithms.posterior`.

    ``n_draws`` are stored in ``draws/``. ``noise``, ``cold_user`` and ``cold_item`` are variances
    in the unit of the ratings; ``diagnostics`` are of all draws.
    """

    n_draws: NonNegativeInt
    noise: NonNegativeFloat
    cold_user: NonNegativeFloat
    cold_item: NonNegativeFloat
    diagnostics: list[DiagnosticFacts] = []


class FeatureFacts(StoredFacts):
    """Of a side whose features the fit was given: their columns, how many features these are, ids
    with ratings that have features, and rows of ids that have features alone."""

    columns: list[str]
    n_features: NonNegativeInt
    n_rated: NonNegativeInt
    n_unrated: NonNegativeInt


class PenaltyFacts(StoredFacts):
    """Weights of the penalties that were in force, given or chosen: λ and λ_b, and κ of implicit
    features."""

    users: NonNegativeFloat
    items: NonNegativeFloat
    user_bias: NonNegativeFloat
    item_bias: NonNegativeFloat
    link: NonNegativeFloat | None = None


class ModelMetadata(StoredFacts):
    """Everything about a model that is not a table.

    ``scale`` is the unit in which the ratings were fitted, their deviation; regularisation refers
    to it. ``rating_scale`` is the range of the training ratings. ``hyper_parameters`` has the names
    of the estimator's Params. ``stopped`` says why the fit ended (max_iter, validation, converged),
    ``best_iteration`` which iteration the tables hold. ``n_cold_validation`` counts validation rows
    that were not measured because user or item has no training rating. ``execution`` is one_task or
    distributed, ``exchange`` how each side received the other's factors when distributed.
    ``penalties``: of models that minimise them; ``posterior``: of models that draw from one.
    ``n_users`` and ``n_items`` have ratings; ``features``, by side, says which rows the tables have
    beside them.
    """

    schema_version: int
    mfspark_version: str = __version__
    algorithm: str
    rank: NonNegativeInt
    global_mean: float
    scale: PositiveFloat = 1.0
    rating_scale: tuple[float, float]
    n_users: NonNegativeInt
    n_items: NonNegativeInt
    n_ratings: NonNegativeInt
    n_validation: NonNegativeInt
    n_cold_validation: NonNegativeInt
    user_type: str
    item_type: str
    hyper_parameters: dict[str, Any]
    rotation: CoordinateSystem
    best_iteration: int
    stopped: str
    execution: str
    exchange: dict[str, str]
    penalties: PenaltyFacts | None = None
    posterior: PosteriorFacts | None = None
    features: dict[str, FeatureFacts] = {}

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> "ModelMetadata":
        """What is used together fits together: numbers of factors, penalties and their kind."""
        rotation, given = self.rotation, self.hyper_parameters
        if len(rotation.singular_values) not in (0, self.rank):
            raise ValueError("there is not a singular value for each factor")
        sizes = [len(rotation.user_penalty), *map(len, rotation.user_penalty)]
        if rotation.user_penalty and sizes != [self.rank] * (self.rank + 1):
            raise ValueError("the penalty of users is no matrix of rank rows and columns")
        # What a model with penalties is used by.
        if self.penalties is not None and not (
            isinstance(given.get("fitBiases"), bool)
            and isinstance(given.get("regExponent"), int | float)
        ):
            raise ValueError("fitBiases or regExponent is missing or of another kind")
        if not isinstance(given.get("ratingCol", ""), str):
            raise ValueError("ratingCol is no name")
        return self

    def n_rows(self, side: Side) -> int:
        """Rows of a factor table."""
        rated = self.n_users if side == USER else self.n_items
        return rated + self.n_unrated(side)

    def n_unrated(self, side: Side) -> int:
        """Rows of ids that have features alone."""
        return self.features[side].n_unrated if side in self.features else 0
