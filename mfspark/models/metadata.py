"""``metadata.json`` of a model directory: what the factor tables mean, and its schema version."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from mfspark import __version__
from mfspark.columns import USER, Side

# Raised whenever a reader of the previous version would misread a table.
SCHEMA_VERSION = 1
# A variance over draws needs at least two.
LEAST_DRAWS = 2


class CoordinateSystem(BaseModel):
    """The coordinate system of the factors; see :mod:`mfspark.kernels.rotation`.

    ``user_penalty``: M, [rank][rank], of models that minimise a penalty: λ n^ν scale² p·M·p is that
    of a user's factors in this system and in the unit of the ratings. Empty in others.
    """

    name: str
    singular_values: list[float]
    user_penalty: list[list[float]] = []


class DiagnosticFacts(BaseModel):
    """Of a quantity over all draws; see :class:`mfspark.algorithms.diagnostics.Diagnostic`."""

    quantity: str
    mean: float
    std: float
    rhat: float | None
    ess: float | None


class PosteriorFacts(BaseModel):
    """What ``BayesianMF`` knows beside the mean; see :mod:`mfspark.algorithms.posterior`.

    ``n_draws`` are stored in ``draws/``. ``noise``, ``cold_user`` and ``cold_item`` are variances
    in the unit of the ratings; ``diagnostics`` are of all draws.
    """

    n_draws: int
    noise: float
    cold_user: float
    cold_item: float
    diagnostics: list[DiagnosticFacts] = []


class FeatureFacts(BaseModel):
    """Of a side whose features the fit was given: their columns, how many features these are, ids
    with ratings that have features, and rows of ids that have features alone."""

    columns: list[str]
    n_features: int
    n_rated: int
    n_unrated: int


class PenaltyFacts(BaseModel):
    """Weights of the penalties that were in force, given or chosen: λ and λ_b, and κ of implicit
    features."""

    users: float
    items: float
    user_bias: float
    item_bias: float
    link: float | None = None


class ModelMetadata(BaseModel):
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

    model_config = ConfigDict(extra="forbid")

    schema_version: int
    mfspark_version: str = __version__
    algorithm: str
    rank: int
    global_mean: float
    scale: float = 1.0
    rating_scale: tuple[float, float]
    n_users: int
    n_items: int
    n_ratings: int
    n_validation: int
    n_cold_validation: int
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

    def n_rows(self, side: Side) -> int:
        """Rows of a factor table."""
        rated = self.n_users if side == USER else self.n_items
        return rated + self.n_unrated(side)

    def n_unrated(self, side: Side) -> int:
        """Rows of ids that have features alone."""
        return self.features[side].n_unrated if side in self.features else 0
