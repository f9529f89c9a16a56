"""What a fit is made from, and what comes out of it.

Ratings are fitted in a unit of their own: less μ, and divided by the root of their mean square
deviation from μ. So λ and the learning rate mean the same for stars, points and percentages; tables
and history come out in the unit of the ratings.
"""

import logging
import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F
from pyspark.sql.types import IntegralType

from mfspark.algorithms.history import Learnt
from mfspark.columns import BIAS, FACTORS, IS_VALIDATION, ITEM, RATING, USER, Side
from mfspark.engine.phases import Phases
from mfspark.engine.plan import Workload, one_task_factor_bytes
from mfspark.errors import DataError
from mfspark.kernels.objective import Objective, Penalty
from mfspark.settings import PenalisedSettings

logger = logging.getLogger("mfspark")

# Factors that take no more than this are no reason to plan a fit one way or another.
_FEW_BYTES = 256 * 2**20

# Of a search for λ and λ_b, in ratings' standard deviations.
_FIRST_WEIGHT = 1.0
# κ of links, where it is not left to the data: near the best for MovieLens 100K, latest-small and a
# part of 1M.
_LINK_WEIGHT = 8.0


@dataclass(frozen=True)
class Summary:
    """What is known of the training ratings before anything is built.

    ``n_users`` and ``n_items``: at most so many ids have training ratings; after ``prepare`` so
    many, to some per cent, unless that makes no difference. ``fingerprint``: of all rows, where it
    was asked for.
    """

    n_ratings: int
    n_validation: int
    n_users: int
    n_items: int
    mean: float
    variance: float
    lowest: float
    highest: float
    fingerprint: str | None = None

    @property
    def n_rows(self) -> int:
        """Training and validation ratings."""
        return self.n_ratings + self.n_validation

    def squared_deviation(self, center: float) -> float:
        """Σ (r − center)² over the training ratings."""
        return self.n_ratings * (self.variance + (self.mean - center) ** 2)


@dataclass(frozen=True)
class Training:
    """Checked ratings, ready to be fitted.

    ``ratings``: user, item, rating float (standardised: less ``mean``, in units of ``scale``), and
    maybe is_validation boolean. ``known``: id, bias and factors to start from, of the sides that
    have them, in that unit, too. ``features``: id and columns feature_0, feature_1, … (double,
    string or array<string>), of the sides that have them.
    """

    ratings: DataFrame
    summary: Summary
    objective: Objective
    known: dict[Side, DataFrame]
    mean: float
    scale: float
    features: dict[Side, DataFrame] = field(default_factory=dict)

    @property
    def fitted(self) -> DataFrame:
        """The training ratings."""
        if IS_VALIDATION not in self.ratings.columns:
            return self.ratings
        return self.ratings.where(~F.col(IS_VALIDATION))

    def fit(
        self,
        tables: dict[Side, DataFrame],
        learnt: Learnt,
        phases: Phases,
        draws: dict[Side, DataFrame] | None = None,
    ) -> "Fit":
        """What came out, with which the last of the ``phases`` ends."""
        phases.end("tables")
        phases.tell()
        return Fit(
            users=tables[USER],
            items=tables[ITEM],
            learnt=learnt,
            summary=self.summary,
            mean=self.mean,
            scale=self.scale,
            objective=self.objective,
            seconds=phases.seconds,
            draws=draws or {},
        )

    def workload(self, rank: int) -> Workload:
        """The sizes that a plan depends on."""
        found = self.summary
        return Workload(found.n_ratings, found.n_users, found.n_items, rank)


@dataclass(frozen=True)
class Fit:
    """Factor tables (see ``FactorModel`` for their columns), what was learnt beside them, and the
    ratings that they were made from: their summary, μ, the unit in which they were fitted, and what
    was minimised there.

    ``seconds``: by phase (see :mod:`mfspark.engine.phases`). ``draws``: id and draws array<float>,
    by side; of the fits that draw from a posterior.
    """

    users: DataFrame
    items: DataFrame
    learnt: Learnt
    summary: Summary
    mean: float
    scale: float
    objective: Objective
    seconds: dict[str, float] = field(default_factory=dict)
    draws: dict[Side, DataFrame] = field(default_factory=dict)


def prepare(
    ratings: DataFrame,
    rank: int,
    objective: Objective,
    known: dict[Side, DataFrame],
    scale: float | None = None,
    is_fingerprinted: bool = False,
) -> Training:
    """Check and summarise ``ratings`` (user, item, rating, and maybe is_validation boolean), and
    bring them into the unit of the fit; cost: one pass, and another one over the ids where there
    may be so many that their number matters to the plan.

    ``known``: id, bias and factors to start from, by side. ``scale``: the unit; by default from the
    ratings. Raises ``DataError`` for ids or ratings that are null or not finite.
    """
    summary = summarise(ratings, is_fingerprinted)
    workload = Workload(summary.n_ratings, summary.n_users, summary.n_items, rank)
    if one_task_factor_bytes(workload) > _FEW_BYTES:
        counts = _estimated_counts(ratings)
        summary = replace(summary, n_users=counts[USER], n_items=counts[ITEM])
    if rank > summary.n_ratings:
        logger.warning(
            "rank %d is more than the %d ratings can tell, and a fit takes longer for it; set rank "
            "lower",
            rank,
            summary.n_ratings,
        )
    mean = summary.mean if objective.fit_biases else 0.0
    if scale is None:
        scale = math.sqrt(summary.squared_deviation(mean) / summary.n_ratings) or 1.0
    _refuse_far(summary, mean, scale)
    standardised = (F.col(RATING).cast("double") - F.lit(mean)) / F.lit(scale)
    return Training(
        ratings=ratings.withColumn(RATING, standardised.cast("float")),
        summary=summary,
        objective=objective,
        known={side: _standardised(table, side, scale) for side, table in known.items()},
        mean=mean,
        scale=scale,
    )


def summarise(ratings: DataFrame, is_fingerprinted: bool = False) -> Summary:
    """Counts, mean and range of the ratings, in one pass that also refuses unfit values; and a
    fingerprint, the same for the same rows in any order, where it is asked for."""
    rating = F.col(RATING).cast("double")
    is_bad = {
        f"{USER} ids that are null": F.col(USER).isNull(),
        f"{ITEM} ids that are null": F.col(ITEM).isNull(),
        "ratings that are null": rating.isNull(),
        "ratings that are NaN or infinite": F.isnan(rating) | (F.abs(rating) == float("inf")),
    }
    is_validation = _is_validation(ratings)
    of_training = {
        "n_ratings": F.count(F.when(~is_validation, rating)),
        "mean": F.avg(F.when(~is_validation, rating)),
        "variance": F.var_pop(F.when(~is_validation, rating)),
        "lowest": F.min(F.when(~is_validation, rating)),
        "highest": F.max(F.when(~is_validation, rating)),
    }
    row = ratings.agg(
        *[F.count(F.when(bad, 1)).alias(what) for what, bad in is_bad.items()],
        *[column.alias(name) for name, column in of_training.items()],
        *[_span(ratings, side).alias(f"n_{side}s") for side in Side],
        F.count(F.when(is_validation, rating)).alias("n_validation"),
        *([F.bit_xor(F.xxhash64(*ratings.columns)).alias("hash")] if is_fingerprinted else []),
    ).first()
    assert row is not None
    _refuse_bad(row, list(is_bad))
    if not row["n_ratings"]:
        raise DataError("there are no training ratings to fit; check filters and splits upstream")
    # At most each rating has a user of its own, and integers lie in their range.
    n_ids = {
        f"n_{side}s": min(row["n_ratings"], int(row[f"n_{side}s"] or row["n_ratings"]))
        for side in Side
    }
    found = {name: row[name] for name in (*of_training, "n_validation")}
    total = f"{row['n_ratings']} {row['n_validation']} {row['hash']}" if is_fingerprinted else None
    return Summary(**found, **n_ids, fingerprint=total)


def _is_validation(ratings: DataFrame) -> Column:
    return F.col(IS_VALIDATION) if IS_VALIDATION in ratings.columns else F.lit(False)


def _span(ratings: DataFrame, side: Side) -> Column:
    """The width of the range of integer ids, as a double; null for text."""
    if not isinstance(ratings.schema[side].dataType, IntegralType):
        return F.lit(None).cast("double")
    return F.max(side).cast("double") - F.min(side).cast("double") + 1


def _estimated_counts(ratings: DataFrame) -> dict[Side, int]:
    """Users and items with training ratings, estimated (Heule, Nunkesser, Hall: HyperLogLog in
    practice, 2013); cost: a tenth of a microsecond for each rating and core."""
    train = ratings.where(~_is_validation(ratings))
    row = train.agg(*[F.approx_count_distinct(side) for side in Side]).first()
    assert row is not None
    return dict(zip(Side, row, strict=True))


def _refuse_bad(row: Row, names: list[str]) -> None:
    for what in names:
        if row[what]:
            raise DataError(
                f"found {row[what]} {what} in the ratings to fit, which would spoil every factor; "
                "drop these rows, or let the ingest job put them in quarantine"
            )


def _refuse_far(summary: Summary, mean: float, scale: float) -> None:
    farthest = max(summary.lowest, summary.highest, key=lambda rating: abs(rating - mean))
    if abs(farthest - mean) / scale > float(np.finfo(np.float32).max):
        raise DataError(
            f"a rating of {farthest:g} is beyond single precision, in which ratings are fitted; "
            "check the ratings for values far off the scale"
        )


def _standardised(known: DataFrame, side: Side, scale: float) -> DataFrame:
    """Id, bias and factors in the unit that ratings are fitted in."""
    root = F.lit(1 / math.sqrt(scale))
    return known.select(
        side,
        (F.col(BIAS) / F.lit(scale)).cast("float").alias(BIAS),
        F.transform(FACTORS, lambda value: (value * root).cast("float")).alias(FACTORS),
    )


def objective_of(settings: PenalisedSettings) -> Objective:
    """What a fit minimises; its ratings are given less μ. Weights that are left to the data begin
    at ``_FIRST_WEIGHT``."""

    def weight(given: float | str) -> float:
        return _FIRST_WEIGHT if isinstance(given, str) else given

    def penalty(own: float | None) -> Penalty:
        factors = weight(settings.reg_param) if own is None else own
        return Penalty(factors, weight(settings.bias_reg_param), settings.reg_exponent)

    return Objective(
        mean=0.0,
        fit_biases=settings.fit_biases,
        users=penalty(settings.user_reg_param),
        items=penalty(settings.item_reg_param),
        link_weight=_LINK_WEIGHT if settings.implicit_features else None,
    )


class AutoWeights(NamedTuple):
    """The sides whose λ is left to the data, and whether the λ_b and κ are."""

    factors: tuple[Side, ...]
    biases: bool
    link: bool


def auto_weights(settings: PenalisedSettings) -> AutoWeights:
    """Which weights ``settings`` leave to the data."""
    own = {USER: settings.user_reg_param, ITEM: settings.item_reg_param}
    factors = tuple(side for side in Side if own[side] is None)
    if settings.reg_param != "auto" or not settings.rank:
        factors = ()
    return AutoWeights(
        factors=factors,
        biases=settings.bias_reg_param == "auto" and settings.fit_biases,
        link=settings.reg_param == "auto" and settings.implicit_features,
    )
