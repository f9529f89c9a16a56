"""Hyper-parameters of the estimators: names, defaults, bounds and meaning, in this one place.

The estimators' ``Param``s (camelCase) and the configuration's sections ``[als]`` and ``[sgd]``
(snake_case) are made from the classes below.
"""

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.alias_generators import to_camel

Execution = Literal["auto", "one_task", "distributed"]
Schedule = Literal["constant", "inverse_time", "bold_driver", "adagrad"]
ExchangeName = Literal["auto", "broadcast", "routed", "moments"]
Solver = Literal["auto", "exact", "cg"]
Similarity = Literal["cosine", "pearson", "pearson_baseline"]
Centring = Literal["bias", "mean"]
# Standard deviations that recommendations take off a prediction.
CAUTION = 1.0
# Share of draws that find a neighbour again, from which on it is reliable.
MIN_AGREEMENT = 0.5
BiasMethod = Literal["joint", "damped"]
ColdStartStrategy = Literal["baseline", "nan", "drop"]
FactorColdStart = Literal["features", "baseline", "nan", "drop"]


class PredictorSettings(BaseModel):
    """What all estimators of ratings share: columns, and what to do about cold start."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        populate_by_name=True,
        # λ = inf or nan would train to NaN.
        allow_inf_nan=False,
    )

    user_col: str = Field("user", description="column of user ids (string or integer)")
    item_col: str = Field("item", description="column of item ids (string or integer)")
    rating_col: str = Field("rating", description="column of ratings (numeric)")
    prediction_col: str = Field("prediction", description="column that transform adds (double)")
    cold_start_strategy: ColdStartStrategy = Field(
        "baseline",
        description="prediction for ids absent from training: baseline (μ plus whichever bias is "
        "known), nan, or drop the row",
    )
    clip_predictions: bool = Field(
        True, description="clip predictions to the range of the training ratings"
    )


class FactorisationSettings(PredictorSettings):
    """What all fits of r̂ = μ + b_u + b_i + p_u·q_i share."""

    rank: int = Field(
        32, ge=0, description="number of factors per user and item; 0 leaves the biases alone"
    )
    max_iter: int = Field(15, ge=1, description="most iterations (a half-step on each side)")
    execution: Execution = Field(
        "auto",
        description="where the fit runs: in one_task with a thread per core, distributed over all "
        "tasks, or auto by size",
    )
    tol: float = Field(
        1e-4,
        ge=0,
        description="stop when an iteration lowers the validation RMSE (without validation rows: "
        "the objective) by less than this share",
    )
    validation_indicator_col: str | None = Field(
        None, description="boolean column; true rows are not fitted but decide when to stop"
    )
    refit: bool = Field(
        False,
        description="after validation rows have decided where to stop, fit again on all rows, for "
        "as many iterations",
    )
    seed: int = Field(0, description="seed of the initial factors")
    initial_model: str | None = Field(
        None,
        description="folder of a saved model of the same rank to start from; ids that it does not "
        "know start from random factors",
    )


class PenalisedSettings(FactorisationSettings):
    """What a fit minimises."""

    reg_param: float | Literal["auto"] = Field(
        "auto",
        description="λ, weight of the penalty on user and item factors, for ratings in units of "
        "their standard deviation; auto: chosen by short fits of a sample",
    )
    user_reg_param: float | None = Field(None, ge=0, description="λ of the user factors alone")
    item_reg_param: float | None = Field(None, ge=0, description="λ of the item factors alone")
    bias_reg_param: float | Literal["auto"] = Field(
        "auto",
        description="λ_b, weight of the penalty on biases; auto: chosen for users and for items",
    )
    reg_exponent: float = Field(
        0.5,
        ge=0,
        le=1,
        description="ν: a row with n ratings is penalised by λ·n^ν (0: plain L2, 1: ALS-WR)",
    )
    fit_biases: bool = Field(
        True, description="learn μ, b_u and b_i; false leaves r̂ = p_u·q_i without centring"
    )

    implicit_features: bool = Field(
        False,
        description="learn from which items a user has rated at all, too, and by whom; the fit is "
        "then made in one task",
    )

    @field_validator("reg_param", "bias_reg_param", mode="plain")
    @classmethod
    def _weight_or_auto(cls, given: object) -> object:
        """Plain, since an error of a union would have one message for each of its members."""
        if given == "auto":
            return given
        if isinstance(given, bool) or not isinstance(given, (int, float)):
            raise ValueError("must be a number or 'auto'")
        if not 0 <= given < math.inf:
            raise ValueError("must be finite and at least 0")
        return float(given)


class ALSSettings(PenalisedSettings):
    """What ``BiasedALS`` minimises, how long, and how it is spread over the cluster."""

    solver: Solver = Field(
        "auto",
        description="how the equations of a row are solved: exact (Cholesky), cg (conjugate "
        "gradients to a thousandth, whose time grows with the rank where that of exact grows with "
        "its square and cube), or auto by rank",
    )
    num_user_blocks: int | None = Field(
        None,
        ge=1,
        description="blocks of users in a distributed fit; not set: chosen from cores and ratings",
    )
    num_item_blocks: int | None = Field(
        None,
        ge=1,
        description="blocks of items in a distributed fit; not set: chosen from cores and ratings",
    )
    exchange: ExchangeName = Field(
        "auto",
        description="how fixed factors reach the tasks of a distributed fit: broadcast, routed, as "
        "moments (sums that blocks of users form for the items; items reach the users broadcast or "
        "routed by size), or auto by size",
    )
    half_width: bool = Field(
        False,
        description="send factors that are routed as float16: half the bytes, and errors that "
        "differ by less than 1e-4",
    )


class SGDSettings(PenalisedSettings):
    """What ``BiasedSGD`` minimises, how long, and how fast it goes down."""

    max_iter: int = Field(30, ge=1, description="most epochs (one visit to every rating)")
    tol: float = Field(
        1e-4,
        ge=0,
        description="stop after three epochs in a row none of which lowered the validation RMSE "
        "(without validation rows: the objective) by this share",
    )
    seed: int = Field(0, description="seed of the initial factors and of all orders of visits")
    learning_rate: float = Field(0.1, gt=0, description="γ, the step size of the first epoch")
    schedule: Schedule = Field(
        "adagrad",
        description="how γ goes on: constant, inverse_time (γ over 1 + rate_decay for each epoch), "
        "bold_driver (up 5 % after an epoch that lowered the objective, else undone and halved), "
        "or adagrad (for each row by its past gradients)",
    )
    rate_decay: float = Field(0.1, ge=0, description="decay of the schedule inverse_time")
    num_blocks: int | None = Field(
        None,
        ge=1,
        description="blocks of users and of items; not set: 16 in one task, else one per core",
    )


class FactorModelSettings(PredictorSettings):
    """What a fitted factor model needs to know to predict."""

    cold_start_strategy: FactorColdStart = Field(  # type: ignore[assignment]
        "features",
        description="prediction for ids absent from training: features (from those that the fit "
        "was given; without any as baseline), baseline (μ plus whichever bias is known), nan, or "
        "drop the row",
    )
    prediction_std_col: str | None = Field(
        None,
        description="column that transform adds: standard deviation of the rating around its "
        "prediction (double); of models that BayesianMF made. Not set: no such column",
    )


class BayesianSettings(FactorModelSettings, FactorisationSettings):
    """How long ``BayesianMF`` samples, and what it stores."""

    max_iter: int = Field(
        200,
        ge=2,
        description="most sweeps (draws of all users and all items), with burn-in",
    )
    burn_in: int = Field(10, ge=0, description="sweeps at the beginning that are not averaged")
    keep_draws: int = Field(
        8, ge=0, description="draws that are stored for standard deviations, at most; 0: none"
    )
    num_chains: int = Field(
        1, ge=1, description="chains from different starts, whose draws are averaged together"
    )
    implicit_features: bool = Field(
        True, description="learn from which items a user has rated at all, too, and by whom"
    )
    tol: float = Field(
        3e-5,
        ge=0,
        description="stop when in twenty sweeps the validation RMSE of the mean over all draws "
        "(without validation rows: its training RMSE) moved by less than this share; 0: never",
    )
    seed: int = Field(0, description="seed of the initial factors and of all draws")

    @field_validator("burn_in")
    @classmethod
    def _ends(cls, burn_in: int, info: ValidationInfo) -> int:
        most = info.data.get("max_iter", burn_in + 1)
        if burn_in >= most:
            raise ValueError(f"of {most} sweeps no draw would be averaged")
        return burn_in


class BiasOnlySettings(PredictorSettings):
    """What ``BiasOnly`` fits: r̂ = μ + b_u + b_i."""

    method: BiasMethod = Field(
        "joint",
        description="how biases are found: joint (the minimum of the damped squared error over "
        "all biases together) or damped (means one after the other, items first)",
    )
    damping: float = Field(
        5.0, ge=0, description="ratings without deviation that each bias is given a priori"
    )


class KNNSettings(PredictorSettings):
    """How ``ItemKNN`` and ``UserKNN`` compare and predict."""

    k: int = Field(40, ge=1, description="neighbours that a prediction is made of, at most")
    n_stored: int = Field(
        400, ge=1, description="nearest neighbours that are kept for each id, rated or not"
    )
    similarity: Similarity = Field(
        "pearson_baseline",
        description="of ratings (cosine), of ratings around their means over common raters "
        "(pearson), or of what biases leave of them (pearson_baseline)",
    )
    shrinkage: float = Field(
        100.0, ge=0, description="a similarity from n common raters counts n / (n + shrinkage)"
    )
    neighbour_damping: float = Field(
        0.3,
        ge=0,
        description="δ, added to the similarities that a correction is divided by, so that a few "
        "distant neighbours correct little",
    )
    min_support: int = Field(1, ge=1, description="common raters that neighbours need")
    centring: Centring = Field(
        "bias", description="what neighbours deviate from: μ + b_u + b_i (bias) or a mean (mean)"
    )
    damping: float = Field(
        5.0, ge=0, description="ratings without deviation that each bias is given a priori"
    )
