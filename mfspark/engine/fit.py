"""What every fit begins with and ends in."""

from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mfspark.columns import HELD_OUT, ITEM, RATING, USER
from mfspark.engine.stopping import StopReason
from mfspark.errors import DataError
from mfspark.kernels.problem import Penalty, Problem
from mfspark.settings import Exchange, FactorisationSettings


@dataclass(frozen=True)
class Summary:
    """What is known of the training ratings before anything is built."""

    n_ratings: int
    n_validation: int
    mean: float
    variance: float
    lowest: float
    highest: float

    def squared_deviation(self, center: float) -> float:
        """Σ (r − center)² over the training ratings."""
        return self.n_ratings * (self.variance + (self.mean - center) ** 2)


@dataclass(frozen=True)
class Fit:
    """The outcome of a fit; see ``FactorModel`` for the tables' columns."""

    users: DataFrame
    items: DataFrame
    history: list[dict[str, Any]]
    n_users: int
    n_items: int
    singular_values: list[float]
    best_iteration: int
    stopped: StopReason
    n_cold_validation: int
    summary: Summary
    mean: float
    execution: str
    exchange: dict[str, Exchange]


def summarise(ratings: DataFrame) -> Summary:
    """Counts, mean and range of the ratings, in one pass that also refuses unfit values."""
    rating = F.col(RATING).cast("double")
    is_bad = {
        f"{USER} ids that are null": F.col(USER).isNull(),
        f"{ITEM} ids that are null": F.col(ITEM).isNull(),
        "ratings that are null": rating.isNull(),
        "ratings that are NaN or infinite": F.isnan(rating) | (F.abs(rating) == float("inf")),
    }
    is_held_out = F.col(HELD_OUT) if HELD_OUT in ratings.columns else F.lit(False)
    train_rating = F.when(~is_held_out, rating)
    row = ratings.agg(
        *[F.count(F.when(bad, 1)) for bad in is_bad.values()],
        F.count(train_rating),
        F.count(F.when(is_held_out, rating)),
        F.avg(train_rating),
        F.var_pop(train_rating),
        F.min(train_rating),
        F.max(train_rating),
    ).first()
    assert row is not None
    for (what, _), n in zip(is_bad.items(), row, strict=False):
        if n:
            raise DataError(
                f"found {n} {what} in the ratings to fit, which would spoil every factor; "
                "drop these rows, or let the ingest job put them in quarantine"
            )
    summary = Summary(*row[len(is_bad) :])
    if summary.n_ratings == 0:
        raise DataError("there are no training ratings to fit; check filters and splits upstream")
    return summary


def problems_of(settings: FactorisationSettings, mean: float) -> dict[str, Problem]:
    """What each side minimises; ``mean`` is μ."""

    def problem(own: float | None) -> Problem:
        factors = settings.reg_param if own is None else own
        penalty = Penalty(factors, settings.bias_reg_param, settings.reg_exponent)
        return Problem(mean, penalty, settings.fit_biases)

    return {USER: problem(settings.user_reg_param), ITEM: problem(settings.item_reg_param)}
